"""The shape of an OpenVDB tree: which node holds a voxel, and the order nodes stand in.

A tree of kind 5-4-3 has a root table of upper nodes (side 4096 voxels, 32³ entries), lower nodes (side 128, 16³
entries) and leaves (side 8, 8³ voxels). A node's origin is its smallest voxel, a multiple of its side. Entry (x, y, z)
of a node has the offset (x·n + y)·n + z for n entries along a side. Nodes stand in the order of their root origin
(x, y, z), then of the offset in the upper node, then in the lower.

Source: Museth, VDB: High-Resolution Sparse Volumes with Dynamic Topology, ACM TOG 2013, section 3.
"""

from typing import Final

import numpy as np

LEAF_SIDE: Final = 8
LOWER_SIDE: Final = 128
UPPER_SIDE: Final = 4096
LEAF_VOXELS: Final = LEAF_SIDE**3
LOWER_ENTRIES: Final = (LOWER_SIDE // LEAF_SIDE) ** 3
UPPER_ENTRIES: Final = (UPPER_SIDE // LOWER_SIDE) ** 3
COORDINATE_MIN: Final = -(2**31)
COORDINATE_MAX: Final = 2**31 - 1
"""Voxel coordinates are 32-bit whole numbers."""


def node_origin(coordinates: np.ndarray, side: int) -> np.ndarray:
    """(N, 3) origins of the nodes of ``side`` voxels (a power of two) that hold ``coordinates`` (N, 3)."""
    return coordinates & -side


def entry_offset(coordinates: np.ndarray, node_side: int, entry_side: int) -> np.ndarray:
    """(N,) int64 offsets, within nodes of ``node_side``, of the entries of ``entry_side`` that hold ``coordinates``."""
    entries = node_side // entry_side
    x, y, z = ((coordinates.astype(np.int64) & (node_side - 1)) // entry_side).T
    return (x * entries + y) * entries + z


def entry_origins(offsets: np.ndarray, node_origins: np.ndarray, node_side: int, entry_side: int) -> np.ndarray:
    """(N, 3) int32 origins of the entries at ``offsets`` (N,) of nodes at ``node_origins``, (N, 3) or (3,).

    The inverse of `entry_offset`.
    """
    entries = node_side // entry_side
    local = np.stack([offsets // (entries * entries), offsets // entries % entries, offsets % entries], axis=-1)
    return (local * entry_side + node_origins).astype(np.int32)


def unique_origins(origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ones of (N, 3) origins, sorted by x, y, z, and for each of the N which of them it is."""
    order = np.lexsort(origins.T[::-1])
    ordered = origins[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    which = np.empty(len(order), dtype=np.int64)
    which[order] = np.cumsum(first) - 1
    return ordered[first], which


class NodeIndex:
    """Finds nodes of one level by their origin, in logarithmic time and memory of 8 bytes a node.

    Args:
        origins: (N, 3) int32, no two alike.
        side: side of the nodes: 8, 128 or 4096.
    """

    def __init__(self, origins: np.ndarray, side: int) -> None:
        self._side = side
        self._roots = np.unique(_sortable(node_origin(origins, UPPER_SIDE)))
        keys = self._keys(origins)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    @property
    def order(self) -> np.ndarray:
        """(N,) rows of ``origins`` in the order of the tree."""
        return self._order

    def has_duplicates(self) -> bool:
        """Whether two origins are alike."""
        return bool((self._sorted[1:] == self._sorted[:-1]).any())

    def find(self, coordinates: np.ndarray) -> np.ndarray:
        """(M,) rows of the nodes that hold the voxels at ``coordinates`` (M, 3); -1 where there is none."""
        if not len(self._sorted) or not len(coordinates):
            return np.full(len(coordinates), -1, dtype=np.int64)
        keys = self._keys(coordinates)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)

    def _keys(self, coordinates: np.ndarray) -> np.ndarray:
        """(M,) int64 that sort like the tree; negative where the tree has no upper node."""
        roots = _sortable(node_origin(coordinates, UPPER_SIDE))
        at = np.searchsorted(self._roots, roots)
        known = at < len(self._roots)
        known &= self._roots[np.minimum(at, len(self._roots) - 1)] == roots if len(self._roots) else False
        keys = at.astype(np.int64)
        if self._side < UPPER_SIDE:
            keys = keys * UPPER_ENTRIES + entry_offset(coordinates, UPPER_SIDE, LOWER_SIDE)
        if self._side < LOWER_SIDE:
            keys = keys * LOWER_ENTRIES + entry_offset(coordinates, LOWER_SIDE, LEAF_SIDE)
        return np.where(known, keys, -1)


def _sortable(origins: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates as (N,) byte strings that sort as (x, y, z) does."""
    shifted = (origins.astype(np.int64) - COORDINATE_MIN).astype(">u4")
    return np.ascontiguousarray(shifted).view("S12").reshape(-1)
