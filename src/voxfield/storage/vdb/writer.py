"""Writing OpenVDB files that OpenVDB, Blender and Houdini open."""

import hashlib
import os
import struct
import uuid
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
from voxfield.storage.vdb.tree_writer import packed_tree
from voxfield.storage.vdb.values import ValueCodec, import_blosc

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
        OSError: the file cannot be written, such as on a full disk; what was there before stays.
    """
    if compression not in _FLAGS:
        raise InputError(f"compression: expected none, zip or blosc, got {compression!r}.")
    if not 0 <= level <= 9:
        raise InputError(f"level: expected 0 to 9, got {level}.")
    if compression == "blosc":
        import_blosc()
    flags = _FLAGS[compression] | (ACTIVE_MASK if active_mask else 0)
    codecs = [_codec(grid, flags, level) for grid in grids]
    names = _unique_names([grid.name for grid in grids])
    with replacing(path) as temporary, temporary.open("w+b") as stream:
        output = _Output(stream)
        uuid_at = _write_header(output, metadata or {}, len(grids))
        written: dict[tuple[int, bool], str] = {}
        for grid, codec, name in zip(grids, codecs, names, strict=True):
            parent = written.setdefault((id(grid.volume), codec.half), name)
            _write_grid(output, grid, codec, name, "" if parent == name else parent)
        stream.seek(uuid_at)
        stream.write(str(uuid.UUID(bytes=output.digest(), version=4)).encode("ascii"))
    return Path(path)


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


def _write_grid(output: _Output, grid: VdbGrid, codec: ValueCodec, name: str, parent: str) -> None:
    """Write one grid, or, where it has a parent, all but its tree."""
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
    if not parent:
        topology, values = packed_tree(grid.volume, codec)
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
