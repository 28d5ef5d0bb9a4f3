"""Isosurfaces of values on a regular grid: marching cubes (Lorensen and Cline 1987, https://doi.org/10.1145/37402.37422).

Nodes are numbered x fastest, as arrays (D, H, W) lie in memory. Corner c of a cell has offsets x = bit 0, y = bit 1 and
z = bit 2 of c. The table of cases is not typed in but derived: on each face of a cell the surface cuts every run of
inside corners off, which neighbouring cells agree on as only the face's own corners count, so surfaces are closed.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from voxfield.errors import InputError

MOST_NODES: Final = 1 << 30
"""Nodes of the largest grid that is taken."""
_NEAREST: Final = 1e-3
"""Share of an edge that vertices keep from its ends: no triangle collapses where a value is the level itself."""


@dataclass(frozen=True, kw_only=True)
class Isosurface:
    """A closed surface around the nodes whose values are at least a level; positions in steps of the grid."""

    vertices: np.ndarray
    """(V, 3) float32 x, y, z; node (0, 0, 0) is at the origin."""
    normals: np.ndarray
    """(V, 3) float32: unit vectors towards lower values, by central differences; 0 where these vanish."""
    faces: np.ndarray
    """(F, 3) int64 indices of vertices, counter-clockwise seen from where values are lower."""


def isosurface(values: np.ndarray, level: float) -> Isosurface:
    """The surface on which ``values``, linear along the edges of the grid, cross ``level``.

    What lies outside the grid counts as -infinity would: as a layer of nodes below the level, so that surfaces which
    reach the border are closed there, half a step outside.

    Args:
        values: (D, H, W) finite float, at most ``MOST_NODES`` of them.
        level: finite. Nodes with at least this are inside.

    Returns:
        The surface; without vertices where no node is inside.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    if values.ndim != 3 or values.size > MOST_NODES:
        raise InputError(f"values: expected (D, H, W) of at most {MOST_NODES:,} nodes, got shape {values.shape}.")
    if not (np.isfinite(level) and np.isfinite(values).all()):
        raise InputError("values: expected finite ones and a finite level, got NaN or infinity among them.")
    # As far below the level as float32 tells apart from it, at least.
    outside = level - max(float(values.max(initial=level)) - level, 1e-6 * max(1.0, abs(level)))
    padded = np.pad(np.asarray(values, np.float32), 1, constant_values=outside)
    cells, cases = _crossed_cells(padded >= level)
    table, counts = _table()
    edges = table[cases][np.arange(table.shape[1]) < counts[cases][:, None]]
    owners = np.repeat(cells, counts[cases])
    corners, axes = _edges()
    depth, height, width = padded.shape
    strides = np.array([1, width, width * height])
    offsets = np.array([sum(int(strides[axis]) for axis in range(3) if corner >> axis & 1) for corner in corners])
    # An edge of the grid is named by its lower node and its axis: cells around it share the vertex on it.
    names = (owners[:, None] + offsets[edges]) * 3 + axes[edges]
    unique, faces = np.unique(names, return_inverse=True)
    lower, axis = unique // 3, unique % 3
    upper, flat = lower + strides[axis], padded.ravel()
    below, above = flat[lower].astype(np.float64), flat[upper].astype(np.float64)
    share = np.clip((level - below) / np.where(above == below, 1.0, above - below), _NEAREST, 1 - _NEAREST)
    at = np.stack(np.unravel_index(lower, (depth, height, width))[::-1], axis=1).astype(np.float64) - 1
    at[np.arange(len(at)), axis] += share
    slope = (1 - share)[:, None] * _slope(padded, lower) + share[:, None] * _slope(padded, upper)
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    return Isosurface(
        vertices=at.astype(np.float32),
        normals=np.divide(-slope, length, out=np.zeros_like(slope), where=length > 0).astype(np.float32),
        faces=faces.reshape(-1, 3),
    )


