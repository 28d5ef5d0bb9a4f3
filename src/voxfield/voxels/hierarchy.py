"""Binary voxel grids as octrees of blocks, each different block kept once.

Level 0 is the whole grid of R voxels along each axis, level l has blocks of R / 2**l, the last level's blocks have
``min_resolution``. By default the tree is pruned: empty blocks are no nodes, and a full block is one without children.
``full_tree`` keeps every node: 37,449 for 128 voxels down to 4, level 0 included.

A block's name is the SHA-256 of its voxels as one byte each, 0 or 1, in C order of the axes z, y, x.

With ``symmetry`` blocks that are turned or mirrored images of one another are one block, kept in the form that
`voxfield.kernels.cube_symmetry` calls canonical; every node then says which of the 48 symmetries of the cube maps that
form onto what is there. Level 0 is always kept as it stands.

Equal blocks are found from the smallest up: the words are numbered, then the rows of eight numbers that make up a block
twice the size, and so on. No step looks at more than the blocks that are neither empty nor full.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from voxfield.checks import check_range
from voxfield.errors import FormatError, InputError
from voxfield.kernels.cube_symmetry import SYMMETRIES, canonical_blocks, turn_blocks
from voxfield.kernels.voxel_words import MAX_RESOLUTION, axis_tables, unpack_blocks, word_count, word_numbers
from voxfield.voxels.block_names import distinct_names

SMALLEST_BLOCK: Final = 4
"""Least ``min_resolution``: the voxels of a word."""
NODE: Final = np.dtype(
    [("level", "u1"), ("octant", "u1"), ("x", "<u2"), ("y", "<u2"), ("z", "<u2"), ("block", "<u4")], align=False
)
"""A node below level 0: its octant in its parent (x + 2 y + 4 z), its corner in voxels of the grid, and the number of
its block among those of its level."""

_EMPTY, _FULL = 0, 1
_CHUNK_BYTES = 1 << 26
"""Voxels, a byte each, that are spelled out at once."""


@dataclass(frozen=True, kw_only=True)
class BlockLevel:
    """The different blocks of a level, sorted by hash."""

    level: int
    """0 is the whole grid."""
    resolution: int
    """Voxels along each axis of a block."""
    hashes: np.ndarray
    """(U, 32) uint8."""
    words: np.ndarray
    """(U, W) int64, see `voxfield.kernels.voxel_words`."""

    def __post_init__(self) -> None:
        if self.hashes.shape != (len(self.words), 32) or self.hashes.dtype != np.uint8:
            raise InputError(f"hashes: expected ({len(self.words)}, 32) uint8, got {self.hashes.shape}.")
        if self.words.shape[1:] != (word_count(self.resolution),) or self.words.dtype != np.int64:
            raise InputError(f"words: expected (U, {word_count(self.resolution)}) int64, got {self.words.shape}.")


@dataclass(frozen=True, kw_only=True)
class BlockTree:
    """An object's octree."""

    resolution: int
    """Voxels along each axis of the grid: a power of two."""
    min_resolution: int
    """Voxels along each axis of the smallest blocks: a power of two, at least 4."""
    full_tree: bool
    """Whether empty blocks and the children of empty and full ones are nodes too."""
    nodes: np.ndarray
    """(N,) of `NODE`: all but level 0, by level, in Morton order within one."""
    levels: tuple[BlockLevel, ...]
    """One for each level; level 0 has one block, the grid itself."""
    symmetries: np.ndarray | None = None
    """(N,) uint8: for each node the symmetry that maps its block onto the voxels there, see
    `voxfield.kernels.cube_symmetry`; None where blocks lie as they are."""

    def __post_init__(self) -> None:
        turns = self.symmetries
        if turns is not None and (turns.shape != self.nodes.shape or turns.dtype != np.uint8):
            raise InputError(f"symmetries: expected {self.nodes.shape} uint8, got {turns.shape} {turns.dtype}.")

    def words_of(self, rows: np.ndarray) -> np.ndarray:
        """The voxels of some nodes of one level as they lie: words (n, W) int64.

        Args:
            rows: (n,) int64, at least one, the nodes' places in ``nodes``.

        Raises:
            FormatError: a node names a block or a symmetry that there is not.
        """
        level, numbers = int(self.nodes["level"][rows[0]]), self.nodes["block"][rows]
        kept = self.levels[level].words
        if int(numbers.max()) >= len(kept):
            raise FormatError(f"level {level}: a node names block {numbers.max()} of {len(kept)}.")
        if self.symmetries is None:
            return np.asarray(kept[numbers])
        turns = self.symmetries[rows]
        if int(turns.max()) >= SYMMETRIES:
            raise FormatError(f"level {level}: a node names symmetry {turns.max()} of {SYMMETRIES}.")
        return turn_blocks(kept[numbers], turns)


