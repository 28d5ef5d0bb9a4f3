"""Files of one point cloud: PLY, PCD, LAS and LAZ, and text (XYZ, CSV, PTS, PWN, TXT).

Positions only: colours, normals and other columns are not read. Points that are not finite are kept, for the caller to
count.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np

from voxfield.data.formats.las import read_las
from voxfield.data.formats.pcd import read_pcd
from voxfield.errors import FormatError, MissingFileError

TEXT_SUFFIXES: Final = (".xyz", ".csv", ".txt", ".pts", ".pwn")
CLOUD_SUFFIXES: Final = (".ply", ".pcd", ".las", ".laz", *TEXT_SUFFIXES)
"""Endings of files of one cloud, in any case."""
MAX_CLOUD_BYTES: Final = 4 << 30
"""Largest file that is read, and largest cloud in memory."""


def read_points(path: Path) -> np.ndarray:
    """The (N, 3) x, y, z of a file, float32 or float64 as it holds them. Text is float64.

    Raises:
        MissingFileError: it does not exist.
        FormatError: it is damaged, or not what its ending says.
        MissingExtraError: LAS and LAZ need the extra ``points``.
    """
    suffix = path.suffix.lower()
    try:
        size = path.stat().st_size
        if size > MAX_CLOUD_BYTES:
            raise FormatError(f"{path}: has {size:,} bytes, more than the {MAX_CLOUD_BYTES:,} that are read.")
        if suffix == ".pcd":
            return read_pcd(path)
        if suffix == ".ply":
            return _read_ply(path)
        return read_las(path, most_bytes=MAX_CLOUD_BYTES) if suffix in {".las", ".laz"} else _read_text(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise FormatError(f"{path}: asks for more memory than there is; is it damaged?") from error


def _read_ply(path: Path) -> np.ndarray:
    import trimesh

    try:
        loaded = trimesh.load(path, file_type="ply", process=False, skip_materials=True)
        vertices = np.array(getattr(loaded, "vertices", None))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # trimesh raises whatever its parser stumbles over
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(f"{path}: is no readable .ply file ({said}).") from error
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise FormatError(f"{path}: holds no vertices with x, y and z.")
    return _floating(vertices)


def _read_text(path: Path) -> np.ndarray:
    """Columns by a header that names x, y and z, else the first three."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        head = [line for line in (stream.readline(1 << 16) for _ in range(64)) if line]
    skipped, columns, delimiter = 0, (0, 1, 2), None
    for line in head:
        words, delimiter = _words(line)
        if not words or line.lstrip().startswith(("#", "//")):
            skipped += 1
            continue
        if _are_numbers(words):
            # A line with nothing but their number precedes the points of a PTS file.
            skipped += len(words) == 1
            if len(words) == 1:
                continue
            break
        columns = _named_columns(path, words)
        skipped += 1
    else:
        if not head:
            return np.empty((0, 3))
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            points = np.loadtxt(stream, usecols=columns, skiprows=skipped, delimiter=delimiter, ndmin=2)
    except (ValueError, IndexError) as error:
        raise FormatError(f"{path}: has lines that are no points ({error}).") from error
    return points.reshape(-1, 3)


def _words(line: str) -> tuple[list[str], str | None]:
    delimiter = next((sign for sign in ",;" if sign in line), None)
    return [word.strip().strip('"') for word in line.strip().split(delimiter)] if line.strip() else [], delimiter


def _are_numbers(words: list[str]) -> bool:
    try:
        return bool([float(word) for word in words if word])
    except ValueError:
        return False


def _named_columns(path: Path, words: list[str]) -> tuple[int, int, int]:
    """Where a header such as ``x [nm],y [nm],z [nm]`` or ``xcoord ycoord zcoord`` has x, y and z."""
    names = [re.sub(r"\s*[\[(].*|_?coord(inate)?$", "", word.lower()) for word in words]
    if not {"x", "y", "z"} <= set(names):
        raise FormatError(f"{path}: expected numbers, or a header that names x, y and z, got {' '.join(words)[:80]!r}.")
    return names.index("x"), names.index("y"), names.index("z")


def _floating(points: np.ndarray) -> np.ndarray:
    """Without the classes of packages, in float32 where that is what they are, else in float64."""
    return np.asarray(points, np.float32 if points.dtype == np.float32 else np.float64)
