"""Blocks spelled out voxel by voxel, turned as arrays."""

import numpy as np

from voxfield.kernels.cube_symmetry.symmetries import AXES, INVERSE, SYMMETRIES
from voxfield.kernels.voxel_words import pack_blocks, unpack_blocks


def turn_blocks(words: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """See ``api.turn_blocks``."""
    turned = np.empty_like(words)
    for number in np.unique(symmetries):
        here = symmetries == number
        turned[here] = _turned(words[here], int(number))
    return turned


def canonical_blocks(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See ``api.canonical_blocks``."""
    least, symmetries = words.copy(), np.zeros(len(words), np.uint8)
    for number in range(1, SYMMETRIES):
        image = _turned(words, int(INVERSE[number]))
        smaller = _less(image.view(np.uint64), least.view(np.uint64))
        least[smaller], symmetries[smaller] = image[smaller], number
    return least, symmetries


def _turned(words: np.ndarray, number: int) -> np.ndarray:
    cubes = unpack_blocks(words, 4 * round(words.shape[1] ** (1 / 3)))
    # Array axis a is coordinate 3 - a, behind the blocks' own.
    axes = AXES[number // 8]
    cubes = cubes.transpose(0, 3 - axes[2], 3 - axes[1], 3 - axes[0])
    return pack_blocks(np.flip(cubes, tuple(3 - axis for axis in range(3) if number >> axis & 1)))


def _less(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) bool: whether rows (N, W) come before others."""
    differ = first != second
    at = differ.argmax(1)[:, None]
    less = np.take_along_axis(first, at, 1) < np.take_along_axis(second, at, 1)
    return less[:, 0]
