"""Point clouds in LAS and LAZ files, read by laspy once their headers have been believed.

Source: https://www.asprs.org/wp-content/uploads/2019/07/LAS_1_4_r15.pdf and, for LAZ, the "laszip encoded" record of
https://github.com/LASzip/LASzip. The libraries take memory for what a header counts, and the one that decompresses ends
the process where there is none: so counts are first compared with the bytes that are there.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from voxfield.errors import FormatError, MissingExtraError

_HEADER_BYTES: Final = 227
_HEADER_BYTES_1_4: Final = 375
_RECORD_BYTES: Final = 54
"""Of the head of a variable-length record."""
_MOST_CHUNK_BYTES: Final = 1 << 30
"""Of the points that are compressed together; 50,000 of them as programs write them."""
_VARIABLE_CHUNKS: Final = 2**32 - 1
_POINTS_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """What a header counts."""

    points: int
    point_bytes: int
    points_at: int
    """Where the points begin."""
    size: int
    """Of the file."""


def read_las(path: Path, *, most_bytes: int) -> np.ndarray:
    """The (N, 3) float64 positions of a LAS or LAZ file.

    Raises:
        FormatError: damaged, cut short, no LAS file, or of more than ``most_bytes``.
        MissingExtraError: laspy is not installed.
        OSError: it cannot be read.
    """
    try:
        import laspy
    except ImportError as error:
        raise MissingExtraError(
            f'{path}: reading LAS needs laspy, which is not installed. Install it with: pip install "voxfield[points]".'
        ) from error
    try:
        with path.open("rb") as stream:
            counts = _check(stream)
        if counts.points * counts.point_bytes > most_bytes:
            raise FormatError(f"{path}: states {counts.points:,} points, more than are read.")
        with laspy.open(path, read_evlrs=False) as reader:
            # In pieces: memory then follows what is decompressed, not what is stated.
            pieces = [np.stack([piece.x, piece.y, piece.z], 1) for piece in reader.chunk_iterator(_POINTS_AT_ONCE)]
    except (OSError, MemoryError, FormatError):
        raise
    except BaseException as error:
        # laspy and its decompressors raise errors of their own; a panic in the latter is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(f"{path}: is no readable LAS file ({said}).") from error
    points = np.concatenate(pieces) if pieces else np.empty((0, 3))
    if len(points) != counts.points:
        raise FormatError(f"{path}: states {counts.points:,} points and holds {len(points):,}: it is cut short.")
    return np.ascontiguousarray(points, np.float64)


def _check(stream: BinaryIO) -> _Counts:
    """Raise ValueError unless what the header counts may lie in the file."""
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(_HEADER_BYTES_1_4)
    if len(head) < _HEADER_BYTES or head[:4] != b"LASF":
        raise ValueError("it has no header of LAS")
    minor, (header_bytes, points_at, records) = head[25], struct.unpack_from("<HII", head, 94)
    kind, (point_bytes, points) = head[104], struct.unpack_from("<HI", head, 105)
    if minor >= 4:
        if len(head) < _HEADER_BYTES_1_4:
            raise ValueError("its header is cut short")
        (points,) = struct.unpack_from("<Q", head, 247)
    if not _HEADER_BYTES <= header_bytes <= points_at <= size or not point_bytes:
        raise ValueError("its header misstates where the points are")
    if records * _RECORD_BYTES > points_at - header_bytes:
        raise ValueError(f"it states {records:,} records where none can be")
    counts = _Counts(points=points, point_bytes=point_bytes, points_at=points_at, size=size)
    laszip = [data for name, number, data in _records(stream, header_bytes, records) if (name, number) == _LASZIP]
    if laszip or kind & 0x80:
        if not laszip:
            raise ValueError("it does not say how it is compressed")
        _check_chunks(stream, counts, laszip[0])
    elif points * point_bytes > size - points_at:
        raise ValueError(f"it states {points:,} points and is cut short")
    return counts


_LASZIP: Final = (b"laszip encoded", 22204)


def _records(stream: BinaryIO, at: int, count: int) -> Iterator[tuple[bytes, int, bytes]]:
    """User, number and content of each variable-length record."""
    stream.seek(at)
    for _ in range(count):
        head = stream.read(_RECORD_BYTES)
        number, length = struct.unpack_from("<HH", head, 18)
        yield head[2:18].rstrip(b"\0"), number, stream.read(length)


def _check_chunks(stream: BinaryIO, counts: _Counts, record: bytes) -> None:
    """Raise ValueError unless the table of compressed chunks may be true."""
    (points_in_chunk,) = struct.unpack_from("<I", record, 12)
    if points_in_chunk != _VARIABLE_CHUNKS and not 0 < points_in_chunk * counts.point_bytes <= _MOST_CHUNK_BYTES:
        raise ValueError(f"it states chunks of {points_in_chunk:,} points")
    stream.seek(counts.points_at)
    (table_at,) = struct.unpack("<q", stream.read(8))
    if table_at == -1:
        # Written by a program that could not go back: the place stands at the end.
        stream.seek(-8, os.SEEK_END)
        (table_at,) = struct.unpack("<q", stream.read(8))
    if not counts.points_at + 8 <= table_at <= counts.size - 8:
        raise ValueError("its table of chunks is not there")
    stream.seek(table_at)
    _, chunks = struct.unpack("<II", stream.read(8))
    # Each begins with a point as it is.
    if chunks * counts.point_bytes > counts.size - counts.points_at:
        raise ValueError(f"it states {chunks:,} chunks and is cut short")
    _check_table(stream, counts, record)


def _check_table(stream: BinaryIO, counts: _Counts, record: bytes) -> None:
    """Raise ValueError unless the chunks of the table, which is compressed itself, lie in the file."""
    import lazrs

    stream.seek(counts.points_at)
    table: list[Any] = lazrs.read_chunk_table(stream, lazrs.LazVlr(record))
    if sum(length for _, length in table) > counts.size - counts.points_at:
        raise ValueError("its chunks are longer than the file")
    if any(points * counts.point_bytes > _MOST_CHUNK_BYTES for points, _ in table):
        raise ValueError("a chunk states too many points")
