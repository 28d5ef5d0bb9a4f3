import pytest
import torch

from voxfield.errors import InputError
from voxfield.voxels.sphere_layers import SphereLayers


def test_fresh_spheres_are_even() -> None:
    spheres = SphereLayers(3, 4, density=0.5)
    assert spheres.links.shape == (3, 4, 8)
    assert spheres.num_texels == 96
    assert spheres.radii().tolist() == pytest.approx([1.2, 2.0, 6.0])
    seen = spheres.render(torch.zeros(5, 3), torch.nn.functional.normalize(torch.randn(5, 3), dim=1))
    torch.testing.assert_close(seen.opacity, seen.opacity[:1].expand(5))


def test_texels_are_seen_where_they_point() -> None:
    spheres = SphereLayers(2, 6)
    with torch.no_grad():
        for rows, towards, sphere in spheres.directions():
            spheres.density[rows] = 100.0 * (sphere == 1)
            spheres.rgb[rows] = towards
    for rows, towards, sphere in spheres.directions():
        far = sphere == 1
        seen = spheres.render(torch.zeros(int(far.sum()), 3), towards[far])
        torch.testing.assert_close(seen.rgb, (0.5 + 0.2820948 * spheres.rgb[rows][far]).clamp(min=0), rtol=0, atol=1e-4)


def test_pruning_keeps_what_is_kept() -> None:
    spheres = SphereLayers(4, 5)
    with torch.no_grad():
        spheres.density.copy_(torch.arange(200.0))
    pruned = spheres.prune(spheres.density > 150)
    assert pruned.num_texels == 49
    source = pruned.rows_in(spheres)
    assert torch.equal(pruned.density, spheres.density[source])
    assert float(pruned.density.detach().min()) == 151
    one = torch.zeros(200, dtype=torch.bool)
    one[int(spheres.links[1, 2, 4])] = True
    assert spheres.prune(one, dilate=1).num_texels == 27


def test_spheres_take_the_size_of_what_is_loaded() -> None:
    spheres = SphereLayers(4, 5)
    pruned = spheres.prune(torch.arange(200) % 3 == 0)
    fresh = SphereLayers(4, 5)
    fresh.load_state_dict(pruned.state_dict())
    assert fresh.num_texels == 67
    wider = SphereLayers(4, 9)
    wider.load_state_dict(pruned.state_dict())
    assert wider.num_texels == 67
    assert torch.equal(wider.links, pruned.links)
    state = pruned.state_dict()
    for changed, message in (
        ({"links": state["links"] + 1}, "links: expected -1 or rows below 67"),
        ({"links": state["links"][:2]}, "links: expected shape"),
        ({"links": state["links"][:, :3]}, "links: expected shape"),
        ({"rgb": state["rgb"][:5]}, "rgb: expected shape"),
    ):
        with pytest.raises(RuntimeError, match=message):
            SphereLayers(4, 5).load_state_dict({**state, **changed})


@pytest.mark.parametrize(("layers", "height"), [(0, 4), (4, 1), (300, 4), (4, 5000), (256, 4096)])
def test_bad_sizes_are_refused(layers: int, height: int) -> None:
    with pytest.raises(InputError, match=r"layers|height"):
        SphereLayers(layers, height)
