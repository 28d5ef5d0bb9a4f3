"""From a grid's bytes to a sparse volume: first the topology (which nodes there are), then the blocks' values.

A node's values stand behind one byte that says how its inactive ones are to be had (`layout`). Nothing is allocated for
a count that the bytes left could not hold.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from voxfield.storage.vdb.cursor import Cursor
from voxfield.storage.vdb.layout import (
    ALL_BACKGROUND,
    ALL_MINUS,
    ALL_STORED,
    MASK_MINUS,
    MASK_ONE,
    MASK_TWO,
    ONE_VALUE,
    ValueType,
    unpack_mask,
)
from voxfield.storage.vdb.values import ValueCodec
from voxfield.voxels.sparse import SparseVolume, Tiles, bounds_of_active
from voxfield.voxels.vdb_tree import (
    COORDINATE_MAX,
    LEAF_SIDE,
    LEAF_VOXELS,
    LOWER_SIDE,
    UPPER_ENTRIES,
    UPPER_SIDE,
    entry_origins,
)

MOST_TILES: Final = 2**26
"""Tiles of one volume, of any side but the largest: they compress so well that a small file could hold very many."""
_LEAF_MASK: Final = LEAF_VOXELS // 8
_CHUNK: Final = 4096  # leaves decoded at a time


@dataclass(frozen=True, kw_only=True)
class Topology:
    """What a tree is made of, without the values of its blocks."""

    background: np.ndarray
    """() or (C,)."""
    origins: np.ndarray
    """(N, 3) int32 of the blocks, in the order of the tree."""
    masks: np.ndarray
    """(N, 64) uint8: which voxels are active."""
    tiles: Tiles

    @property
    def active_count(self) -> int:
        """Active voxels, those of tiles included."""
        sides = self.tiles.sides[self.tiles.active].tolist()
        return int(np.bitwise_count(self.masks).sum(dtype=np.int64)) + sum(side**3 for side in sides)

    @property
    def active_bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """As `SparseVolume.active_bounds`."""
        blocks = len(self.origins), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE
        return bounds_of_active(self.origins, unpack_mask(self.masks, LEAF_VOXELS).reshape(blocks), self.tiles)


class _Found:
    """Leaves and tiles below one entry of the root, as they are met."""

    def __init__(self) -> None:
        self.origins: list[np.ndarray] = []
        self.masks: list[bytes] = []
        self.tiles: list[Tiles] = []


def read_topology(cursor: Cursor, codec: ValueCodec) -> Topology:
    """The topology that stands next.

    Raises:
        VolumeFormatError: it ends too soon or contradicts itself.
    """
    kind = codec.kind
    (buffers,) = cursor.unpack("i")
    if buffers != 1:
        raise cursor.fault(f"{buffers} buffers per leaf, where 1 is known")
    background = _value(cursor, kind)
    tile_count, child_count = cursor.unpack("II")
    cursor.require(tile_count, 13 + kind.nbytes, "tiles")
    record = np.dtype([("origin", "<i4", 3), ("value", kind.dtype, kind.channels), ("active", "u1")])
    roots = np.frombuffer(cursor.take(tile_count * record.itemsize), dtype=record)
    cursor.require(child_count, 12 + 2 * UPPER_ENTRIES // 8 + 1, "nodes")
    below: dict[tuple[int, int, int], _Found] = {}
    constants = 0
    for _ in range(child_count):
        origin = cursor.unpack("3i")
        if origin in below:
            raise cursor.fault("two nodes at one place")
        below[origin] = _read_upper(cursor, codec, background, origin)
        constants += sum(map(len, below[origin].tiles))
        if constants > MOST_TILES:
            raise cursor.fault(f"more than {MOST_TILES:,} tiles")
    places = {*below, *map(tuple, roots["origin"].tolist())}
    if len(places) != child_count + tile_count or any(one % UPPER_SIDE for place in places for one in place):
        raise cursor.fault("nodes that overlap")
    # OpenVDB keeps its root sorted, and values follow in that order whatever that of the nodes here.
    ordered = [below[place] for place in sorted(below)]
    masks = np.frombuffer(b"".join(mask for one in ordered for mask in one.masks), dtype=np.uint8)
    root_tiles = Tiles(
        origins=roots["origin"].astype(np.int32),
        sides=np.full(tile_count, UPPER_SIDE, np.int32),
        values=roots["value"].astype(kind.dtype).reshape(-1, *kind.channels),
        active=roots["active"] != 0,
    )
    return Topology(
        background=background,
        origins=np.concatenate([np.empty((0, 3), np.int32), *(part for one in ordered for part in one.origins)]),
        masks=masks.reshape(-1, _LEAF_MASK),
        tiles=Tiles.joined([_telling(root_tiles, background), *(part for one in ordered for part in one.tiles)]),
    )


def read_blocks(cursor: Cursor, codec: ValueCodec, topology: Topology) -> SparseVolume:
    """The volume of ``topology``, whose blocks' values stand next.

    Raises:
        VolumeFormatError: they end too soon, or are damaged.
        MissingExtraError: they are compressed by Blosc, which is not installed.
    """
    count, channels = len(topology.origins), codec.kind.channels
    active = unpack_mask(topology.masks, LEAF_VOXELS)
    if codec.kind.dtype.kind == "b":
        values = _read_bits(cursor, codec.kind, count)
    else:
        cursor.require(count, _LEAF_MASK + 1, "blocks")
        values = np.empty((count, LEAF_VOXELS, *channels), dtype=codec.kind.dtype)
        for start in range(0, count, _CHUNK):
            part = slice(start, start + _CHUNK)
            _read_chunk(cursor, codec, topology.background, active[part], values[part])
    shape = (count, LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
    return SparseVolume(
        origins=topology.origins,
        values=values.reshape(shape + channels),
        active=active.reshape(shape),
        background=topology.background,
        tiles=topology.tiles,
    )


def _read_upper(cursor: Cursor, codec: ValueCodec, background: np.ndarray, origin: tuple[int, int, int]) -> _Found:
    """Everything below one upper node."""
    if max(origin) > COORDINATE_MAX + 1 - UPPER_SIDE or any(one % UPPER_SIDE for one in origin):
        raise cursor.fault(f"a node at {origin}")
    found = _Found()
    place = np.array(origin, dtype=np.int64)
    children = _read_node(cursor, codec, background, found, place, UPPER_SIDE, LOWER_SIDE)
    for lower in entry_origins(children, place, UPPER_SIDE, LOWER_SIDE):
        leaves = _read_node(cursor, codec, background, found, lower, LOWER_SIDE, LEAF_SIDE)
        found.origins.append(entry_origins(leaves, lower, LOWER_SIDE, LEAF_SIDE))
        found.masks.append(cursor.take(len(leaves) * _LEAF_MASK))
    return found


def _read_node(
    cursor: Cursor,
    codec: ValueCodec,
    background: np.ndarray,
    found: _Found,
    origin: np.ndarray,
    side: int,
    entry_side: int,
) -> np.ndarray:
    """Read one internal node: its tiles go to ``found``, the offsets of its children are returned."""
    entries = (side // entry_side) ** 3
    child_bits, value_bits = cursor.take(entries // 8), cursor.take(entries // 8)
    child = unpack_mask(child_bits, entries)[0]
    code = cursor.raw[cursor.skip(1)]
    if code == ALL_BACKGROUND and codec.masked and not any(value_bits):
        codec.read(cursor, 0)
        return np.flatnonzero(child)
    on = unpack_mask(value_bits, entries)
    values = np.empty((1, entries, *codec.kind.channels), dtype=codec.kind.dtype)
    _Nodes(cursor, codec, background, entries).read([int(on.sum())], on, values, first_code=code)
    rows = np.flatnonzero(~child)
    tiles = Tiles(
        origins=entry_origins(rows, origin, side, entry_side),
        sides=np.full(len(rows), entry_side, np.int32),
        values=values[0, rows],
        active=on[0, rows],
    )
    kept = _telling(tiles, background)
    if len(kept):
        found.tiles.append(kept)
    return np.flatnonzero(child)


def _telling(tiles: Tiles, background: np.ndarray) -> Tiles:
    """The tiles that are active or differ from the background."""
    differs = tiles.values != background
    return tiles.take(tiles.active | (differs.any(axis=-1) if background.shape else differs))


def _read_chunk(
    cursor: Cursor, codec: ValueCodec, background: np.ndarray, active: np.ndarray, values: np.ndarray
) -> None:
    """Fill ``values`` (N, 512[, C]) of leaves whose states are ``active`` (N, 512)."""
    _Nodes(cursor, codec, background, LEAF_VOXELS, mask_before=_LEAF_MASK).read(
        np.count_nonzero(active, axis=1).tolist(), active, values
    )


class _Nodes:
    """Reads the values of nodes that stand one after another."""

    def __init__(
        self, cursor: Cursor, codec: ValueCodec, background: np.ndarray, entries: int, mask_before: int = 0
    ) -> None:
        self._cursor = cursor
        self._codec = codec
        self._background = background
        self._minus = np.logical_not(background) if background.dtype == np.bool_ else np.negative(background)
        self._entries = entries
        self._mask_before = mask_before

    def read(self, counts: list[int], on: np.ndarray, values: np.ndarray, first_code: int | None = None) -> None:
        """Fill ``values`` (N, entries[, C]).

        Args:
            counts: of each node, how many of its entries are on.
            on: (N, entries) bool: active entries.
            values: to fill.
            first_code: the first node's leading byte, if it has been read already.
        """
        cursor, codec, masked = self._cursor, self._codec, self._codec.masked
        sparse_runs: list[bytes] = []
        full_rows: list[int] = []
        full_runs: list[bytes] = []
        inactive_rows: list[int] = []
        inactive: list[tuple[np.ndarray, np.ndarray, bytes]] = []
        for row, count in enumerate(counts):
            if first_code is None:
                code = cursor.raw[cursor.skip(self._mask_before + 1) + self._mask_before]
            else:
                code, first_code = first_code, None
            if code and code != ALL_STORED:
                inactive_rows.append(row)
                inactive.append(self._read_inactive(code))
            if masked and code != ALL_STORED:
                sparse_runs.append(codec.read(cursor, count))
            else:
                full_rows.append(row)
                full_runs.append(codec.read(cursor, self._entries))
        values[:] = self._background
        stored = on
        if full_rows:
            stored = on.copy()
            stored[full_rows] = False
            values[full_rows] = codec.decode(b"".join(full_runs)).reshape(-1, *values.shape[1:])
        if sparse_runs:
            values[stored] = codec.decode(b"".join(sparse_runs))
        if masked and inactive_rows:
            self._fill_inactive(inactive_rows, inactive, on, values)

    def _read_inactive(self, code: int) -> tuple[np.ndarray, np.ndarray, bytes]:
        """The two inactive values a node has, and the mask that chooses the second."""
        cursor, kind = self._cursor, self._codec.kind
        first, second, mask = self._minus, self._background, bytes(self._entries // 8)
        if code not in {ALL_MINUS, ONE_VALUE, MASK_MINUS, MASK_ONE, MASK_TWO}:
            raise cursor.fault(f"a node of kind {code}")
        if code in {ONE_VALUE, MASK_ONE, MASK_TWO}:
            first = _value(cursor, kind)
        if code == MASK_TWO:
            second = _value(cursor, kind)
        if code in {MASK_MINUS, MASK_ONE, MASK_TWO}:
            mask = cursor.take(self._entries // 8)
        return first, second, mask

    def _fill_inactive(
        self,
        rows: list[int],
        inactive: list[tuple[np.ndarray, np.ndarray, bytes]],
        on: np.ndarray,
        values: np.ndarray,
    ) -> None:
        channels = (1,) * len(self._codec.kind.channels)
        second = unpack_mask(b"".join(mask for _, _, mask in inactive), self._entries)
        chosen = np.where(
            second.reshape(second.shape + channels),
            np.stack([one for _, one, _ in inactive])[:, None],
            np.stack([one for one, _, _ in inactive])[:, None],
        )
        stored = on[rows].reshape(second.shape + channels)
        values[rows] = np.where(stored, values[rows], chosen)


def _read_bits(cursor: Cursor, kind: ValueType, count: int) -> np.ndarray:
    """(N, 512) bool of the leaves of a bool or mask grid, which have a layout of their own."""
    record = np.dtype([("mask", "u1", _LEAF_MASK), ("origin", "<i4", 3), ("values", "u1", _LEAF_MASK)])
    column = "values"
    if kind.name == "mask":
        record, column = np.dtype([("mask", "u1", _LEAF_MASK), ("origin", "<i4", 3)]), "mask"
    cursor.require(count, record.itemsize, "blocks")
    leaves = np.frombuffer(cursor.take(count * record.itemsize), dtype=record)
    return unpack_mask(np.ascontiguousarray(leaves[column]), LEAF_VOXELS)


def _value(cursor: Cursor, kind: ValueType) -> np.ndarray:
    """One value in full precision: () or (C,)."""
    raw = np.frombuffer(cursor.take(kind.nbytes), dtype=kind.dtype)
    return raw.reshape(kind.channels).copy()
