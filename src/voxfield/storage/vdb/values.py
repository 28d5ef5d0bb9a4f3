"""Runs of values as they stand in a file: raw, or compressed by zlib or Blosc, in full or half precision."""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from voxfield.errors import InputError, MissingExtraError
from voxfield.storage.vdb.cursor import Cursor
from voxfield.storage.vdb.layout import ACTIVE_MASK, BLOSC, ZIP, ValueType

_BLOSC_HEADER: Final = 16
_BLOSC_SIZES: Final = struct.Struct("<3I")  # at byte 4: unpacked, of a block, packed
_LENGTH: Final = struct.Struct("<q")
_BYTE_SHUFFLE: Final = 1  # Blosc's number for it


@dataclass(frozen=True, kw_only=True)
class ValueCodec:
    """How the values of one grid are stored."""

    kind: ValueType
    flags: int
    """The grid's compression bits."""
    half: bool = False
    level: int = 9
    """Effort when writing, 0 to 9."""

    @cached_property
    def masked(self) -> bool:
        """Whether inactive values may be left out."""
        return bool(self.flags & ACTIVE_MASK)

    @cached_property
    def compressed(self) -> bool:
        """Whether each run has its length before it."""
        return bool(self.flags & (ZIP | BLOSC))

    @cached_property
    def stored(self) -> np.dtype:
        """Type of one channel in a run."""
        return np.dtype("<f2") if self.half else self.kind.dtype

    @cached_property
    def value_bytes(self) -> int:
        """Bytes of one value in a run."""
        return self.stored.itemsize * (self.kind.channels[0] if self.kind.channels else 1)

    @cached_property
    def _blosc(self) -> Any:
        return blosc_extension()

    def read(self, cursor: Cursor, count: int) -> bytes:
        """The next run, which holds ``count`` values, decompressed.

        Raises:
            VolumeFormatError: it is cut short, damaged or holds another number of values.
            MissingExtraError: it is compressed by Blosc, which is not installed.
        """
        expected = count * self.value_bytes
        # Runs of halves that hold nothing have no length either: they are not there.
        if not self.compressed or (self.half and not count):
            return cursor.take(expected)
        (length,) = _LENGTH.unpack_from(cursor.raw, cursor.skip(_LENGTH.size))
        if length <= 0:
            if -length != expected:
                raise cursor.fault(f"a run of {-length:,} bytes where {expected:,} should be")
            return cursor.take(expected)
        packed = cursor.take(length)
        if not expected:
            return b""
        blosc = self.flags & BLOSC
        unpacked = _blosc_decompress(self._blosc, packed, expected) if blosc else inflate(packed, expected)
        if unpacked is None:
            raise cursor.fault(f"a compressed run that does not hold {expected:,} bytes")
        return unpacked

    def decode(self, raw: bytes) -> np.ndarray:
        """Values (N,) or (N, C) of the grid's type from a run, or several."""
        values = np.frombuffer(raw, dtype=self.stored).reshape(-1, *self.kind.channels)
        return values.astype(self.kind.dtype) if self.half else values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values (N,) or (N, C) in the type of a run.

        Raises:
            InputError: a finite value is too large for half precision.
        """
        if not self.half:
            return np.ascontiguousarray(values, dtype=self.stored)
        with np.errstate(over="ignore"):
            # Through float32, as OpenVDB rounds.
            halves = values.astype(np.float32).astype("<f2")
        if not np.isfinite(halves).all() and (np.isinf(halves) & np.isfinite(values)).any():
            largest = np.abs(values[np.isfinite(values)]).max()
            raise InputError(f"half: expected values up to 65504, got {largest:g}. Write the grid in full precision.")
        return halves

    def write(self, run: bytes) -> bytes:
        """One run, compressed if the grid is, with its length before it if it has one."""
        return self.write_all(run, [len(run)])[0]

    def write_all(self, runs: bytes, ends: Sequence[int]) -> list[bytes]:
        """Runs as `write` makes them, one after another in ``runs``; each up to its end."""
        begins = [0, *ends][:-1]
        if not self.compressed:
            return [runs[begin:end] for begin, end in zip(begins, ends, strict=True)]
        # Of nothing a grid of halves has no length either.
        nothing = b"" if self.half else bytes(8)
        blosc, itemsize, level = self.flags & BLOSC, self.stored.itemsize, self.level
        pack: Callable[..., bytes] = self._blosc.compress if blosc else zlib.compress
        written = []
        for begin, end in zip(begins, ends, strict=True):
            run, size = runs[begin:end], end - begin
            if not size:
                written.append(nothing)
                continue
            packed = pack(run, itemsize, level, _BYTE_SHUFFLE, "lz4") if blosc else pack(run, level)
            if len(packed) < size:
                written.append(len(packed).to_bytes(8, "little") + packed)
            else:
                written.append((-size).to_bytes(8, "little", signed=True) + run)
        return written


def blosc_extension() -> Any:
    """The compiled part of the blosc package.

    The functions around it check constants and types anew for each run, which takes longer than packing it (7 µs
    against 3 for 26 floats on one core of an EPYC, 2026-11).

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from blosc import blosc_extension
    except ImportError:
        raise MissingExtraError(
            'Volumes compressed by Blosc need blosc. Install it with: pip install blosc. "zip" needs nothing.'
        ) from None
    return blosc_extension


def inflate(packed: bytes, expected: int) -> bytes | None:
    """What zlib unpacks to, if that is ``expected`` bytes; never more than one byte above is made."""
    try:
        engine = zlib.decompressobj()
        unpacked = engine.decompress(packed, expected + 1)
    except zlib.error:
        return None
    return unpacked if len(unpacked) == expected and engine.eof else None


def _blosc_decompress(blosc: Any, packed: bytes, expected: int) -> bytes | None:
    """What Blosc unpacks to, if that is ``expected`` bytes: its header is believed only after a check."""
    if len(packed) < _BLOSC_HEADER:
        return None
    size, block, length = _BLOSC_SIZES.unpack_from(packed, 4)
    if size != expected or length != len(packed) or not 0 < block <= size:
        return None
    try:
        unpacked: bytes = blosc.decompress(packed, False)  # not as a bytearray
    except (blosc.error, ValueError, TypeError, MemoryError):
        return None
    return unpacked if len(unpacked) == expected else None