def connected_parts(faces: np.ndarray, vertices: int) -> np.ndarray:
    """(V,) int64: for each of ``vertices`` the smallest vertex that triangles ``faces`` (F, 3) connect it to."""
    label = np.arange(vertices)
    while True:
        least = label[faces].min(1)
        before = label.copy()
        for corner in range(3):
            # Roots are lowered too, so that whole parts join at once.
            np.minimum.at(label, before[faces[:, corner]], least)
            np.minimum.at(label, faces[:, corner], least)
        label = label[label]
        if np.array_equal(label, before):
            return label


def _crossed_cells(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells that the surface crosses: lower nodes (A,) int64 and cases (A,), the bits of their inside corners."""
    depth, height, width = (size - 1 for size in inside.shape)
    case = np.zeros((depth, height, width), np.uint8)
    for corner in range(8):
        x, y, z = (corner >> axis & 1 for axis in range(3))
        case |= inside[z : z + depth, y : y + height, x : x + width].view(np.uint8) << np.uint8(corner)
    place = np.nonzero((case != 0) & (case != 255))
    return np.ravel_multi_index(place, inside.shape), case[place]


def _slope(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Central differences (N, 3) along x, y, z at flat ``nodes`` (N,), one-sided at the border."""
    place = np.unravel_index(nodes, values.shape)
    found = []
    for axis in (2, 1, 0):
        ahead, behind = list(place), list(place)
        ahead[axis] = np.minimum(place[axis] + 1, values.shape[axis] - 1)
        behind[axis] = np.maximum(place[axis] - 1, 0)
        found.append((values[tuple(ahead)] - values[tuple(behind)]) / np.maximum(ahead[axis] - behind[axis], 1))
    return np.stack(found, axis=1).astype(np.float64)


@cache
def _edges() -> tuple[np.ndarray, np.ndarray]:
    """Lower corner (12,) and axis (12,) of a cell's edges."""
    pairs = [(corner, axis) for axis in range(3) for corner in range(8) if not corner >> axis & 1]
    return np.array([corner for corner, _ in pairs]), np.array([axis for _, axis in pairs])


@cache
def _face_walks() -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each face of a cell its four (corner, edge to the next corner), counter-clockwise seen from outside."""
    corners, axes = (part.tolist() for part in _edges())
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


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Triangles (256, T, 3) of every case as edges of the cell, and how many (256,) there are."""
    cases = [[triangle for loop in _loops(case) for triangle in _fan(loop)] for case in range(256)]
    counts = np.array([len(triangles) for triangles in cases])
    table = np.zeros((256, counts.max(), 3), np.int64)
    for case, triangles in enumerate(cases):
        if triangles:
            table[case, : len(triangles)] = triangles
    return table, counts


def _loops(case: int) -> list[list[int]]:
    """The closed polygons in which the surface crosses a cell, as the edges they go through."""
    follows: dict[int, int] = {}
    for walk in _face_walks():
        inside = [bool(case >> corner & 1) for corner, _ in walk]
        for start in range(4):
            # A run of inside corners: entered over the edge before it, left over the edge after it.
            if inside[start] and not inside[start - 1]:
                end = next(place for place in range(start, start + 4) if not inside[(place + 1) % 4])
                follows[walk[start - 1][1]] = walk[end % 4][1]
    loops = []
    while follows:
        edge, loop = next(iter(follows)), []
        while edge in follows:
            loop.append(edge)
            edge = follows.pop(edge)
        loops.append(loop)
    return loops


def _fan(loop: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a polygon, from the corner whose diagonals lie least in faces of the cell, where neighbours meet."""
    faces = [{edge for _, edge in walk} for walk in _face_walks()]

    def flat(start: int) -> int:
        turned = loop[start:] + loop[:start]
        return sum({turned[0], other} <= face for other in turned[2:-1] for face in faces)

    start = min(range(len(loop)), key=flat)
    turned = loop[start:] + loop[:start]
    return [(turned[0], turned[i], turned[i + 1]) for i in range(1, len(turned) - 1)]
