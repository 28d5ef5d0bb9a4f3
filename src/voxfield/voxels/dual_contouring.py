"""Dual contouring of hermite data (Ju, Losasso, Schaefer and Warren 2002, https://doi.org/10.1145/566654.566586).

Where the surface crosses an edge of the grid there is a point p, with values linear along the edge, and a unit normal
n. Each polygon in which the surface crosses a cell gets the vertex x that minimises the quadratic error

    E(x) = sum over the polygon's edges of (n . (x - p))^2,

and each crossed edge a quadrilateral of the vertices around it. Where normals leave a direction open, x stays beside
the mean m of the points (Schaefer and Warren 2002): with A the rows n and r = n . (p - m), x - m = pinv(A) r, singular
values below ``TRUNCATED`` times the largest counting as 0. A vertex outside of its cell is moved to the nearest place
in it.

A vertex for each polygon, not each cell, as in dual marching cubes (Nielson 2004,
https://doi.org/10.1109/VISUAL.2004.28), keeps surfaces apart that only pass through the same cell. One case remains:
over a face whose inside corners lie across from each other two edges of the mesh may join the same two vertices. There
both cells join those corners in place of parting them (Wenger 2013, Isosurfaces, section 3.3.5), which gives each one
vertex more. So every edge of the mesh is of two triangles, and the triangles at a vertex are one ring.
"""

from functools import cache
from typing import Final, NamedTuple

import numpy as np

from voxfield.voxels.cut_cells import NEAREST, cell_edges, crossed_cells, face_walks, loops

TRUNCATED: Final = 0.1
"""Least singular value that counts, as a share of the largest, as in Ju et al."""
_KINKED: Final = 2.0
"""How much stronger values bend at a point than to one side of it where the side's own slope is taken."""
_AT_ONCE: Final = 1 << 14
"""Edges or vertices worked on together: their arrays stay in the processor's cache."""
_APART: Final = 1e-6
"""Least distance of eigenvalues, as a share of the largest: nearer ones are known too roughly to divide by it."""
_NOISE: Final = 1e-3
"""Bends of less than this share of the step over the crossed edge are none."""
_SHORTER: Final = 0.01
_INWARDS: Final = 100.0
"""What a diagonal's length and triangles that look inwards cost, beside distances from the plane."""
_QUARTERS: Final = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Steps back along the two other axes from an edge to the cells around it."""
_PRODUCTS: Final = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Which entries of a symmetric matrix are kept."""


