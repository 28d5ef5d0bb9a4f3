"""Arrays in NumPy's files: the same arrays give the same ``.npz``, and no file is believed what it claims.

No pickles are read. An array's stated shape must match the bytes that are there before memory is taken for it.
"""

import io
import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np

from voxfield.errors import FormatError, MissingFileError

MOST_BYTES: Final = 8 << 30
"""Largest array that is read."""


_FAULTS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    SyntaxError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
)
"""What NumPy and the archives' decoders raise on damaged files."""


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
    except _FAULTS as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path}: cannot be read ({error}): it is damaged or cut short. Copy it again, or make it anew."
        ) from error


def map_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a ``.npy`` file, mapped into memory, read-only.

    Raises:
        MissingFileError: there is none.
        FormatError: no such file, damaged, cut short, or holding Python objects.
    """
    try:
        with Path(path).open("rb") as stream:
            shape, fortran, dtype = read_npy_header(stream)
            at, length = stream.tell(), os.fstat(stream.fileno()).st_size
        if dtype.hasobject:
            raise FormatError(f"{path}: holds Python objects, which are not read.")
        needed = math.prod(shape) * dtype.itemsize
        if any(size < 0 for size in shape) or needed > length - at:
            raise FormatError(f"{path}: states {shape} of {dtype}, more than it holds: it is cut short.")
        order: Literal["F", "C"] = "F" if fortran else "C"
        if needed == 0:
            return np.empty(shape, dtype, order)
        return np.memmap(path, dtype, "r", at, shape, order)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except _FAULTS as error:
        if isinstance(error, FormatError):
            raise
        said = " ".join(str(error).split())[:150]
        raise FormatError(f"{path}: is no readable .npy file ({said}). Copy it again, or make it anew.") from error


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and type of the array that follows in ``stream``.

    Raises:
        ValueError: there is no such header; its shape is not believed by anyone yet.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} is not known")
    try:
        return _HEADERS[version](stream)
    except (tokenize.TokenError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        # NumPy has the header parsed as Python, which gives up in many ways.
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error


_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, most_bytes: int) -> np.ndarray:
    if entry.file_size > most_bytes + 4096:
        raise FormatError(f"{path}: {entry.filename} states {entry.file_size:,} bytes, more than {most_bytes:,}.")
    held = path.stat().st_size
    if entry.compress_size > held:
        raise FormatError(f"{path}: {entry.filename} states {entry.compress_size:,} bytes, the file has {held:,}.")
    with archive.open(entry) as member:
        content = io.BytesIO(member.read(entry.file_size + 1))
    shape, fortran, dtype = read_npy_header(content)
    if dtype.hasobject:
        raise FormatError(f"{path}: {entry.filename} holds Python objects, which are not read.")
    body = content.getbuffer()[content.tell() :]
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count * dtype.itemsize != len(body):
        raise FormatError(
            f"{path}: {entry.filename} has {len(body)} bytes for shape {shape} of {dtype}: it is damaged."
        )
    array = np.frombuffer(body, dtype=dtype, count=count)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
