"""Turning blocks on a CPU, a word of 64 voxels at a time: a word's own voxels change places by swaps of bits."""

import numpy as np

from voxfield.kernels.cube_symmetry.symmetries import AXES, INVERSE, SYMMETRIES
from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split
from voxfield.kernels.voxel_words import axis_tables

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")
_AXES = np.array(AXES, np.int64)


def turn_blocks(words: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """See ``api.turn_blocks``."""
    turned = np.empty_like(words)
    places, far = _places(words.shape[1])
    run_split(
        _turn, len(words), words.view(np.uint64), symmetries, _AXES, places, far, turned.view(np.uint64), grain=64
    )
    return turned


def canonical_blocks(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See ``api.canonical_blocks``."""
    least, symmetries = np.empty_like(words), np.empty(len(words), np.uint8)
    places, far = _places(words.shape[1])
    run_split(
        _canonical,
        len(words),
        words.view(np.uint64),
        INVERSE,
        _AXES,
        places,
        far,
        least.view(np.uint64),
        symmetries,
        grain=64,
    )
    return least, symmetries


def _places(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (W, 3) int64 of a block's words, and what each adds to a word's number along x, y, z (S/4, 3)."""
    across = round(count ** (1 / 3))
    number, place = np.arange(count), np.zeros((count, 3), np.int64)
    for digit in range(across.bit_length() - 1):
        for axis in range(3):
            place[:, axis] |= (number >> (3 * digit + axis) & 1) << digit
    return place, np.ascontiguousarray(axis_tables(4 * across)[0][:, ::4].T)


@_jit
def _turned_bits(word, permutation, mirrored):
    """A word's 64 voxels mapped by a symmetry."""
    # Exchanges of two axes are transpositions of 4 x 4 matrices: of voxels (xy), of rows (yz), and across (xz).
    if permutation in (1, 4):
        word = _swap_yz(word)
    if permutation in (2, 3, 4):
        word = _swap_xy(word)
    if permutation == 3:
        word = _swap_yz(word)
    if permutation == 5:
        swapped = (word ^ (word >> np.uint64(15))) & np.uint64(0x0000AAAA0000AAAA)
        word ^= swapped ^ (swapped << np.uint64(15))
        swapped = (word ^ (word >> np.uint64(30))) & np.uint64(0x00000000CCCCCCCC)
        word ^= swapped ^ (swapped << np.uint64(30))
    if mirrored & 1:
        word = _reversed(word, np.uint64(1), np.uint64(0x1111111111111111))
    if mirrored & 2:
        word = _reversed(word, np.uint64(4), np.uint64(0x000F000F000F000F))
    if mirrored & 4:
        word = _reversed(word, np.uint64(16), np.uint64(0x000000000000FFFF))
    return word


@_jit
def _swap_xy(word):
    swapped = (word ^ (word >> np.uint64(3))) & np.uint64(0x0A0A0A0A0A0A0A0A)
    word ^= swapped ^ (swapped << np.uint64(3))
    swapped = (word ^ (word >> np.uint64(6))) & np.uint64(0x00CC00CC00CC00CC)
    return word ^ swapped ^ (swapped << np.uint64(6))


@_jit
def _swap_yz(word):
    swapped = (word ^ (word >> np.uint64(12))) & np.uint64(0x0000F0F00000F0F0)
    word ^= swapped ^ (swapped << np.uint64(12))
    swapped = (word ^ (word >> np.uint64(24))) & np.uint64(0x00000000FF00FF00)
    return word ^ swapped ^ (swapped << np.uint64(24))


@_jit
def _reversed(word, width, first):
    """Groups of four pieces of ``width`` bits in reverse order; ``first`` masks the first piece of each."""
    three = width + width + width
    second = first << width
    outer = ((word & first) << three) | ((word >> three) & first)
    return outer | ((word & second) << width) | ((word >> width) & second)


@_jit
def _source(word, symmetry, axes, places, far):
    """The number of the word that a symmetry brings to word number ``word``."""
    last = len(far) - 1
    number = np.int64(0)
    for axis in range(3):
        place = places[word, axis]
        if symmetry >> axis & 1:
            place = last - place
        number += far[place, axes[symmetry >> 3, axis]]
    return number


@_jit
def _turn(start, stop, words, symmetries, axes, places, far, turned):
    for block in range(start, stop):
        symmetry = np.int64(symmetries[block])
        for word in range(words.shape[1]):
            source = words[block, _source(word, symmetry, axes, places, far)]
            turned[block, word] = _turned_bits(source, symmetry >> 3, symmetry & 7)


@_jit
def _canonical(start, stop, words, inverse, axes, places, far, least, symmetries):
    for block in range(start, stop):
        least[block] = words[block]
        symmetries[block] = 0
        for symmetry in range(1, SYMMETRIES):
            image = inverse[symmetry]
            # Most images are told apart by their first words; the others are not made.
            for word in range(words.shape[1]):
                source = words[block, _source(word, image, axes, places, far)]
                turned = _turned_bits(source, image >> 3, image & 7)
                if turned == least[block, word]:
                    continue
                if turned < least[block, word]:
                    least[block, word] = turned
                    for rest in range(word + 1, words.shape[1]):
                        source = words[block, _source(rest, image, axes, places, far)]
                        least[block, rest] = _turned_bits(source, image >> 3, image & 7)
                    symmetries[block] = symmetry
                break
