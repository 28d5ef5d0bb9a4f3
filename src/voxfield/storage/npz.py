"""Named arrays in one ``.npz`` file: the same arrays give the same bytes, and a file is not believed what it claims.

No pickles are read. An array's stated shape must match the bytes that are there before memory is taken for it.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from voxfield.errors import FormatError, MissingFileError

MOST_BYTES: Final = 8 << 30
"""Largest array that is read."""


def npz_bytes(arrays: Mapping[str, np.ndarray], *, compress: bool = True) -> bytes:
    """The content of a ``.npz`` file. Its entries carry no time, so that equal arrays give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = archive.compression
            with archive.open(entry, "w", force_zip64=array.nbytes > 1 << 31) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return stream.getvalue()


def read_npz(
    path: Path, *, wanted: Callable[[str], bool] | None = None, most_bytes: int = MOST_BYTES
) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file, read-only.

    Args:
        path: the file.
        wanted: whether an array of this name is read; the others are not looked at. None: all are.
        most_bytes: largest array that is accepted.

    Raises:
        MissingFileError: there is none.
        FormatError: damaged, cut short, larger than ``most_bytes``, or holding Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            return {
                name: _read_member(archive, entry, path, most_bytes)
                for name, entry in entries.items()
                if wanted is None or wanted(name)
            }
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: cannot be read ({error}): it is damaged or cut short. Copy it again, or make it anew."
        ) from error


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most_bytes: int) -> np.ndarray:
    if entry.file_size > most_bytes + 4096:
        raise FormatError(f"{path}: {entry.filename} states {entry.file_size:,} bytes, more than {most_bytes:,}.")
    with archive.open(entry) as member:
        content = io.BytesIO(member.read(entry.file_size + 1))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise FormatError(f"{path}: {entry.filename} is of an unknown version.")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.hasobject:
        raise FormatError(f"{path}: {entry.filename} holds Python objects, which are not read.")
    body = content.getbuffer()[content.tell() :]
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(body):
        raise FormatError(
            f"{path}: {entry.filename} has {len(body)} bytes for shape {shape} of {dtype}: it is damaged."
        )
    array = np.frombuffer(body, dtype=dtype, count=count)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
