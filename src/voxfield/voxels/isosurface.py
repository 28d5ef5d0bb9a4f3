"""Isosurfaces of values on a regular grid: closed triangle meshes.

Marching cubes (Lorensen and Cline 1987, https://doi.org/10.1145/37402.37422) puts vertices where the surface crosses
the edges of the grid. Its table of cases is derived, not typed in: `voxfield.voxels.cut_cells`. Dual contouring puts
them inside of cells, on sharp edges and corners of the surface: `voxfield.voxels.dual_contouring`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np

from voxfield.checks import check_choice
from voxfield.errors import InputError
from voxfield.voxels.cut_cells import NEAREST, cell_edges, crossed_cells, face_walks, loops
from voxfield.voxels.dual_contouring import dual_contours

MOST_NODES: Final = 1 << 30
"""Nodes of the largest grid that is taken."""

SurfaceMethod = Literal["marching_cubes", "dual_contouring"]
"""How surfaces are found: marching cubes bevels edges and corners, dual contouring keeps them."""


@dataclass(frozen=True, kw_only=True)
class Isosurface:
    """A closed surface around the nodes whose values are at least a level; positions in steps of the grid."""

    vertices: np.ndarray
    """(V, 3) float32 x, y, z; node (0, 0, 0) is at the origin."""
    normals: np.ndarray
    """(V, 3) float32: unit vectors towards lower values, by differences of values; 0 where these vanish."""
    faces: np.ndarray
    """(F, 3) int64 indices of vertices, counter-clockwise seen from where values are lower."""


def isosurface(values: np.ndarray, level: float, *, method: SurfaceMethod = "marching_cubes") -> Isosurface:
    """The surface on which ``values``, linear along the edges of the grid, cross ``level``.

    What lies outside the grid counts as -infinity would: as a layer of nodes below the level, so that surfaces which
    reach the border are closed there, half a step outside. Each edge of the mesh is of two triangles that run along it
    in opposite directions.

    Args:
        values: (D, H, W), finite as float32, at most ``MOST_NODES`` of them.
        level: likewise. Nodes with at least this are inside.
        method: ``marching_cubes``: vertices lie on the grid's edges; ``dual_contouring``: a vertex lies in each cell
            that the surface crosses, in some two to four, on sharp edges and corners where there are any.

    Returns:
        The surface; without vertices where no node is inside.

    Raises:
        InputError: another shape, values that are not finite, or an unknown method.
    """
    check_choice("method", method, get_args(SurfaceMethod))
    if values.ndim != 3 or values.size > MOST_NODES:
        raise InputError(f"values: expected (D, H, W) of at most {MOST_NODES:,} nodes, got shape {values.shape}.")
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
        finite = np.isfinite(np.float32(level)) and np.isfinite(values).all()
    if not finite:
        raise InputError("values: expected finite ones and a finite level, got NaN or infinity among them.")
    # As far below the level as float32 tells apart from it, at least.
    outside = level - max(float(values.max(initial=level)) - level, 1e-6 * max(1.0, abs(level)))
    padded = np.pad(values, 1, constant_values=max(outside, float(np.finfo(np.float32).min)))
    vertices, normals, faces = (_marching_cubes if method == "marching_cubes" else dual_contours)(padded, level)
    return Isosurface(
        vertices=(vertices - 1).astype(np.float32),
        normals=normals.astype(np.float32),
        faces=faces,
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


def _marching_cubes(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) and normals (V, 3), float64, and faces of the surface in ``values`` (D, H, W) float32, of which
    the outermost are below ``level``.
    """
    cells, cases = crossed_cells(values >= level)
    table, counts = _table()
    edges = table[cases][np.arange(table.shape[1]) < counts[cases][:, None]]
    owners = np.repeat(cells, counts[cases])
    corners, axes = cell_edges()
    depth, height, width = values.shape
    strides = np.array([1, width, width * height])
    offsets = np.array([sum(int(strides[axis]) for axis in range(3) if corner >> axis & 1) for corner in corners])
    # An edge of the grid is named by its lower node and its axis: cells around it share the vertex on it.
    names = (owners[:, None] + offsets[edges]) * 3 + axes[edges]
    unique, faces = np.unique(names, return_inverse=True)
    lower, axis = unique // 3, unique % 3
    upper, flat = lower + strides[axis], values.ravel()
    below, above = flat[lower].astype(np.float64), flat[upper].astype(np.float64)
    share = np.clip((level - below) / np.where(above == below, 1.0, above - below), NEAREST, 1 - NEAREST)
    at = np.stack(np.unravel_index(lower, (depth, height, width))[::-1], axis=1).astype(np.float64)
    at[np.arange(len(at)), axis] += share
    slope = (1 - share)[:, None] * _slope(values, lower) + share[:, None] * _slope(values, upper)
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    return at, np.divide(-slope, length, out=np.zeros_like(slope), where=length > 0), faces.reshape(-1, 3)


def _slope(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Central differences (N, 3) along x, y, z at flat ``nodes`` (N,), one-sided at the border."""
    place = np.unravel_index(nodes, values.shape)
    found = []
    for axis in (2, 1, 0):
        ahead, behind = list(place), list(place)
        ahead[axis] = np.minimum(place[axis] + 1, values.shape[axis] - 1)
        behind[axis] = np.maximum(place[axis] - 1, 0)
        step = values[tuple(ahead)].astype(np.float64) - values[tuple(behind)]
        found.append(step / np.maximum(ahead[axis] - behind[axis], 1))
    return np.stack(found, axis=1)


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Triangles (256, T, 3) of every case as edges of the cell, and how many (256,) there are."""
    cases = [[triangle for loop in loops(case) for triangle in _fan(loop)] for case in range(256)]
    counts = np.array([len(triangles) for triangles in cases])
    table = np.zeros((256, counts.max(), 3), np.int64)
    for case, triangles in enumerate(cases):
        if triangles:
            table[case, : len(triangles)] = triangles
    return table, counts


def _fan(loop: list[int]) -> list[tuple[int, int, int]]:
    """Triangles of a polygon, from the corner whose diagonals lie least in faces of the cell, where neighbours meet."""
    faces = [{edge for _, edge in walk} for walk in face_walks()]

    def flat(start: int) -> int:
        turned = loop[start:] + loop[:start]
        return sum({turned[0], other} <= face for other in turned[2:-1] for face in faces)

    start = min(range(len(loop)), key=flat)
    turned = loop[start:] + loop[:start]
    return [(turned[0], turned[i], turned[i + 1]) for i in range(1, len(turned) - 1)]
