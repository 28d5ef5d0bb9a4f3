"""From a sparse volume to a grid's bytes: the topology, then the blocks' values. The inverse of `tree_reader`."""

from collections.abc import Callable, Iterator

import numpy as np

from voxfield.storage.vdb.layout import (
    ALL_BACKGROUND,
    ALL_MINUS,
    ALL_STORED,
    MASK_MINUS,
    MASK_ONE,
    MASK_TWO,
    ONE_VALUE,
    pack_mask,
)
from voxfield.storage.vdb.values import ValueCodec
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.vdb_tree import (
    LEAF_SIDE,
    LEAF_VOXELS,
    LOWER_ENTRIES,
    LOWER_SIDE,
    UPPER_ENTRIES,
    UPPER_SIDE,
    entry_offset,
    node_origin,
    unique_origins,
)

BlockValues = Callable[[slice], np.ndarray]
"""Gives the values (n, 8, 8, 8[, C]) of a volume's blocks at a slice of them."""


def packed_tree(
    volume: SparseVolume, codec: ValueCodec, blocks: BlockValues | None = None, at_once: int = 4096
) -> tuple[Iterator[bytes], Iterator[bytes]]:
    """The topology and the blocks' values of a volume, in pieces of at most ``at_once`` blocks.

    Args:
        volume: what is written.
        codec: how.
        blocks: gives values in place of the volume's own.
        at_once: at least 1; the fewer, the less memory.
    """
    return _topology(volume, codec), _blocks(volume, codec, blocks or volume.values.__getitem__, at_once)


def _topology(volume: SparseVolume, codec: ValueCodec) -> Iterator[bytes]:
    tiles = volume.tiles
    background = codec.encode(volume.background[None])[0].astype(codec.kind.dtype)
    yield np.int32(1).astype("<i4").tobytes() + background.tobytes()
    on_root = np.flatnonzero(tiles.sides == UPPER_SIDE)
    nodes = _Nodes(volume, codec)
    yield np.array([len(on_root), len(nodes.uppers)], dtype="<u4").tobytes()
    record = np.dtype([("origin", "<i4", 3), ("value", codec.kind.dtype, codec.kind.channels), ("active", "u1")])
    entries = np.zeros(len(on_root), dtype=record)
    # In the order of their origins, as OpenVDB keeps its root.
    on_root = on_root[np.lexsort(tiles.origins[on_root].T[::-1])]
    entries["origin"], entries["value"], entries["active"] = (
        tiles.origins[on_root],
        tiles.values[on_root],
        tiles.active[on_root],
    )
    yield entries.tobytes()
    for upper in range(len(nodes.uppers)):
        yield from nodes.pieces(upper)


