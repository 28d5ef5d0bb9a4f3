"""Writing OpenVDB files that OpenVDB, Blender and Houdini open."""

import contextlib
import hashlib
import os
import struct
import uuid
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxfield.errors import InputError
from voxfield.storage.atomic import replacing
from voxfield.storage.vdb.cursor import packed_text
from voxfield.storage.vdb.grid import VdbGrid
from voxfield.storage.vdb.layout import (
    ACTIVE_MASK,
    BLOSC,
    GRID_CLASSES,
    HALF_SUFFIX,
    MAGIC,
    NAME_SEPARATOR,
    TREE_PREFIX,
    TREE_SUFFIX,
    UUID_BYTES,
    VALUE_TYPES,
    WRITTEN_LIBRARY,
    WRITTEN_VERSION,
    ZIP,
    Compression,
    ValueType,
    compression_text,
)
from voxfield.storage.vdb.metadata import packed_metadata
from voxfield.storage.vdb.transform import packed_transform
from voxfield.storage.vdb.tree_writer import BlockValues, packed_tree
from voxfield.storage.vdb.values import ValueCodec, blosc_extension
from voxfield.voxels.sparse import SparseVolume

_FLAGS: dict[str, int] = {"none": 0, "zip": ZIP, "blosc": BLOSC}


