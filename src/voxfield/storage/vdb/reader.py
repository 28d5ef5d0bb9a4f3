"""Opening OpenVDB files: what is in them, and their grids, each loaded when it is asked for."""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np

from voxfield.checks import nearest_names
from voxfield.errors import InputError, MissingFileError, VolumeFormatError
from voxfield.storage.vdb.cursor import Cursor, CutShortError
from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.layout import (
    ACTIVE_MASK,
    BLOSC,
    COMPRESSED_MAGIC,
    GRID_CLASSES,
    HALF_SUFFIX,
    MAGIC,
    NAME_SEPARATOR,
    NEWEST_VERSION,
    OLDEST_VERSION,
    TREE_PREFIX,
    TREE_SUFFIX,
    UUID_BYTES,
    VALUE_TYPES,
    ZIP,
    GridClass,
    ValueType,
)
from voxfield.storage.vdb.metadata import read_metadata
from voxfield.storage.vdb.transform import read_transform
from voxfield.storage.vdb.tree_reader import Topology, read_blocks, read_topology
from voxfield.storage.vdb.values import ValueCodec
from voxfield.voxels.sparse import SparseVolume

_Parsed = TypeVar("_Parsed")
_MOST_HEADER_BYTES: Final = 1 << 28
"""Metadata of a file, or names of a grid, are read up to this size."""
_DERIVED: Final = {
    "name",
    "class",
    "is_saved_as_half_float",
    "file_bbox_min",
    "file_bbox_max",
    "file_compression",
    "file_delayed_load",
    "file_mem_bytes",
    "file_voxel_count",
}
"""Metadata that say what the grid's own fields say, or what is counted anew when it is written."""


@dataclass(frozen=True, kw_only=True)
class VdbHeader:
    """A grid as its file lists it."""

    name: str
    unique_name: str
    """The name with a number behind it where the file has several of that name, or none."""
    type_name: str
    """Such as ``float``, ``vec3s`` or, of kinds that are not read, the whole type."""
    half: bool
    """Whether values are stored in 16 bits."""
    parent: str
    """Unique name of the grid whose tree this one shares; empty where it has its own."""
    start: int
    """Where in the file its metadata, transform and topology begin."""
    blocks: int
    """Where the values of its blocks begin; the end of a grid that shares a tree."""
    end: int
    """One past its last byte."""

    @property
    def kind(self) -> ValueType | None:
        """How its values are stored; None of kinds that are not read (points, strings)."""
        return VALUE_TYPES.get(self.type_name)


@dataclass(frozen=True, kw_only=True)
class VdbSummary:
    """What a file says of a grid without its blocks' values."""

    index_to_world: np.ndarray
    """(4, 4) float64."""
    grid_class: GridClass
    metadata: dict[str, Any]
    compression: int
    """Bits, see `layout.compression_text`."""
    topology: Topology


