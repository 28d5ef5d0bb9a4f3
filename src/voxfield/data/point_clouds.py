"""Collections of point clouds, read one at a time: files, folders and patterns, and arrays of many clouds.

    .h5 .hdf5      a dataset (N, M, 3), a ragged one, or a group with a dataset (M, 3) a cloud: `point_arrays`
    .npy .npz      arrays (M, 3) or (N, M, 3)
    other files    one cloud each: `voxfield.data.formats.points`

A collection may be pickled and used in other processes; files are opened where they are read.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np

from voxfield.checks import check_range
from voxfield.data.formats.named_files import named_files
from voxfield.data.formats.points import CLOUD_SUFFIXES, read_points
from voxfield.data.point_arrays import ARRAY_SUFFIXES, PointArrays
from voxfield.errors import FormatError

SUFFIXES: Final = (*ARRAY_SUFFIXES, *CLOUD_SUFFIXES)
_POINT_BYTES: Final = 120
"""Of a point while it is read and put into a grid: its file's columns, three coordinates in float64, copies of them."""
_LEAST_POINT: Final = {".laz": 3, ".pcd": 4, ".xyz": 6, ".csv": 6, ".txt": 6, ".pts": 6, ".pwn": 6, ".off": 6}
"""Bytes that a point has at least in a file that packs it, or writes it as text; 12 in others."""
_WHOLE: Final = 16 << 20
_PIECES: Final = 64
_PIECE: Final = 1 << 16


class PointClouds:
    """N point clouds in a fixed order.

    Args:
        sources: files, folders (looked through, subfolders too) and patterns; those of a folder or pattern are sorted.
        data_key: name of the dataset, group or array in HDF5 and NPZ files; None takes the usual ones.

    Raises:
        MissingFileError: a path that does not exist, or a folder or pattern without clouds.
        InputError: nothing named, an ending that is unknown, or no such ``data_key``.
        FormatError: an array file that is damaged.
    """

    def __init__(self, sources: Sequence[str | Path], *, data_key: str | None = None) -> None:
        self.data_key = data_key
        self._files: list[PointArrays | Path] = [
            PointArrays(path, data_key) if path.suffix.lower() in ARRAY_SUFFIXES else path
            for path in find_clouds(sources)
        ]
        counts = [len(one) if isinstance(one, PointArrays) else 1 for one in self._files]
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [one.path if isinstance(one, PointArrays) else one for one in self._files]

    def _locate(self, index: int) -> tuple[PointArrays | Path, int]:
        check_range("index", index, minimum=0, maximum=len(self) - 1)
        file = bisect_right(self._ends, index)
        return self._files[file], index - (self._ends[file - 1] if file else 0)

    def name(self, index: int) -> str:
        """Which cloud this is, for messages: the file, and the place in it where it holds more than one."""
        file, place = self._locate(index)
        return file.name(place) if isinstance(file, PointArrays) else str(file)

    def read(self, index: int) -> np.ndarray:
        """The (M, 3) x, y, z of a cloud, float32 or float64. May be empty and hold NaN, as the file does.

        Raises:
            FormatError, MissingFileError: it cannot be read.
            MissingExtraError: a package for its format is not installed.
        """
        file, place = self._locate(index)
        return file.read(place) if isinstance(file, PointArrays) else read_points(file)

    def most_bytes(self) -> int:
        """Memory that reading any of the clouds takes at most, beside what computing with it does; by files' sizes."""
        most = 0
        for file in self._files:
            if isinstance(file, PointArrays):
                most = max(most, file.most_points * _POINT_BYTES + file.held_bytes)
            else:
                size = file.stat().st_size if file.is_file() else 0
                most = max(most, size + size // _LEAST_POINT.get(file.suffix.lower(), 12) * _POINT_BYTES)
        return most

    def fingerprint(self) -> str:
        """Changes when the clouds do: SHA-256 of names, sizes and contents, of files above 16 MiB of samples of them.

        Raises:
            FormatError: a file cannot be read.
        """
        sha = hashlib.sha256()
        for path, file in zip(self.paths, self._files, strict=True):
            # What was found there, not what was asked for: naming the usual key changes nothing.
            part = file.part if isinstance(file, PointArrays) else ""
            try:
                size = path.stat().st_size
                sha.update(f"{path.name}\0{size}\0{part}\0".encode())
                with path.open("rb") as stream:
                    if size <= _WHOLE:
                        sha.update(stream.read())
                    else:
                        for piece in range(_PIECES):
                            stream.seek((size - _PIECE) * piece // (_PIECES - 1))
                            sha.update(stream.read(_PIECE))
            except OSError as error:
                raise FormatError(f"{path}: cannot be read ({error.strerror or error}).") from error
        return sha.hexdigest()


def find_clouds(sources: Sequence[str | Path]) -> list[Path]:
    """The files of point clouds that are named, each once.

    Raises:
        MissingFileError: a path that does not exist, or a pattern or folder without clouds.
        InputError: nothing named, or a file whose ending is unknown.
    """
    known = f"known endings: {' '.join(SUFFIXES)}"
    return named_files(
        sources,
        _is_cloud,
        unnamed="points: name at least one file, folder or pattern of point clouds.",
        unknown=f"is no file of point clouds ({known}).",
        absent=f"holds no point clouds ({known}).",
    )


def _is_cloud(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
