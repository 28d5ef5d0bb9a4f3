"""Many point clouds in one file: HDF5, NPY and NPZ.

HDF5, by name ("pointclouds", "point_clouds", "data" or "points" unless told):

- a dataset (N, M, 3): N clouds of M points; (M, 3): one cloud;
- ragged: a dataset (T, 3) of all points with ``NAME_offsets`` or ``offsets`` (N+1) beside it; a dataset (N) of
  variable-length rows x y z x y z ...; or a group with a dataset (M, 3) a cloud, in natural order of names.

More than three columns are allowed: the first three are x, y, z. Nothing outside the file is followed: external links,
external and virtual datasets are refused. No pickles are read.
"""

import os
import re
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from voxfield.checks import nearest_names
from voxfield.data.formats.points import MAX_CLOUD_BYTES
from voxfield.errors import FormatError, InputError
from voxfield.storage.hdf5 import check_heaps, hdf5_faults, item_inside
from voxfield.storage.npz import map_npy, read_npz

ARRAY_SUFFIXES: Final = (".h5", ".hdf5", ".npy", ".npz")
USUAL_KEYS: Final = ("pointclouds", "point_clouds", "data", "points")
_ADVICE: Final = "Make it again, or leave it out."
_MOST_CLOUDS: Final = 100_000_000

_Layout = Literal["stack", "single", "offsets", "variable", "members"]


class PointArrays:
    """The clouds of one file. May be pickled; the file is opened where it is read.

    Args:
        path: the file.
        data_key: name of the dataset, group or array; None takes the usual ones.

    Raises:
        MissingFileError: there is none. FormatError: damaged, or of another layout.
        InputError: no such ``data_key``.
    """

    def __init__(self, path: Path, data_key: str | None = None) -> None:
        self.path = path
        self._open_in: tuple[int, Any] | None = None
        self._members: list[str] = []
        self._counts: list[int] = []
        self._offsets: np.ndarray | None = None
        self._kind: Literal["h5", "numpy"] = "h5" if path.suffix.lower() in {".h5", ".hdf5"} else "numpy"
        self._layout: _Layout = "members"
        self._key = ""
        self._most = 0
        try:
            with hdf5_faults(path, _ADVICE):
                self._count = self._look_into_hdf5(data_key) if self._kind == "h5" else self._look_into_arrays(data_key)
        finally:
            self.close()

    def __len__(self) -> int:
        return self._count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_in": None}

    @property
    def part(self) -> str:
        """Which part of the file the clouds are: the name of the dataset or group, or of the arrays."""
        return self._key or " ".join(self._members)

    @property
    def most_points(self) -> int:
        """Points of its largest cloud; where the file does not say, as many as it could hold."""
        return self._most

    @property
    def held_bytes(self) -> int:
        """Bytes that are kept while the file is open: NPZ archives are read as a whole."""
        if self.path.suffix.lower() != ".npz":
            return 0
        return sum(self._arrays()[name].nbytes for name in self._members)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._open_in is not None and self._open_in[0] == os.getpid() and self._kind == "h5":
            self._open_in[1].close()
        self._open_in = None

    def name(self, index: int) -> str:
        """Which cloud this is, for messages."""
        if self._count == 1:
            return str(self.path)
        if self._layout == "members" and self._kind == "h5":
            return f"{self.path}:{self._key}/{self._members[index]}"
        return f"{self.path}[{index}]"

    def read(self, index: int) -> np.ndarray:
        """The (M, 3) x, y, z of a cloud, float32 or float64."""
        with hdf5_faults(self.name(index), _ADVICE):
            points = self._read_hdf5(index) if self._kind == "h5" else self._read_array(index)
        return np.ascontiguousarray(points[:, :3], np.float32 if points.dtype == np.float32 else np.float64)

    # ---------------------------------------------------------------------------------------------------- HDF5

    def _file(self) -> Any:
        """The open file: not shared with the process this one was forked from, whose position it would move."""
        import h5py

        if self._open_in is None or self._open_in[0] != os.getpid():
            self._open_in = os.getpid(), h5py.File(self.path, "r", locking=False)
        return self._open_in[1]

    def _look_into_hdf5(self, data_key: str | None) -> int:
        import h5py

        if not self.path.is_file():
            raise FileNotFoundError
        file = self._file()
        self._key = _find_key(self.path, file, data_key)
        found = item_inside(self.path, file, self._key)
        if isinstance(found, h5py.Group):
            self._members = sorted(found, key=_natural)
            for member in self._members:
                cloud = item_inside(self.path, file, f"{self._key}/{member}")
                _check_cloud(self.path, f"{self._key}/{member}", cloud)
                _check_size(self.path, cloud.shape, cloud.dtype)
                self._most = max(self._most, len(cloud))
            return self._check_number(len(self._members))
        rows = h5py.check_vlen_dtype(found.dtype)
        if rows is not None and found.ndim == 1:
            _check_numbers(self.path, self._key, np.dtype(rows))
            check_heaps(self.path)
            self._layout = "variable"
            self._most = self.path.stat().st_size // (3 * np.dtype(rows).itemsize)
            return self._check_number(len(found))
        _check_numbers(self.path, self._key, found.dtype)
        if found.ndim == 3 and found.shape[2] >= 3:
            self._layout = "stack"
            _check_size(self.path, found.shape[1:], found.dtype)
            self._most = found.shape[1]
            return self._check_number(len(found))
        _check_cloud(self.path, self._key, found)
        for name in (f"{self._key}_offsets", f"{self._key.rpartition('/')[0]}/offsets".lstrip("/")):
            if name in file:
                self._layout = "offsets"
                self._offsets = _read_offsets(self.path, name, item_inside(self.path, file, name), len(found))
                self._most = int(np.diff(self._offsets).max(initial=0))
                return self._check_number(len(self._offsets) - 1)
        _check_size(self.path, found.shape, found.dtype)
        self._most = len(found)
        self._layout = "single"
        return 1

    def _check_number(self, count: int) -> int:
        if not 1 <= count <= _MOST_CLOUDS:
            raise FormatError(f"{self.path}: {self._key!r} holds {count:,} clouds, expected 1 to {_MOST_CLOUDS:,}.")
        return count

    def _read_hdf5(self, index: int) -> np.ndarray:
        file = self._file()
        if self._layout == "members":
            return item_inside(self.path, file, f"{self._key}/{self._members[index]}")[:]
        data = item_inside(self.path, file, self._key)
        if self._layout == "stack":
            return data[index]
        if self._layout == "single":
            return data[:]
        if self._layout == "offsets":
            assert self._offsets is not None
            start, stop = (int(one) for one in self._offsets[index : index + 2])
            _check_size(self.path, (stop - start, data.shape[1]), data.dtype)
            return data[start:stop]
        row = np.asarray(data[index])
        if row.ndim != 1 or row.size % 3 or row.dtype.kind not in "fiu":
            raise FormatError(f"{self.name(index)}: expected x y z x y z ..., got {row.size} values of {row.dtype}.")
        return row.reshape(-1, 3)

    # --------------------------------------------------------------------------------------------------- numpy

    def _look_into_arrays(self, data_key: str | None) -> int:
        arrays = self._arrays()
        if data_key is not None and self.path.suffix.lower() == ".npz":
            if data_key not in arrays:
                raise InputError(f"{self.path}: holds no array {data_key!r}. {nearest_names(data_key, arrays)}")
            arrays = {data_key: arrays[data_key]}
        for name in sorted(arrays, key=_natural):
            array = arrays[name]
            _check_numbers(self.path, name, array.dtype)
            if array.ndim not in {2, 3} or array.shape[-1] < 3:
                raise FormatError(f"{self.path}: expected {name} of shape (M, 3) or (N, M, 3), got {array.shape}.")
            _check_size(self.path, array.shape[-2:], array.dtype)
            self._most = max(self._most, array.shape[-2])
            self._members.append(name)
            self._counts.append(len(array) if array.ndim == 3 else 1)
        return self._check_number(sum(self._counts))

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._open_in is None or self._open_in[0] != os.getpid():
            if self.path.suffix.lower() == ".npz":
                arrays = read_npz(self.path)
            else:
                arrays = {self.path.stem: map_npy(self.path)}
            self._open_in = os.getpid(), arrays
        return self._open_in[1]

    def _read_array(self, index: int) -> np.ndarray:
        for name, count in zip(self._members, self._counts, strict=True):
            if index < count:
                array = self._arrays()[name]
                return np.asarray(array[index] if array.ndim == 3 else array)
            index -= count
        raise FormatError(f"{self.path}: holds {self._count} clouds.")


