"""Opening compressed volumes: what is in them, whole grids, parts of one, single voxels."""

import base64
import binascii
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from voxfield.checks import nearest_names
from voxfield.errors import FormatError, InputError
from voxfield.kernels.threads import kernel_threads, run_tasks
from voxfield.storage.compressed.chunk import GridCode, Guess, decode_chunk
from voxfield.storage.compressed.layout import MOST_CHUNK_LEAVES, damaged, inflated, read_head
from voxfield.storage.compressed.network import GridNetwork, unpack_network
from voxfield.storage.compressed.quantiser import Quantiser
from voxfield.storage.compressed.topology import unpacked_topology
from voxfield.storage.vdb.cursor import Cursor
from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.layout import GRID_CLASSES, VALUE_TYPES, GridClass, ValueType
from voxfield.storage.vdb.metadata import read_metadata
from voxfield.storage.vdb.transform import read_transform
from voxfield.voxels.sparse import SparseVolume, Tiles, check_tiles
from voxfield.voxels.vdb_tree import LEAF_SIDE, LEAF_VOXELS, NodeIndex

MOST_BYTES: Final = 16 << 30
"""Memory that one grid may take unless a caller allows more: a small file may hold a huge grid."""
_KEPT_CHUNKS: Final = 8  # decoded ones, for voxels asked for one by one


@dataclass(frozen=True, kw_only=True)
class CompressedHeader:
    """A grid as its file lists it."""

    name: str
    type_name: str
    """As of `VdbHeader`."""
    half: bool
    grid_class: GridClass
    max_error: float
    """At most this far is an active value from what was compressed."""
    active_voxels: int
    leaves: int
    nbytes: int
    """In the file."""
    number: int
    """Its place in the list."""
    parent: str
    """Name of the grid whose voxels this one shares; empty where it has its own."""

    @property
    def kind(self) -> ValueType:
        """How its values are stored once it is unpacked."""
        return VALUE_TYPES[self.type_name]


@dataclass(frozen=True, kw_only=True)
class CompressedSummary:
    """What a file says of a grid without its voxels."""

    index_to_world: np.ndarray
    """(4, 4) float64."""
    metadata: dict[str, Any]
    background: np.ndarray
    """() or (C,)."""
    tiles: int
    """Constant cubes beside its leaves."""


