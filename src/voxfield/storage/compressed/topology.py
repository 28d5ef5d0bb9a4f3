"""Where the leaves of a grid are, as bytes, and which leaf lies beside which.

Leaves are to cubes of 8³ leaves what voxels are to leaves: the same coder codes which of them there are. The cubes are
listed.
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from voxfield.errors import FormatError, InputError
from voxfield.kernels.block_code import EARLIER, decode_states, encode_states
from voxfield.storage.compressed.layout import (
    damaged,
    inflated,
    packed_parts,
    packed_places,
    unpacked_parts,
    unpacked_places,
)
from voxfield.voxels.vdb_tree import COORDINATE_MIN, LEAF_SIDE, LEAF_VOXELS, NodeIndex, unique_origins

CUBE_SIDE = LEAF_SIDE * LEAF_SIDE
"""Voxels along a cube of leaves."""


def earlier_neighbours(origins: np.ndarray, side: int) -> np.ndarray:
    """(N, 13) int32: for each block the rows of those around it, where they are listed before it; else -1.

    Args:
        origins: (N, 3) int32, no two alike.
        side: of the blocks.
    """
    count = len(origins)
    found = np.full((count, len(EARLIER)), -1, dtype=np.int32)
    if not count:
        return found
    keys = _sortable(origins)
    order = np.argsort(keys, kind="stable")
    for column, step in enumerate(EARLIER):
        beside = origins.astype(np.int64) + side * np.array(step)
        inside = ((beside >= COORDINATE_MIN) & (beside < -COORDINATE_MIN)).all(axis=1)
        wanted = _sortable(beside)
        at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), count - 1)]
        found[:, column] = np.where(inside & (keys[at] == wanted), at, -1)
    found[found >= np.arange(count)[:, None]] = -1
    return found


LeafGuess = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From the origins of cubes: hints (cubes, 512) as of `encode_states`, and the rising places of unsure ones."""


def packed_topology(origins: np.ndarray, guess: LeafGuess | None = None) -> bytes:
    """Leaves at ``origins`` (N, 3), in any order, as bytes; ``guess`` is what a network says of leaves."""
    cubes, which = unique_origins(origins & -CUBE_SIDE)
    states = np.zeros((len(cubes), LEAF_VOXELS), dtype=np.uint8)
    states[which, _places(origins)] = 1
    hints, told = None, b""
    if guess is not None:
        hints, unsure = guess(cubes)
        hints, told = told_hints(hints, unsure), packed_told(states, unsure)
    coded = encode_states(states, earlier_neighbours(cubes, CUBE_SIDE), hints)
    steps = np.diff(cubes.astype(np.int64) // CUBE_SIDE, axis=0, prepend=0).astype("<i4")
    return packed_parts([zlib.compress(steps.T.tobytes(), 9), coded, told])


def unpacked_topology(raw: bytes, count: int, guess: LeafGuess | None, where: str) -> np.ndarray:
    """The inverse of `packed_topology`: origins (N, 3) int32 in the order of the tree.

    Args:
        raw: the bytes.
        count: of cubes.
        guess: as it was packed with.
        where: begins the message of errors.

    Raises:
        FormatError: the bytes are damaged.
    """
    packed, coded, told = unpacked_parts(raw, 3, where)
    cubes = _cubes(packed, count, where)
    hints = None if guess is None else guess(cubes)[0]
    states = decode_told_states(coded, earlier_neighbours(cubes, CUBE_SIDE), hints, told, where)
    rows, places = np.nonzero(states & 1)
    local = np.stack([places >> 6, places >> 3 & 7, places & 7], axis=-1) * LEAF_SIDE
    origins = (cubes[rows] + local).astype(np.int32)
    return origins[NodeIndex(origins, LEAF_SIDE).order]


def _cubes(packed: bytes, count: int, where: str) -> np.ndarray:
    """Origins (count, 3) int32 of the cubes, sorted."""
    steps = np.frombuffer(inflated(packed, 12 * count, where), dtype="<i4").reshape(3, count).T
    cubes = np.cumsum(steps.astype(np.int64), axis=0) * CUBE_SIDE
    fits = ((cubes >= COORDINATE_MIN) & (cubes < -COORDINATE_MIN)).all()
    cubes = cubes.astype(np.int32)
    if not fits or (np.diff(np.lexsort(cubes.T[::-1])) != 1).any() or len(unique_origins(cubes)[0]) != count:
        raise damaged(where)
    return cubes


def leaf_centres(cubes: np.ndarray) -> np.ndarray:
    """(cubes, 512, 3) float64: the middle, in index coordinates, of every leaf that a cube may have."""
    places = np.arange(LEAF_VOXELS)
    local = np.stack([places >> 6, places >> 3 & 7, places & 7], axis=-1) * LEAF_SIDE
    return cubes[:, None].astype(np.float64) + local + (LEAF_SIDE - 1) / 2


def told_hints(hints: np.ndarray, unsure: np.ndarray) -> np.ndarray:
    """Hints (N, 512), 0 at the places where another machine might see another one."""
    told = hints.copy()
    told.reshape(-1)[unsure] = 0
    return told


def packed_told(states: np.ndarray, unsure: np.ndarray) -> bytes:
    """What a decoder must know beside its own hints: which are ``unsure``, and a checksum of the states."""
    return struct.pack("<I", zlib.crc32(states.tobytes())) + packed_places(unsure)


def decode_told_states(
    coded: bytes, neighbours: np.ndarray, hints: np.ndarray | None, told: bytes, where: str
) -> np.ndarray:
    """States (N, 512) from their code, this machine's ``hints``, and what `packed_told` says of these.

    Raises:
        FormatError: the bytes are damaged, or this machine's hints differ from the encoder's where they may not.
    """
    if hints is not None:
        hints = told_hints(hints, unpacked_places(told[4:], hints.size, where))
    try:
        states = decode_states(coded, neighbours, hints)
    except InputError:
        states = None
    if hints is not None and (states is None or struct.pack("<I", zlib.crc32(states.tobytes())) != told[:4]):
        raise FormatError(
            f"{where}: this machine computes the network's classes otherwise than the one that wrote the file, beyond "
            "the margin kept for that. Decompress it on another, or compress the source with the codec quantised."
        )
    if states is None:
        raise damaged(where)
    return states


def _places(origins: np.ndarray) -> np.ndarray:
    """(N,) offsets of leaves in their cubes."""
    x, y, z = (origins & (CUBE_SIDE - 1)).T // LEAF_SIDE
    return (x * LEAF_SIDE + y) * LEAF_SIDE + z


def _sortable(origins: np.ndarray) -> np.ndarray:
    """(N, 3) coordinates as (N,) byte strings that sort as (x, y, z) does."""
    shifted = (origins.astype(np.int64) - COORDINATE_MIN).astype(">u4")
    return np.ascontiguousarray(shifted).view("S12").reshape(-1)