class _Nodes:
    """The internal nodes of a volume: upper and lower ones, in the order of the tree, and what lies in each."""

    def __init__(self, volume: SparseVolume, codec: ValueCodec) -> None:
        tiles = volume.tiles
        self._codec = codec
        self._background = volume.background
        self._leaf_masks = pack_mask(volume.active.reshape(-1, LEAF_VOXELS))
        self._small = tiles.take(tiles.sides == LEAF_SIDE)
        self._large = tiles.take(tiles.sides == LOWER_SIDE)
        below = np.concatenate([volume.origins, self._small.origins])
        self._lowers, lower_of = unique_origins(node_origin(below, LOWER_SIDE))
        inside = np.concatenate([self._lowers, self._large.origins])
        self.uppers, upper_of = unique_origins(node_origin(inside, UPPER_SIDE))
        # The lower nodes are sorted by their origin, not yet by where they stand in their upper nodes; both orders are
        # that of (x, y, z), one upper node after another.
        order = np.lexsort((*self._lowers.T[::-1], upper_of[: len(self._lowers)]))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        self._lowers = self._lowers[order]
        lower_of = rank[lower_of]
        self._upper_begins = np.searchsorted(upper_of[: len(rank)][order], np.arange(len(self.uppers) + 1))
        leaf_of = lower_of[: len(volume.origins)]
        self._leaf_begins = np.searchsorted(leaf_of, np.arange(len(self._lowers) + 1))
        self._child_masks = _mask_rows(
            len(self._lowers), LOWER_ENTRIES, leaf_of, entry_offset(volume.origins, LOWER_SIDE, LEAF_SIDE)
        )
        self._small_of = _rows_by_node(lower_of[len(volume.origins) :])
        self._large_of = _rows_by_node(upper_of[len(rank) :])
        self._plain = {entries: self._plain_values(entries) for entries in (LOWER_ENTRIES, UPPER_ENTRIES)}

    def pieces(self, upper: int) -> Iterator[bytes]:
        """An upper node with everything below it."""
        begin, end = self._upper_begins[upper : upper + 2].tolist()
        child = np.zeros(UPPER_ENTRIES, dtype=np.bool_)
        child[entry_offset(self._lowers[begin:end], UPPER_SIDE, LOWER_SIDE)] = True
        yield self.uppers[upper].astype("<i4").tobytes()
        yield self._node(pack_mask(child[None]).tobytes(), self._large, self._large_of.get(upper), UPPER_SIDE)
        for lower in range(begin, end):
            leaves = slice(*self._leaf_begins[lower : lower + 2].tolist())
            yield (
                self._node(self._child_masks[lower].tobytes(), self._small, self._small_of.get(lower), LOWER_SIDE)
                + self._leaf_masks[leaves].tobytes()
            )

    def _node(self, child_mask: bytes, tiles: Tiles, rows: np.ndarray | None, side: int) -> bytes:
        """Masks and values of one internal node, whose tiles are ``tiles`` at ``rows``."""
        entry_side = LOWER_SIDE if side == UPPER_SIDE else LEAF_SIDE
        entries = (side // entry_side) ** 3
        if rows is None:
            return child_mask + bytes(entries // 8) + self._plain[entries]
        values = np.broadcast_to(self._background, (entries, *self._background.shape)).copy()
        on = np.zeros(entries, dtype=np.bool_)
        at = entry_offset(tiles.origins[rows], side, entry_side)
        values[at], on[at] = tiles.values[rows], tiles.active[rows]
        # Children stand as background, which adds no further inactive value to the node.
        return child_mask + pack_mask(on[None]).tobytes() + _encoded(values, on, self._background, self._codec)

    def _plain_values(self, entries: int) -> bytes:
        """The values of a node without tiles."""
        values = np.broadcast_to(self._background, (entries, *self._background.shape))
        return _encoded(values, np.zeros(entries, dtype=np.bool_), self._background, self._codec)


def _blocks(volume: SparseVolume, codec: ValueCodec, blocks: BlockValues, at_once: int) -> Iterator[bytes]:
    count, channels = len(volume.origins), volume.background.shape
    active = volume.active.reshape(count, LEAF_VOXELS)
    for start in range(0, count, at_once):
        part = slice(start, start + at_once)
        values = blocks(part).reshape(-1, LEAF_VOXELS, *channels)
        if codec.kind.dtype.kind == "b":
            record = np.dtype(
                [("mask", "u1", LEAF_VOXELS // 8), ("origin", "<i4", 3), ("values", "u1", LEAF_VOXELS // 8)]
            )
            leaves = np.empty(len(values), dtype=record)
            leaves["mask"], leaves["origin"] = pack_mask(active[part]), volume.origins[part]
            leaves["values"] = pack_mask(values)
            yield leaves.tobytes()
        else:
            yield _packed_chunk(values, active[part], volume.background, codec)


def _packed_chunk(values: np.ndarray, active: np.ndarray, background: np.ndarray, codec: ValueCodec) -> bytes:
    """Masks and values of leaves (N, 512[, C])."""
    masks = pack_mask(active)
    size = LEAF_VOXELS // 8
    parts: list[bytes] = []
    if not codec.masked:
        step = LEAF_VOXELS * codec.value_bytes
        raw = codec.encode(values.reshape(-1, *background.shape)).tobytes()
        for mask, run in zip(masks, codec.write_all(raw, range(step, len(raw) + 1, step)), strict=True):
            parts += [mask.tobytes(), bytes([ALL_STORED]), run]
        return b"".join(parts)
    codes, chosen = _leaf_codes(values, active, background)
    counts = np.bitwise_count(masks.view(np.uint64)).sum(axis=1, dtype=np.int64)
    # Leaves that are looked at one by one have nothing here.
    plain = codes != ALL_STORED
    ends = np.cumsum(counts * plain) * codec.value_bytes
    runs = codec.write_all(
        codec.encode(values[active if plain.all() else active & plain[:, None]]).tobytes(), ends.tolist()
    )
    heads = np.hstack([masks, codes[:, None].astype(np.uint8)]).tobytes()
    at = 0
    for row, (run, code) in enumerate(zip(runs, codes.tolist(), strict=True)):
        if code == ALL_STORED:
            parts += [heads[at : at + size], _encoded(values[row], active[row], background, codec)]
        elif code == MASK_MINUS:
            parts += [heads[at : at + size + 1], chosen[row].tobytes(), run]
        else:
            parts += [heads[at : at + size + 1], run]
        at += size + 1
    return b"".join(parts)


def _leaf_codes(values: np.ndarray, active: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the inactive values of many leaves are stored, where they are plus or minus the background.

    Returns:
        Codes (N,), `ALL_STORED` for leaves with other inactive values, which `_encoded` looks at one by one; and masks
        (N, 64) uint8 of the inactive voxels that are background.
    """
    same = _alike(values, background)
    codes = np.where((same | active).all(axis=1), ALL_BACKGROUND, ALL_STORED)
    chosen = np.zeros((len(values), LEAF_VOXELS // 8), dtype=np.uint8)
    rows = np.flatnonzero(codes == ALL_STORED)
    if len(rows):
        off = ~active[rows]
        outside = same[rows] & off
        inside = _alike(values[rows], np.negative(background)) & off
        known = (outside | inside | ~off).all(axis=1)
        codes[rows[known]] = np.where(outside.any(axis=1), MASK_MINUS, ALL_MINUS)[known]
        chosen[rows] = pack_mask(outside)
    return codes, chosen


def _encoded(values: np.ndarray, on: np.ndarray, background: np.ndarray, codec: ValueCodec) -> bytes:
    """The leading byte, inactive values and run of one node (entries[, C]) whose active entries are ``on``."""
    if not codec.masked:
        return bytes([ALL_STORED]) + codec.write(codec.encode(values).tobytes())
    code, first, second = _inactive_values(values[~on], background)
    if code == ALL_STORED:
        return bytes([code]) + codec.write(codec.encode(values).tobytes())
    parts = [bytes([code])]
    if code in {ONE_VALUE, MASK_ONE, MASK_TWO}:
        parts.append(_full(first, codec))
    if code == MASK_TWO:
        parts.append(_full(second, codec))
    if code in {MASK_MINUS, MASK_ONE, MASK_TWO}:
        parts.append(pack_mask((_alike(values, second) & ~on)[None]).tobytes())
    parts.append(codec.write(codec.encode(values[on]).tobytes()))
    return b"".join(parts)


def _inactive_values(values: np.ndarray, background: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """How the inactive values of a node are to be stored, and the two that they are."""
    minus = np.logical_not(background) if background.dtype == np.bool_ else np.negative(background)
    distinct: list[np.ndarray] = []
    left = values
    while len(left) and len(distinct) < 3:
        distinct.append(left[0])
        left = left[~_alike(left, left[0])]
    others = [one for one in distinct if not _alike(one[None], background)[0]]
    if len(distinct) > 2:
        return ALL_STORED, background, background
    if not others:
        return ALL_BACKGROUND, background, background
    if len(others) == 2:
        return MASK_TWO, others[0], others[1]
    is_minus = bool(_alike(others[0][None], minus)[0])
    if len(distinct) == 1:
        return (ALL_MINUS if is_minus else ONE_VALUE), others[0], background
    return (MASK_MINUS if is_minus else MASK_ONE), others[0], background


def _alike(values: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Where values (..., [C]) are ``one``, () or (C,), in every channel. NaN is alike NaN, and 0 is alike -0."""
    same = values == one
    if values.dtype.kind == "f" and np.isnan(one).any():
        same |= np.isnan(values) & np.isnan(one)
    return same.all(axis=-1) if one.shape else same


def _full(value: np.ndarray, codec: ValueCodec) -> bytes:
    """One value as it stands outside of runs: rounded as in a run, in full width."""
    return codec.encode(value[None]).astype(codec.kind.dtype).tobytes()


def _mask_rows(count: int, entries: int, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(count, entries / 8) uint8: masks whose bits at ``offsets`` of ``rows`` are set."""
    masks = np.zeros((count, entries // 8), dtype=np.uint8)
    np.bitwise_or.at(masks, (rows, offsets >> 3), np.uint8(1) << (offsets & 7).astype(np.uint8))
    return masks


def _rows_by_node(nodes: np.ndarray) -> dict[int, np.ndarray]:
    """Node -> the rows that name it."""
    order = np.argsort(nodes, kind="stable")
    names, begins = np.unique(nodes[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, begins[1:]), strict=True)) if len(names) else {}