class CompressedFile:
    """A compressed volume. Opening it reads what it lists.

    Args:
        path: the file.
        most_bytes: memory that one grid may take; larger ones are refused before any is taken.

    Attributes:
        path: the file.
        codec: ``quantised`` or ``neural``.
        metadata: of the file: name -> value.
        grids: every grid.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is none of these files, of another version, cut short or damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, most_bytes: int = MOST_BYTES) -> None:
        self.path = Path(path)
        self._most_bytes = most_bytes
        directory, self._begin = read_head(self.path)
        self._size = self.path.stat().st_size - self._begin
        try:
            self.codec = str(directory["codec"])
            self.metadata = read_metadata(self._cursor(directory["metadata"]))
            entries = directory["grids"]
            self._entries = [_Entry(self, number, entries) for number in range(len(entries))]
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise damaged(str(self.path)) from None
        self.grids = tuple(entry.header for entry in self._entries)
        self._opened: dict[int, CompressedGrid] = {}
        self._volumes: dict[int, SparseVolume] = {}

    def summary(self, name: CompressedHeader | str) -> CompressedSummary:
        """Transform, metadata and background of a grid; nothing of it is decoded. Raises as `open`."""
        entry = self._entries[self._number(name)]
        return CompressedSummary(
            index_to_world=entry.index_to_world,
            metadata=entry.metadata,
            background=entry.code.background,
            tiles=entry.tiles[2],
        )

    def open(self, name: CompressedHeader | str) -> "CompressedGrid":
        """A grid whose parts are decoded when they are asked for.

        Raises:
            InputError: there is no such grid, or there are several of the name.
            FormatError: it is damaged.
        """
        entry = self._entries[self._number(name)]
        if entry.data not in self._opened:
            self._opened[entry.data] = CompressedGrid(self, self._entries[entry.data])
        return self._opened[entry.data]

    def read(self, name: CompressedHeader | str) -> VdbGrid:
        """Decode one grid. Grids that were compressed as one share one volume object.

        Raises:
            InputError: as `open`.
            FormatError: it is damaged, or takes more memory than allowed.
        """
        entry = self._entries[self._number(name)]
        if entry.data not in self._volumes:
            self._volumes[entry.data] = self.open(name).read()
        return entry.grid(self._volumes[entry.data])

    def read_box(self, name: CompressedHeader | str, lower: Sequence[int], upper: Sequence[int]) -> VdbGrid:
        """Decode the leaves and tiles of one grid that share a voxel with [lower, upper), in index coordinates.

        Raises:
            InputError: as `open`, or an empty box.
            FormatError: it is damaged, or takes more memory than allowed.
        """
        entry = self._entries[self._number(name)]
        return entry.grid(self.open(name).read_box(lower, upper))

    def networks(self) -> dict[str, GridNetwork]:
        """The networks of those grids that have one, by name: where the next frame of an animation starts."""
        opened = {header.name: self.open(header).network for header in self.grids}
        return {name: network for name, network in opened.items() if network is not None}

    def section(self, at: int, length: int) -> bytes:
        """Bytes of the file behind its directory; read from it only if they can be there."""
        if not 0 <= at <= at + length <= self._size:
            raise damaged(str(self.path))
        with self.path.open("rb") as stream:
            stream.seek(self._begin + at)
            raw = stream.read(length)
        if len(raw) != length:
            raise damaged(str(self.path))
        return raw

    def check_memory(self, what: str, nbytes: int) -> None:
        """Raise if something would take more memory than allowed."""
        if nbytes > self._most_bytes:
            raise FormatError(
                f"{self.path}: {what} would take {nbytes / 1e9:.1f} GB of memory, more than "
                f"{self._most_bytes / 1e9:.1f}. If you trust the file, read a box of it, or raise most_bytes."
            )

    def _number(self, name: CompressedHeader | str) -> int:
        if isinstance(name, CompressedHeader):
            return name.number
        found = [header.number for header in self.grids if header.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{self.path}: has {len(found)} grids named {name!r}. Take one of its `grids` instead.")
        known = nearest_names(name, [header.name for header in self.grids]) if self.grids else "It has no grids."
        raise InputError(f"{self.path}: has no grid named {name!r}. {known}")

    def _cursor(self, text: str) -> Cursor:
        try:
            return Cursor(base64.b64decode(text, validate=True), self.path)
        except binascii.Error:
            raise damaged(str(self.path)) from None


class _Entry:
    """What the directory says of a grid, checked."""

    def __init__(self, file: CompressedFile, number: int, entries: list[dict[str, Any]]) -> None:
        said = entries[number]
        # The data of a grid that shares another's: that of the first of them.
        self.data = int(said.get("data_of", number))
        if not 0 <= self.data <= number or (self.data != number and "data_of" in entries[self.data]):
            raise damaged(str(file.path))
        data = entries[self.data]
        kind = VALUE_TYPES[said["type"]]
        self.half = bool(said["half"])
        dtype = np.dtype(np.float16) if said["float16"] else kind.dtype
        background = np.frombuffer(file._cursor(said["background"]).raw, dtype=dtype)
        self.code = GridCode(
            background=background.reshape(kind.channels).copy(),
            quantisers=tuple(_quantiser(one) for one in data["quantisers"]),
            max_error=_finite(data["max_error"]),
            half=self.half,
            margin=_finite(data["margin"]),
        )
        if len(self.code.quantisers) != background.size or (said["type"], self.half) != (data["type"], data["half"]):
            raise damaged(str(file.path))
        self.cubes, self.leaves = _count(data["cubes"]), _count(data["leaves"])
        self.topology, self.tiles = [_count(one) for one in data["topology"]], [_count(one) for one in data["tiles"]]
        self.network: dict[str, Any] | None = data["network"]
        if self.network is not None:
            self.network_section = [_count(one) for one in self.network["section"]]
            if len(self.network_section) != 2 or self.network["channels"] != background.size:
                raise damaged(str(file.path))
        self.chunks_at, self.chunks = _count(data["chunks_at"]), [_count(one) for one in data["chunks"]]
        lengths = sum(self.chunks)
        self.chunk_leaves = _count(data.get("chunk_leaves", MOST_CHUNK_LEAVES))  # files of version 1 do not say
        if not 1 <= self.chunk_leaves <= MOST_CHUNK_LEAVES:
            raise damaged(str(file.path))
        if len(self.chunks) != -(-self.leaves // self.chunk_leaves) or (len(self.topology), len(self.tiles)) != (2, 3):
            raise damaged(str(file.path))
        said_class = said["class"]
        self.index_to_world = read_transform(file._cursor(said["transform"]))
        self.metadata = read_metadata(file._cursor(said["metadata"]))
        self.header = CompressedHeader(
            name=str(said["name"]),
            type_name=kind.name,
            half=self.half,
            grid_class=cast(GridClass, said_class) if said_class in GRID_CLASSES else "unknown",
            max_error=self.code.max_error,
            active_voxels=_count(data["active"]),
            leaves=self.leaves,
            nbytes=lengths + self.topology[1] + self.tiles[1] if self.data == number else 0,
            number=number,
            parent="" if self.data == number else str(entries[self.data]["name"]),
        )

    def grid(self, volume: SparseVolume) -> VdbGrid:
        """A volume with the grid's name, place and metadata."""
        return VdbGrid(
            name=self.header.name,
            volume=volume,
            index_to_world=self.index_to_world,
            grid_class=self.header.grid_class,
            half=self.half,
            metadata=self.metadata,
        )


