import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.sh_grid import (
    GridGradients,
    GridLinks,
    MarchRule,
    ShGrid,
    greatest_weights,
    link_grid,
    march_sh_grid,
    render_sh_grid,
    sample_sh_grid,
    without_empty,
)
from voxfield.kernels.sh_grid.grid import MOST_CLEARANCE, cell_clearance
from voxfield.kernels.threads import kernel_threads

IMPLEMENTATIONS = ["numba", "triton"]
RELATIVE = 1e-5
"""Of the largest value of each output: sums of some dozen float32 terms."""
OUTPUTS = ("rgb", "opacity", "depth", "sparsity")
BOX = [[-1.0, -1.2, -0.8], [1.0, 1.1, 0.9]]


def random_links(size=(7, 9, 6), fill=0.4, seed=0) -> GridLinks:
    """Links of a random set of voxels, in random order; ``size`` is z, y, x."""
    generator = torch.Generator().manual_seed(seed)
    stored = torch.rand(size, generator=generator) < fill
    count = int(stored.sum())
    links = torch.full(size, -1, dtype=torch.int32)
    links[stored] = torch.randperm(count, generator=generator).int()
    return link_grid(links, count)


def random_grid(links=None, degree=2, *, highest=5.0, seed=1, dtype=torch.float64) -> ShGrid:
    """Values in ``dtype`` that float32 can hold; a sixth of the densities lies below 0."""
    links = random_links() if links is None else links
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(links.count, generator=generator) * 1.2 * highest - 0.2 * highest
    sh = torch.randn(links.count, 3, (degree + 1) ** 2, generator=generator)
    return ShGrid(links=links, density=density.to(dtype), sh=sh.to(dtype), box=torch.tensor(BOX).to(dtype))


def random_rays(count=40, seed=2, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """From a sphere around the box towards its middle; the first ones along axes, from within, and past the box."""
    generator = torch.Generator().manual_seed(seed)
    origins = 2.5 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    directions = torch.nn.functional.normalize(0.5 * torch.randn(count, 3, generator=generator) - origins, dim=1)
    special = [
        ([-3.0, 0.1, 0.2], [1.0, 0.0, 0.0]),
        ([0.3, 3.0, -0.1], [0.0, -1.0, 0.0]),
        ([0.05, 0.02, 0.11], [0.0, 0.6, 0.8]),
        ([5.0, 0.0, 0.0], [0.0, 0.0, 1.0]),
        ([-1.0, -1.2, -0.8], [0.6, 0.8, 0.0]),
    ][:count]
    for i, (origin, direction) in enumerate(special):
        origins[i], directions[i] = torch.tensor(origin), torch.tensor(direction)
    return origins.to(dtype), directions.to(dtype)


def as_type(grid: ShGrid, dtype, device="cpu") -> ShGrid:
    values = {name: getattr(grid, name).detach().to(device, dtype) for name in ("density", "sh", "box")}
    return ShGrid(links=grid.links.to(device), **values)


def evaluate(grid, rays, implementation, *, device="cpu", rule=None, jitter=None, near=0.0, only=None):
    """The four outputs, then the gradients to density and sh, all as float64 on the CPU."""
    dtype = torch.float64 if implementation == "reference" else torch.float32
    grid = as_type(grid, dtype, device)
    grid.density.requires_grad_()
    grid.sh.requires_grad_()
    seen = render_sh_grid(
        *(tensor.to(device, dtype) for tensor in rays),
        grid,
        rule=rule or MarchRule(),
        jitter=None if jitter is None else jitter.to(device, dtype),
        near=near,
        implementation=implementation,
    )
    outputs = [getattr(seen, name) for name in OUTPUTS]
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    if only is not None:
        grads = [grad if name == only else grad * 0 for name, grad in zip(OUTPUTS, grads, strict=True)]
    found = torch.autograd.grad(outputs, (grid.density, grid.sh), grads)
    return [tensor.detach().cpu().double() for tensor in (*outputs, *found)]


def assert_all_close(actual, expected):
    for name, ours, theirs in zip((*OUTPUTS, "density gradient", "sh gradient"), actual, expected, strict=True):
        largest = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=RELATIVE * max(largest, 1e-3), msg=lambda text, name=name: f"{name}: {text}"
        )


