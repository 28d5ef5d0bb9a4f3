"""Levels of detail: mass stays, colours are weighed by density, volumes are halved wherever blocks and tiles lie."""

import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.voxels.lod import coarsened, grid_levels, halved, halved_transform
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.voxel_grid import VoxelGrid


def random_grid(resolution=(9, 6, 7), degree=1, share=0.4):
    generator = torch.Generator().manual_seed(0)
    stored = torch.rand(resolution[::-1], generator=generator) < share
    grid = VoxelGrid(resolution, (-1.0, 0.0, 2.0, 1.0, 1.5, 3.0), degree, stored=stored)
    with torch.no_grad():
        grid.density.normal_(generator=generator)
        grid.sh.normal_(generator=generator)
    return grid


def dense(grid):
    """Densities (D, H, W) and coefficients (D, H, W, 3, B), 0 where nothing is stored."""
    stored = grid.links >= 0
    density, sh = torch.zeros(grid.links.shape), torch.zeros(*grid.links.shape, *grid.sh.shape[1:])
    rows = grid.links[stored].long()
    density[stored], sh[stored] = grid.density.detach()[rows], grid.sh.detach()[rows]
    return density, sh, stored


def test_coarse_voxels_against_a_loop():
    grid = random_grid()
    coarse = coarsened(grid)
    assert coarse.resolution == (5, 3, 4)
    fine_density, fine_sh, fine_stored = dense(grid)
    density, sh, stored = dense(coarse)
    for z, y, x in np.ndindex(4, 3, 5):
        part = np.s_[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        assert bool(stored[z, y, x]) == bool(fine_stored[part].any())
        weights = fine_density[part].clamp(min=0)
        torch.testing.assert_close(density[z, y, x], weights.sum() / 8)
        if weights.sum() == 0:
            weights = fine_stored[part].float()
        if fine_stored[part].any():
            expected = (weights[..., None, None] * fine_sh[part]).sum((0, 1, 2)) / weights.sum()
            torch.testing.assert_close(sh[z, y, x], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("resolution", [(16, 16, 16), (9, 6, 7), (3, 3, 40)])
def test_mass_is_kept_at_every_level(resolution):
    levels = grid_levels(random_grid(resolution), 6)

    def mass(grid):
        edges = np.array(grid.scene_bounds.size) / grid.resolution
        return float(grid.density.detach().clamp(min=0).double().sum()) * edges.prod()

    assert [mass(level) for level in levels] == pytest.approx([mass(levels[0])] * len(levels), rel=1e-6)
    for fine, coarse in zip(levels, levels[1:], strict=False):
        assert coarse.scene_bounds.minimum == fine.scene_bounds.minimum
        edges = [np.array(one.scene_bounds.size) / one.resolution for one in (fine, coarse)]
        np.testing.assert_allclose(edges[1], 2 * edges[0])
    assert len(levels) == {16: 4, 9: 3, 3: 2}[resolution[0]]  # until an axis has 2 voxels


def test_a_single_colour_stays():
    grid = random_grid()
    with torch.no_grad():
        grid.sh[:] = torch.arange(12.0).reshape(3, 4)
    for level in grid_levels(grid, 3):
        torch.testing.assert_close(level.sh.detach(), grid.sh.detach()[:1].expand(level.num_voxels, -1, -1))


def test_grids_that_have_no_coarser_one():
    with pytest.raises(InputError, match="no coarser one"):
        coarsened(VoxelGrid((2, 8, 8), (0, 0, 0, 1, 1, 1), 0))
    for levels in (0, 13):
        with pytest.raises(InputError, match="levels"):
            grid_levels(random_grid(), levels)
    empty = VoxelGrid(8, (0, 0, 0, 1, 1, 1), 0, stored=torch.zeros(8, 8, 8, dtype=torch.bool))
    assert coarsened(empty).num_voxels == 0


@pytest.mark.parametrize(("dtype", "channels"), [("f4", ()), ("f8", (3,)), ("f4", (3,)), ("i4", ()), ("?", ())])
@pytest.mark.parametrize("origin", [(0, 0, 0), (-13, 5, -8)])
def test_halved_volumes_against_dense_means(dtype, channels, origin):
    draw = np.random.default_rng(0)
    values = draw.integers(-9, 9, size=(*channels, 20, 18, 30)).astype(dtype)
    background = np.ones(channels, dtype)
    volume = SparseVolume.from_dense(values, origin=origin, background=background.tolist())
    coarse = halved(volume)
    assert coarse.values.dtype == np.dtype(dtype)
    low, high = np.array([-16, -16, -16]), np.array([40, 40, 40])
    fine = volume.to_dense(low, high)
    size = 28
    grouped = fine.reshape(*channels, size, 2, size, 2, size, 2)
    axes = tuple(len(channels) + axis for axis in (1, 3, 5))
    expected = grouped.any(axis=axes) if dtype == "?" else grouped.mean(axis=axes)
    if dtype == "i4":
        expected = np.rint(expected)
    np.testing.assert_allclose(coarse.to_dense(low // 2, high // 2), expected.astype(dtype), rtol=1e-6)
    active = volume.to_dense_mask(low, high).reshape(size, 2, size, 2, size, 2).any(axis=(1, 3, 5))
    assert np.array_equal(coarse.to_dense_mask(low // 2, high // 2), active)


def test_tiles_of_every_side_are_halved():
    tiles = Tiles(
        origins=np.array([[8, 0, 0], [128, -128, 0], [4096, 0, -4096]], np.int32),
        sides=np.array([8, 128, 4096], np.int32),
        values=np.array([1, 2, 3], np.float32),
        active=np.array([True, False, True]),
    )
    block = np.full((1, 8, 8, 8), 5, np.float32)
    volume = SparseVolume.from_blocks(np.zeros((1, 3), np.int32), block, block > 0, tiles=tiles)
    coarse = halved(volume)
    draw = np.random.default_rng(0)
    for low, high in (((-2, -2, -2), (10, 6, 6)), ((60, -70, -4), (132, 4, 68)), ((2040, -4, -2052), (4100, 2052, 4))):
        places = draw.integers(low, high, size=(500, 3))
        values, active = coarse.values_at(places)
        expected, on = volume.values_at(places * 2)
        assert np.array_equal(values, expected)
        assert np.array_equal(active, on)
    assert coarse.active_count * 8 == volume.active_count
    many = Tiles(
        origins=(4096 * np.stack([np.arange(300), np.zeros(300), np.zeros(300)], axis=1)).astype(np.int32),
        sides=np.full(300, 4096, np.int32),
        values=np.ones(300, np.float32),
        active=np.ones(300, np.bool_),
    )
    with pytest.raises(InputError, match="Crop the volume"):
        halved(SparseVolume.from_blocks(np.zeros((0, 3), np.int32), block[:0], block[:0] > 0, tiles=many))


def test_coarse_voxels_stand_between_the_fine_ones():
    matrix = np.diag([0.5, 0.25, 2.0, 1.0])
    matrix[:3, 3] = 1, 2, 3
    fine = (matrix @ [[2, 3], [4, 5], [6, 7], [1, 1]]).mean(axis=1)
    np.testing.assert_allclose(halved_transform(matrix) @ [1, 2, 3, 1], fine)
