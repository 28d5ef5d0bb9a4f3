"""OFF: text of corners and polygons (Geomview, http://www.geomview.org/docs/html/OFF.html).

Coordinates stand first on a corner's line, whatever else the header announces; the corners of a polygon follow their
number, and a colour may follow them. Polygons are cut into triangles that cover them and nothing else, also where they
are not convex.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

_HEADER: Final = re.compile(r"(ST)?(C)?(N)?OFF(?![A-Za-z])")
_MOST_CORNERS: Final = 256
"""Of a polygon that is looked at for dents: finding them takes time that grows with the cube of their number."""


def read_off(source: Path | io.BytesIO) -> tuple[np.ndarray, np.ndarray]:
    """Corners (V, 3) float64 and triangles (F, 3) int64.

    Raises:
        ValueError: it is no such file, or damaged.
        OSError: it cannot be read.
    """
    content = source.getvalue() if isinstance(source, io.BytesIO) else source.read_bytes()
    text = re.sub(r"#[^\n]*", "", content.decode("utf-8", errors="replace")).lstrip("\ufeff \t\r\n")
    header = _HEADER.match(text)
    if header is None:
        raise ValueError(f"expected OFF, COFF, NOFF or STOFF at its beginning, got {text[:12]!r}")
    lines = [line for line in text[header.end() :].splitlines() if line.strip()]
    counts = [int(word) for word in lines[0].split()[:2]] if lines else []
    if len(counts) != 2 or min(counts) < 0:
        raise ValueError("expected the numbers of corners and faces after its header")
    corners, faces = counts
    if len(lines) - 1 < corners + faces:
        raise ValueError(f"states {corners:,} corners and {faces:,} faces, and is cut short")
    vertices = _columns(lines[1 : corners + 1], range(3), np.float64)
    return vertices, _triangles(lines[corners + 1 : corners + 1 + faces], vertices)


def _triangles(lines: Sequence[str], vertices: np.ndarray) -> np.ndarray:
    """Faces as triangles; points and edges are none."""
    sizes = np.array([int(line.split(maxsplit=1)[0]) for line in lines], np.int64)
    found = [np.zeros((0, 3), np.int64)]
    for size in np.unique(sizes[sizes > 2]).tolist():
        rows = np.flatnonzero(sizes == size)
        if size >= len(lines[rows[0]].split()):
            raise ValueError(f"has a face of {size:,} corners that is cut short")
        polygons = _columns([lines[row] for row in rows.tolist()], range(1, size + 1), np.int64)
        if polygons.min() < 0 or polygons.max() >= len(vertices):
            raise ValueError(
                f"has faces of corners {polygons.min()} to {polygons.max()}, and {len(vertices):,} corners"
            )
        found.append(polygons if size == 3 else np.concatenate([cut(one, vertices) for one in polygons]))
    return np.concatenate(found)


def cut(polygon: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """A polygon (N,) of corners as N - 2 triangles (N - 2, 3): a fan where it is convex, else ear by ear.

    Source: D. Eberly, Triangulation by Ear Clipping, https://www.geometrictools.com.
    """
    fan = np.stack([np.full(len(polygon) - 2, polygon[0]), polygon[1:-1], polygon[2:]], axis=1)
    place = vertices[polygon]
    after = np.roll(place, -1, axis=0)
    # By Newell's formula; polygons need not be flat.
    normal = np.cross(place, after).sum(0)
    if len(polygon) > _MOST_CORNERS or not (np.isfinite(normal).all() and normal.any()):
        return fan
    drop = int(np.abs(normal).argmax())
    flat = np.delete(place, drop, axis=1)
    # Seen so that it runs counter-clockwise.
    if (normal[drop] > 0) == (drop == 1):
        flat = flat[:, ::-1]
    left, ears = list(range(len(polygon))), list[tuple[int, int, int]]()
    while len(left) > 3:
        before, here, ahead = np.roll(left, 1), np.array(left), np.roll(left, -1)
        turn = _turn(flat[before], flat[here], flat[ahead])
        if not ears and (turn >= 0).all():
            return fan
        convex = np.flatnonzero(turn > 0).tolist()
        # Where there is none, corners lie in a line, or the polygon crosses itself: any will do.
        any_one = int(np.abs(turn).argmin())
        ear = next((i for i in convex if _is_ear(flat, before[i], here[i], ahead[i], here)), any_one)
        ears.append((before[ear], here[ear], ahead[ear]))
        del left[ear]
    return np.asarray(polygon[np.array([*ears, left])])


def _is_ear(flat: np.ndarray, before: int, here: int, ahead: int, corners: np.ndarray) -> bool:
    """Whether no other corner lies in the triangle or on its sides."""
    a, b, c = flat[before], flat[here], flat[ahead]
    others = flat[corners]
    others = others[(others != a).any(1) & (others != b).any(1) & (others != c).any(1)]
    within = (_turn(a, b, others) >= 0) & (_turn(b, c, others) >= 0) & (_turn(c, a, others) >= 0)
    return not within.any()


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the area of triangles in the plane: positive where they run counter-clockwise."""
    one, other = b - a, c - a
    return np.asarray(one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0])


def _columns(lines: Sequence[str], columns: Sequence[int], dtype: type) -> np.ndarray:
    """Numbers at some places of lines: (L, C)."""
    if not lines:
        return np.zeros((0, len(columns)), dtype)
    return np.loadtxt(lines, dtype, usecols=columns, ndmin=2, comments=None)
