"""The contract of ``block_code``.

Blocks are (N, 512), voxels by their offset x·64 + y·8 + z. ``neighbours`` (N, 13) int32 names, for each block and each
place of `EARLIER`, the row of the block there, which must be an earlier one, or -1.

A **state** of 0 to 5 is 1 for an active voxel, else 0, 2 or 4, three kinds that the caller gives a meaning. **Values**
are whole numbers, -`LARGEST` to `LARGEST`, each predicted from `TAPS` before it.

Codes are the same on every machine: all arithmetic is in whole numbers. Bytes that were not made by the encoder decode
to something, in the same time; whether it is right the caller must know (by a checksum).
"""

from typing import Any, Final, Literal

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.kernels.dispatch import load_backend, resolve

EARLIER: Final = tuple((x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) < (0, 0, 0))
"""The 13 places around a block whose blocks come before it in the order of (x, y, z)."""
FEW_TAPS: Final = 10
"""Taps that the first files were made with, in whose codes values are seen in fewer contexts."""
TAPS: Final = (
    (-1, 0, 0),
    (0, -1, 0),
    (0, 0, -1),
    (-1, -1, 0),
    (-1, 0, -1),
    (0, -1, -1),
    (-1, -1, -1),
    (-2, 0, 0),
    (0, -2, 0),
    (0, 0, -2),
    (-1, -1, 1),
    (-1, 0, 1),
    (-1, 1, -1),
    (-1, 1, 0),
    (-1, 1, 1),
    (0, -1, 1),
    (-2, -1, 0),
    (-2, 0, -1),
    (-2, 0, 1),
    (-2, 1, 0),
    (-1, -2, 0),
    (-1, 0, -2),
    (-1, 0, 2),
    (-1, 2, 0),
    (0, -2, -1),
    (0, -2, 1),
    (0, -1, -2),
    (0, -1, 2),
)
"""The voxels that a value is predicted from: the first `FEW_TAPS` of them, or all."""
HINTS: Final = 4
"""Hints are 0 to this less one."""
LARGEST: Final = 1 << 28
"""Magnitude of the largest value."""
BEYOND: Final = 4
"""Bytes behind the last that a decoder may have asked for: zeros stand there."""

Walk = Literal["reference", "numba"]
"""``reference`` interprets what ``numba`` compiles: thousands of times slower, for tests."""


def encode_states(
    states: np.ndarray, neighbours: np.ndarray, hints: np.ndarray | None = None, *, implementation: Walk | None = None
) -> bytes:
    """States of blocks as bytes.

    Args:
        states: (N, 512) uint8, each 0, 1, 2 or 4.
        neighbours: see above.
        hints: (N, 512) uint8: what is thought likely beforehand, 0 (inactive) to `HINTS` - 1 (active). The decoder
            must be given the same.
        implementation: None is Numba.

    Raises:
        InputError: shapes, types or ranges other than these.
    """
    _check_blocks("states", states, np.uint8)
    if (states > 4).any() or (states == 3).any():
        raise InputError("states: expected 0, 1, 2 or 4.")
    hints = _checked_hints(hints, states)
    _check_neighbours(neighbours, len(states))
    # The walk writes what it codes, which is what was there.
    raw, size = _backend(implementation).states(
        np.zeros(1 << 17, np.uint8), True, states.copy(), hints, neighbours, interpreted=implementation == "reference"
    )
    return bytes(raw[:size])


def decode_states(
    raw: bytes, neighbours: np.ndarray, hints: np.ndarray | None = None, *, implementation: Walk | None = None
) -> np.ndarray:
    """The inverse of `encode_states`: (N, 512) uint8.

    Raises:
        InputError: as `encode_states`, or ``raw`` ends too soon.
    """
    states = np.zeros((len(neighbours), 512), dtype=np.uint8)
    hints = _checked_hints(hints, states)
    _check_neighbours(neighbours, len(states))
    _, read = _backend(implementation).states(
        np.frombuffer(raw, np.uint8).copy(), False, states, hints, neighbours, interpreted=implementation == "reference"
    )
    _check_read(raw, read)
    return states


