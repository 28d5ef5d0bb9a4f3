"""Voxel grids' links as blocks of 8³ voxels, in the order of an OpenVDB tree.

Links are (D, H, W) = (z, y, x), blocks are indexed [x, y, z].
"""

from collections.abc import Sequence

import numpy as np

from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import LEAF_SIDE, NodeIndex


def blocks_of_links(links: np.ndarray, origin: Sequence[int] = (0, 0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a grid's voxels, block by block.

    Args:
        links: (D, H, W) int32: a row for every voxel, -1 where none is stored.
        origin: (x, y, z) of the first voxel, multiples of 8.

    Returns:
        Origins (N, 3) int32 of the blocks that store something, in the order of the tree, and rows (N, 8, 8, 8) int32.
    """
    height, width = links.shape[1:]
    origins, rows = [np.empty((0, 3), np.int32)], [np.empty((0, LEAF_SIDE, LEAF_SIDE, LEAF_SIDE), np.int32)]
    padding = ((0, -height % LEAF_SIDE), (0, -width % LEAF_SIDE))
    for z in range(0, len(links), LEAF_SIDE):
        slab = links[z : z + LEAF_SIDE]
        padded = np.pad(slab, ((0, LEAF_SIDE - len(slab)), *padding), constant_values=-1)
        tall, wide = padded.shape[1] // LEAF_SIDE, padded.shape[2] // LEAF_SIDE
        blocks = padded.reshape(LEAF_SIDE, tall, LEAF_SIDE, wide, LEAF_SIDE).transpose(3, 1, 4, 2, 0)
        x, y = np.nonzero((blocks >= 0).any(axis=(2, 3, 4)))
        origins.append(np.stack([x * LEAF_SIDE, y * LEAF_SIDE, np.full_like(x, z)], axis=1).astype(np.int32))
        rows.append(blocks[x, y])
    found = np.concatenate(origins) + np.array(origin, np.int32)
    order = NodeIndex(found, LEAF_SIDE).order
    return found[order], np.concatenate(rows)[order]


def topology_of(origins: np.ndarray, active: np.ndarray, background: np.ndarray) -> SparseVolume:
    """A volume of blocks whose values are all the background, without memory for them: for writers that have the values
    elsewhere.

    Args:
        origins: (N, 3) int32, in the order of the tree.
        active: (N, 8, 8, 8) bool.
        background: () or (C,).
    """
    values = np.broadcast_to(background, (*active.shape, *background.shape))
    return SparseVolume.from_blocks(origins, values, active, background=background)