class CompressedGrid:
    """The data of a grid: where its leaves are is decoded at once, their voxels when they are asked for."""

    def __init__(self, file: CompressedFile, entry: _Entry) -> None:
        self._file, self._entry, self._code = file, entry, entry.code
        self._where = f"{file.path}: grid {entry.header.name!r}"
        self._kept: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        file.check_memory(f"grid {entry.header.name!r}", entry.cubes * LEAF_VOXELS * 2 + entry.leaves * 12)
        self.network = None if entry.network is None else self._read_network(entry.network)
        lower = entry.network is not None and bool(entry.network["lower_nodes"])
        guess = self.network.guess_leaves if self.network and lower else None
        self._origins = unpacked_topology(file.section(*entry.topology), entry.cubes, guess, self._where)
        if len(self._origins) != entry.leaves:
            raise damaged(self._where)
        self._index = NodeIndex(self._origins, LEAF_SIDE)
        self._tiles = self._read_tiles()
        self._shell = SparseVolume(
            origins=np.empty((0, 3), np.int32),
            values=np.empty((0, 8, 8, 8, *self._code.background.shape), self._code.background.dtype),
            active=np.empty((0, 8, 8, 8), np.bool_),
            background=self._code.background,
            tiles=self._tiles,
        )

    def read(self) -> SparseVolume:
        """All of it.

        Raises:
            FormatError: it is damaged, or takes more memory than allowed.
        """
        return self._leaves(np.arange(len(self._origins)), self._tiles)

    def read_box(self, lower: Sequence[int], upper: Sequence[int]) -> SparseVolume:
        """The leaves and tiles that share a voxel with [lower, upper); no other chunks are decoded.

        Raises:
            InputError: an empty box.
            FormatError: it is damaged, or takes more memory than allowed.
        """
        low, high = np.asarray(lower, dtype=np.int64), np.asarray(upper, dtype=np.int64)
        if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
            raise InputError(f"box: expected three lower coordinates below the upper ones, got {lower} and {upper}.")
        start, tile = self._origins.astype(np.int64), self._tiles.origins.astype(np.int64)
        rows = np.flatnonzero(((start < high) & (start + LEAF_SIDE > low)).all(axis=1))
        kept = ((tile < high) & (tile + self._tiles.sides[:, None] > low)).all(axis=1)
        return self._leaves(rows, self._tiles.take(kept))

    def values_at(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and states of any voxels, as of `SparseVolume.values_at`; only their chunks are decoded.

        The last few chunks are kept, so that voxels near each other cost little.
        """
        values, active = self._shell.values_at(coordinates)
        rows = self._index.find(coordinates.astype(np.int32))
        leaves = self._entry.chunk_leaves
        for number in np.unique(rows[rows >= 0] // leaves).tolist():
            decoded, on = self._chunk(number)
            here = np.flatnonzero((rows >= 0) & (rows // leaves == number))
            x, y, z = (coordinates[here] & (LEAF_SIDE - 1)).T
            at = rows[here] - number * leaves, x, y, z
            values[here], active[here] = decoded[at], on[at]
        return values, active

    def _leaves(self, rows: np.ndarray, tiles: Tiles) -> SparseVolume:
        """A volume of the leaves at ``rows``, which rise."""
        background = self._code.background
        self._file.check_memory("it", len(rows) * LEAF_VOXELS * (1 + background.nbytes))
        values = np.empty((len(rows), 8, 8, 8, *background.shape), background.dtype)
        active = np.empty((len(rows), 8, 8, 8), np.bool_)
        leaves = self._entry.chunk_leaves

        def decode(number: int, guess: Guess | None) -> None:
            here = np.flatnonzero(rows // leaves == number)
            decoded, on = self._decode(number, guess)
            local = rows[here] - number * leaves
            values[here], active[here] = decoded[local], on[local]

        numbers = np.unique(rows // leaves).tolist()
        # Networks use all threads by themselves, before the chunks that need their guesses share these.
        together = len(numbers) if self.network is None else kernel_threads()
        for start in range(0, len(numbers), max(1, together)):
            some = numbers[start : start + together]
            run_tasks([partial(decode, number, self._guess(number)) for number in some])
        return SparseVolume(
            origins=self._origins[rows], values=values, active=active, background=background, tiles=tiles
        )

    def _chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A chunk decoded, or kept from the last time."""
        if number not in self._kept:
            self._kept[number] = self._decode(number, self._guess(number))
        self._kept.move_to_end(number)
        while len(self._kept) > _KEPT_CHUNKS:
            self._kept.popitem(last=False)
        return self._kept[number]

    def _decode(self, number: int, guess: Guess | None) -> tuple[np.ndarray, np.ndarray]:
        entry = self._entry
        raw = self._file.section(entry.chunks_at + sum(entry.chunks[:number]), entry.chunks[number])
        return decode_chunk(raw, self._code, self._chunk_origins(number), self._where, guess=guess)

    def _guess(self, number: int) -> Guess | None:
        return None if self.network is None else self.network.guess(self._chunk_origins(number))

    def _chunk_origins(self, number: int) -> np.ndarray:
        leaves = self._entry.chunk_leaves
        return self._origins[number * leaves : (number + 1) * leaves]

    def _read_network(self, said: dict[str, Any]) -> GridNetwork:
        at, length = self._entry.network_section
        # In memory a network is its table in float32, of a byte each in the file before zlib.
        self._file.check_memory("its network", 1032 * 5 * length if length > 1 << 24 else 0)
        return unpack_network(self._file.section(at, length), said, self._where)

    def _read_tiles(self) -> Tiles:
        at, length, count = self._entry.tiles
        background = self._code.background
        # zlib packs to a thousandth at most.
        if count > 1032 * length // 16 + 1:
            raise damaged(self._where)
        packed = -(-count // 8)
        raw = inflated(self._file.section(at, length), count * (16 + background.nbytes) + packed, self._where)
        origins = np.frombuffer(raw, "<i4", 3 * count).reshape(count, 3).astype(np.int32)
        sides = np.frombuffer(raw, "<i4", count, 12 * count).astype(np.int32)
        active = np.unpackbits(np.frombuffer(raw, np.uint8, packed, 16 * count), count=count).view(np.bool_)
        values = np.frombuffer(raw, background.dtype, count * background.size, 16 * count + packed)
        tiles = Tiles(
            origins=origins, sides=sides, values=values.reshape(count, *background.shape).copy(), active=active
        )
        try:
            check_tiles(tiles)
        except InputError:
            raise damaged(self._where) from None
        return tiles


def _quantiser(said: dict[str, Any]) -> Quantiser:
    quantiser = Quantiser(offset=_finite(said["offset"]), step=_finite(said["step"]))
    if quantiser.step <= 0:
        raise ValueError("step")
    return quantiser


def _finite(value: Any) -> float:
    """A finite number of the directory, which is no text."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("number")
    return float(value)


def _count(value: Any) -> int:
    """A whole number of the directory, at least 0 and within 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError("count")
    return value


def read_compressed(
    path: str | os.PathLike[str], names: Sequence[str] | None = None, *, most_bytes: int = MOST_BYTES
) -> list[VdbGrid]:
    """Decode grids of a compressed volume.

    Args:
        path: the file.
        names: which ones, in this order; all of them where left out.
        most_bytes: memory that one grid may take.

    Raises:
        MissingFileError, FormatError: as `CompressedFile`.
        InputError: there is no grid of a name.
    """
    file = CompressedFile(path, most_bytes=most_bytes)
    return [file.read(one) for one in (file.grids if names is None else names)]
