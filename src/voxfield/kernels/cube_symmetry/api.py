"""The contract of ``cube_symmetry``.

Blocks are (N, W) int64 words of S voxels along each axis, see ``voxel_words``; symmetries are numbered as
``symmetries.py`` says.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.kernels.cube_symmetry.symmetries import SYMMETRIES
from voxfield.kernels.dispatch import load_backend, resolve
from voxfield.kernels.voxel_words import MAX_RESOLUTION

Turning = Literal["reference", "numba"]
"""``reference`` spells every voxel out."""


class CanonicalBlocks(NamedTuple):
    """Blocks in one form each, and how they lie."""

    words: np.ndarray
    """(N, W) int64: of the 48 images of each block the least, words compared one after another as unsigned numbers."""
    symmetries: np.ndarray
    """(N,) uint8: the least number whose symmetry maps that form onto the block."""


def canonical_blocks(words: np.ndarray, *, implementation: Turning | None = None) -> CanonicalBlocks:
    """The form that a block shares with all that it can be turned or mirrored into.

    Args:
        words: (N, W) int64; W is 1, 8, 64, ...
        implementation: None is Numba.

    Raises:
        InputError: another shape or dtype.
    """
    _check_blocks(words)
    canonical, symmetries = _backend(implementation).canonical_blocks(np.ascontiguousarray(words))
    return CanonicalBlocks(canonical, symmetries)


def turn_blocks(words: np.ndarray, symmetries: np.ndarray, *, implementation: Turning | None = None) -> np.ndarray:
    """Blocks (N, W) int64, each mapped by a symmetry.

    Args:
        words: (N, W) int64; W is 1, 8, 64, ...
        symmetries: (N,) uint8, below 48.
        implementation: None is Numba.

    Raises:
        InputError: another shape or dtype, or no such symmetry.
    """
    _check_blocks(words)
    if symmetries.shape != (len(words),) or symmetries.dtype != np.uint8:
        raise InputError(f"symmetries: expected ({len(words)},) uint8, got {symmetries.shape} {symmetries.dtype}.")
    if len(symmetries) and int(symmetries.max()) >= SYMMETRIES:
        raise InputError(f"symmetries: expected numbers below {SYMMETRIES}, got {symmetries.max()}.")
    turned: np.ndarray = _backend(implementation).turn_blocks(
        np.ascontiguousarray(words), np.ascontiguousarray(symmetries)
    )
    return turned


def _backend(implementation: Turning | None) -> Any:
    return load_backend("cube_symmetry", resolve(implementation, torch.device("cpu"), "cube_symmetry"))


def _check_blocks(words: np.ndarray) -> None:
    sizes = {(side // 4) ** 3 for side in (1 << exponent for exponent in range(2, MAX_RESOLUTION.bit_length()))}
    if words.ndim != 2 or words.dtype != np.int64 or words.shape[1] not in sizes:
        raise InputError(f"words: expected (N, W) int64, W 1, 8, 64, ..., got {words.shape} {words.dtype}.")
