"""A chunk: some leaves of a grid as bytes, decoded without any other.

Its parts: the states of voxels; how inactive ones that are neither the background nor its negative are; and for each
channel how its levels are predicted, the levels, and the values that no level is near enough to.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from voxfield.errors import InputError
from voxfield.kernels.block_code import FEW_TAPS, TAPS, decode_values, encode_states, encode_values, fit_taps
from voxfield.storage.compressed.layout import (
    damaged,
    inflated,
    packed_parts,
    unpacked_count,
    unpacked_parts,
)
from voxfield.storage.compressed.quantiser import Quantiser, within
from voxfield.storage.compressed.topology import decode_told_states, earlier_neighbours, packed_told, told_hints
from voxfield.voxels.vdb_tree import LEAF_SIDE, LEAF_VOXELS

ACTIVE, MINUS, OTHER = 1, 2, 4
"""States beside 0, inactive background: active; inactive with the background's negative, and with another value."""
_SHARED_PARTS: Final = 3
_CHANNEL_PARTS: Final = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class GridCode:
    """What every chunk of a grid is coded with."""

    background: np.ndarray
    """() or (C,), of the grid's type."""
    quantisers: tuple[Quantiser, ...]
    """One a channel."""
    max_error: float
    """At most this far is a decoded value from the one it stands for."""
    half: bool
    """Values are rounded to 16 bits after decoding."""
    margin: float = 0.0
    """How far another machine's network may be from the encoder's: kept free of ``max_error``."""

    @property
    def channels(self) -> int:
        """Channels, 1 for scalars."""
        return len(self.quantisers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Guess:
    """What a network says of the leaves of a chunk."""

    values: np.ndarray
    """(N, 512, C) float32."""
    hints: np.ndarray
    """(N, 512) uint8: how likely voxels are active, see `encode_states`."""
    unsure: np.ndarray
    """(M,), rising: which of the N * 512 voxels have a hint that another machine may see otherwise."""


def encode_chunk(
    code: GridCode, origins: np.ndarray, values: np.ndarray, active: np.ndarray, guess: Guess | None = None
) -> bytes:
    """Leaves as bytes.

    Args:
        code: how.
        origins: (N, 3) int32.
        values: (N, 8, 8, 8[, C]) of the grid's type.
        active: (N, 8, 8, 8) bool.
        guess: of the network, if there is one.
    """
    count = len(origins)
    neighbours = earlier_neighbours(origins, LEAF_SIDE)
    flat = values.reshape(count, LEAF_VOXELS, code.channels)
    on = np.ascontiguousarray(active.reshape(count, LEAF_VOXELS))
    states = _states(flat, on, code.background)
    hints = None if guess is None else told_hints(guess.hints, guess.unsure)
    others = flat[states == OTHER]
    parts = [
        encode_states(states, neighbours, hints),
        zlib.compress(_by_bytes(others), 9),
        b"" if guess is None else packed_told(states, guess.unsure),
    ]
    for channel, quantiser in enumerate(code.quantisers):
        predicted = None if guess is None else guess.values[..., channel]
        levels = quantiser.levels(flat[..., channel], predicted)
        still, missing = _still(code, channel, states, flat[..., channel][states == OTHER], guess is not None)
        levels[~on] = still[~on]
        taps = fit_taps(levels, on, neighbours, missing=missing)
        parts += [
            taps.astype("<i2").tobytes(),
            encode_values(levels, on, neighbours, taps, missing=missing),
            _packed_exceptions(
                code, channel, levels[on], flat[..., channel][on], None if predicted is None else predicted[on]
            ),
        ]
    return packed_parts(parts)


def decode_chunk(
    raw: bytes, code: GridCode, origins: np.ndarray, where: str, *, guess: Guess | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `encode_chunk`.

    Args:
        raw: the bytes.
        code, origins, guess: as they were encoded with.
        where: begins the message of errors.

    Returns:
        Values (N, 8, 8, 8[, C]) and states (N, 8, 8, 8) bool.

    Raises:
        FormatError: the bytes are damaged.
    """
    parts = unpacked_parts(raw, _SHARED_PARTS + _CHANNEL_PARTS * code.channels, where)
    neighbours = earlier_neighbours(origins, LEAF_SIDE)
    states = decode_told_states(parts[0], neighbours, None if guess is None else guess.hints, parts[2], where)
    on = (states & ACTIVE).astype(np.bool_)
    dtype = code.background.dtype
    shape = (len(origins), LEAF_VOXELS)
    values = np.empty((*shape, code.channels), dtype=dtype)
    values[:] = code.background
    values[states == MINUS] = negative(code.background)
    count = int(np.count_nonzero(states == OTHER))
    others = _from_bytes(inflated(parts[1], count * code.channels * dtype.itemsize, where), dtype)
    values[states == OTHER] = others.reshape(count, code.channels)
    for channel, quantiser in enumerate(code.quantisers):
        taps, coded, exceptions = parts[_SHARED_PARTS + _CHANNEL_PARTS * channel :][:_CHANNEL_PARTS]
        if len(taps) not in {2 * FEW_TAPS, 2 * len(TAPS)}:
            raise damaged(where)
        levels, missing = _still(code, channel, states, values[..., channel][states == OTHER], guess is not None)
        try:
            decode_values(coded, levels, on, neighbours, np.frombuffer(taps, "<i2").astype(np.int16), missing=missing)
        except InputError:
            raise damaged(where) from None
        predicted = None if guess is None else guess.values[..., channel][on]
        decoded = quantiser.values(levels[on], dtype, half=code.half, predicted=predicted)
        _restore_exceptions(decoded, exceptions, where)
        values[..., channel][on] = decoded
    block = (len(origins), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
    return values.reshape(block + code.background.shape), on.reshape(block)


def negative(background: np.ndarray) -> np.ndarray:
    """What stands inside a level set: the background's negative, of bools the other one."""
    return ~background if background.dtype == np.bool_ else np.negative(background)


def _states(values: np.ndarray, active: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(N, 512) uint8, from values (N, 512, C)."""
    plain = _alike(values, background)
    minus = _alike(values, negative(background))
    return np.where(active, ACTIVE, np.where(plain, 0, np.where(minus, MINUS, OTHER))).astype(np.uint8)


def _alike(values: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Where values are the same bits: a NaN is a NaN, and -0 is not 0."""
    width = f"u{values.dtype.itemsize}"
    wanted = np.broadcast_to(one, values.shape[-1:]).copy().view(width)
    return np.asarray((np.ascontiguousarray(values).view(width) == wanted).all(axis=-1))


def _still(
    code: GridCode, channel: int, states: np.ndarray, others: np.ndarray, guessed: bool
) -> tuple[np.ndarray, int]:
    """Levels (N, 512) of what is known before the active values, and of what lies where no leaf is."""
    levels = np.zeros(states.shape, dtype=np.int32)
    if guessed:  # levels are what the network misses, of which inactive voxels say nothing
        return levels, 0
    quantiser, background = code.quantisers[channel], np.atleast_1d(code.background)[channel : channel + 1]
    plain, minus = (int(quantiser.levels(one)[0]) for one in (background, negative(background)))
    levels[:] = plain
    levels[states == MINUS] = minus
    levels[states == OTHER] = quantiser.levels(others)
    return levels, plain


def _packed_exceptions(
    code: GridCode, channel: int, levels: np.ndarray, values: np.ndarray, predicted: np.ndarray | None
) -> bytes:
    """The active values that decode to something too far away, as they are, or as 16 bits hold them if that is near."""
    decoded = code.quantisers[channel].values(levels, values.dtype, half=code.half, predicted=predicted)
    rows = np.flatnonzero(~within(decoded, values, code.max_error - code.margin))
    kept = values[rows]
    if code.half:
        with np.errstate(over="ignore"):
            rounded = kept.astype(np.float32).astype(np.float16).astype(kept.dtype)
        kept = np.where(within(rounded, kept, code.max_error), rounded, kept)
    steps = np.diff(rows, prepend=0).astype("<u4")
    return struct.pack("<I", len(rows)) + zlib.compress(_by_bytes(steps) + _by_bytes(kept), 9)


def _restore_exceptions(decoded: np.ndarray, raw: bytes, where: str) -> None:
    """Put the values of `_packed_exceptions` where they belong."""
    count = unpacked_count(raw, len(decoded), where)
    size = decoded.dtype.itemsize
    plain = inflated(raw[4:], count * (4 + size), where)
    rows = np.cumsum(_from_bytes(plain[: 4 * count], np.dtype("<u4")).astype(np.int64))
    if count and rows[-1] >= len(decoded):
        raise damaged(where)
    decoded[rows] = _from_bytes(plain[4 * count :], decoded.dtype)


def _by_bytes(values: np.ndarray) -> bytes:
    """All first bytes, then all second ones: they resemble each other, which helps zlib."""
    plain = np.ascontiguousarray(values)
    return plain.reshape(-1, 1).view(np.uint8).T.tobytes() if plain.size else b""


def _from_bytes(raw: bytes, dtype: np.dtype) -> np.ndarray:
    """The inverse of `_by_bytes`, (N,)."""
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)