def encode_values(
    values: np.ndarray,
    active: np.ndarray,
    neighbours: np.ndarray,
    taps: np.ndarray,
    *,
    missing: int = 0,
    implementation: Walk | None = None,
) -> bytes:
    """Whole numbers of active voxels as bytes.

    Args:
        values: (N, 512) int32, -`LARGEST` to `LARGEST`. Those of inactive voxels are not coded, only seen by others.
        active: (N, 512) bool.
        neighbours: see above.
        taps: (28,) or (10,) int16: a value is predicted as the sum of ``taps`` / 4096 times the values at `TAPS`; see
            `fit_taps`.
        missing: what stands where no earlier block is.
        implementation: None is Numba.

    Raises:
        InputError: shapes, types or ranges other than these.
    """
    _check_blocks("values", values, np.int32)
    _check_blocks("active", active, np.bool_)
    if len(values) and int(np.abs(values.astype(np.int64)).max()) > LARGEST:
        raise InputError(f"values: expected magnitudes up to {LARGEST}.")
    _check_neighbours(neighbours, len(values))
    _check_taps(taps, missing)
    raw, size = _backend(implementation).values(
        np.zeros(1 << 17, np.uint8),
        True,
        values.copy(),
        active,
        neighbours,
        taps,
        missing,
        interpreted=implementation == "reference",
    )
    return bytes(raw[:size])


def decode_values(
    raw: bytes,
    values: np.ndarray,
    active: np.ndarray,
    neighbours: np.ndarray,
    taps: np.ndarray,
    *,
    missing: int = 0,
    implementation: Walk | None = None,
) -> None:
    """The inverse of `encode_values`: sets ``values`` where ``active``.

    Args:
        raw: what `encode_values` returned.
        values: (N, 512) int32, contiguous, which holds what it held at inactive voxels.
        active, neighbours, taps, missing, implementation: as `encode_values`.

    Raises:
        InputError: as `encode_values`, or ``raw`` ends too soon.
    """
    _check_blocks("values", values, np.int32)
    _check_blocks("active", active, np.bool_)
    _check_neighbours(neighbours, len(values))
    _check_taps(taps, missing)
    _, read = _backend(implementation).values(
        np.frombuffer(raw, np.uint8).copy(),
        False,
        values,
        active,
        neighbours,
        taps,
        missing,
        interpreted=implementation == "reference",
    )
    _check_read(raw, read)


def fit_taps(
    values: np.ndarray, active: np.ndarray, neighbours: np.ndarray, *, missing: int = 0, count: int = len(TAPS)
) -> np.ndarray:
    """(count,) int16: taps that predict ``values`` well, by least squares reweighed towards least bits. Arguments as
    `encode_values`; ``count`` is `FEW_TAPS` or all of `TAPS`.
    """
    _check_blocks("values", values, np.int32)
    _check_blocks("active", active, np.bool_)
    _check_neighbours(neighbours, len(values))
    taps: np.ndarray = _backend(None).fit_taps(values, active, neighbours, missing, count)
    return taps


def _backend(implementation: Walk | None) -> Any:
    resolve(implementation, torch.device("cpu"), "block_code")
    # One module holds both: the reference is the same functions, not compiled.
    return load_backend("block_code", "numba")


def _check_blocks(name: str, blocks: np.ndarray, dtype: type) -> None:
    if blocks.ndim != 2 or blocks.shape[1] != 512 or blocks.dtype != dtype or not blocks.flags.c_contiguous:
        raise InputError(f"{name}: expected contiguous (N, 512) {np.dtype(dtype)}, got {blocks.shape} {blocks.dtype}.")


def _checked_hints(hints: np.ndarray | None, states: np.ndarray) -> np.ndarray:
    if hints is None:
        return np.zeros_like(states)
    _check_blocks("hints", hints, np.uint8)
    if hints.shape != states.shape or (hints >= HINTS).any():
        raise InputError(f"hints: expected {states.shape} below {HINTS}, got {hints.shape} up to {hints.max()}.")
    return hints


def _check_neighbours(neighbours: np.ndarray, count: int) -> None:
    """The compiled walk checks no bounds: nothing may lead outside."""
    if neighbours.shape != (count, len(EARLIER)) or neighbours.dtype != np.int32:
        raise InputError(
            f"neighbours: expected ({count}, {len(EARLIER)}) int32, got {neighbours.shape} {neighbours.dtype}."
        )
    if (neighbours >= np.arange(count)[:, None]).any() or (neighbours < -1).any():
        raise InputError("neighbours: expected rows of earlier blocks, or -1.")


def _check_taps(taps: np.ndarray, missing: int) -> None:
    if taps.shape not in {(FEW_TAPS,), (len(TAPS),)} or taps.dtype != np.int16:
        raise InputError(f"taps: expected ({len(TAPS)},) or ({FEW_TAPS},) int16, got {taps.shape} {taps.dtype}.")
    if not -LARGEST <= missing <= LARGEST:
        raise InputError(f"missing: expected a magnitude up to {LARGEST}, got {missing}.")


def _check_read(raw: bytes, read: int) -> None:
    if read > len(raw) + BEYOND:
        raise InputError(f"raw: {len(raw):,} bytes end before what they code does.")