def check_resolutions(resolution: int, min_resolution: int) -> int:
    """How many levels there are from ``resolution`` to ``min_resolution``.

    Raises:
        InputError: no powers of two, out of range, or the wrong way round.
    """
    check_range("resolution", resolution, minimum=SMALLEST_BLOCK, maximum=MAX_RESOLUTION)
    check_range("min_resolution", min_resolution, minimum=SMALLEST_BLOCK, maximum=MAX_RESOLUTION)
    for name, value in (("resolution", resolution), ("min_resolution", min_resolution)):
        if value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            raise InputError(f"{name}: expected a power of two, got {value}. Take {below} or {min(2 * below, 1024)}.")
    if min_resolution > resolution:
        raise InputError(f"min_resolution: expected at most the resolution, {resolution}, got {min_resolution}.")
    return (resolution // min_resolution).bit_length()


def build_tree(
    words: np.ndarray, resolution: int, min_resolution: int, *, full_tree: bool = False, symmetry: bool = False
) -> BlockTree:
    """The octree of a grid.

    Args:
        words: (W,) int64, the grid's words.
        resolution: voxels along each axis of the grid, a power of two, 4 to 1024.
        min_resolution: voxels along each axis of the smallest blocks, a power of two, 4 to ``resolution``.
        full_tree: keep every node.
        symmetry: keep one block for all that it can be turned or mirrored into.

    Raises:
        InputError: wrong sizes.
    """
    depth = check_resolutions(resolution, min_resolution)
    if words.shape != (word_count(resolution),) or words.dtype != np.int64:
        raise InputError(f"words: expected ({word_count(resolution)},) int64, got {words.dtype} {words.shape}.")
    numbers = _number_blocks(words, resolution, min_resolution, depth)
    levels = [_block_level(words, resolution, 0, np.zeros(1, np.int64), symmetry=False)[0]]
    nodes, turns = [np.zeros(0, NODE)], [np.zeros(0, np.uint8)]
    # Places, in Morton order, of the blocks of the level above whose children are nodes.
    parents = np.zeros(1, np.int64)
    for level in range(1, depth):
        places = (8 * parents[:, None] + np.arange(8)).reshape(-1)
        found = numbers[level][places]
        if not full_tree:
            places, found = places[found != _EMPTY], found[found != _EMPTY]
        _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
        blocks, rank, turned = _block_level(words, resolution, level, places[first], symmetry=symmetry)
        levels.append(blocks)
        turns.append(turned[inverse])
        nodes.append(_nodes(level, resolution >> level, places, rank[inverse]))
        parents = places if full_tree else places[found != _FULL]
    return BlockTree(
        resolution=resolution,
        min_resolution=min_resolution,
        full_tree=full_tree,
        nodes=np.concatenate(nodes),
        levels=tuple(levels),
        symmetries=np.concatenate(turns) if symmetry else None,
    )


def _number_blocks(words: np.ndarray, resolution: int, min_resolution: int, depth: int) -> list[np.ndarray]:
    """For each level a number for every block: 0 empty, 1 full, and equal numbers for equal blocks."""
    mixed = (words != 0) & (words != -1)
    numbers = (words == -1).astype(np.int64)
    numbers[mixed] = np.unique(words[mixed], return_inverse=True)[1] + 2
    side, by_level = SMALLEST_BLOCK, []
    while True:
        if side >= min_resolution:
            by_level.append(numbers)
        if side == resolution:
            return by_level[::-1][:depth]
        rows = numbers.reshape(-1, 8)
        mixed = ~((rows == rows[:, :1]).all(1) & (rows[:, 0] <= _FULL))
        numbers = np.where(rows[:, 0] == _FULL, _FULL, _EMPTY)
        numbers[mixed] = _unique_rows(rows[mixed]) + 2
        side *= 2


def _unique_rows(rows: np.ndarray) -> np.ndarray:
    """For each row (M, 8) the number of its content among the different ones."""
    if not len(rows):
        return np.zeros(0, np.int64)
    # Pairs first: sorting single integers is many times quicker than comparing rows.
    while rows.shape[1] > 1:
        width = int(rows.max()) + 1
        pairs = rows[:, ::2] * width + rows[:, 1::2]
        rows = np.unique(pairs, return_inverse=True)[1].reshape(pairs.shape)
    return rows[:, 0]


def _block_level(
    words: np.ndarray, resolution: int, level: int, places: np.ndarray, *, symmetry: bool
) -> tuple[BlockLevel, np.ndarray, np.ndarray]:
    """The different blocks of a level, found at these places in Morton order, sorted by hash; and for each place its
    block's rank and symmetry.
    """
    blocks = words.reshape(8**level, -1)[places]
    turns = np.zeros(len(blocks), np.uint8)
    if symmetry:
        blocks, turns = canonical_blocks(blocks)
    hashes = hash_blocks(blocks)
    first, rank = distinct_names(hashes)
    level_blocks = BlockLevel(level=level, resolution=resolution >> level, hashes=hashes[first], words=blocks[first])
    return level_blocks, rank, turns


def hash_blocks(words: np.ndarray) -> np.ndarray:
    """SHA-256 (N, 32) uint8 of blocks (N, W): of their voxels as bytes in C order of z, y, x."""
    side = 4 * round(words.shape[1] ** (1 / 3))
    hashes = np.empty((len(words), 32), np.uint8)
    if side**3 > _CHUNK_BYTES:
        for index, block in enumerate(words):
            hashes[index] = np.frombuffer(_hash_layers(block, side), np.uint8)
        return hashes
    step = _CHUNK_BYTES // side**3
    for start in range(0, len(words), step):
        cubes = unpack_blocks(words[start : start + step], side).reshape(-1, side**3)
        digests = b"".join(hashlib.sha256(cube).digest() for cube in np.ascontiguousarray(cubes))
        hashes[start : start + step] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return hashes


def _hash_layers(block: np.ndarray, side: int) -> bytes:
    """The SHA-256 of one large block, four layers of voxels at a time."""
    sha, across = hashlib.sha256(), side // 4
    for numbers in word_numbers(side):
        bits = np.unpackbits(block[numbers].view(np.uint8), bitorder="little")
        sha.update(bits.reshape(across, across, 4, 4, 4).transpose(2, 0, 3, 1, 4).tobytes())
    return sha.digest()


def _nodes(level: int, side: int, places: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Records of the nodes at these places of a level."""
    nodes = np.zeros(len(places), NODE)
    nodes["level"], nodes["octant"], nodes["block"] = level, places & 7, blocks
    for axis, name in enumerate("xyz"):
        coordinate = np.zeros(len(places), np.int64)
        for digit in range(level):
            coordinate |= ((places >> (3 * digit + axis)) & 1) << digit
        nodes[name] = coordinate * side
    return nodes


def reassemble(tree: BlockTree, level: int) -> np.ndarray:
    """The grid's words (W,) from the nodes of one level, and from the full blocks of the levels above it.

    Raises:
        FormatError: a node names a block or a symmetry that there is not, or does not lie on its level's lattice.
    """
    words = np.zeros(word_count(tree.resolution), np.int64)
    if level == 0:
        words[:] = tree.levels[0].words[0]
        return words
    word_of, _ = axis_tables(tree.resolution)
    for depth in range(1, level + 1):
        rows, side = np.flatnonzero(tree.nodes["level"] == depth), tree.levels[depth].resolution
        if not len(rows):
            continue
        blocks = tree.words_of(rows)
        corners = np.stack([tree.nodes[name][rows] for name in "xyz"]).astype(np.int64)
        if (corners % side).any() or (corners >= tree.resolution).any():
            raise FormatError(f"level {depth}: a node does not lie on the lattice of {side} voxels.")
        if depth < level:
            # Nothing below a full block is a node of a pruned tree.
            whole = (blocks == -1).all(1) & (not tree.full_tree)
            blocks, corners = blocks[whole], corners[:, whole]
        at = word_of[0, corners[0]] + word_of[1, corners[1]] + word_of[2, corners[2]]
        words[at[:, None] + np.arange(blocks.shape[1])] = blocks
    return words


def check_tree(tree: BlockTree) -> None:
    """Raise unless every level reassembles to level 0 and every block has the content that its name says.

    Raises:
        FormatError: naming the level.
    """
    for blocks in tree.levels:
        wrong = (hash_blocks(blocks.words) != blocks.hashes).any(1)
        if wrong.any():
            named = blocks.hashes[wrong][0].tobytes().hex()
            raise FormatError(f"level {blocks.level}: block {named} does not hold what its name says: it is damaged.")
    for level in range(1, len(tree.levels)):
        if not np.array_equal(reassemble(tree, level), tree.levels[0].words[0]):
            raise FormatError(f"level {level}: its blocks do not make up the object.")


def hexadecimal(hashes: Iterable[np.ndarray]) -> list[str]:
    """Hashes (32,) uint8 as texts of 64 digits."""
    return [one.tobytes().hex() for one in hashes]