def _find_key(path: Path, file: Any, data_key: str | None) -> str:
    if data_key is None:
        for usual in USUAL_KEYS:
            if usual in file:
                return usual
    elif data_key in file:
        return data_key
    wanted = " or ".join(USUAL_KEYS) if data_key is None else repr(data_key)
    raise InputError(f"{path}: expected {wanted}, holds {', '.join(sorted(file)) or 'nothing'}. Name one: --data-key.")


def _check_cloud(path: Path, name: str, data: Any) -> None:
    if getattr(data, "ndim", 0) != 2 or data.shape[1] < 3:
        shape = getattr(data, "shape", "a group")
        raise FormatError(f"{path}: expected {name!r} of shape (N, M, 3) or (M, 3), got {shape}.")
    _check_numbers(path, name, data.dtype)


def _check_numbers(path: Path, name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "fiu":
        raise FormatError(f"{path}: expected numbers in {name!r}, got {dtype}.")


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_CLOUD_BYTES:
        raise FormatError(
            f"{path}: a cloud of shape {shape} is larger than the {MAX_CLOUD_BYTES:,} bytes that are read."
        )


def _read_offsets(path: Path, name: str, data: Any, total: int) -> np.ndarray:
    if data.ndim != 1 or not 2 <= len(data) <= _MOST_CLOUDS or data.dtype.kind not in "iu":
        raise FormatError(f"{path}: expected {name!r} of N+1 whole numbers, got {data.shape} of {data.dtype}.")
    offsets = data[:].astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise FormatError(f"{path}: {name!r} does not rise from 0 to the number of points, {total:,}.")
    return offsets


def _natural(name: str) -> list[tuple[int, str]]:
    """So that cloud2 comes before cloud10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
