"""Binary voxel grids as 64-bit words: one bit a voxel, 4x4x4 voxels a word, words in Morton order.

The layout that ``triangle_box``, ``scan_fill`` and ``traverse_voxels`` share. A grid of R voxels along each axis is
kept in a cube of S = `padded_side` (R) voxels, S / 4 words along each axis; voxels beyond R are empty. Word number m
holds the block whose coordinates (bx, by, bz) have the interleaved bits of m: bit 0 is x's lowest, bit 1 y's, bit 2
z's. Within it voxel (x, y, z) is bit ``(x & 3) + 4 * (y & 3) + 16 * (z & 3)``. So the eight octants of any aligned cube
follow one another, x fastest, and an untouched region is untouched memory. 1024**3 voxels take at most 128 MiB.
"""

from typing import Final

import numpy as np
import torch

from voxfield.checks import check_dtype, check_range, check_shape

MAX_RESOLUTION: Final = 1024
"""Most voxels along an axis."""


def padded_side(resolution: int) -> int:
    """The least power of two that is at least ``resolution`` and 4: voxels along each axis of the memory's cube."""
    check_range("resolution", resolution, minimum=1, maximum=MAX_RESOLUTION)
    return max(4, 1 << (resolution - 1).bit_length())


def word_count(resolution: int) -> int:
    """Words of a grid with ``resolution`` voxels along each axis."""
    return (padded_side(resolution) // 4) ** 3


def check_words(words: torch.Tensor, resolution: int) -> None:
    """Raise InputError unless ``words`` has the shape and dtype of a grid of ``resolution``."""
    check_dtype("words", words, (torch.int64,))
    check_shape("words", words, (word_count(resolution),))


def pack_voxels(occupied: torch.Tensor) -> torch.Tensor:
    """Words (W,) int64 of a boolean grid (R, R, R), axes z, y, x. On the CPU.

    Raises:
        InputError: wrong shape or dtype, or R above `MAX_RESOLUTION`.
    """
    check_shape("occupied", occupied, ("R", "R", "R"))
    check_dtype("occupied", occupied, (torch.bool,))
    resolution = len(occupied)
    side = padded_side(resolution)
    grid = np.zeros((side, side, side), bool)
    grid[:resolution, :resolution, :resolution] = occupied.cpu().numpy()
    return torch.from_numpy(pack_blocks(grid[None])[0])


def pack_blocks(cubes: np.ndarray) -> np.ndarray:
    """Words (N, W) int64 of boolean cubes (N, S, S, S), axes z, y, x; S is a power of two, at least 4."""
    side = cubes.shape[1]
    across = side // 4
    blocks = cubes.reshape(len(cubes), across, 4, across, 4, across, 4).transpose(0, 1, 3, 5, 2, 4, 6)
    packed = np.packbits(blocks.reshape(-1, 64), axis=1, bitorder="little").view(np.int64)
    words = np.empty((len(cubes), across**3), np.int64)
    words[:, word_numbers(side).reshape(-1)] = packed.reshape(words.shape)
    return words


def unpack_voxels(words: torch.Tensor, resolution: int) -> torch.Tensor:
    """The boolean grid (R, R, R), axes z, y, x, that ``words`` hold. On the CPU.

    Raises:
        InputError: wrong shape or dtype.
    """
    check_words(words, resolution)
    grid = unpack_blocks(words.cpu().numpy()[None], padded_side(resolution))[0]
    return torch.from_numpy(np.ascontiguousarray(grid[:resolution, :resolution, :resolution]))


def unpack_blocks(words: np.ndarray, side: int) -> np.ndarray:
    """Boolean cubes (N, S, S, S), axes z, y, x, of (N, W) words each; S is a power of two, at least 4."""
    across = side // 4
    ordered = np.ascontiguousarray(words[:, word_numbers(side)])
    bits = np.unpackbits(ordered.view(np.uint8), bitorder="little").view(bool)
    cubes = bits.reshape(len(words), across, across, across, 4, 4, 4).transpose(0, 1, 4, 2, 5, 3, 6)
    return cubes.reshape(len(words), side, side, side)


def word_numbers(side: int) -> np.ndarray:
    """The number (S/4, S/4, S/4) int64 of the word of every block of 4x4x4 voxels, axes z, y, x."""
    word, _ = axis_tables(side)
    x, y, z = word[:, ::4]
    return z[:, None, None] + y[:, None] + x


def axis_tables(side: int) -> tuple[np.ndarray, np.ndarray]:
    """What each coordinate adds to a voxel's word number, and to its bit number: two (3, S) int64, axes x, y, z."""
    coordinate = np.arange(side, dtype=np.int64)
    word, bit = np.zeros((3, side), np.int64), np.zeros((3, side), np.int64)
    for axis in range(3):
        for digit in range((side // 4).bit_length() - 1):
            word[axis] |= ((coordinate >> (2 + digit)) & 1) << (3 * digit + axis)
        bit[axis] = (coordinate & 3) << (2 * axis)
    return word, bit
