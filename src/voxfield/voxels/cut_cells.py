"""How a surface cuts the cells of a regular grid: which cells, over which of their edges, in which polygons.

Nodes are numbered x fastest, as arrays (D, H, W) lie in memory; a cell is named by its lowest node. Corner c of a cell
has offsets x = bit 0, y = bit 1 and z = bit 2 of c; edge 4 a + k is the k-th along axis a; face 2 a + s is the lower
(s = 0) or upper one across axis a. A case is the bits of a cell's corners that are inside.
"""

from functools import cache
from typing import Final

import numpy as np

NEAREST: Final = 1e-3
"""Share of an edge that vertices keep from its ends: no triangle collapses where a value is the level itself."""


def crossed_cells(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells that the surface around nodes ``inside`` (D, H, W) crosses: their names (A,) int64, ascending, and cases
    (A,) uint8.
    """
    bits = inside.view(np.uint8)
    bits = bits[:, :, :-1] | bits[:, :, 1:] << np.uint8(1)
    bits = bits[:, :-1] | bits[:, 1:] << np.uint8(2)
    case = bits[:-1] | bits[1:] << np.uint8(4)
    # All outside is 0, all inside wraps to 0.
    found = np.flatnonzero(case + np.uint8(1) > 1)
    return np.ravel_multi_index(np.unravel_index(found, case.shape), inside.shape), case.ravel()[found]


@cache
def cell_edges() -> tuple[np.ndarray, np.ndarray]:
    """Lower corner (12,) and axis (12,) of a cell's edges."""
    pairs = [(corner, axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1]
    return np.array([corner for corner, _ in pairs]), np.array([axis for _, axis in pairs])


@cache
def face_walks() -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each face of a cell its four (corner, edge to the next corner), counter-clockwise seen from outside."""
    corners, axes = (part.tolist() for part in cell_edges())
    number = {(corner, corner | 1 << axis): i for i, (corner, axis) in enumerate(zip(corners, axes, strict=True))}
    walks = []
    for axis in range(3):
        along, across = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        for side in (0, 1):
            ring = [(side << axis) | step for step in (0, along, along | across, across)]
            ring = ring if side else ring[::-1]
            pairs = zip(ring, [*ring[1:], ring[0]], strict=True)
            walks.append(tuple((one, number[min(one, other), max(one, other)]) for one, other in pairs))
    return tuple(walks)


def loops(case: int, joined: int | None = None) -> list[list[int]]:
    """The closed polygons in which the surface crosses a cell, as the edges they go through, counter-clockwise seen
    from outside.

    On each face of a cell the surface cuts every run of inside corners off, which neighbouring cells agree on as only
    the face's own corners count, so surfaces are closed. On face ``joined`` it cuts runs of outside corners off
    instead: another surface only where two inside corners lie across from each other.
    """
    follows: dict[int, int] = {}
    for face, walk in enumerate(face_walks()):
        cut = [bool(case >> corner & 1) != (face == joined) for corner, _ in walk]
        for start in range(4):
            # A run of corners that is cut off: entered over the edge before it, left over the edge after it.
            if cut[start] and not cut[start - 1]:
                end = next(place for place in range(start, start + 4) if not cut[(place + 1) % 4])
                before, after = walk[start - 1][1], walk[end % 4][1]
                follows.update({after: before} if face == joined else {before: after})
    found = []
    while follows:
        edge, loop = next(iter(follows)), []
        while edge in follows:
            loop.append(edge)
            edge = follows.pop(edge)
        found.append(loop)
    return found
