"""Surfaces laid out flat, and the texels that lie on them.

Few triangles are laid out in charts by xatlas, which people can paint on. Its time grows with their number squared, so
that of many each has half a square of its own: neighbours in space are near each other in the picture too, but nobody
would paint there.

Texel (i, j) of a picture of S rows is the square [j, j+1) x [i, i+1), rows from the top; texture coordinates run from
0 to 1, x to the right and y upwards. A texel has the place on the surface at its centre. Those next to a chart, which
filters look at too, have the place of the nearest one in it.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from voxfield.checks import check_range
from voxfield.errors import InputError, MissingExtraError
from voxfield.kernels.voxel_words import axis_tables

PADDING: Final = 2
"""Texels kept free around each chart, and filled with what lies at its border."""
MOST_TEXELS: Final = 8192
"""Along a side of a texture."""
CHARTED_TRIANGLES: Final = 50_000
"""That are laid out in charts at most: xatlas takes half a minute for 30,000 of a rough surface, and more than six for
100,000."""
LEAST_SQUARE: Final = 4
"""Texels along a side of the square that two triangles share, at least."""
_ON_EDGE: Final = 1e-6
"""How far outside a triangle, in barycentric coordinates, a texel's centre still counts as in it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """A surface cut into charts, laid out on a square."""

    source: np.ndarray
    """(V,) int64: which vertex of the surface each vertex is; those on cuts are there more than once."""
    faces: np.ndarray
    """(F, 3) int64: the surface's triangles, in order, of vertices of the layout."""
    coordinates: np.ndarray
    """(V, 2) float32 in [0, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Texels:
    """Texels that lie on a surface."""

    rows: np.ndarray
    """(N,) int64."""
    columns: np.ndarray
    """(N,) int64."""
    face: np.ndarray
    """(N,) int64: the triangle."""
    weights: np.ndarray
    """(N, 3) float32: barycentric coordinates in it."""


def check_texture_size(size: int) -> None:
    """Raise InputError unless ``size`` is that of a texture: 64 to 8192 texels."""
    check_range("texture", size, minimum=64, maximum=MOST_TEXELS)


def require_xatlas() -> Any:
    """The package, or MissingExtraError now, before anything is made."""
    try:
        import xatlas
    except ImportError:
        raise MissingExtraError("Textures need xatlas: pip install 'voxfield[mesh]'.") from None
    return xatlas


def laid_out(vertices: np.ndarray, faces: np.ndarray, size: int) -> Layout:
    """Cut a surface into charts that hardly distort, or more than ``CHARTED_TRIANGLES`` into single ones, and lay these
    out for a texture of ``size`` x ``size``.

    Args:
        vertices: (V, 3) float32.
        faces: (F, 3) int64, at least one.
        size: texels along a side.

    Raises:
        MissingExtraError: charts need xatlas, which is not installed. InputError: too many triangles, or too many for
            so small a texture.
    """
    check_texture_size(size)
    if not len(faces):
        raise InputError("triangles: expected one at least for a texture, got none.")
    if len(faces) > CHARTED_TRIANGLES:
        return _each_alone(vertices, faces, size)
    xatlas = require_xatlas()
    atlas = xatlas.Atlas()
    # Lengths in units of the surface's size: its thresholds know no others.
    scale = max(float(np.ptp(vertices, axis=0).max()), 1e-12)
    atlas.add_mesh(((vertices - vertices.min(0)) / scale).astype(np.float32), faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    # Isosurfaces are rough: stricter limits make charts of two or three triangles, and packing takes time by their
    # number squared.
    charts.max_cost = 16.0
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    packing.blockAlign, packing.rotate_charts = True, False
    atlas.generate(charts, packing)
    if atlas.atlas_count != 1:
        raise _too_small(len(faces), size)
    source, corners, coordinates = atlas[0]
    coordinates = np.clip(coordinates, 0, 1) * [atlas.width, atlas.height] / max(atlas.width, atlas.height)
    return Layout(
        source=source.astype(np.int64),
        faces=corners.astype(np.int64).reshape(-1, 3),
        coordinates=coordinates.astype(np.float32),
    )


def fitting_triangles(size: int) -> int:
    """Triangles that have some ten texels each on a texture of ``size`` x ``size``."""
    return _lying_alone(size, LEAST_SQUARE + 2)


def texture_capacity(size: int) -> int:
    """Triangles that a texture of ``size`` x ``size`` has room for."""
    return max(CHARTED_TRIANGLES, _lying_alone(size, LEAST_SQUARE))


def _lying_alone(size: int, side: int) -> int:
    """Triangles in squares of ``side`` texels, two to each."""
    return 2 * (size // side) ** 2


def _too_small(triangles: int, size: int) -> InputError:
    return InputError(f"texture: {triangles:,} triangles do not fit on {size} x {size} texels. Ask for more texels.")


def _each_alone(vertices: np.ndarray, faces: np.ndarray, size: int) -> Layout:
    """Two triangles to a square, one in each of two opposite corners, in rows along a curve that fills space.

    Their legs run through the outermost texels' centres, so that filters find nothing of the next square; their longest
    sides face each other, two texels apart.
    """
    count = len(faces)
    squares = int(np.ceil(np.sqrt(count / 2)))
    side = size // squares
    if side < LEAST_SQUARE:
        raise _too_small(count, size)
    corners = vertices[faces].astype(np.float64)
    place = np.empty(count, np.int64)
    place[np.argsort(_along_curve(corners.mean(1)), kind="stable")] = np.arange(count)
    # The corner that faces the longest side comes into the square's corner; the others follow as they go round.
    facing = ((np.roll(corners, -1, axis=1) - np.roll(corners, -2, axis=1)) ** 2).sum(2).argmax(1)
    role = (np.arange(3) - facing[:, None]) % 3
    leg = side - 2.5
    inside = 0.5 + leg * np.stack([role == 1, role == 2], axis=2)
    inside = np.where((place % 2 == 1)[:, None, None], side - inside, inside)
    row, column = np.divmod(place // 2, squares)
    coordinates = (np.stack([column, row], axis=1)[:, None] * side + inside) / size
    return Layout(
        source=faces.reshape(-1),
        faces=np.arange(3 * count).reshape(-1, 3),
        coordinates=coordinates.reshape(-1, 2).astype(np.float32),
    )


def _along_curve(points: np.ndarray) -> np.ndarray:
    """(N,) int64: how far along a Morton curve through their box ``points`` (N, 3) lie."""
    low = points.min(0)
    cells = 1024
    cell = ((points - low) * ((cells - 1) / max(float((points.max(0) - low).max()), 1e-300))).astype(np.int64)
    shares, _ = axis_tables(4 * cells)  # words hold four voxels along an axis
    return np.asarray(shares[np.arange(3), 4 * cell].sum(1))


def texels_of(layout: Layout, size: int) -> Texels:
    """The texels whose centres lie in a triangle of the layout; of a texel on several, one of them."""
    corners = layout.coordinates[layout.faces].astype(np.float64) * size
    corners[:, :, 1] = size - corners[:, :, 1]
    low = np.clip(np.floor(corners.min(1) - 0.5), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(corners.max(1) - 0.5), 0, size - 1).astype(np.int64)
    across = high - low + 1
    owner = np.full(size * size, -1, np.int64)
    weights = np.zeros((size * size, 3), np.float32)
    counts = across[:, 0] * across[:, 1]
    # Some triangles together, so that the texels of their boxes stay few at a time.
    starts = np.flatnonzero(np.diff(np.cumsum(counts) >> 22)) + 1
    for part in np.split(np.arange(len(counts)), starts):
        face = np.repeat(part, counts[part])
        within = np.arange(len(face)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        column = low[face, 0] + within % across[face, 0]
        row = low[face, 1] + within // across[face, 0]
        bary = _barycentric(corners[face], np.stack([column, row], axis=1) + 0.5)
        inside = (bary >= -_ON_EDGE).all(1)
        at = row[inside] * size + column[inside]
        owner[at], weights[at] = face[inside], bary[inside]
    found = np.nonzero(owner >= 0)[0]
    return Texels(rows=found // size, columns=found % size, face=owner[found], weights=weights[found])


def _barycentric(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates of ``points`` (N, 2) in triangles (N, 3, 2); negative ones in those without area."""
    one, two, to = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    safe = np.where(area == 0, 1.0, area)
    second = (to[:, 0] * two[:, 1] - to[:, 1] * two[:, 0]) / safe
    third = (one[:, 0] * to[:, 1] - one[:, 1] * to[:, 0]) / safe
    found = np.stack([1 - second - third, second, third], axis=1)
    found[area == 0] = -1.0
    return found


def painted(texels: Texels, colours: np.ndarray, size: int) -> np.ndarray:
    """The picture (S, S, 3) uint8 of texels with sRGB ``colours`` (N, 3); charts spread by ``PADDING`` texels.

    What lies further out has the mean colour: coarser versions that viewers make of the picture mix it in.
    """
    picture = np.zeros((size, size, 3), np.float32)
    filled = np.zeros((size, size), bool)
    picture[texels.rows, texels.columns] = colours
    filled[texels.rows, texels.columns] = True
    for _ in range(PADDING):
        total, count = np.zeros_like(picture), np.zeros((size, size), np.float32)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                here = slice(max(down, 0), size + min(down, 0)), slice(max(right, 0), size + min(right, 0))
                there = slice(max(-down, 0), size + min(-down, 0)), slice(max(-right, 0), size + min(-right, 0))
                total[here] += picture[there] * filled[there][..., None]
                count[here] += filled[there]
        spread = ~filled & (count > 0)
        picture[spread] = total[spread] / count[spread][:, None]
        filled |= spread
    picture[~filled] = picture[filled].mean(0) if filled.any() else 0.0
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
