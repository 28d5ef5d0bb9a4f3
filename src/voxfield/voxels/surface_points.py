"""The point of a surface that is nearest to the centre of each voxel it runs through.

Lengths are in voxels: voxel (x, y, z) is the cube from (x, y, z) to (x + 1, y + 1, z + 1). A voxel that a triangle
touches has its nearest point within half a diagonal of its centre, wherever that lies: triangles are cut into pieces,
and each is compared with the voxels so near to it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

HALF_DIAGONAL: Final = 0.8661
"""Of a voxel, rounded up."""
_PIECE: Final = 4.0
"""Longest edge of a piece."""
_PIECES_AT_ONCE: Final = 1 << 12  # at most 7^3 voxels each: 1.4 million pairs
_TRIANGLES_AT_ONCE: Final = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """A place on a surface for each of some voxels."""

    triangles: np.ndarray
    """(M,) int64: which triangle it is on; -1 of a voxel that no triangle comes near."""
    weights: np.ndarray
    """(M, 3) float64: of the triangle's corners, which sum to 1."""
    distances: np.ndarray
    """(M,) float64 from the voxel's centre; inf where there is none."""


def nearest_points(voxels: np.ndarray, triangles: np.ndarray) -> SurfacePoints:
    """The nearest point to the centre of each voxel, of the triangles within half a diagonal.

    Of points equally near that of the first triangle is taken.

    Args:
        voxels: (M, 3) whole numbers x, y, z, 0 to 2^20; none twice.
        triangles: (T, 3, 3) float64 corners, finite.
    """
    keys = _keys(voxels)
    order = np.argsort(keys)
    found = _Found(len(voxels))
    for at in range(0, len(triangles), _TRIANGLES_AT_ONCE):
        pieces, owners = _pieces(triangles[at : at + _TRIANGLES_AT_ONCE])
        for start in range(0, len(pieces), _PIECES_AT_ONCE):
            some = slice(start, start + _PIECES_AT_ONCE)
            rows, nearby = _pairs(pieces[some], keys[order], order)
            points = _closest(voxels[nearby] + 0.5, pieces[some][rows])
            found.offer(nearby, owners[some][rows] + at, points, voxels)
    return SurfacePoints(
        triangles=found.owners,
        weights=_weights(found.points, triangles[found.owners.clip(min=0)]) if len(triangles) else found.points,
        distances=np.sqrt(found.squares),
    )


class _Found:
    """The best that was offered so far."""

    def __init__(self, count: int) -> None:
        self.squares = np.full(count, np.inf)
        self.owners = np.full(count, -1, np.int64)
        self.points = np.zeros((count, 3))

    def offer(self, rows: np.ndarray, owners: np.ndarray, points: np.ndarray, voxels: np.ndarray) -> None:
        """``points`` on triangles ``owners``, rising, for the voxels at ``rows``."""
        squares = ((points - voxels[rows] - 0.5) ** 2).sum(axis=1)
        order = np.lexsort((owners, squares, rows))
        first = np.ones(len(order), bool)
        first[1:] = rows[order][1:] != rows[order][:-1]
        best = order[first]
        best = best[squares[best] < self.squares[rows[best]]]
        self.squares[rows[best]], self.owners[rows[best]] = squares[best], owners[best]
        self.points[rows[best]] = points[best]


def _keys(voxels: np.ndarray) -> np.ndarray:
    x, y, z = voxels.astype(np.int64).T
    return (z << 42) | (y << 21) | x


def _pieces(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles cut at the middle of their longest edge until none is long, and which triangle each is of."""
    done, owners_done = [], []
    left, owners = triangles, np.arange(len(triangles))
    while len(left):
        edges = np.linalg.norm(left - np.roll(left, -1, axis=1), axis=2)  # edge k runs from corner k to the next
        long = edges.max(axis=1) > _PIECE
        done.append(left[~long])
        owners_done.append(owners[~long])
        left, owners, longest = left[long], owners[long], edges[long].argmax(axis=1)
        rows = np.arange(len(left))
        a, b, c = (left[rows, (longest + turn) % 3] for turn in range(3))
        middle = (a + b) / 2
        left = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
        owners = np.concatenate([owners, owners])
    pieces, owners = np.concatenate([*done, triangles[:0]]), np.concatenate([*owners_done, owners[:0]])
    order = np.argsort(owners, kind="stable")
    return pieces[order], owners[order]


def _pairs(pieces: np.ndarray, keys: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pieces, and of the voxels whose centre is within half a diagonal of the box around each; voxels are known
    by rising ``keys`` and the row ``order`` of each.
    """
    low = np.ceil(pieces.min(axis=1) - HALF_DIAGONAL - 0.5).astype(np.int64).clip(min=0)
    high = np.floor(pieces.max(axis=1) + HALF_DIAGONAL - 0.5).astype(np.int64)
    sizes = (high - low + 1).clip(min=0)
    counts = sizes.prod(axis=1)
    rows = np.repeat(np.arange(len(pieces)), counts)
    inside = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    width, height = sizes[rows, 0], sizes[rows, 1]
    places = low[rows] + np.stack([inside % width, inside // width % height, inside // (width * height)], axis=1)
    wanted = _keys(places)
    at = np.searchsorted(keys, wanted).clip(max=max(0, len(keys) - 1))
    known = keys[at] == wanted if len(keys) else np.zeros(len(wanted), bool)
    return rows[known], order[at[known]]


def _closest(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The point (N, 3) of each triangle (N, 3, 3) that is nearest to each of ``points`` (N, 3)."""
    best, least = np.empty_like(points), np.full(len(points), np.inf)
    for start in range(3):
        a, along = triangles[:, start], triangles[:, (start + 1) % 3] - triangles[:, start]
        length = (along**2).sum(axis=1)
        share = ((points - a) * along).sum(axis=1) / np.where(length > 0, length, 1.0)
        on_edge = a + share.clip(0, 1)[:, None] * along
        square = ((points - on_edge) ** 2).sum(axis=1)
        nearer = square < least
        best[nearer], least[nearer] = on_edge[nearer], square[nearer]
    weights = _weights(points, triangles)
    within = (weights >= 0).all(axis=1)
    on_plane = np.einsum("nc,nci->ni", weights, triangles)
    within &= ((points - on_plane) ** 2).sum(axis=1) < least
    best[within] = on_plane[within]
    return best


def _weights(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(N, 3) barycentric coordinates of points projected to triangles' planes; of those without area along the
    longer of the first corner's edges.
    """
    a = triangles[:, 0]
    u, v, w = triangles[:, 1] - a, triangles[:, 2] - a, points - a
    uu, uv, vv = (u * u).sum(axis=1), (u * v).sum(axis=1), (v * v).sum(axis=1)
    wu, wv = (w * u).sum(axis=1), (w * v).sum(axis=1)
    area = uu * vv - uv * uv
    flat = area <= 1e-14 * np.maximum(uu, vv) ** 2
    safe = np.where(flat, 1.0, area)
    second, third = (vv * wu - uv * wv) / safe, (uu * wv - uv * wu) / safe
    longer = uu >= vv
    share = np.where(longer, wu, wv) / np.where(np.maximum(uu, vv) > 0, np.maximum(uu, vv), 1.0)
    second = np.where(flat, np.where(longer, share.clip(0, 1), 0.0), second)
    third = np.where(flat, np.where(longer, 0.0, share.clip(0, 1)), third)
    return np.stack([1 - second - third, second, third], axis=1)
