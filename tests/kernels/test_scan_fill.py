import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.scan_fill import scan_fill
from voxfield.kernels.voxel_words import unpack_voxels

IMPLEMENTATIONS = ["numba", "triton"]
RULES = ["parity", "winding"]


def box(low: float, high: float) -> torch.Tensor:
    """The twelve triangles (12, 3, 3) of a cube, turned outward."""
    corner = torch.tensor(
        [[x, y, z] for z in (low, high) for y in (low, high) for x in (low, high)], dtype=torch.float64
    )
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    return corner[torch.tensor(faces)]


def sphere(centre: float, radius: float, rings: int = 12) -> torch.Tensor:
    """A closed surface of triangles near a sphere."""
    polar = torch.linspace(0, math.pi, rings + 1, dtype=torch.float64)[:, None]
    around = torch.linspace(0, 2 * math.pi, 2 * rings + 1, dtype=torch.float64)[None]
    points = torch.stack(
        [polar.sin() * around.cos(), polar.sin() * around.sin(), polar.cos().expand(-1, 2 * rings + 1)], 2
    )
    points[:, -1] = points[:, 0]
    points[0], points[-1] = points[0, 0].clone(), points[-1, 0].clone()
    points = centre + radius * points
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    return torch.cat([torch.stack([a, b, c], 2).flatten(0, 1), torch.stack([a, c, d], 2).flatten(0, 1)])


def filled(
    triangles: torch.Tensor, resolution: int, inside: str, implementation: str = "numba", device: str = "cpu"
) -> torch.Tensor:
    words = scan_fill(triangles.to(device), resolution, inside=inside, implementation=implementation)
    return unpack_voxels(words, resolution)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("inside", RULES)
@pytest.mark.parametrize(("count", "resolution"), [(0, 4), (1, 1), (1, 3), (25, 5), (40, 12)])
def test_matches_the_reference_on_soup(implementation, inside, count, resolution, device):
    generator = torch.Generator().manual_seed(count)
    triangles = torch.rand(count, 3, 3, generator=generator, dtype=torch.float64) * (resolution + 2) - 1
    triangles[::4] = triangles[::4].round() + 0.5
    ours = filled(triangles, resolution, inside, implementation, device)
    assert torch.equal(ours, filled(triangles, resolution, inside, "reference"))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("inside", RULES)
def test_fills_a_box_whose_edges_meet_the_centres(inside, implementation, device):
    # Every face's diagonal and edges pass exactly through rows of centres.
    found = filled(box(1.5, 5.5), 8, inside, implementation, device)
    assert int(found.sum()) == 64
    # A crossing at a centre counts as before it, ties in the other axes move by +infinitesimal along them.
    assert found.nonzero().min(0).values[2] == 1


@pytest.mark.parametrize("inside", RULES)
def test_fills_a_sphere(inside):
    found = filled(sphere(12.2, 9.3, rings=24), 24, inside)
    centres = torch.arange(24, dtype=torch.float64) + 0.5
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    radius = ((x - 12.2) ** 2 + (y - 12.2) ** 2 + (z - 12.2) ** 2).sqrt()
    assert bool(found[radius < 9.1].all())
    assert not bool(found[radius > 9.3].any())


def test_parity_ignores_how_faces_are_turned():
    triangles = sphere(8.1, 6.0)
    turned = triangles.clone()
    turned[::3] = turned[::3].flip(1)
    assert torch.equal(filled(turned, 16, "parity"), filled(triangles, 16, "parity"))


def test_winding_fills_what_parts_share_and_inside_out_shapes():
    a, b = box(1.2, 7.2), box(4.2, 10.2)
    both = filled(torch.cat([a, b]), 12, "winding")
    assert torch.equal(both, filled(a, 12, "winding") | filled(b, 12, "winding"))
    assert not bool(filled(torch.cat([a, b]), 12, "parity")[5, 5, 5])
    assert torch.equal(filled(a.flip(1), 12, "winding"), filled(a, 12, "winding"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_planes_in_chunks_give_the_same(implementation, device, monkeypatch):
    triangles = sphere(6.1, 5.0)[5:]
    whole = filled(triangles, 13, "winding", implementation, device)
    if implementation == "triton":
        monkeypatch.setattr("voxfield.kernels.scan_fill.triton_gpu._COUNTERS", 5 * 13 * 14)
    monkeypatch.setattr("voxfield.kernels.threads._threads", 3)
    assert torch.equal(filled(triangles, 13, "winding", implementation, device), whole)


@pytest.mark.parametrize("inside", RULES)
@pytest.mark.parametrize("side", range(6))
def test_a_hole_does_not_leak(inside, side):
    closed = box(2.2, 9.2)
    kept = torch.ones(12, dtype=torch.bool)
    kept[2 * side] = False
    assert torch.equal(filled(closed[kept], 12, inside), filled(closed, 12, inside))


@pytest.mark.parametrize("inside", RULES)
def test_a_sheet_encloses_nothing(inside):
    sheet = torch.tensor([[[0.0, 0, 3.3], [8, 0, 3.3], [0, 8, 3.3]], [[8.0, 0, 3.3], [8, 8, 3.3], [0, 8, 3.3]]])
    assert not bool(filled(sheet.double(), 8, inside).any())


def test_unknown_rules_are_named():
    with pytest.raises(InputError, match="inside: unknown value 'even'"):
        scan_fill(box(0, 1), 4, inside="even")
