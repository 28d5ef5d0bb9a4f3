"""The file: a magic number, a directory in JSON, and sections of bytes that it names.

    magic (8 bytes) | version (u32) | length of the directory (u32) | its CRC-32 (u32) | directory | sections

All numbers are little-endian. The directory, in the file its length (u32) and what zlib makes of it, lists the grids:
of each its header, and where in the file its topology, its tiles, its network, if it has one, and its chunks lie.
Nothing that the directory says is believed unchecked.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.vdb.layout import COMPRESSED_MAGIC
from voxfield.storage.vdb.values import inflate

VERSION: Final = 2
"""Since 2 the directory is packed by zlib and says how many leaves a chunk has, and values may have more taps."""
MOST_CHUNK_LEAVES: Final = 1024
"""Leaves of a chunk, which is what is decoded at once: 2 MiB of float32, a quarter of a second of one core."""
_SPLIT_LEAVES: Final = 512  # from here on a grid has two chunks, for two cores
_HEAD: Final = struct.Struct("<8sIII")


def leaves_of_chunks(leaves: int) -> int:
    """How many of a grid's leaves are in each chunk: alike for all but the last, and of an even number of chunks where
    they are worth two cores.
    """
    chunks = -(-leaves // MOST_CHUNK_LEAVES)
    if leaves >= _SPLIT_LEAVES:
        chunks += chunks % 2
    return max(1, -(-leaves // max(1, chunks)))


def packed_parts(parts: Sequence[bytes]) -> bytes:
    """Several runs of bytes as one, behind a checksum: the inverse of `unpacked_parts`."""
    body = struct.pack(f"<{len(parts)}I", *map(len, parts)) + b"".join(parts)
    return struct.pack("<I", zlib.crc32(body)) + body


def unpacked_parts(raw: bytes, count: int, where: str) -> list[bytes]:
    """The ``count`` runs of bytes that `packed_parts` joined.

    Raises:
        FormatError: they are damaged; the message begins with ``where``.
    """
    begin = 4 + 4 * count
    if len(raw) < begin or struct.unpack_from("<I", raw)[0] != zlib.crc32(raw[4:]):
        raise damaged(where)
    lengths = struct.unpack_from(f"<{count}I", raw, 4)
    if begin + sum(lengths) != len(raw):
        raise damaged(where)
    parts = []
    for length in lengths:
        parts.append(raw[begin : begin + length])
        begin += length
    return parts


def inflated(raw: bytes, expected: int, where: str) -> bytes:
    """``expected`` bytes that zlib packed, never more.

    Raises:
        FormatError: it holds another number of them.
    """
    unpacked = inflate(raw, expected)
    if unpacked is None:
        raise damaged(where)
    return unpacked


def packed_places(places: np.ndarray) -> bytes:
    """Rising whole numbers as bytes."""
    steps = np.diff(places.astype(np.int64), prepend=0).astype("<u4")
    return struct.pack("<I", len(places)) + zlib.compress(steps.tobytes(), 9)


def unpacked_places(raw: bytes, most: int, where: str) -> np.ndarray:
    """The inverse of `packed_places`; they are below ``most``.

    Raises:
        FormatError: the bytes are damaged.
    """
    count = unpacked_count(raw, most, where)
    steps = np.frombuffer(inflated(raw[4:], 4 * count, where), "<u4")
    places = np.cumsum(steps.astype(np.int64))
    if count and places[-1] >= most:
        raise damaged(where)
    return places


def unpacked_count(raw: bytes, most: int, where: str) -> int:
    """The number that bytes begin with, at most ``most``.

    Raises:
        FormatError: it is more, or not there.
    """
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] > most:
        raise damaged(where)
    return int(struct.unpack_from("<I", raw)[0])


def damaged(where: str, detail: str = "its checksum or sizes do not fit") -> FormatError:
    """The error for bytes that are not what was written."""
    return FormatError(f"{where}: cut short or damaged ({detail}). Copy it or compress it again.")


def write_head(stream: BinaryIO, directory: Mapping[str, Any]) -> None:
    """Write what stands before the sections; places of sections count from its end."""
    plain = json.dumps(directory, allow_nan=False, separators=(",", ":")).encode("ascii")
    raw = struct.pack("<I", len(plain)) + zlib.compress(plain, 9)
    stream.write(_HEAD.pack(COMPRESSED_MAGIC, VERSION, len(raw), zlib.crc32(raw)) + raw)


def read_head(path: Path) -> tuple[dict[str, Any], int]:
    """The directory of a file, and where its sections begin.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is none of these files, newer, cut short or damaged.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD.size)
            if head[:8] != COMPRESSED_MAGIC[: len(head)] or len(head) < 8:
                raise FormatError(f"{path}: not a compressed volume of Voxfield. Make one with: voxfield vdb compress")
            if len(head) < _HEAD.size:
                raise damaged(str(path))
            _, version, length, checksum = _HEAD.unpack(head)
            if not 1 <= version <= VERSION:
                raise FormatError(
                    f"{path}: is of version {version}, and 1 to {VERSION} are read. Update Voxfield, or compress it "
                    "again."
                )
            raw = stream.read(min(length, path.stat().st_size))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise FormatError(f"{path}: is a folder. Name a file in it.") from None
    if len(raw) != length or zlib.crc32(raw) != checksum:
        raise damaged(str(path))
    if version > 1:
        # zlib packs to a thousandth at most.
        raw = inflated(raw[4:], unpacked_count(raw, 1032 * length, str(path)), str(path))
    try:
        directory = json.loads(raw)
    except (ValueError, RecursionError):
        raise damaged(str(path)) from None
    if not isinstance(directory, dict):
        raise damaged(str(path))
    return directory, _HEAD.size + length


def is_compressed(path: Path) -> bool:
    """Whether a file says that it is one of these."""
    try:
        with path.open("rb") as stream:
            return stream.read(8) == COMPRESSED_MAGIC
    except OSError:
        return False
