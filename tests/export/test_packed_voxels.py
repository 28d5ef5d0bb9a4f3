"""Voxels packed for a page: read back as the page does, with NumPy."""

import dataclasses
import zlib

import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.export.packed_voxels import MOST_THICKNESS, PackedVoxels, pack_voxels
from voxfield.geometry.bounds import Bounds
from voxfield.voxels.voxel_grid import VoxelGrid


def unpacked(packed: PackedVoxels, bounds: Bounds) -> VoxelGrid:
    """The grid of a page's voxels, by what the module says of its parts alone."""
    parts = {name: np.frombuffer(zlib.decompress(content), np.uint8) for name, content in packed.parts.items()}
    count, bricks = packed.voxels, packed.bricks
    wide, high, _ = (-(-size // 4) for size in packed.resolution)
    places = np.cumsum(parts["topology"][: 4 * bricks].view("<u4").astype(np.int64))
    assert len(parts["topology"]) == 12 * bricks
    voxels = []
    for place, mask in zip(places, parts["topology"][4 * bricks :].reshape(bricks, 8), strict=True):
        corner = 4 * np.array([place % wide, place // wide % high, place // (wide * high)])
        bits = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        voxels.append(corner + np.stack([bits % 4, bits // 4 % 4, bits // 16], axis=1))
    low, upper = parts["density"].reshape(2, count).astype(np.uint16)
    density = (low | upper << 8).view("<f2").astype(np.float32) / packed.voxel
    codes = [parts[f"band-{band}"].reshape(3, 2 * band + 1, count) for band in range(packed.degree + 1)]
    sh = packed.steps[..., None] * (np.concatenate(codes, axis=1).astype(np.float64) - packed.zeros[..., None])
    grid = VoxelGrid.from_voxels(
        torch.from_numpy(np.concatenate(voxels)),
        torch.from_numpy(density),
        torch.from_numpy(sh).permute(2, 0, 1).float().contiguous(),
        packed.resolution,
        bounds,
    )
    return grid.requires_grad_(False)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_packed_is_the_grid_within_its_quantisation(make_ball, degree) -> None:
    grid = make_ball(degree)
    packed = pack_voxels(grid)
    back = unpacked(packed, grid.scene_bounds)
    assert (packed.degree, packed.steps.shape) == (degree, (3, (degree + 1) ** 2))
    rows = back.rows_in(grid)
    assert bool((rows >= 0).all())
    torch.testing.assert_close(back.density, grid.density[rows], rtol=2**-11, atol=1e-4)
    # Some values are cut where that makes the others' steps finer: few.
    error = (back.sh - grid.sh[rows]).abs() / torch.from_numpy(packed.steps)
    assert float((error > 0.5001).float().mean()) < 0.02
    assert float(error.square().mean().sqrt()) < 1.0
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    seen, truth = back.query(points), grid.query(points)
    torch.testing.assert_close(seen.density.clamp(min=0), truth.density.clamp(min=0), rtol=1e-3, atol=2e-3)


def test_only_what_rays_can_see_something_of_is_packed(make_ball) -> None:
    grid = make_ball()
    packed = pack_voxels(grid)
    assert 0 < packed.voxels < grid.num_voxels
    # Neighbours of matter stay, though below 0: they are interpolated with.
    assert bool((unpacked(packed, grid.scene_bounds).density < 0).any())


def test_fewer_bands(make_ball) -> None:
    packed = pack_voxels(make_ball(2))
    fewer = packed.up_to(1)
    asked = pack_voxels(make_ball(2), degree=1)
    assert fewer.parts == asked.parts == {name: packed.parts[name] for name in fewer.parts}
    np.testing.assert_array_equal(fewer.steps, asked.steps)
    assert pack_voxels(make_ball(1), degree=3).degree == 1
    with pytest.raises(InputError, match="sh_degree"):
        pack_voxels(make_ball(), degree=4)


def test_extreme_densities_are_cut(make_ball) -> None:
    grid = make_ball(0)
    with torch.no_grad():
        grid.density[grid.density.argmax()] = 1e30
        grid.density[grid.density.argmin()] = -1e30
    packed = pack_voxels(grid)
    back = unpacked(packed, grid.scene_bounds)
    assert float(back.density.max()) * packed.voxel == pytest.approx(MOST_THICKNESS)
    assert bool(back.density.isfinite().all())


def test_a_single_voxel() -> None:
    bounds = Bounds.from_cube(1.0)
    grid = VoxelGrid.from_voxels(
        torch.tensor([[6, 0, 4]]), torch.tensor([3.0]), torch.full((1, 3, 1), 0.7), (7, 5, 6), bounds
    )
    back = unpacked(pack_voxels(grid), bounds)
    assert back.links[4, 0, 6] == 0
    torch.testing.assert_close(back.sh, grid.sh)


def test_a_field_without_matter_is_refused(make_ball) -> None:
    for density in (0.0, -1.0):
        with pytest.raises(InputError, match="holds no matter"):
            pack_voxels(VoxelGrid(4, Bounds.from_cube(1.0), density=density))
    grid = make_ball()
    with pytest.raises(InputError, match="holds no matter"):
        pack_voxels(grid.prune(min_density=1e9))


@pytest.mark.parametrize("name", ["density", "sh"])
def test_values_that_are_not_finite_are_refused(make_ball, name) -> None:
    grid = make_ball()
    with torch.no_grad():
        getattr(grid, name)[5] = torch.nan
    with pytest.raises(InputError, match=f"{name} holds values that are not finite"):
        pack_voxels(grid)


def test_packed_voxels_do_not_change(make_ball) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        pack_voxels(make_ball()).voxels = 3  # type: ignore[misc]
