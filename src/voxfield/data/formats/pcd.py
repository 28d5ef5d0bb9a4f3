"""Point clouds of the Point Cloud Library: PCD files with ascii, binary and compressed data.

Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from voxfield.errors import FormatError

_MOST_HEADER_LINES: Final = 64
_MOST_LINE: Final = 1 << 16
_MOST_POINTS: Final = 1 << 30
_KINDS: Final = {
    (kind, str(size)): np.dtype(f"<{kind}{size}")
    for kind, sizes in {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}.items()
    for size in sizes
}
"""Types by their letter and bytes."""
_MOST_RATIO: Final = 300
"""LZF cannot shrink anything by more than 264 / 3."""


@dataclass(frozen=True, kw_only=True)
class _Header:
    fields: tuple[str, ...]
    record: np.dtype
    """One point."""
    points: int
    data: str


def read_pcd(path: Path) -> np.ndarray:
    """The (N, 3) float32 or float64 positions of a PCD file; organised clouds hold NaN where nothing was measured.

    Raises:
        FormatError: damaged, cut short, or without fields x, y and z.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        header = _read_header(path, stream)
        if header.data == "ascii":
            return _read_ascii(path, header, stream)
        if header.data == "binary":
            return _from_records(path, header, stream.read(header.points * header.record.itemsize))
        if header.data == "binary_compressed":
            return _read_compressed(path, header, stream)
    raise FormatError(f"{path}: DATA is {header.data!r}; ascii, binary and binary_compressed are read.")


def _read_header(path: Path, stream: BinaryIO) -> _Header:
    said: dict[str, list[str]] = {}
    for _ in range(_MOST_HEADER_LINES):
        words = stream.readline(_MOST_LINE).decode("ascii", "replace").split()
        if not words or words[0].startswith("#"):
            continue
        said[words[0].upper()] = words[1:]
        if words[0].upper() == "DATA":
            break
    try:
        fields = tuple(word.lower() for word in said["FIELDS"])
        counts = [int(word) for word in said.get("COUNT", ["1"] * len(fields))]
        kinds = [_KINDS[kind.lower(), size] for kind, size in zip(said["TYPE"], said["SIZE"], strict=True)]
        points = int(said["POINTS"][0]) if "POINTS" in said else int(said["WIDTH"][0]) * int(said["HEIGHT"][0])
        data = said["DATA"][0].lower()
        if not all(1 <= count <= 4096 for count in counts) or not 0 <= points <= _MOST_POINTS:
            raise ValueError(f"COUNT {counts}, {points} points")
        # Names may repeat ("_" for padding): places tell fields apart.
        record = np.dtype([(str(i), kinds[i], (counts[i],)) for i in range(len(fields))])
        if not len(fields) == len(counts) == len(kinds):
            raise ValueError("FIELDS, TYPE, SIZE and COUNT differ in length")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise FormatError(f"{path}: is no readable PCD file (its header lacks or misstates {error}).") from error
    if not {"x", "y", "z"} <= set(fields):
        raise FormatError(f"{path}: expected the fields x, y and z, got {' '.join(fields)}.")
    return _Header(fields=fields, record=record, points=points, data=data)


def _read_ascii(path: Path, header: _Header, stream: BinaryIO) -> np.ndarray:
    widths = [header.record[i].shape[0] for i in range(len(header.fields))]
    columns = [sum(widths[: header.fields.index(axis)]) for axis in "xyz"]
    if header.points == 0:
        return np.empty((0, 3), np.float32)
    text = io.TextIOWrapper(stream, encoding="ascii", errors="replace")
    try:
        positions = np.loadtxt(text, usecols=columns, ndmin=2, max_rows=header.points, dtype=np.float64)
    except ValueError as error:
        raise FormatError(f"{path}: has lines that are no points ({error}).") from error
    finally:
        text.detach()
    _check_count(path, header, len(positions))
    return positions.astype(np.result_type(*(header.record[header.fields.index(axis)].base for axis in "xyz"), "f4"))


def _check_count(path: Path, header: _Header, count: int) -> None:
    if count != header.points:
        raise FormatError(f"{path}: states {header.points:,} points and holds {count:,}: it is cut short.")


def _from_records(path: Path, header: _Header, content: bytes) -> np.ndarray:
    _check_count(path, header, len(content) // header.record.itemsize)
    records = np.frombuffer(content, header.record, header.points)
    return _columns(header, [records[str(i)] for i in range(len(header.fields))])


def _read_compressed(path: Path, header: _Header, stream: BinaryIO) -> np.ndarray:
    """Fields one after another, compressed together by LZF."""
    sizes = stream.read(8)
    packed_size, size = struct.unpack("<II", sizes) if len(sizes) == 8 else (-1, -1)
    expected = header.points * header.record.itemsize
    # Not more is asked for than the file can hold: Python sets aside as much memory as is asked for.
    packed = stream.read(max(packed_size, 0)) if packed_size < path.stat().st_size else b""
    if size != expected or len(packed) != packed_size or expected > _MOST_RATIO * packed_size:
        raise FormatError(f"{path}: its compressed data does not fit {header.points:,} points: it is damaged.")
    content = _decompress_lzf(path, packed, expected)
    columns, at = [], 0
    for i in range(len(header.fields)):
        kind, shape = header.record[i].base, (header.points, *header.record[i].shape)
        columns.append(np.frombuffer(content, kind, int(np.prod(shape)), at).reshape(shape))
        at += columns[-1].nbytes
    return _columns(header, columns)


def _columns(header: _Header, columns: list[np.ndarray]) -> np.ndarray:
    chosen = [columns[header.fields.index(axis)][:, 0] for axis in "xyz"]
    return np.stack(chosen, 1).astype(np.result_type(*chosen, "f4"), copy=False)


def _decompress_lzf(path: Path, packed: bytes, size: int) -> bytes:
    """Decompress by HDF5's LZF filter, which comes with h5py: the same stream in a file in memory."""
    import h5py

    if size == 0:
        return b""
    try:
        with h5py.File("lzf", "w", driver="core", backing_store=False) as file:
            data = file.create_dataset("data", (size,), "u1", chunks=(size,), compression="lzf")
            data.id.write_direct_chunk((0,), packed)
            content = data[:].tobytes()
    except (OSError, ValueError, MemoryError) as error:
        raise FormatError(f"{path}: its compressed data is damaged ({error}).") from error
    return content