class VdbFile:
    """An OpenVDB file. Opening it reads what it lists; `read` loads one grid, whatever the size of the others.

    Args:
        path: the file.

    Attributes:
        path: the file.
        version: of the format, such as 224.
        library: the release of OpenVDB that its writer names, such as (10, 0).
        uuid: of the content, as its writer gave it.
        metadata: of the file: name -> value.
        grids: every grid, also those of kinds that are not read.

    Raises:
        MissingFileError: there is no such file.
        VolumeFormatError: it is no OpenVDB file, of a version that is not read, cut short or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._volumes: weakref.WeakValueDictionary[int, SparseVolume] = weakref.WeakValueDictionary()
        try:
            self._size = self.path.stat().st_size
            (self.version, self.library, self._has_offsets, self.uuid, self.metadata, count), at = self._parse(
                0, 1 << 16, _read_header
            )
            self.grids = tuple(self._list_grids(count, at) if self._has_offsets else self._walk_grids(count, at))
        except FileNotFoundError:
            raise MissingFileError(f"{self.path}: there is no such file.") from None
        except IsADirectoryError:
            raise VolumeFormatError(f"{self.path}: is a folder. Name the .vdb file in it.") from None

    def find(self, name: str) -> VdbHeader:
        """The grid of that name, or of that unique name.

        Raises:
            InputError: there is none, or there are several; the message lists what there is.
        """
        for header in self.grids:
            if header.unique_name == name:
                return header
        found = [header for header in self.grids if header.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{self.path}: has {len(found)} grids named {name!r}. Take one of its `grids` instead of a name."
            )
        known = nearest_names(name, [header.name for header in self.grids]) if self.grids else "It has no grids."
        raise InputError(f"{self.path}: has no grid named {name!r}. {known}")

    def summary(self, grid: VdbHeader | str) -> VdbSummary:
        """Metadata, transform and topology of a grid: what can be had without its blocks' values.

        Raises:
            InputError: there is no such grid.
            VolumeFormatError: it is of a kind that is not read, cut short or damaged.
        """
        header = self._header(grid)
        own, cursor, codec = self._begin(header, header.blocks)
        if header.parent:
            parent = self._parent(header)
            _, cursor, codec = self._begin(parent, parent.blocks)
        return VdbSummary(
            index_to_world=own.index_to_world,
            grid_class=own.grid_class,
            metadata=own.metadata,
            compression=codec.flags,
            topology=read_topology(cursor, codec),
        )

    def read(self, grid: VdbHeader | str) -> VdbGrid:
        """Load one grid. Grids that share a tree share one volume object while any of them is in memory.

        Args:
            grid: one of `grids`, or a name.

        Raises:
            InputError: there is no such grid.
            VolumeFormatError: it is of a kind that is not read, cut short or damaged.
            MissingExtraError: it is compressed by Blosc, which is not installed.
        """
        header = self._header(grid)
        own, _, codec = self._begin(header, header.blocks)
        source = self._parent(header) if header.parent else header
        volume = self._volumes.get(source.start)
        if volume is None:
            volume = self._read_volume(source)
            self._volumes[source.start] = volume
        return VdbGrid(
            name=header.name,
            volume=volume,
            index_to_world=own.index_to_world,
            grid_class=own.grid_class,
            half=codec.half,
            metadata=own.metadata,
        )

    def _read_volume(self, header: VdbHeader) -> SparseVolume:
        _, cursor, codec = self._begin(header, header.end)
        topology = read_topology(cursor, codec)
        cursor.at = header.blocks - header.start
        return read_blocks(cursor, codec, topology)

    def _header(self, grid: VdbHeader | str) -> VdbHeader:
        return self.find(grid) if isinstance(grid, str) else grid

    def _parent(self, header: VdbHeader) -> VdbHeader:
        """The grid whose tree ``header`` shares."""
        for one in self.grids:
            if one.unique_name == header.parent and not one.parent:
                if (one.type_name, one.half) == (header.type_name, header.half):
                    return one
                break
        raise VolumeFormatError(
            f"{self.path}: grid {header.name!r} shares the tree of {header.parent[:60]!r}, which is not such a grid. "
            "Export it again."
        )

    def _begin(self, header: VdbHeader, stop: int) -> tuple["_Start", Cursor, ValueCodec]:
        """What stands before a grid's tree, a cursor left after it that sees the file up to ``stop``, and how the tree
        stores values.
        """
        kind = header.kind
        if kind is None:
            raise VolumeFormatError(
                f"{self.path}: grid {header.name!r} is of type {header.type_name[:60]}, which is not read. Read the "
                f"others by name, or convert it. Types that are: {', '.join(VALUE_TYPES)}."
            )
        try:
            with self.path.open("rb") as stream:
                stream.seek(header.start)
                cursor = Cursor(stream.read(stop - header.start), self.path, header.start)
        except FileNotFoundError:
            raise MissingFileError(f"{self.path}: is not there any more; it was when it was opened.") from None
        start = _read_start(cursor)
        return start, cursor, ValueCodec(kind=kind, flags=start.compression, half=header.half and kind.real)

    def _parse(self, start: int, window: int, parse: Callable[[Cursor], _Parsed]) -> tuple[_Parsed, int]:
        """What ``parse`` finds from ``start`` on, and where it stopped, reading little more than it needs."""
        while True:
            with self.path.open("rb") as stream:
                stream.seek(start)
                cursor = Cursor(stream.read(window), self.path, start)
            try:
                return parse(cursor), start + cursor.at
            except CutShortError:
                if start + window >= self._size or window >= _MOST_HEADER_BYTES:
                    raise
                window *= 8

    def _list_grids(self, count: int, at: int) -> Iterator[VdbHeader]:
        """The grids of a file that says where each of them is."""
        for _ in range(count):
            header, at = self._parse(at, 1 << 12, _read_descriptor)
            if header.parent:  # it has no blocks, and says 0 for where they begin
                header = replace(header, blocks=header.end)
            if not at <= header.start <= header.blocks <= header.end <= self._size:
                raise VolumeFormatError(
                    f"{self.path}: grid {header.name[:60]!r} is said to lie at bytes {header.start:,} to "
                    f"{header.end:,} of {self._size:,}. The file is cut short or damaged: copy or export it again."
                )
            at = header.end
            yield header

    def _walk_grids(self, count: int, at: int) -> Iterator[VdbHeader]:
        """The grids of a file that was written as a stream: where one ends is known only once it is read."""
        cursor = Cursor(self.path.read_bytes(), self.path)
        cursor.at = at
        for _ in range(count):
            header = _read_descriptor(cursor)
            if header.kind is None:
                raise VolumeFormatError(
                    f"{self.path}: grid {header.name[:60]!r} is of type {header.type_name[:60]}, and the file does not "
                    "say where it ends. Save it with OpenVDB's vdb_tool or Houdini without that grid."
                )
            start = cursor.at
            codec = ValueCodec(
                kind=header.kind, flags=_read_start(cursor).compression, half=header.half and header.kind.real
            )
            blocks = cursor.at
            if not header.parent:
                topology = read_topology(cursor, codec)
                blocks = cursor.at
                read_blocks(cursor, codec, topology)
            yield replace(header, start=start, blocks=blocks, end=cursor.at)


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What stands before a grid's tree."""

    compression: int
    metadata: dict[str, Any]
    grid_class: GridClass
    index_to_world: np.ndarray


