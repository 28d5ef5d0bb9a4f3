import math

import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.kernels.sh_grid import render_sh_grid
from voxfield.kernels.sh_grid.grid import MarchRule
from voxfield.voxels.voxel_grid import BRICK, VoxelGrid, brick_links

BOX = Bounds(minimum=(-1.0, -2.0, 0.0), maximum=(1.0, 2.0, 3.0))


def random_grid(resolution=(6, 9, 7), fill=0.3, degree=1) -> VoxelGrid:
    generator = torch.Generator().manual_seed(0)
    stored = torch.rand(resolution[::-1], generator=generator) < fill
    grid = VoxelGrid(resolution, BOX, degree, stored=stored)
    with torch.no_grad():
        grid.density.copy_(3 * torch.randn(grid.num_voxels, generator=generator))
        grid.sh.copy_(torch.randn(grid.sh.shape, generator=generator))
    return grid


def smooth_grid(resolution) -> VoxelGrid:
    """Density and coefficients that are linear in space."""
    grid = VoxelGrid(resolution, BOX, 0)
    with torch.no_grad():
        for rows, points in grid.centres():
            grid.density[rows] = points @ torch.tensor([1.0, -0.5, 0.25])
            grid.sh[rows, :, 0] = points
    return grid


def rays(count=30) -> Rays:
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([[0.0, -6.0, 1.5]]).expand(count, 3)
    targets = torch.tensor([0.0, 0.0, 1.5]) + torch.randn(count, 3, generator=generator)
    return Rays(
        origins=origins,
        directions=torch.nn.functional.normalize(targets - origins, dim=1),
        pixel_area=torch.ones(count),
        camera_index=torch.zeros(count, dtype=torch.int64),
    )


