"""Writing NanoVDB files: grids of floats, or of vectors of three, as one block of memory each, which GPU viewers upload
as it is.

A file is a header; for every grid a record of 176 bytes and its name; then the grids, raw or packed by zlib. A grid is
its header, transform and tree header, the root and its table, then all upper, lower and leaf nodes, one level after the
other; nodes name their children by their distance in bytes. Little-endian, as NanoVDB.h of OpenVDB 10 and newer lays it
out (ABI 32, https://github.com/AcademySoftwareFoundation/openvdb, nanovdb/NanoVDB.h).
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np

from voxfield.checks import check_choice
from voxfield.errors import InputError
from voxfield.storage.atomic import replacing
from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.layout import pack_mask
from voxfield.storage.vdb.transform import packed_transform
from voxfield.voxels.vdb_tree import (
    LEAF_SIDE,
    LEAF_VOXELS,
    LOWER_ENTRIES,
    LOWER_SIDE,
    UPPER_ENTRIES,
    UPPER_SIDE,
    NodeIndex,
    entry_offset,
    node_origin,
)

NanoCompression = Literal["none", "zip"]

_MAGIC: Final = b"NanoVDB0"
_VERSION: Final = 32 << 21 | 3 << 10 | 3  # 32.3.3, that of OpenVDB 10; what is newer reads it
_CODECS: Final = {"none": 0, "zip": 1}
_CLASSES: Final = {"unknown": 0, "level set": 1, "fog volume": 2, "staggered": 3}
_HAS_BOX, _HAS_RANGE, _BREADTH_FIRST = 2, 4, 32
_NO_CHECKSUM: Final = 2**64 - 1
_NAME_BYTES: Final = 256
_NODES_AT_ONCE: Final = 256

_BOX: Final = [("box_low", "<i4", 3), ("box_high", "<i4", 3)]


@dataclass(frozen=True)
class _Layout:
    """How NanoVDB lays out a tree of one type of values."""

    channels: tuple[int, ...]
    """() of floats, (3,) of vectors."""
    number: int
    """NanoVDB's of the type."""
    leaf: np.dtype
    lower: np.dtype
    upper: np.dtype
    root: np.dtype
    tile: np.dtype

    @classmethod
    def of(cls, channels: tuple[int, ...], number: int) -> "_Layout":
        value = ("<f4", channels)
        ends = [("low", *value), ("high", *value), ("mean", "<f4"), ("deviation", "<f4")]
        before = [("box_low", "<i4", 3), ("box_size", "u1", 3), ("flags", "u1"), ("on", "u1", 64), *ends]
        leaf = [*_padded(before), ("values", "<f4", (LEAF_VOXELS, *channels))]
        # A table's entries hold a value's bits or the distance to a child, in one or two words.
        words = -(-_bytes([("value", *value)]) // 8)
        lower, upper = (
            [
                *_padded([*_BOX, ("flags", "<u8"), ("on", "u1", count // 8), ("children", "u1", count // 8), *ends]),
                ("table", "<i8", (count, words)),
            ]
            for count in (LOWER_ENTRIES, UPPER_ENTRIES)
        )
        root = _padded([*_BOX, ("tiles", "<u4"), ("background", *value), *ends])
        tile = _padded([("key", "<u8"), ("child", "<i8"), ("state", "<u4"), ("value", *value)])
        return cls(channels, number, *map(np.dtype, (leaf, lower, upper, root, tile)))


def _bytes(fields: list[Any]) -> int:
    return np.dtype(fields).itemsize


def _padded(fields: list[Any]) -> list[Any]:
    """``fields``, filled up to a whole number of 32 bytes, to which NanoVDB aligns."""
    return [*fields, ("pad", f"V{left}")] if (left := -_bytes(fields) % 32) else fields


_LAYOUTS: Final = {layout.channels: layout for layout in (_Layout.of((), 1), _Layout.of((3,), 6))}
_GRID_BYTES: Final = 672
_TREE_BYTES: Final = 64
_RECORD_BYTES: Final = 176


def write_nanovdb(
    path: str | os.PathLike[str], grids: VdbGrid | Sequence[VdbGrid], *, compression: NanoCompression = "none"
) -> Path:
    """Write grids of floats or of vectors of three floats to a NanoVDB file, which appears whole or not at all.

    Active states, values, tiles, backgrounds and transforms are kept exactly; each node has its box and, of floats, its
    range of active values. Metadata are left out, as the format has no place for them.

    Args:
        path: the file to make or replace, usually ``.nvdb``.
        grids: one or several, of float32 or float16 values (written as float32), without or with three channels.
        compression: ``none``, which viewers map into memory, or ``zip``.

    Returns:
        The path.

    Raises:
        InputError: values of another type, or vectors of another length; a name of more than 255 bytes; a transform
            that is none.
        OSError: the file cannot be written; what was there before stays.
    """
    check_choice("compression", compression, _CODECS)
    listed = [grids] if isinstance(grids, VdbGrid) else list(grids)
    if not 0 < len(listed) < 2**16:
        raise InputError(f"grids: expected 1 to 65,535 of them, got {len(listed)}.")
    trees = [_Tree(grid, number, len(listed)) for number, grid in enumerate(listed)]
    with replacing(path) as temporary, temporary.open("wb") as stream:
        stream.write(_MAGIC + struct.pack("<IHH", _VERSION, len(listed), _CODECS[compression]))
        at = stream.tell()
        stream.write(b"".join(tree.record(0, compression) for tree in trees))
        sizes = [_write_tree(stream, tree, compression) for tree in trees]
        stream.seek(at)
        stream.write(b"".join(tree.record(size, compression) for tree, size in zip(trees, sizes, strict=True)))
    return Path(path)


def _write_tree(stream: BinaryIO, tree: "_Tree", compression: NanoCompression) -> int:
    """Write one grid; its bytes in the file."""
    begin = stream.tell()
    if compression == "none":
        stream.writelines(tree.pieces())
        return stream.tell() - begin
    stream.write(bytes(8))
    engine = zlib.compressobj(6)
    stream.writelines(engine.compress(piece) for piece in tree.pieces())
    stream.write(engine.flush())
    end = stream.tell()
    stream.seek(begin)
    stream.write(struct.pack("<Q", end - begin - 8))
    stream.seek(end)
    return end - begin


@dataclass(frozen=True, kw_only=True)
class _Level:
    """What lies in the nodes of one level: rows of nodes, and where in them."""

    origins: np.ndarray
    """(N, 3) int32, in the order of the tree."""
    low: np.ndarray
    """(N, 3) int64: smallest active voxel, or the origin."""
    high: np.ndarray
    """(N, 3) int64: largest active voxel, or the origin."""
    least: np.ndarray
    """(N,) float32: least active value, or the background; of vectors (N, 3), the background."""
    most: np.ndarray
    active: np.ndarray
    """(N,) bool: whether anything in it is."""


class _Tree:
    """One grid laid out."""

    def __init__(self, grid: VdbGrid, number: int, count: int) -> None:
        volume = grid.volume
        if volume.channels not in _LAYOUTS or volume.values.dtype not in (np.float32, np.float16):
            raise InputError(
                f"grid {grid.name!r}: NanoVDB grids are written of float32 or float16 numbers, or three of them, got "
                f"{volume.values.dtype} with channels {volume.channels}. Convert it, or name other grids."
            )
        self._name = grid.name.encode("utf-8", "surrogateescape")
        if len(self._name) >= _NAME_BYTES or b"\0" in self._name:
            raise InputError(f"grid {grid.name[:60]!r}: expected a name of at most 255 bytes.")
        packed_transform(grid.index_to_world)  # raises unless it is a usable matrix
        self._grid, self._volume, self._number, self._count = grid, volume, number, count
        self._layout = _LAYOUTS[volume.channels]
        self._background = np.asarray(volume.background, dtype=np.float32)
        tiles = volume.tiles
        self._tile_rows = {side: np.flatnonzero(tiles.sides == side) for side in (LEAF_SIDE, LOWER_SIDE, UPPER_SIDE)}
        self._leaves = self._leaf_level()
        self._lowers = self._above(self._leaves, LEAF_SIDE, LOWER_SIDE)
        self._uppers = self._above(self._lowers, LOWER_SIDE, UPPER_SIDE)
        self._roots = len(self._uppers.origins) + len(self._tile_rows[UPPER_SIDE])
        begin = _GRID_BYTES + _TREE_BYTES
        self._root_at = begin
        layout = self._layout
        self._upper_at = self._root_at + layout.root.itemsize + self._roots * layout.tile.itemsize
        self._lower_at = self._upper_at + len(self._uppers.origins) * layout.upper.itemsize
        self._leaf_at = self._lower_at + len(self._lowers.origins) * layout.lower.itemsize
        self._size = self._leaf_at + len(self._leaves.origins) * layout.leaf.itemsize

    def record(self, size: int, compression: NanoCompression) -> bytes:
        """What stands of the grid before all grids; ``size`` is that of its bytes in the file."""
        low, high = self._box()
        head = struct.pack(
            "<4Q2I",
            self._size,
            size,
            _name_key(self._name),
            self._volume.active_count,
            self._layout.number,
            _CLASSES[self._grid.grid_class],
        )
        boxes = self._world_box().tobytes() + np.concatenate([low, high]).astype("<i4").tobytes()
        counts = [len(level.origins) for level in (self._leaves, self._lowers, self._uppers)]
        tail = struct.pack(
            "<I4I3I2HI", len(self._name) + 1, *counts, 1, *self._active_tiles(), _CODECS[compression], 0, _VERSION
        )
        return head + boxes + self._voxel_size().tobytes() + tail + self._name + b"\0"

    def pieces(self) -> Iterator[bytes]:
        """The grid, some of it at a time."""
        yield self._grid_header()
        yield self._tree_header()
        yield self._root()
        for start in range(len(self._uppers.origins)):
            yield self._nodes(start, start + 1, self._uppers, self._lowers, UPPER_SIDE)
        for start in range(0, len(self._lowers.origins), _NODES_AT_ONCE):
            yield self._nodes(start, start + _NODES_AT_ONCE, self._lowers, self._leaves, LOWER_SIDE)
        for start in range(0, len(self._leaves.origins), 16 * _NODES_AT_ONCE):
            yield self._leaf_nodes(slice(start, start + 16 * _NODES_AT_ONCE))

    def _leaf_level(self) -> _Level:
        """Boxes and ranges of the leaves."""
        volume = self._volume
        origins = volume.origins.astype(np.int64)
        active: np.ndarray = np.asarray(volume.active.any(axis=(1, 2, 3)))
        low, high = origins.copy(), origins.copy()
        for axis in range(3):
            along = np.asarray(volume.active.any(axis=tuple(1 + other for other in range(3) if other != axis)))
            low[:, axis] += np.where(active, along.argmax(axis=1), 0)
            high[:, axis] += np.where(active, LEAF_SIDE - 1 - along[:, ::-1].argmax(axis=1), 0)
        if volume.channels:
            return self._level(volume.origins, low, high, self._background, self._background, active)
        with np.errstate(invalid="ignore"):
            least = np.fmin.reduce(np.where(volume.active, volume.values, np.inf), axis=(1, 2, 3))
            most = np.fmax.reduce(np.where(volume.active, volume.values, -np.inf), axis=(1, 2, 3))
        return self._level(volume.origins, low, high, least, most, active)

    def _level(
        self,
        origins: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        least: np.ndarray,
        most: np.ndarray,
        active: np.ndarray,
    ) -> _Level:
        """A level, whose nodes without anything active have the background's range."""
        return _Level(
            origins=origins,
            low=np.where(active[:, None], low, origins),
            high=np.where(active[:, None], high, origins),
            least=self._where(active, least),
            most=self._where(active, most),
            active=active,
        )

    def _where(self, active: np.ndarray, values: np.ndarray) -> np.ndarray:
        """``values``, one of each node or one for all, where nodes are ``active`` (N,), else the background."""
        some = active.reshape(-1, *[1] * len(self._layout.channels))
        return np.where(some, values, self._background).astype(np.float32)

    def _above(self, below: _Level, entry_side: int, side: int) -> _Level:
        """The nodes that hold those of ``below`` and the tiles of their size."""
        tiles = self._volume.tiles.take(self._tile_rows[entry_side])
        inside = np.concatenate([below.origins, tiles.origins])
        origins = np.unique(node_origin(inside, side), axis=0)
        origins = origins[NodeIndex(origins, side).order]
        rows = NodeIndex(origins, side).find(inside)
        start = tiles.origins.astype(np.int64)
        on = np.concatenate([below.active, tiles.active])
        rows = rows[on]
        low, high = (np.full((len(origins), 3), end, dtype=np.int64) for end in (2**40, -(2**40)))
        np.minimum.at(low, rows, np.concatenate([below.low, start])[on])
        np.maximum.at(high, rows, np.concatenate([below.high, start + entry_side - 1])[on])
        active = np.zeros(len(origins), dtype=np.bool_)
        active[rows] = True
        if self._layout.channels:
            return self._level(origins.astype(np.int32), low, high, self._background, self._background, active)
        values = tiles.values.astype(np.float32)
        least, most = np.full(len(origins), np.inf, np.float32), np.full(len(origins), -np.inf, np.float32)
        np.fmin.at(least, rows, np.concatenate([below.least, values])[on])
        np.fmax.at(most, rows, np.concatenate([below.most, values])[on])
        return self._level(origins.astype(np.int32), low, high, least, most, active)

    def _leaf_nodes(self, rows: slice) -> bytes:
        volume, level = self._volume, self._leaves
        nodes = np.zeros(len(level.origins[rows]), dtype=self._layout.leaf)
        nodes["box_low"] = level.low[rows]
        nodes["box_size"] = level.high[rows] - level.low[rows]
        nodes["flags"] = np.where(level.active[rows], 2, 0)  # it has a box
        nodes["on"] = pack_mask(volume.active[rows].reshape(-1, LEAF_VOXELS))
        nodes["low"], nodes["high"] = level.least[rows], level.most[rows]
        nodes["values"] = volume.values[rows].reshape(-1, LEAF_VOXELS, *volume.channels)
        return nodes.tobytes()

    def _nodes(self, start: int, stop: int, level: _Level, below: _Level, side: int) -> bytes:
        """Internal nodes from ``start`` to ``stop`` of a level."""
        upper = side == UPPER_SIDE
        entry_side, layout = (LOWER_SIDE, self._layout.upper) if upper else (LEAF_SIDE, self._layout.lower)
        at, child_at = (self._upper_at, self._lower_at) if upper else (self._lower_at, self._leaf_at)
        child_bytes = self._layout.lower.itemsize if upper else self._layout.leaf.itemsize
        nodes = np.zeros(len(level.origins[start:stop]), dtype=layout)
        some = slice(start, stop)
        nodes["box_low"], nodes["box_high"] = level.low[some], level.high[some]
        nodes["low"], nodes["high"] = level.least[some], level.most[some]
        nodes["table"] = self._bits(self._background[None])[0]
        index = NodeIndex(level.origins[some], side)
        entries = layout["table"].shape[0]
        children, on = (np.zeros((len(nodes), entries), dtype=np.bool_) for _ in range(2))
        row = index.find(below.origins)
        found = np.flatnonzero(row >= 0)
        places = row[found], entry_offset(below.origins[found], side, entry_side)
        children[places] = True
        # A child's place leaves the second word of a vector's entry alone: nobody reads it.
        nodes["table"][(*places, 0)] = child_at + found * child_bytes - (at + (start + row[found]) * layout.itemsize)
        tiles = self._volume.tiles.take(self._tile_rows[entry_side])
        row = index.find(tiles.origins)
        found = np.flatnonzero(row >= 0)
        places = row[found], entry_offset(tiles.origins[found], side, entry_side)
        on[places] = tiles.active[found]
        nodes["table"][places] = self._bits(tiles.values[found].astype(np.float32))
        nodes["on"], nodes["children"] = pack_mask(on), pack_mask(children)
        return nodes.tobytes()

    def _root(self) -> bytes:
        tiles = self._volume.tiles.take(self._tile_rows[UPPER_SIDE])
        low, high = self._box()
        least, most = self._range()
        root = np.zeros(1, dtype=self._layout.root)
        root["box_low"], root["box_high"], root["tiles"] = low, high, self._roots
        root["background"], root["low"], root["high"] = self._background, least, most
        table = np.zeros(self._roots, dtype=self._layout.tile)
        nodes = len(self._uppers.origins)
        table["key"] = _root_keys(np.concatenate([self._uppers.origins, tiles.origins]))
        table["child"][:nodes] = self._upper_at + np.arange(nodes) * self._layout.upper.itemsize - self._root_at
        table["state"][nodes:] = tiles.active
        table["value"][nodes:] = tiles.values
        # Readers search them by their keys.
        return root.tobytes() + table[np.argsort(table["key"])].tobytes()

    def _tree_header(self) -> bytes:
        places = (self._leaf_at, self._lower_at, self._upper_at, self._root_at)
        counts = [len(level.origins) for level in (self._leaves, self._lowers, self._uppers)]
        offsets = (place - _GRID_BYTES for place in places)
        return struct.pack("<4q3I3IQ", *offsets, *counts, *self._active_tiles(), self._volume.active_count)

    def _grid_header(self) -> bytes:
        known = _HAS_BOX if self._layout.channels else _HAS_BOX | _HAS_RANGE
        flags = _BREADTH_FIRST | (known if self._volume.active_count else 0)
        head = struct.pack("<8sQ4IQ", _MAGIC, _NO_CHECKSUM, _VERSION, flags, self._number, self._count, self._size)
        matrix = np.asarray(self._grid.index_to_world, dtype=np.float64)
        turn, shift = matrix[:3, :3], matrix[:3, 3]
        map_ = b""
        for letter in ("<f4", "<f8"):
            with np.errstate(over="ignore"):
                map_ += (
                    np.concatenate([turn.ravel(), np.linalg.inv(turn).ravel(), shift, [1.0]]).astype(letter).tobytes()
                )
        tail = struct.pack("<2IqIIQQ", _CLASSES[self._grid.grid_class], self._layout.number, 0, 0, 0, 0, 0)
        name = self._name.ljust(_NAME_BYTES, b"\0")
        return head + name + map_ + self._world_box().tobytes() + self._voxel_size().tobytes() + tail

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last active voxel; NanoVDB's empty box where there is none."""
        bounds = self._volume.active_bounds
        if bounds is None:
            return np.full(3, 2**31 - 1), np.full(3, -(2**31))
        return bounds[0], bounds[1] - 1

    def _world_box(self) -> np.ndarray:
        """(6,) float64: the box of the active voxels' cells in the world."""
        bounds = self._volume.active_bounds
        if bounds is None:
            return np.zeros(6)
        ends = np.stack(bounds).astype(np.float64)
        corners = np.array([[ends[a, 0], ends[b, 1], ends[c, 2], 1.0] for a, b, c in np.ndindex(2, 2, 2)])
        world = (corners @ np.asarray(self._grid.index_to_world, np.float64).T)[:, :3]
        return np.concatenate([world.min(axis=0), world.max(axis=0)])

    def _voxel_size(self) -> np.ndarray:
        return np.asarray(np.linalg.norm(np.asarray(self._grid.index_to_world, np.float64)[:3, :3], axis=0))

    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        found = None if self._layout.channels else self._volume.active_range()
        if found is None:
            return self._background, self._background
        return np.asarray(found[0], np.float32), np.asarray(found[1], np.float32)

    def _bits(self, values: np.ndarray) -> np.ndarray:
        """(N, words) int64: float32 values or vectors as a node's table holds them."""
        held = np.zeros((len(values), self._layout.lower["table"].shape[1] * 2), dtype="<f4")
        width = math.prod(self._layout.channels)
        held[:, :width] = values.reshape(len(values), width)
        return held.view("<i8")

    def _active_tiles(self) -> list[int]:
        """How many active tiles lie in lower nodes, in upper nodes and in the root."""
        active = self._volume.tiles.active
        return [int(np.count_nonzero(active[self._tile_rows[side]])) for side in (LEAF_SIDE, LOWER_SIDE, UPPER_SIDE)]


def _root_keys(origins: np.ndarray) -> np.ndarray:
    """(N,) uint64: 21 bits of each coordinate's place among the upper nodes, x highest."""
    x, y, z = (origins.astype(np.int64) & 0xFFFFFFFF).astype(np.uint64).T >> np.uint64(12)
    return np.asarray(z | y << np.uint64(21) | x << np.uint64(42))


def _name_key(name: bytes) -> int:
    """NanoVDB's hash of a grid's name."""
    key = 0
    for letter in name:
        key = (key * 67 + letter + (key >> 56)) & (2**64 - 1)
    return key
