"""Levels of detail: a voxel grid, or any sparse volume, at half its resolution, and again.

A coarse voxel stands for the 2 x 2 x 2 fine ones in it; those that are not stored count as empty. Its density is their
mean, so that the mass, density times volume, stays the same to rounding. Its colour coefficients are the fine ones'
mean weighed by density: what is dense decides the colour. Densities below 0 count as the 0 they render as.
"""

from typing import Final, cast

import numpy as np
import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.vdb_tree import LEAF_SIDE, LOWER_SIDE, entry_origins, node_origin, unique_origins
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

MOST_LEVELS: Final = 12
_CHUNK: Final = 4096  # blocks averaged at a time
_MOST_TILES: Final = 2**20


@torch.no_grad()
def coarsened(grid: VoxelGrid) -> VoxelGrid:
    """``grid`` at half its resolution, on the CPU if it is there.

    Along axes with an odd number of voxels the box grows by one of the fine ones, so that coarse voxels are twice as
    long exactly.

    Raises:
        InputError: a grid of 2 voxels along an axis has no coarser one.
    """
    if min(grid.resolution) < 3:
        raise InputError(
            f"A grid of {grid.resolution} voxels has no coarser one: a grid has at least 2 along each axis."
        )
    size = cast(Resolution, tuple(-(-side // 2) for side in grid.resolution))
    bounds = _grown(grid.scene_bounds, grid.resolution, size)
    stored = grid.links >= 0
    z, y, x = (stored.nonzero() // 2).T
    fine = grid.links[stored].long()
    coarse_stored = torch.zeros(size[::-1], dtype=torch.bool, device=stored.device)
    coarse_stored[z, y, x] = True
    coarse = VoxelGrid(size, bounds, grid.sh_degree, stored=coarse_stored).to(grid.density.dtype)
    parent = torch.empty(grid.num_voxels, dtype=torch.int64, device=stored.device)
    parent[fine] = coarse.links[z, y, x].long()
    density = grid.density.clamp(min=0)
    mass = torch.zeros(coarse.num_voxels, dtype=torch.float64, device=stored.device)
    mass.index_add_(0, parent, density.double())
    # Where nothing is dense, all count alike: colours then mean little, but stay what they were.
    weight = torch.where(mass[parent] > 0, density, torch.ones_like(density))
    total = torch.zeros_like(mass).index_add_(0, parent, weight.double())
    share = (weight / total[parent]).to(grid.sh.dtype)
    coarse.density.copy_(mass / 8)
    coarse.sh.zero_().index_add_(0, parent, grid.sh * share[:, None, None])
    return coarse


def grid_levels(grid: VoxelGrid, levels: int) -> list[VoxelGrid]:
    """``grid`` and its coarser ones, each at half the resolution of the one before; ``levels`` of them, 1 to 12.

    Fewer where a level would have fewer than 2 voxels along an axis.
    """
    check_range("levels", levels, minimum=1, maximum=MOST_LEVELS)
    made = [grid]
    while len(made) < levels and min(made[-1].resolution) > 2:
        made.append(coarsened(made[-1]))
    return made


def halved(volume: SparseVolume) -> SparseVolume:
    """A volume at half its resolution: each voxel is the mean of 2 x 2 x 2, active if one of them is.

    Voxel i takes 2 i and 2 i + 1 of each axis. Inactive voxels count with their values, whole numbers are rounded to
    the nearest, and of bools the coarse is true if one is.

    Raises:
        InputError: large tiles that would make too many small ones.
    """
    small = volume.tiles.take(volume.tiles.sides == LEAF_SIDE)
    fine = np.concatenate([volume.origins, small.origins])
    origins, parent = unique_origins(node_origin(fine, 2 * LEAF_SIDE) // 2)
    shape = (len(origins), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
    values = np.broadcast_to(volume.background, shape + volume.channels).copy()
    active = np.zeros(shape, np.bool_)
    half = LEAF_SIDE // 2
    for start in range(0, len(volume.origins), _CHUNK):
        part = slice(start, start + _CHUNK)
        at = _octants(parent[: len(volume.origins)][part], volume.origins[part])
        values[at] = _mean_of_eight(volume.values[part])
        active[at] = volume.active[part].reshape(-1, half, 2, half, 2, half, 2).any(axis=(2, 4, 6))
    if len(small):
        at = _octants(parent[len(volume.origins) :], small.origins)
        values[at] = small.values.reshape(-1, 1, 1, 1, *volume.channels)
        active[at] = small.active.reshape(-1, 1, 1, 1)
    tiles = Tiles.joined(
        [Tiles.none(volume.background), *(_shrunk(volume.tiles, side) for side in set(volume.tiles.sides.tolist()))]
    )
    return SparseVolume.from_blocks(origins, values, active, background=volume.background, tiles=tiles)


def halved_transform(index_to_world: np.ndarray) -> np.ndarray:
    """The (4, 4) matrix of `halved`'s volume, from that of the volume: coarse voxel i has its value midway between
    those of 2 i and 2 i + 1.
    """
    step = np.diag([2.0, 2.0, 2.0, 1.0])
    step[:3, 3] = 0.5
    return index_to_world @ step


def _octants(rows: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of the (n, 4, 4, 4) voxels of coarse blocks ``rows`` that blocks at fine ``origins`` (n, 3) fill."""
    half = LEAF_SIDE // 2
    first = (origins // 2) & (LEAF_SIDE - 1)
    x, y, z = (first[:, axis, None] + np.arange(half) for axis in range(3))
    return rows[:, None, None, None], x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]


def _mean_of_eight(values: np.ndarray) -> np.ndarray:
    """Blocks (n, 8, 8, 8[, C]) as (n, 4, 4, 4[, C]) of their type."""
    half = LEAF_SIDE // 2
    grouped = values.reshape(len(values), half, 2, half, 2, half, 2, *values.shape[4:])
    if values.dtype == np.bool_:
        return np.asarray(grouped.any(axis=(2, 4, 6)))
    mean = grouped.mean(axis=(2, 4, 6), dtype=np.float64)
    return (mean if values.dtype.kind == "f" else np.rint(mean)).astype(values.dtype)


def _shrunk(tiles: Tiles, side: int) -> Tiles:
    """Tiles of ``side`` (128 or 4096) at half their size: several of the next smaller side; none of side 8."""
    tiles = tiles.take(tiles.sides == side)
    if side == LEAF_SIDE:
        return tiles.take(np.zeros(len(tiles), np.bool_))
    smaller = LEAF_SIDE if side == LOWER_SIDE else LOWER_SIDE
    count = (side // 2 // smaller) ** 3
    if len(tiles) * count > _MOST_TILES:
        raise InputError(
            f"tiles: {len(tiles):,} of side {side} would become more than {_MOST_TILES:,}. Crop the volume."
        )
    rows = np.repeat(np.arange(len(tiles)), count)
    return Tiles(
        origins=entry_origins(np.tile(np.arange(count), len(tiles)), tiles.origins[rows] // 2, side // 2, smaller),
        sides=np.full(len(rows), smaller, np.int32),
        values=tiles.values[rows],
        active=tiles.active[rows],
    )


def _grown(bounds: Bounds, fine: Resolution, coarse: Resolution) -> Bounds:
    """``bounds`` of ``fine`` voxels, as long as ``coarse`` ones twice their size are together."""
    ends = [
        high if 2 * new == old else low + (high - low) / old * 2 * new
        for low, high, old, new in zip(bounds.minimum, bounds.maximum, fine, coarse, strict=True)
    ]
    return Bounds(minimum=bounds.minimum, maximum=cast(Vector, tuple(ends)))