def write_vdb(
    path: str | os.PathLike[str],
    grids: Sequence[VdbGrid],
    *,
    compression: Compression = "blosc",
    level: int = 9,
    active_mask: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write grids to one file. It appears whole or not at all; folders are made. The same grids make the same bytes.

    Args:
        path: the file to make or replace.
        grids: in this order. Names may repeat. Grids that share one volume object and precision store it once.
        compression: ``blosc`` as OpenVDB and Blender write (quick), ``zip`` (smaller), or ``none``.
        level: effort of the compression, 0 to 9. Files of any level are read at the same speed.
        active_mask: leave out inactive values that can be told from the background, as OpenVDB does. Without it files
            are larger and say the same.
        metadata: of the file, see `storage.vdb.metadata` for the types of values.

    Returns:
        The path.

    Raises:
        InputError: values that no grid type holds, a transform that is none, metadata of unknown type, or a value that
            half precision does not hold.
        MissingExtraError: Blosc is asked for and not installed.
        DiskFullError: there is no room for the file; what was there before stays, as with any other OSError.
    """
    with writing_vdb(
        path,
        [grid.name for grid in grids],
        compression=compression,
        level=level,
        active_mask=active_mask,
        metadata=metadata,
    ) as writer:
        for grid in grids:
            writer.write(grid)
    return Path(path)


@contextlib.contextmanager
def writing_vdb(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    compression: Compression = "blosc",
    level: int = 9,
    active_mask: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> "Iterator[VdbWriter]":
    """Write grids one by one, so that not all of them have to be in memory: `VdbWriter.write` for each of ``names``.

    The file appears when the block ends without an exception. Other arguments and errors as `write_vdb`.
    """
    if compression not in _FLAGS:
        raise InputError(f"compression: expected none, zip or blosc, got {compression!r}.")
    if not 0 <= level <= 9:
        raise InputError(f"level: expected 0 to 9, got {level}.")
    if compression == "blosc":
        blosc_extension()
    flags = _FLAGS[compression] | (ACTIVE_MASK if active_mask else 0)
    with replacing(path) as temporary, temporary.open("w+b") as stream:
        output = _Output(stream)
        uuid_at = _write_header(output, metadata or {}, len(names))
        writer = VdbWriter(output, names, flags, level)
        yield writer
        if writer.left:
            raise InputError(f"{path}: {writer.left} of {len(names)} grids were not written.")
        stream.seek(uuid_at)
        stream.write(str(uuid.UUID(bytes=output.digest(), version=4)).encode("ascii"))


class VdbWriter:
    """A file that grids are written to one by one: see `writing_vdb`."""

    def __init__(self, output: "_Output", names: Sequence[str], flags: int, level: int) -> None:
        """Write to ``output``, behind the header, with the compression of ``flags``."""
        self._output, self._flags, self._level = output, flags, level
        self._waiting = list(zip(names, _unique_names(names), strict=True))[::-1]
        self._written: weakref.WeakKeyDictionary[SparseVolume, dict[bool, str]] = weakref.WeakKeyDictionary()

    @property
    def left(self) -> int:
        """Grids that are still to come."""
        return len(self._waiting)

    def write(self, grid: VdbGrid, blocks: BlockValues | None = None, *, blocks_at_once: int = 4096) -> None:
        """Write the next grid. One that shares the volume object of an earlier one is written as its instance.

        Args:
            grid: of the next name.
            blocks: gives the values (n, 8, 8, 8[, C]) of the volume's blocks at a slice of them; the volume's own if
                left out. With it values need never be in memory together: the volume's may be one, broadcast.
            blocks_at_once: how many are asked for together, at least 1.

        Raises:
            InputError: as `write_vdb`, or a grid that is not the next.
        """
        if not self._waiting or self._waiting[-1][0] != grid.name:
            awaited = repr(self._waiting[-1][0]) if self._waiting else "no more grids"
            raise InputError(f"grid {grid.name!r}: expected {awaited}.")
        codec, name = _codec(grid, self._flags, self._level), self._waiting.pop()[1]
        # Blocks given apart from the volume are not the volume's: nobody shares them.
        parents = {} if blocks is not None else self._written.setdefault(grid.volume, {})
        parent = parents.setdefault(codec.half, name)
        tree = packed_tree(grid.volume, codec, blocks, blocks_at_once) if parent == name else None
        _write_grid(self._output, grid, codec, name, "" if parent == name else parent, tree)


class _Output:
    """A file being written, and the hash of what went into it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.blake2b(digest_size=16)

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._stream.write(piece)
            self._hash.update(piece)

    def tell(self) -> int:
        return self._stream.tell()

    def patch(self, at: int, piece: bytes) -> None:
        """Replace what was written at ``at``."""
        end = self._stream.tell()
        self._stream.seek(at)
        self.write(piece)
        self._stream.seek(end)

    def digest(self) -> bytes:
        """16 bytes that are the same for the same content."""
        return self._hash.digest()


def _write_header(output: _Output, metadata: Mapping[str, Any], count: int) -> int:
    """Write what stands before the grids, and return where the uuid goes."""
    # The last byte says that each grid's place in the file is listed.
    output.write(struct.pack("<qIIIB", MAGIC, WRITTEN_VERSION, *WRITTEN_LIBRARY, 1))
    uuid_at = output.tell()
    output.write(bytes(UUID_BYTES), packed_metadata(metadata), struct.pack("<i", count))
    return uuid_at


def _write_grid(
    output: _Output,
    grid: VdbGrid,
    codec: ValueCodec,
    name: str,
    parent: str,
    tree: tuple[Iterator[bytes], Iterator[bytes]] | None,
) -> None:
    """Write one grid, or, where it has no tree of its own, all but that."""
    kind = f"{TREE_PREFIX}{codec.kind.name}{TREE_SUFFIX}{HALF_SUFFIX if codec.half else ''}"
    output.write(packed_text(name), packed_text(kind), packed_text(parent))
    places_at = output.tell()
    output.write(bytes(24))
    start = output.tell()
    output.write(
        struct.pack("<I", codec.flags),
        packed_metadata(_all_metadata(grid, codec)),
        packed_transform(grid.index_to_world),
    )
    blocks = 0
    if tree is not None:
        topology, values = tree
        for piece in topology:
            output.write(piece)
        blocks = output.tell()
        for piece in values:
            output.write(piece)
    output.patch(places_at, struct.pack("<3q", start, blocks, output.tell()))


def _all_metadata(grid: VdbGrid, codec: ValueCodec) -> dict[str, Any]:
    """A grid's metadata with those that its fields say, and the counts that OpenVDB's tools show."""
    counted: dict[str, Any] = {"file_voxel_count": np.int64(min(grid.volume.active_count, 2**63 - 1))}
    bounds = grid.volume.active_bounds
    if bounds is not None:
        counted["file_bbox_min"], counted["file_bbox_max"] = bounds[0].astype("<i4"), (bounds[1] - 1).astype("<i4")
    return {
        **grid.metadata,
        "name": grid.name,
        "class": grid.grid_class,
        "is_saved_as_half_float": codec.half,
        "file_compression": compression_text(codec.flags),
        "file_mem_bytes": np.int64(grid.volume.nbytes),
        **counted,
    }


def _codec(grid: VdbGrid, flags: int, level: int) -> ValueCodec:
    """How a grid will be stored."""
    if grid.grid_class not in GRID_CLASSES:
        raise InputError(f"grid {grid.name!r}: expected a class of {', '.join(GRID_CLASSES)}, got {grid.grid_class!r}.")
    kind, half = value_type(grid)
    return ValueCodec(kind=kind, flags=flags, half=half, level=level)


def value_type(grid: VdbGrid) -> tuple[ValueType, bool]:
    """The type of a grid's values in a file, and whether they are halves."""
    background = grid.volume.background
    if background.dtype == np.float16:
        background, half = background.astype(np.float32), True
    else:
        half = grid.half and background.dtype.kind == "f"
    for kind in VALUE_TYPES.values():
        if kind.dtype == background.dtype and kind.channels == background.shape:
            return kind, half
    raise InputError(
        f"grid {grid.name!r}: expected bool, int32, int64, float16, float32 or float64 values, or vectors of 3 int32, "
        f"float16, float32 or float64, got {background.dtype} with channels {background.shape}."
    )


def _unique_names(names: Iterable[str]) -> Iterator[str]:
    """Names with a number behind those that are empty or repeat, as OpenVDB gives them."""
    names = list(names)
    counts, taken = Counter(names), set()
    for name in names:
        number, unique = 0, name
        if not name or counts[name] > 1:
            unique = f"{name}{NAME_SEPARATOR}{number}"
        while unique in taken:
            number += 1
            unique = f"{name}{NAME_SEPARATOR}{number}"
        taken.add(unique)
        yield unique