def both(grid, rays, implementation, device, **options):
    return (
        evaluate(grid, rays, implementation, device=device, **options),
        evaluate(grid, rays, "reference", **options),
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_matches_the_reference(implementation, degree, device):
    actual, expected = both(random_grid(degree=degree), random_rays(), implementation, device)
    assert expected[1].max() > 0.5
    assert_all_close(actual, expected)


GRIDS = {
    "dense": ((4, 5, 6), 2.0),
    "nothing stored": ((4, 5, 6), -1.0),
    "one voxel in eight": ((11, 13, 17), 0.125),
    "few, far apart": ((20, 19, 18), 0.002),
    "two voxels a side": ((2, 2, 2), 0.7),
    "flat": ((2, 9, 30), 0.3),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("size", "fill"), GRIDS.values(), ids=GRIDS)
def test_any_shape_and_fill(implementation, size, fill, device):
    grid = random_grid(random_links(size, fill), degree=1)
    assert_all_close(*both(grid, random_rays(60), implementation, device))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("count", [0, 1])
def test_few_rays(implementation, count, device):
    assert_all_close(*both(random_grid(), random_rays(count), implementation, device))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_gradient_from_each_output_alone(implementation, output, device):
    assert_all_close(*both(random_grid(), random_rays(20), implementation, device, only=output))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_steps_jitter_near_and_early_stop(implementation, device):
    rays = random_rays(50)
    jitter = torch.rand(50, generator=torch.Generator().manual_seed(4)).double()
    grid = random_grid(highest=60.0)
    rule = MarchRule(step=0.3, density_threshold=2.0, early_stop=0.02)
    actual, expected = both(grid, rays, implementation, device, rule=rule, jitter=jitter, near=1.9)
    assert_all_close(actual, expected)
    assert 0.5 < expected[1].max() < 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("step", [0.2, 1.0, 1.7, 4.0])
def test_rays_that_move_along_several_axes_at_once(implementation, step, device):
    """Through edges and corners of cells, and in steps that pass over cells: what is kept from cell to cell differs."""
    grid = random_grid(random_links((9, 9, 9), 0.6), degree=2)
    signs = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) != (0, 0, 0)]
    centre = grid.box.double().mean(0)
    # Voxels differ in their sides: along these rays a sample moves as far along each axis, counted in voxels.
    directions = torch.tensor(signs).double() * (grid.box[1] - grid.box[0]).double()
    rays = centre - 1.5 * directions, directions
    actual, expected = both(grid, rays, implementation, device, rule=MarchRule(step=step))
    assert expected[1].min() > 0
    assert_all_close(actual, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides_of_rays(implementation, device):
    grid, rays = random_grid(), random_rays()
    strided = [torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0] for tensor in rays]
    assert not any(tensor.is_contiguous() for tensor in strided)
    actual = evaluate(grid, strided, implementation, device=device)
    for ours, theirs in zip(actual, evaluate(grid, rays, implementation, device=device), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_gradients_go_to_buffers(implementation, device):
    dtype = torch.float64 if implementation == "reference" else torch.float32
    grid, rays = as_type(random_grid(), dtype, device), [tensor.to(device, dtype) for tensor in random_rays(12)]
    expected = evaluate(grid, rays, implementation, device=device, only="rgb")[4:]
    grid.density.requires_grad_()
    grid.sh.requires_grad_()
    buffers = GridGradients(
        density=torch.ones_like(grid.density),
        sh=torch.ones_like(grid.sh),
        touched=torch.zeros(grid.links.count, dtype=torch.uint8, device=device),
    )
    seen = render_sh_grid(*rays, grid, rule=MarchRule(), gradients=buffers, implementation=implementation)
    generator = torch.Generator().manual_seed(3)
    seen.rgb.backward(torch.randn(seen.rgb.shape, generator=generator).to(seen.rgb))
    assert grid.density.grad is None
    torch.testing.assert_close(buffers.density.cpu().double(), 1 + expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(buffers.sh.cpu().double(), 1 + expected[1], rtol=0, atol=1e-5)
    untouched = buffers.touched.cpu() == 0
    assert untouched.any()
    assert not untouched.all()
    assert expected[0][untouched].eq(0).all()
    assert expected[1][untouched].eq(0).all()


def test_gradients_do_not_depend_on_the_number_of_threads(monkeypatch):
    grid, rays = random_grid(random_links((12, 9, 10), 0.5)), random_rays(300)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("voxfield.kernels.threads._threads", threads)
        assert kernel_threads() == threads
        found.append(evaluate(grid, rays, "numba"))
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_marching_finds_the_samples_that_count(implementation, device):
    grid, rays = random_grid(highest=30.0), random_rays()
    found = []
    for name, dtype, where in ((implementation, torch.float32, device), ("reference", torch.float64, "cpu")):
        t, offsets = march_sh_grid(
            *(tensor.to(where, dtype) for tensor in rays),
            as_type(grid, dtype, where),
            rule=MarchRule(early_stop=0.01),
            implementation=name,
        )
        found.append((t.cpu().double(), offsets.cpu()))
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    assert len(found[1][0]) > 100


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_greatest_weights_match_and_only_rise(implementation, device):
    grid, rays = random_grid(highest=30.0), random_rays()
    found = []
    for name, dtype, where in ((implementation, torch.float32, device), ("reference", torch.float64, "cpu")):
        greatest = torch.full((grid.links.count,), 0.01, dtype=dtype, device=where)
        greatest_weights(
            *(tensor.to(where, dtype) for tensor in rays),
            as_type(grid, dtype, where),
            greatest,
            rule=MarchRule(),
            implementation=name,
        )
        found.append(greatest.cpu().double())
    torch.testing.assert_close(*found, rtol=0, atol=RELATIVE)
    assert found[1].min() == 0.01
    assert found[1].max() > 0.5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("degree", [0, 2])
def test_values_at_points(implementation, degree, device):
    grid = random_grid(degree=degree)
    points = 1.5 * torch.randn(200, 3, generator=torch.Generator().manual_seed(5))
    expected = sample_sh_grid(points.double(), grid, implementation="reference")
    actual = sample_sh_grid(points.to(device), as_type(grid, torch.float32, device), implementation=implementation)
    torch.testing.assert_close(actual.density.cpu().double(), expected.density, rtol=0, atol=5e-6)
    torch.testing.assert_close(actual.sh.cpu().double(), expected.sh, rtol=0, atol=5e-6)


def test_values_at_voxel_centres_are_the_voxels():
    grid = random_grid(random_links((4, 5, 6), 2.0))
    z, y, x = torch.meshgrid(*(torch.arange(size) for size in (4, 5, 6)), indexing="ij")
    low, high = grid.box
    voxels = torch.stack([x, y, z], dim=-1).reshape(-1, 3).double()
    centres = low + (voxels + 0.5) / torch.tensor([6.0, 5.0, 4.0]) * (high - low)
    sampled = sample_sh_grid(centres, grid)
    rows = grid.links.links.reshape(-1).long()
    torch.testing.assert_close(sampled.density, grid.density[rows])
    torch.testing.assert_close(sampled.sh, grid.sh[rows])


def test_a_homogeneous_grid_obeys_beer_lambert():
    links = random_links((8, 8, 8), 2.0)
    cube = torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64)
    sh = torch.zeros(512, 3, 4, dtype=torch.float64)
    sh[:, 0, 0] = 1.0
    grid = ShGrid(links=links, density=torch.full((512,), 0.7, dtype=torch.float64), sh=sh, box=cube)
    origins = torch.tensor([[0.0, 0.1, -4.0]], dtype=torch.float64)
    seen = render_sh_grid(origins, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), grid, rule=MarchRule())
    opacity = 1 - math.exp(-1.4)
    assert float(seen.opacity) == pytest.approx(opacity, abs=1e-12)
    red = 0.5 + 0.28209479177387814
    assert seen.rgb[0].tolist() == pytest.approx([red * opacity, 0.5 * opacity, 0.5 * opacity], abs=1e-9)
    assert float(seen.sparsity) == pytest.approx(16 * math.log(1 + 2 * 0.49))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_length_of_directions_changes_distances_only(implementation, device):
    dtype = torch.float64 if implementation == "reference" else torch.float32
    grid = as_type(random_grid(), dtype, device)
    origins, directions = (tensor.to(device, dtype) for tensor in random_rays())
    options = {"rule": MarchRule(), "view_directions": directions, "implementation": implementation}
    one, half = (render_sh_grid(origins, directions * length, grid, **options) for length in (1.0, 0.5))
    torch.testing.assert_close(half.rgb, one.rgb, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half.depth, 2 * one.depth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_rays_without_numbers_see_nothing(implementation, device):
    dtype = torch.float64 if implementation == "reference" else torch.float32
    grid = as_type(random_grid(), dtype, device)
    origins = torch.tensor([[math.nan, 0, 0], [0, 0, 0], [math.inf, 0, 0], [0, 0, 0]], dtype=dtype, device=device)
    directions = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 0, 0], [math.nan, 0, 1]], dtype=dtype, device=device)
    views = torch.tensor([[1.0, 0, 0]], dtype=dtype, device=device).expand(4, 3)
    options = {"rule": MarchRule(), "view_directions": views, "implementation": implementation}
    seen = render_sh_grid(origins, directions, grid, **options)
    assert seen.opacity.eq(0).all()
    assert seen.rgb.eq(0).all()


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_density_reaches_its_rays(implementation, device):
    dtype = torch.float64 if implementation == "reference" else torch.float32
    grid = as_type(random_grid(random_links((4, 4, 4), 2.0)), dtype, device)
    grid.density.fill_(math.nan)
    rays = [tensor.to(device, dtype) for tensor in random_rays(8)]
    seen = render_sh_grid(*rays, grid, rule=MarchRule(), implementation=implementation)
    assert seen.rgb.isnan().any()