def read_vdb(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> list[VdbGrid]:
    """Load grids of an OpenVDB file.

    Args:
        path: the file.
        names: which ones, in this order; all of them, in the file's, where left out.

    Raises:
        MissingFileError: there is no such file.
        VolumeFormatError: it is no OpenVDB file, cut short or damaged, or a grid is of a kind that is not read.
        InputError: there is no grid of a name.
        MissingExtraError: a grid is compressed by Blosc, which is not installed.
    """
    file = VdbFile(path)
    return [file.read(one) for one in (file.grids if names is None else names)]


def _read_header(cursor: Cursor) -> tuple[int, tuple[int, int], bool, str, dict[str, Any], int]:
    """Version, library, whether grids can be found without reading others, uuid, metadata, and how many grids."""
    if bytes(cursor.raw[:8]) == COMPRESSED_MAGIC:
        raise VolumeFormatError(
            f"{cursor.path}: is a compressed volume. Unpack it first: voxfield vdb decompress {cursor.path.name} "
            f"--output {cursor.path.stem}.vdb"
        )
    if bytes(cursor.raw[:7]) == b"NanoVDB":
        raise VolumeFormatError(
            f"{cursor.path}: is a NanoVDB file, which is written here but not read. Name the .vdb file it was made of, "
            "or convert it with OpenVDB's nanovdb_convert."
        )
    if len(cursor.raw) < 12 or cursor.unpack("q") != (MAGIC,):
        raise VolumeFormatError(f"{cursor.path}: not an OpenVDB file, whatever its name says. Export it again.")
    (version,) = cursor.unpack("I")
    if not OLDEST_VERSION <= version <= NEWEST_VERSION:
        raise VolumeFormatError(
            f"{cursor.path}: format version {version} is not read, only {OLDEST_VERSION} to {NEWEST_VERSION}, those of "
            "OpenVDB 1.1 and newer. Save it again with Houdini or Blender."
        )
    major, minor, has_offsets = cursor.unpack("IIB")
    uuid = cursor.take(UUID_BYTES).decode("ascii", "replace").rstrip("\0")
    metadata = read_metadata(cursor)
    (count,) = cursor.unpack("i")
    if count < 0:
        raise cursor.fault(f"{count} grids")
    return version, (major, minor), bool(has_offsets), uuid, metadata, count


def _read_descriptor(cursor: Cursor) -> VdbHeader:
    """A grid's entry in the file's list."""
    unique_name, tree, parent = cursor.text(), cursor.text(), cursor.text()
    start, blocks, end = cursor.unpack("3q")
    half = tree.endswith(HALF_SUFFIX)
    type_name = tree.removesuffix(HALF_SUFFIX)
    if type_name.startswith(TREE_PREFIX) and type_name.endswith(TREE_SUFFIX):
        type_name = type_name[len(TREE_PREFIX) : -len(TREE_SUFFIX)]
    return VdbHeader(
        name=unique_name.split(NAME_SEPARATOR, maxsplit=1)[0],
        unique_name=unique_name,
        type_name=type_name,
        half=half,
        parent=parent,
        start=start,
        blocks=blocks,
        end=end,
    )


def _read_start(cursor: Cursor) -> _Start:
    """Compression, metadata and transform of a grid."""
    (compression,) = cursor.unpack("I")
    if compression & ~(ZIP | ACTIVE_MASK | BLOSC):
        raise cursor.fault(f"compression {compression:#x}")
    metadata = read_metadata(cursor)
    said = metadata.get("class")
    return _Start(
        compression=compression,
        grid_class=cast(GridClass, said) if said in GRID_CLASSES else "unknown",
        metadata={name: value for name, value in metadata.items() if name not in _DERIVED},
        index_to_world=read_transform(cursor),
    )