def dual_contours(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) in steps of the grid and their unit normals (V, 3), 0 where there is none, float64, and faces
    (F, 3) int64 of the surface in ``values`` (D, H, W) float32, of which the outermost are below ``level``.
    """
    cells, cases = crossed_cells(values >= level)
    if not len(cells):
        return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    strides = np.array([1, values.shape[2], values.shape[2] * values.shape[1]])
    tables = _tables()
    kinds = _kinds(cells, cases, strides)
    counts = tables.counts[kinds]
    firsts = np.cumsum(counts) - counts
    around, points, normals = [], [], []
    for axis in range(3):
        # Of a crossed edge the cell above its lower node has it too: none lies in the border.
        rows = np.flatnonzero((cases ^ cases >> np.uint8(1 << axis)) & 1)
        near = _cells_around(cells, rows, strides[(axis + 1) % 3], strides[(axis + 2) % 3])
        vertices = firsts[near] + tables.polygons[kinds[near], tables.around[axis][:, None]]
        around.append(np.where(cases[rows] & 1, vertices, vertices[::-1]))
        for some in _pieces(len(rows)):
            point, normal = _crossings(values, level, cells[rows[some]], axis)
            points.append(point)
            normals.append(normal)
    quads, point, normal = (np.concatenate(parts, axis=1) for parts in (around, points, normals))
    vertices, facing = _vertices(quads, point, normal, int(counts.sum()))
    low = np.stack(np.unravel_index(np.repeat(cells, counts), values.shape)[::-1])
    vertices = np.clip(vertices, low + NEAREST, low + (1 - NEAREST))
    pieces = [_triangles(quads[:, some], vertices, point[:, some], normal[:, some]) for some in _pieces(len(point[0]))]
    return vertices.T, facing.T, np.concatenate(pieces)


def shifts(products: np.ndarray, right: np.ndarray) -> np.ndarray:
    """pinv(A) r (3, N) of N least-squares problems, without singular values of A below ``TRUNCATED`` times its largest.

    A function f of a symmetric matrix M = A^T A with eigenvalues a >= b >= c is the polynomial through f(a), f(b) and
    f(c), in Newton's form f(a) + f[a, b] (M - a) + f[a, b, c] (M - a) (M - b): no eigenvectors are asked for. Here f(x)
    is 1 / x, or 0 of what is left out. Eigenvalues are those of Smith 1961, https://doi.org/10.1145/355578.366316.

    Args:
        products: (6, N), of M the entries ``_PRODUCTS``.
        right: (3, N) A^T r.
    """
    a, b, c = _eigenvalues(products)
    # Of no normals at all, whose right sides are 0 too, any do.
    a = np.where(a > 0, a, 1.0)
    has_b = b > TRUNCATED**2 * a
    has_c = has_b & (c > TRUNCATED**2 * a)
    of_a, of_b = 1 / a, np.divide(1.0, b, out=np.zeros_like(b), where=has_b)
    of_c = np.divide(1.0, c, out=np.zeros_like(c), where=has_c)
    # Of what is kept differences of f are products; what is left out lies far from what is not, or is as good as it.
    slope_ab = np.where(has_b, -of_a * of_b, of_a / np.where(has_b, 1.0, a - b))
    slope_bc = of_b / np.maximum(b - c, _APART * a)
    bend = np.where(has_c, of_a * of_b * of_c, (slope_ab - slope_bc) / np.where(has_c, 1.0, a - c))
    first = _times(products, right) - a * right
    second = _times(products, first) - b * first
    found: np.ndarray = of_a * right + slope_ab * first + bend * second
    return found


def _eigenvalues(products: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of symmetric matrices (6, N) the eigenvalues, largest first."""
    xx, yy, zz, xy, xz, yz = products
    mean = (xx + yy + zz) / 3
    x, y, z = xx - mean, yy - mean, zz - mean
    spread = np.sqrt((x * x + y * y + z * z + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    determinant = x * (y * z - yz * yz) - xy * (xy * z - yz * xz) + xz * (xy * yz - y * xz)
    cube = 2 * spread**3
    cosine = np.divide(determinant, cube, out=np.ones_like(spread), where=cube > 0)
    angle = np.arccos(cosine.clip(-1, 1)) / 3
    largest, least = (mean + 2 * spread * np.cos(angle + turn) for turn in (0.0, 2 * np.pi / 3))
    return largest, 3 * mean - largest - least, least


def _times(products: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Symmetric matrices (6, N) times vectors (3, N)."""
    xx, yy, zz, xy, xz, yz = products
    x, y, z = vectors
    return np.stack([xx * x + xy * y + xz * z, xy * x + yy * y + yz * z, xz * x + yz * y + zz * z])


def _vertices(quads: np.ndarray, points: np.ndarray, normals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Least quadratic error (3, V) of each of ``count`` vertices, and the mean of its normals, made unit.

    Args:
        quads: (4, E) vertices around each crossed edge.
        points, normals: (3, E) of the crossed edges.
        count: V.
    """
    index = quads.ravel()

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(index, np.tile(weights, 4), count)

    facing = np.stack([total(normal) for normal in normals])
    middle = np.stack([total(point) for point in points]) / np.bincount(index, minlength=count)
    products = np.stack([total(normals[i] * normals[j]) for i, j in _PRODUCTS])
    distance = _dot(normals, points)
    right = np.stack([total(normal * distance) for normal in normals])
    found = np.empty_like(middle)
    for some in _pieces(count):
        matrix, mean = products[:, some], middle[:, some]
        found[:, some] = mean + shifts(matrix, right[:, some] - _times(matrix, mean))
    return found, _unit(facing)


def _crossings(values: np.ndarray, level: float, lower: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the surface crosses the edges along ``axis`` above nodes ``lower`` (N,): points (3, N), and unit normals
    (3, N) towards lower values, 0 where values are level.
    """
    sizes, strides = values.shape[::-1], [1, values.shape[2], values.shape[2] * values.shape[1]]
    place = np.stack(np.unravel_index(lower, values.shape)[::-1])
    flat = values.ravel()

    def node(along: int, step: int) -> np.ndarray:
        """Values ``step`` nodes on, those at the border in place of any beyond."""
        moved = np.clip(place[along] + step, 0, sizes[along] - 1) - place[along]
        return flat[lower + moved * strides[along]].astype(np.float64)

    before, below, above, after = (node(axis, step) for step in (-1, 0, 1, 2))
    share = np.clip((level - below) / np.where(above == below, 1.0, above - below), NEAREST, 1 - NEAREST)
    slope = np.empty((3, len(lower)))
    bends = np.abs(before - 2 * below + above), np.abs(below - 2 * above + after)
    noise = _NOISE * np.abs(above - below)
    smooth = ((1 - share) * (above - before) + share * (after - below)) / 2
    slope[axis] = np.where(_kinked(np.maximum(*bends), np.minimum(*bends), noise), above - below, smooth)
    ahead = strides[axis]
    for across in (axis - 2, axis - 1):
        # Along a line through the crossing, whose values are linear between those beside both ends of the edge.
        line = []
        for step in (-2, -1, 0, 1, 2):
            moved = np.clip(place[across] + step, 0, sizes[across] - 1) - place[across]
            beside = lower + moved * strides[across]
            line.append((1 - share) * flat[beside] + share * flat[beside + ahead])
        slope[across] = _slope(line, noise)
    points = place.astype(np.float64)
    points[axis] += share
    return points, _unit(-slope)


def _slope(line: list[np.ndarray], noise: np.ndarray) -> np.ndarray:
    """Of five values each a step apart the slope at the third: to one side of it, where values have a kink there.

    The side whose own values bend least is taken, as essentially non-oscillatory schemes do (Harten et al. 1987,
    https://doi.org/10.1016/0021-9991(87)90031-3). Central differences would round what lies within a step of an edge.
    """
    two_before, before, here, after, two_after = line
    bend, behind, ahead = before - 2 * here + after, two_before - 2 * before + here, here - 2 * after + two_after
    back = np.abs(behind) < np.abs(ahead)
    one_sided = np.where(back, here - before + behind / 2, after - here - ahead / 2)
    kinked = _kinked(np.abs(bend), np.minimum(np.abs(behind), np.abs(ahead)), noise)
    return np.where(kinked, one_sided, (after - before) / 2)


def _kinked(bend: np.ndarray, beside: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Where second differences ``bend`` stand out against those ``beside``."""
    kinked: np.ndarray = bend > _KINKED * beside + noise
    return kinked


def _triangles(quads: np.ndarray, vertices: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Triangles (2E, 3) of the quadrilaterals ``quads`` (4, E), parted along the better diagonal.

    It lies nearer the plane of the edge that the quadrilateral is around, as a fold does that the surface has; among
    equals it is the shorter one. One whose triangles look inwards is taken only where both do.
    """
    corners = vertices[:, quads]
    costs = []
    for start in (0, 1):
        a, b, c, d = (corners[:, (start + i) % 4] for i in range(4))
        diagonal = c - a
        away = np.abs(_dot(a + diagonal / 2 - points, normals))
        across = _cross(normals, diagonal)
        inwards = np.minimum(_dot(across, a - b), _dot(across, d - a)) < 0
        costs.append(away + _SHORTER * np.sqrt(_dot(diagonal, diagonal)) + _INWARDS * inwards)
    turned = np.where(costs[1] < costs[0], np.roll(quads, -1, axis=0), quads)
    return turned[[0, 1, 2, 0, 2, 3]].T.reshape(-1, 3)


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Inner products (N,) of (3, N)."""
    return np.einsum("in,in->n", first, second)


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cross products of (3, N); NumPy's own takes several times as long."""
    (a, b, c), (x, y, z) = first, second
    return np.stack([b * z - c * y, c * x - a * z, a * y - b * x])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(3, N) of length 1, or 0 where they are."""
    length = np.sqrt(_dot(vectors, vectors))
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _pieces(count: int) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]


def _cells_around(cells: np.ndarray, rows: np.ndarray, second: int, third: int) -> np.ndarray:
    """(4, N) rows of ``cells`` around edges that those at ``rows`` begin, counter-clockwise seen from the edges' upper
    ends; ``second`` and ``third`` are the strides of the axes after theirs.
    """
    lower = cells[rows]
    behind = [np.searchsorted(cells, lower - step) for step in (second, second + third, third)]
    return np.stack([rows, *behind])


def _kinds(cells: np.ndarray, cases: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Rows of the tables for each cell: its case, and 256 more where it joins its ``joinable`` face."""
    kinds = cases.astype(np.int64)
    joinable = _tables().joinable[kinds]
    rows = np.flatnonzero(joinable >= 0)
    faces = joinable[rows]
    other = np.searchsorted(cells, cells[rows] + np.where(faces & 1, 1, -1) * strides[faces >> 1])
    kinds[rows[joinable[other] == faces ^ 1]] += 256
    return kinds


class _Tables(NamedTuple):
    """What follows from a cell's case; rows from 256 on are those of cases that join their ``joinable`` face."""

    counts: np.ndarray
    """(512,) polygons."""
    polygons: np.ndarray
    """(512, 12): which of them goes through an edge."""
    joinable: np.ndarray
    """(256,): the face whose inside corners lie across from each other, with all its edges in one polygon; -1: none."""
    around: np.ndarray
    """(3, 4): what an edge is called by the cells around it, in the order of `_cells_around`."""


@cache
def _tables() -> _Tables:
    counts, polygons, joinable = np.zeros(512, np.int64), np.zeros((512, 12), np.int64), np.full(256, -1)
    for case in range(256):
        found = loops(case)
        for face, walk in enumerate(face_walks()):
            edges = {edge for _, edge in walk}
            if any(edges <= set(loop) for loop in found):
                joinable[case] = face
        for row, parts in ((case, found), (case + 256, loops(case, int(joinable[case])))):
            counts[row] = len(parts)
            for i, loop in enumerate(parts):
                polygons[row, loop] = i
    number = {pair: i for i, pair in enumerate(zip(*(part.tolist() for part in cell_edges()), strict=True))}
    around = [
        [number[(1 << (axis + 1) % 3) * second | (1 << (axis + 2) % 3) * third, axis] for second, third in _QUARTERS]
        for axis in range(3)
    ]
    return _Tables(counts=counts, polygons=polygons, joinable=joinable, around=np.array(around))
