"""Arrays in ``.npy`` files that are named after their content, listed in an index, and mapped into memory.

An index entry is ``{"file", "sha256", "bytes", "shape"}``. As names follow from contents, an index never points to
another version's files.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.atomic import replacing
from voxfield.storage.npz import map_npy

INDEX: Final = "index.json"
"""The file that lists the arrays, for messages."""


def save_array(home: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Write an array to ``home``; returns its entry in the index."""
    path = home / f".{name}.partial"
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
    return place_array(home, name, path, array.shape)


def new_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new file of zeros, mapped to be written to.

    Raises:
        DiskFullError: there is no room for it. Known now: a mapped page that has no room ends the process.
    """
    with replacing(path) as temporary:
        array: np.ndarray = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, temporary.stat().st_size)
    return array


def place_array(home: Path, name: str, written: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """Give a finished file its name; returns its entry in the index."""
    checksum = file_checksum(written)
    target = home / f"{name}.{checksum[:12]}.npy"
    with replacing(target) as temporary:
        written.replace(temporary)
    return {"file": target.name, "sha256": checksum, "bytes": target.stat().st_size, "shape": list(shape)}


def file_checksum(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def map_array(home: Path, entry: Mapping[str, Any], dtype: np.dtype, shape: tuple[int | None, ...]) -> np.ndarray:
    """A file of the index, mapped; its type and shape must be those expected and stated.

    Raises:
        MissingFileError: it is not there. FormatError: cut short, of another type or shape, or outside ``home``.
    """
    name = entry["file"]
    if not isinstance(name, str) or Path(name).name != name:
        raise FormatError(f"{home / INDEX}: names a file {name!r} outside the dataset.")
    path = home / name
    if not path.is_file():
        raise MissingFileError(f"{path}: is missing. Make the dataset again.")
    if path.stat().st_size != entry["bytes"]:
        raise FormatError(f"{path}: has {path.stat().st_size:,} bytes, expected {entry['bytes']:,}: it is cut short.")
    if 0 in entry["shape"]:
        return np.zeros(entry["shape"], dtype)
    array = map_npy(path)
    fits = len(shape) == array.ndim and all(want in {None, got} for want, got in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits or list(array.shape) != entry["shape"]:
        raise FormatError(f"{path}: expected {dtype} of shape {entry['shape']}, got {array.dtype} {array.shape}.")
    return array


def check_lengths(home: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Ask the system whether mapped files still have the bytes of their index, some microseconds each.

    Reading beyond the end of a file that was cut while it is mapped ends the process (SIGBUS): no error could say why.
    What is cut between this and the reading still does.

    Raises:
        FormatError: one was cut short, or is gone.
    """
    for entry in entries:
        path = os.path.join(home, entry["file"])  # noqa: PTH118  (a Path takes longer to make than the question)
        try:
            there = os.stat(path).st_size  # noqa: PTH116
        except OSError as error:
            raise FormatError(f"{path}: {error.strerror} while it is in use. Make the dataset again.") from None
        if there < entry["bytes"]:
            raise FormatError(
                f"{path}: was cut to {there:,} of {entry['bytes']:,} bytes while it is in use. Make the dataset again."
            )