def test_reference_gradient_by_finite_differences():
    grid, rays = random_grid(random_links((2, 2, 3), 2.0), degree=0, highest=3.0), random_rays(3, seed=8)

    def outputs(density, sh):
        other = ShGrid(links=grid.links, density=density, sh=sh, box=grid.box)
        seen = render_sh_grid(*rays, other, rule=MarchRule(step=1.0))
        return tuple(getattr(seen, name) for name in OUTPUTS)

    assert torch.autograd.gradcheck(outputs, (grid.density.requires_grad_(), grid.sh.requires_grad_()))


def test_gradient_to_points_by_finite_differences():
    grid = random_grid(degree=1)
    points = 0.6 * torch.randn(5, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def values(at):
        sampled = sample_sh_grid(at, grid)
        return sampled.density, sampled.sh

    assert torch.autograd.gradcheck(values, points.requires_grad_())


def test_clearance_by_brute_force():
    links = random_links((9, 10, 40), 0.004, seed=3)
    assert 1 <= links.count <= 40
    depth, height, width = links.links.shape
    stored = [tuple(voxel) for voxel in (links.links >= 0).nonzero().tolist()]
    full = {
        (z - dz, y - dy, x - dx)
        for z, y, x in stored
        for dz in (0, 1)
        for dy in (0, 1)
        for dx in (0, 1)
        if 0 <= z - dz < depth - 1 and 0 <= y - dy < height - 1 and 0 <= x - dx < width - 1
    }
    for z in range(depth - 1):
        for y in range(height - 1):
            for x in range(width - 1):
                nearest = min(max(abs(z - a), abs(y - b), abs(x - c)) for a, b, c in full)
                assert int(links.clearance[z, y, x]) == min(nearest, MOST_CLEARANCE)


@pytest.mark.parametrize("size", [(2, 2, 2), (5, 2, 9), (33, 40, 70)])
@pytest.mark.parametrize("fill", [0.0, 0.001, 0.05, 1.0])
def test_clearances_swept_are_those_of_the_reference(size, fill):
    links = random_links(size, fill, seed=4)
    dense = torch.rand(links.count, generator=torch.Generator().manual_seed(5)) < 0.5
    for given in (None, dense):
        swept = cell_clearance(links.links, given, implementation="numba")
        assert torch.equal(swept, cell_clearance(links.links, given, implementation="reference"))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_rays_pass_by_what_is_empty_and_see_the_same(implementation, device):
    grid = random_grid(random_links((14, 15, 13), 1.0), highest=3.0)
    # A clear space, voxels of exactly 0, and one dense voxel in it.
    grid.density.view(-1)[grid.links.links[2:12, 3:13, :].flatten().long()] = -1.0
    grid.density[grid.links.links[4, :, 4].long()] = 0.0
    grid.density[int(grid.links.links[7, 8, 6])] = 2.0
    passing = ShGrid(links=without_empty(grid.links, grid.density > 0), density=grid.density, sh=grid.sh, box=grid.box)
    assert int(passing.links.clearance.max()) >= 3
    assert int(grid.links.clearance[:-1, :-1, :-1].max()) == 0
    rays = random_rays(200)
    plain, quick = (evaluate(one, rays, implementation, device=device) for one in (grid, passing))
    for expected, found in zip(plain, quick, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


def test_errors_teach():
    grid, rays = as_type(random_grid(), torch.float32), random_rays(4, dtype=torch.float32)
    count = grid.links.count
    wrong_grids = {
        "density": (torch.zeros(3), rf"density: expected shape \({count}\), got \(3,\)"),
        "sh": (torch.zeros(count, 3, 5), "sh's coefficients: unknown value 5"),
        "box": (torch.zeros(2, 3, dtype=torch.float64), "box: expected dtype torch.float32, got torch.float64"),
    }
    for name, (value, message) in wrong_grids.items():
        values = {field: getattr(grid, field) for field in ("links", "density", "sh", "box")}
        with pytest.raises(InputError, match=message):
            render_sh_grid(*rays, ShGrid(**{**values, name: value}), rule=MarchRule())
    with pytest.raises(InputError, match=r"no gradient flows to rays; pass origins\.detach"):
        render_sh_grid(rays[0].clone().requires_grad_(), rays[1], grid, rule=MarchRule())
    with pytest.raises(InputError, match="near: expected a value at least 0"):
        render_sh_grid(*rays, grid, rule=MarchRule(), near=-1.0)
    with pytest.raises(InputError, match="step: expected a value above 0 and at most 4, got 0"):
        MarchRule(step=0.0)
    buffers = GridGradients(density=torch.zeros(count), sh=torch.zeros(1, 3, 9), touched=torch.zeros(count))
    with pytest.raises(InputError, match=r"gradients\.sh: expected shape"):
        render_sh_grid(*rays, grid, rule=MarchRule(), gradients=buffers)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (torch.tensor([[[0, 7], [1, 2]], [[-1, -1], [3, 4]]], dtype=torch.int32), "rows below 5, got values from -1"),
        (torch.full((2, 2, 2), -3, dtype=torch.int32), "got values from -3 to -3"),
        (torch.zeros(1, 4, 4, dtype=torch.int32), r"at least 2 voxels along each axis, got \(1, 4, 4\)"),
        (torch.zeros(4, 4, dtype=torch.int32), r"expected shape \(D, H, W\)"),
        (torch.zeros(4, 4, 4), "expected dtype torch.int32"),
    ],
)
def test_links_that_lead_nowhere_are_refused(links, message):
    with pytest.raises(InputError, match=message):
        link_grid(links, 5)