def test_a_dense_grid_is_one_density_and_grey() -> None:
    grid = VoxelGrid((4, 5, 6), (-1, -1, -1, 1, 1, 1), 2, density=0.7)
    assert grid.resolution == (4, 5, 6)
    assert grid.links.shape == (6, 5, 4)
    assert (grid.num_voxels, grid.sh_degree) == (120, 2)
    assert grid.scene_bounds == Bounds.from_cube(1.0)
    found = grid.query(torch.rand(10, 3) * 2 - 1)
    torch.testing.assert_close(found.density, torch.full((10,), 0.7))
    assert found.sh.eq(0).all()


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 9, 2), (3, 3, 3)])
def test_rows_follow_the_bricks(size) -> None:
    links, count = brick_links(torch.ones(size, dtype=torch.bool))
    assert sorted(links.reshape(-1).tolist()) == list(range(count))
    first = links[:BRICK, :BRICK, :BRICK]
    assert first.max() == first.numel() - 1
    assert links[0, 0, 1] == 1
    sparse, stored = brick_links(links % 3 == 0)
    assert stored == -(-count // 3)
    # The order among those that are left stays.
    assert torch.equal(sparse[links % 3 == 0], links[links % 3 == 0] // 3)


def test_values_by_links_survive_reordering() -> None:
    generator = torch.Generator().manual_seed(2)
    stored = torch.rand(5, 6, 7, generator=generator) < 0.5
    count = int(stored.sum())
    links = torch.full(stored.shape, -1, dtype=torch.int32)
    links[stored] = torch.randperm(count, generator=generator).int()
    density, sh = torch.randn(count, generator=generator), torch.randn(count, 3, 4, generator=generator)
    grid = VoxelGrid.from_values(links, density, sh, BOX)
    assert torch.equal(grid.links >= 0, stored)
    assert torch.equal(grid.density[grid.links[stored].long()], density[links[stored].long()])
    assert torch.equal(grid.sh[grid.links[stored].long()], sh[links[stored].long()])


def test_rendering_is_the_kernel_and_differentiable() -> None:
    grid, some = random_grid(), rays()
    seen = grid.render(some)
    expected = render_sh_grid(some.origins, some.directions, grid.values, rule=MarchRule())
    assert torch.equal(seen.rgb, expected.rgb)
    seen.rgb.sum().backward()
    assert bool(grid.sh.grad.any())  # type: ignore[union-attr]


def test_pruning_keeps_values_and_says_where_they_came_from() -> None:
    grid = random_grid()
    pruned = grid.prune(min_density=1.0)
    assert 0 < pruned.num_voxels < grid.num_voxels
    assert pruned.density.min() >= 1.0
    source = pruned.rows_in(grid)
    assert torch.equal(pruned.density, grid.density[source])
    assert torch.equal(pruned.sh, grid.sh[source])
    assert int((grid.rows_in(pruned) >= 0).sum()) == pruned.num_voxels


def test_dilation_keeps_neighbours_that_exist() -> None:
    grid = VoxelGrid(9, BOX, 0)
    keep = torch.zeros(grid.num_voxels, dtype=torch.bool)
    keep[grid.links[4, 4, 4]] = True
    assert grid.prune(keep=keep).num_voxels == 1
    assert grid.prune(keep=keep, dilate=1).num_voxels == 27
    assert grid.prune(keep=keep, dilate=2).num_voxels == 125
    assert grid.prune(keep=keep, dilate=8).num_voxels == 729


@pytest.mark.parametrize("resolution", [(12, 18, 14), (3, 4, 4), (7, 7, 7)])
def test_resampling_keeps_a_linear_field_inside(resolution) -> None:
    other = smooth_grid((6, 9, 7)).resample(resolution)
    assert other.resolution == resolution
    low, high = (torch.tensor(ends) for ends in (BOX.minimum, BOX.maximum))
    # Within half a voxel of the border the outermost values reach on.
    points = low + (high - low) * (0.25 + 0.5 * torch.rand(50, 3, generator=torch.Generator().manual_seed(3)))
    found = other.query(points)
    torch.testing.assert_close(found.density, points @ torch.tensor([1.0, -0.5, 0.25]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sh[:, :, 0], points, rtol=0, atol=1e-5)


def test_resampling_a_sparse_grid_stores_what_is_near_its_voxels() -> None:
    grid = VoxelGrid(8, BOX, 0)
    keep = torch.zeros(grid.num_voxels, dtype=torch.bool)
    keep[grid.links[2, 3, 5]] = True
    grid = grid.prune(keep=keep)
    fine = grid.resample(16)
    assert grid.resampled_voxels(16) == fine.num_voxels == 64
    assert fine.links[4:6, 6:8, 10:12].min() >= 0
    assert grid.resample(8).num_voxels == 1


def test_chunks_tile_the_grid() -> None:
    grid = random_grid(fill=0.05)
    seen = torch.zeros(7, 9, 6)
    for chunk in grid.chunks(4):
        x, y, z = chunk.corner
        d, h, w = chunk.density.shape
        assert max(d, h, w) <= 4
        assert bool(chunk.stored.any())
        assert chunk.density[~chunk.stored].eq(0).all()
        assert chunk.sh.shape == (d, h, w, 3, 4)
        seen[z : z + d, y : y + h, x : x + w] = chunk.density
    stored = grid.links >= 0
    assert torch.equal(seen[stored], grid.density.detach()[grid.links[stored].long()])
    assert int((seen != 0).sum()) == grid.num_voxels


def test_a_saved_grid_brings_its_size() -> None:
    grid, fresh = random_grid(), VoxelGrid(4, BOX, 1)
    fresh.load_state_dict(grid.state_dict())
    assert fresh.resolution == grid.resolution
    assert torch.equal(fresh.clearance, grid.clearance)
    points = torch.randn(20, 3)
    assert torch.equal(fresh.query(points).density, grid.query(points).density)


@pytest.mark.parametrize(
    ("name", "value"),
    [("links", torch.full((7, 9, 6), 10**6, dtype=torch.int32)), ("density", torch.zeros(3)), ("sh", torch.zeros(2))],
)
def test_a_damaged_state_is_refused(name: str, value: torch.Tensor) -> None:
    state = {**random_grid().state_dict(), name: value}
    with pytest.raises(RuntimeError, match="expected"):
        random_grid().load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0}, "resolution: expected whole numbers of at least 2"),
        ({"resolution": (4, 4)}, "resolution: expected whole numbers"),
        ({"resolution": (4, -4, 4)}, "resolution: expected whole numbers"),
        ({"resolution": 4.5}, "resolution: expected whole numbers"),
        ({"resolution": 4096}, "too many, expected below"),
        ({"scene_bounds": (0, 0, 0, 1, 0, 1)}, "Bounds: expected minimum < maximum"),
        ({"scene_bounds": (0, 0, 0, 1, math.nan, 1)}, "Bounds: expected minimum < maximum"),
        ({"resolution": True}, "resolution: expected whole numbers"),
        ({"resolution": "444"}, "resolution: expected whole numbers"),
        ({"sh_degree": True}, "sh_degree: unknown value True"),
        ({"scene_bounds": None}, "scene_bounds: expected minimum and maximum x, y, z, six numbers, got None"),
        ({"scene_bounds": ("a",) * 6}, "scene_bounds: expected minimum and maximum"),
        ({"scene_bounds": (1, 2)}, "scene_bounds: expected minimum and maximum x, y, z, six numbers"),
        ({"sh_degree": 4}, "sh_degree: unknown value 4"),
        ({"sh_degree": -1}, "sh_degree: unknown value -1"),
        ({"stored": torch.ones(4, 4, 5, dtype=torch.bool)}, r"stored: expected shape \(4, 4, 4\)"),
    ],
)
def test_bad_grids_are_refused(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        VoxelGrid(**{"resolution": 4, "scene_bounds": BOX, **arguments})


@pytest.mark.parametrize("resolution", [np.int64(8), [8, 8, 8], (8, np.int32(8), 8), np.array([8, 8, 8])])
def test_sizes_may_be_numpys_and_lists(resolution) -> None:
    grid = VoxelGrid(resolution, [-1, -1, -1, 1, 1, 1], np.int64(1))
    assert grid.resolution == (8, 8, 8)
    assert all(type(size) is int for size in grid.resolution)
    assert grid.sh_degree == 1
    assert grid.resample([4, 4, 4]).resolution == (4, 4, 4)


def test_pruning_needs_a_criterion() -> None:
    with pytest.raises(InputError, match="min_density: expected a number, got nan"):
        VoxelGrid(4, BOX).prune(min_density=math.nan)
    with pytest.raises(InputError, match="give min_density, keep or both"):
        random_grid().prune()


def test_constructors_make_the_same_grid() -> None:
    grid = random_grid()
    depth, height, width = grid.links.shape
    stored = grid.links >= 0
    rows = grid.links[stored].long()
    density, sh = torch.zeros(depth, height, width), torch.zeros(depth, height, width, 3, 4)
    density[stored], sh[stored] = grid.density.detach()[rows], grid.sh.detach()[rows]
    dense = VoxelGrid.from_dense(density, sh, BOX)
    assert dense.num_voxels == stored.numel()
    points = BOX.tensor()[0] + torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor(BOX.size)
    sparse = VoxelGrid.from_dense(density, sh, BOX, stored=stored)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    places = stored.nonzero().flip(1)[order]
    listed = VoxelGrid.from_voxels(places, density[stored][order], sh[stored][order], grid.resolution, BOX)
    for other in (dense, sparse, listed):
        torch.testing.assert_close(other.query(points).density, grid.query(points).density)
        torch.testing.assert_close(other.query(points).sh, grid.query(points).sh)
    assert torch.equal(sparse.links, grid.links)
    assert torch.equal(listed.links, grid.links)
    nothing = VoxelGrid.from_voxels(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 3, 1), 4, BOX)
    assert nothing.num_voxels == 0


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (torch.tensor([[0, 0, 0], [4, 0, 0]]), r"\[4, 0, 0\] lies outside a grid of \(4, 4, 4\); 1 do"),
        (torch.tensor([[0, -1, 0], [1, 0, 0]]), "lies outside"),
        (torch.tensor([[1, 2, 3], [1, 2, 3]]), "1 are there more than once"),
        (torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0]]), "expected whole numbers"),
        (torch.zeros(2, 2, dtype=torch.int64), "voxels: expected shape"),
    ],
)
def test_voxels_that_do_not_fit_are_refused(voxels, message) -> None:
    with pytest.raises(InputError, match=message):
        VoxelGrid.from_voxels(voxels, torch.zeros(2), torch.zeros(2, 3, 1), 4, BOX)


def test_a_grid_moves_as_a_whole() -> None:
    moved = random_grid().to("meta")
    assert {moved.links.device.type, moved.box.device.type, moved.density.device.type} == {"meta"}
    assert moved.values.links.clearance.device.type == "meta"
