"""Ray-traced supervision of a voxel dataset on disk, in either layout.

``files``: ``level_2/f3/f30c11..._rays.npz`` a block, as the tracer writes them (`voxfield.jobs.trace_shapes`).
``packed``: one array a column, mapped into memory, for all blocks together:

    packed/index.json             levels, files, sizes, checksums
    packed/blocks.*.npy           (B,) of `BLOCK`: each block's level, hash, rows of rays and views
    packed/rays.origins.*.npy     (N, 3) float32, and so on for every column
    packed/views.*.npy            (V, 3) float32: cameras, each different set once

There a block's rays lie in a random order that follows from its hash, so that any stretch of them is a fair sample and
is read in one piece; and turning them back into files gives the same files again. What is the same for all blocks of a
level stands in the index.
"""

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.atomic import new_folder, write_bytes, write_json
from voxfield.storage.mapped_arrays import INDEX, check_lengths, file_checksum, map_array, place_array, save_array
from voxfield.storage.npz import npz_bytes, read_npy_header, read_npz
from voxfield.storage.shapes import METADATA, Layout, read_json_object

USUAL_FOLDER: Final = "ray_dataset_hierarchical"
"""Of a dataset's rays, beside the dataset."""
PACKED: Final = "packed"
COLUMNS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "origins": ("<f4", (3,)),
    "directions": ("<f4", (3,)),
    "distances": ("<f4", ()),
    "hits": ("u1", ()),
    "hit_distances": ("<f4", ()),
    "normals": ("i1", (3,)),
    "voxel_ids": ("<i4", ()),
    "face_ids": ("<i4", ()),
    "view_ids": ("<i4", ()),
}
"""What is known of each ray: dtype, and shape after the first axis."""
NEEDED: Final = ("origins", "directions", "distances", "hits")
"""Columns that every dataset has; other programs' datasets have no more than these and the ids."""
BLOCK: Final = np.dtype(
    [("level", "u1"), ("hash", "V32"), ("first", "<i8"), ("rays", "<i4"), ("view", "<i4"), ("views", "<i4")]
)
"""A block: its level, content, first row and number of rays, and of cameras."""
CONSTANTS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "grid_shape": ("<i4", (3,)),
    "voxel_size": ("<f4", ()),
    "sampling_mode": ("U", ()),
}
"""What is said of a block and is the same for all of its level: dtype, or kind of text, and shape."""
PARAMETERS: Final = "trace.json"
"""What rays were traced with; beside them."""
_SCHEMA: Final = 1
_MOST_RAYS: Final = 1 << 31
_FILE = re.compile(r"(?P<name>[0-9a-f]{64}|\d{1,20})_rays\.npz")


class RayBlock(NamedTuple):
    """A block whose rays were traced. A tuple: it is looked up for every piece of a batch, and tuples hash quickly."""

    level: int
    """0 is whole objects."""
    name: str
    """Its hash in hexadecimal, or the object's id at level 0."""

    @property
    def file(self) -> str:
        """Where its rays lie in the ``files`` layout."""
        return f"level_{self.level}/{self.name[:2]}/{self.name}_rays.npz"


class ShapeRays(Protocol):
    """Traced rays, whatever their layout."""

    @property
    def folder(self) -> Path:
        """Where they lie."""

    @property
    def shuffled(self) -> bool:
        """Whether any stretch of a block's rays is a fair sample of them."""

    def blocks(self) -> Sequence[RayBlock]:
        """What was traced, sorted by level and name."""

    def count(self, block: RayBlock) -> int:
        """How many rays a block has."""

    def read(self, block: RayBlock, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Columns of a block's rays from ``start`` to before ``stop``, ``view_positions`` (V, 3), and ``hash``."""

    def constants(self, block: RayBlock) -> dict[str, np.ndarray]:
        """Those of `CONSTANTS` that are known of a block."""


def open_rays(folder: Path) -> "FileRays | PackedRays":
    """Open traced rays in the layout they have.

    Raises:
        MissingFileError: there are none. FormatError: damaged.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of rays. Make it: voxfield dataset trace DATASET.")
    return PackedRays(folder) if (folder / PACKED / INDEX).is_file() else FileRays(folder)


class FileRays:
    """Rays with a ``.npz`` a block."""

    shuffled: Final = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks = sorted(self._find())
        if not self._blocks:
            raise MissingFileError(
                f"{folder}: holds no rays (level_L/ab/..._rays.npz). Make them: voxfield dataset trace DATASET."
            )

    def _find(self) -> Iterator[RayBlock]:
        for home in self.folder.glob("level_*"):
            level = home.name.removeprefix("level_")
            if level.isdigit() and int(level) <= 8:
                for path in home.glob("*/*_rays.npz"):
                    match = _FILE.fullmatch(path.name)
                    if match is not None and (len(match["name"]) == 64) == (level != "0"):
                        yield RayBlock(int(level), match["name"])

    def blocks(self) -> Sequence[RayBlock]:
        """What was traced, sorted by level and name."""
        return self._blocks

    def count(self, block: RayBlock) -> int:
        """How many rays a block has, by the header of one array."""
        path = self.folder / block.file
        try:
            with zipfile.ZipFile(path) as archive, archive.open("distances.npy") as member:
                (rays,), _, _ = read_npy_header(member)
        except FileNotFoundError as error:
            raise MissingFileError(f"{path}: no such file.") from error
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, ValueError, RuntimeError) as error:
            raise FormatError(f"{path}: is damaged or cut short ({error}). Remove it and trace again.") from error
        return int(rays)

    def read(self, block: RayBlock, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Columns of a block's rays, checked."""
        path = self.folder / block.file
        arrays = read_npz(path)
        rays = len(arrays.get("distances", ()))
        for name, (dtype, shape) in COLUMNS.items():
            column = arrays.get(name)
            if column is None and name not in NEEDED:
                continue
            if column is None or column.dtype != np.dtype(dtype) or column.shape != (rays, *shape):
                there = "nothing" if column is None else f"{column.dtype} {column.shape}"
                raise FormatError(f"{path}: expected {name}, {dtype} {(rays, *shape)}, got {there}.")
        found = {name: arrays[name][start:stop] for name in COLUMNS if name in arrays}
        found["view_positions"] = _positions(path, arrays.get("view_positions"))
        found["hash"] = np.array(str(arrays.get("hash", block.name)))
        return found

    def constants(self, block: RayBlock) -> dict[str, np.ndarray]:
        """Those of `CONSTANTS` that its file has, checked."""
        path = self.folder / block.file
        arrays = read_npz(path, wanted=lambda name: name in CONSTANTS, most_bytes=1 << 12)
        for name, array in arrays.items():
            dtype, shape = CONSTANTS[name]
            if array.shape != shape or (array.dtype.kind if dtype == "U" else array.dtype) != dtype:
                raise FormatError(f"{path}: expected {name}, {dtype} {shape}, got {array.dtype} {array.shape}.")
        return {name: arrays[name] for name in CONSTANTS if name in arrays}


def _positions(path: Path, array: np.ndarray | None) -> np.ndarray:
    if array is None:
        return np.zeros((0, 3), np.float32)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype != np.float32:
        raise FormatError(f"{path}: expected view_positions, float32 (V, 3), got {array.dtype} {array.shape}.")
    return array


class PackedRays:
    """Rays in the ``packed`` layout. Its arrays are mapped, not read: opening costs nothing.

    Raises:
        MissingFileError, FormatError: files are missing or damaged.
    """

    shuffled: Final = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        home = folder / PACKED
        self._index = read_json_object(home / INDEX)
        try:
            if self._index["schema"] != _SCHEMA:
                raise FormatError(f"{home / INDEX}: is of version {self._index['schema']}, expected {_SCHEMA}.")
            files = self._index["files"]
            self._table = map_array(home, files["blocks"], BLOCK, (None,))
            self._views = np.asarray(map_array(home, files["views"], np.dtype("<f4"), (None, 3)))
            # As plain arrays over the same maps: cutting a stretch out of a memmap takes ten times as long.
            self._columns = {
                name: np.asarray(map_array(home, files[name], np.dtype(dtype), (None, *shape)))
                for name, (dtype, shape) in COLUMNS.items()
                if name in files
            }
            self._constants = {
                int(level): {name: _constant(name, values[name]) for name in CONSTANTS if name in values}
                for level, values in self._index.get("constants", {}).items()
            }
            objects = [str(name) for name in self._index["objects"]]
            lengths = {len(column) for column in self._columns.values()}
            fits = set(NEEDED) <= set(self._columns) and len(lengths) == 1 and _rows_fit(self._table, lengths)
            fits = fits and self._rows_of_views_fit() and len(objects) == int((self._table["level"] == 0).sum())
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{home / INDEX}: is damaged ({type(error).__name__}: {error}).") from error
        if not fits:
            raise FormatError(f"{home / INDEX}: does not fit its files. Trace again into another folder.")
        names = objects + [name.tobytes().hex() for name in self._table["hash"][len(objects) :]]
        levels = self._table["level"].tolist()
        self._blocks = [RayBlock(level, name) for level, name in zip(levels, names, strict=True)]
        self._row = {block: row for row, block in enumerate(self._blocks)}
        self._stretches = list(zip(*(self._table[name].tolist() for name in BLOCK.names or ()), strict=True))

    def _rows_of_views_fit(self) -> bool:
        first, count = self._table["view"].astype(np.int64), self._table["views"].astype(np.int64)
        return bool(((first >= 0) & (count >= 0) & (first + count <= len(self._views))).all())

    def blocks(self) -> Sequence[RayBlock]:
        """What was traced, sorted by level and name."""
        return self._blocks

    def count(self, block: RayBlock) -> int:
        """How many rays a block has."""
        return self._stretch(block)[3]

    def read(self, block: RayBlock, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Columns of a block's rays: views of the mapped files, not to be written to."""
        self._check_lengths()
        _, content, first, rays, *_ = self._stretch(block)
        rows = slice(first + start, first + (rays if stop is None else min(stop, rays)))
        found = {name: column[rows] for name, column in self._columns.items()}
        found["view_positions"] = self.view_positions(block)
        found["hash"] = np.array(content.hex())
        return found

    def view_positions(self, block: RayBlock) -> np.ndarray:
        """The cameras (V, 3) of a block's rays; not to be written to."""
        *_, view, views = self._stretch(block)
        return self._views[view : view + views]

    @property
    def columns(self) -> Sequence[str]:
        """What is known of each ray, see `COLUMNS`."""
        return list(self._columns)

    def gather(self, pieces: Sequence[tuple[RayBlock, int, int]], into: Mapping[str, np.ndarray]) -> None:
        """Copy stretches of blocks' rays, from and to before, one after another into arrays of as many rows.

        Raises:
            MissingFileError: no such block. FormatError: a file was cut short meanwhile.
        """
        self._check_lengths()
        rows = []
        for block, start, stop in pieces:
            first = self._stretch(block)[2]
            rows.append((first + start, first + stop))
        for name, target in into.items():
            column, at = self._columns[name], 0
            for first, last in rows:
                target[at : at + last - first] = column[first:last]
                at += last - first

    def constants(self, block: RayBlock) -> dict[str, np.ndarray]:
        """Those of `CONSTANTS` that the index has of a block's level."""
        return self._constants.get(block.level, {})

    def check_files(self) -> None:
        """Raise FormatError unless every file has the content that the index says."""
        for entry in self._index["files"].values():
            path = self.folder / PACKED / entry["file"]
            if file_checksum(path) != entry["sha256"]:
                raise FormatError(f"{path}: its checksum is not the one in {INDEX}: it is damaged. Trace again.")

    def _check_lengths(self) -> None:
        files = self._index["files"]
        check_lengths(self.folder / PACKED, (files[name] for name in self._columns))

    def _stretch(self, block: RayBlock) -> tuple[int, bytes, int, int, int, int]:
        """A row of the table, see `BLOCK`."""
        row = self._row.get(block)
        if row is None:
            raise MissingFileError(f"{self.folder}: level {block.level} has no rays of {block.name}.")
        return self._stretches[row]


def _constant(name: str, value: Any) -> np.ndarray:
    """One of `CONSTANTS` as the index has it. Raises ValueError or TypeError where it is something else."""
    dtype, shape = CONSTANTS[name]
    if dtype == "U" and not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    try:
        array = np.array(value, dtype)
    except OverflowError as error:
        raise ValueError(f"{name} is {value!r}") from error
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}")
    return array


def _rows_fit(table: np.ndarray, lengths: set[int]) -> bool:
    """Whether blocks follow one another and take all rows."""
    ends = np.cumsum(table["rays"], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return (
        bool((table["rays"] >= 0).all())
        and bool((np.diff(table["level"].astype(int)) >= 0).all())
        and lengths == {total}
        and np.array_equal(table["first"], ends - table["rays"])
    )


def write_packed_rays(folder: Path, sources: Sequence[ShapeRays]) -> int:
    """Write rays in the ``packed`` layout into ``folder``; the index comes last.

    Memory holds the rays of one block. Blocks of earlier sources win over the same ones of later sources.

    Args:
        folder: where to; may be that of a source.
        sources: what is packed.

    Returns:
        How many blocks.

    Raises:
        FormatError: damaged sources, some without columns that others have, or blocks of a level with other constants.
    """
    home = folder / PACKED
    home.mkdir(parents=True, exist_ok=True)
    origin = {block: source for source in reversed(sources) for block in source.blocks()}
    columns: list[str] = []
    streams: dict[str, BinaryIO] = {}
    table = np.zeros(len(origin), BLOCK)
    views: dict[bytes, int] = {}
    positions: list[np.ndarray] = []
    constants: dict[str, dict[str, Any]] = {}
    rays = 0
    try:
        for row, block in enumerate(sorted(origin)):
            arrays = _in_order(block, origin[block])
            if not columns:
                columns = [name for name in COLUMNS if name in arrays]
                streams = {name: _start_column(home, name) for name in columns}
            if missing := [name for name in columns if name not in arrays]:
                raise FormatError(f"{origin[block].folder}: {block.name} has no {missing[0]}, which others have.")
            for name in columns:
                streams[name].write(np.ascontiguousarray(arrays[name]).tobytes())
            said = {name: value.tolist() for name, value in origin[block].constants(block).items()}
            if said and constants.setdefault(str(block.level), said) != said:
                raise FormatError(
                    f"{origin[block].folder}: {block.name} says {said}, others of level {block.level} "
                    f"{constants[str(block.level)]}: they are of different datasets."
                )
            seen, key = arrays["view_positions"], arrays["view_positions"].tobytes()
            if key not in views:
                views[key] = sum(map(len, positions))
                positions.append(seen)
            content = bytes.fromhex(str(arrays["hash"]))
            table[row] = (block.level, content, rays, len(arrays["distances"]), views[key], len(seen))
            rays += len(arrays["distances"])
            if rays > _MOST_RAYS:
                raise FormatError(f"{folder}: more than {_MOST_RAYS:,} rays. Trace fewer levels into one folder.")
    finally:
        for stream in streams.values():
            stream.close()
    files = {name: _finish_column(home, name, rays) for name in columns}
    files["blocks"] = save_array(home, "blocks", table)
    files["views"] = save_array(home, "views", np.concatenate(positions or [np.zeros((0, 3), np.float32)]))
    objects = [block.name for block in sorted(origin) if block.level == 0]
    write_json(home / INDEX, {"schema": _SCHEMA, "objects": objects, "constants": constants, "files": files})
    kept = {INDEX, *(entry["file"] for entry in files.values())}
    for path in home.iterdir():
        if path.name not in kept:
            path.unlink()
    return len(table)


def write_ray_files(folder: Path, source: ShapeRays) -> int:
    """Write rays in the ``files`` layout into ``folder``, in the order in which they were traced.

    Returns:
        How many blocks.

    Raises:
        FormatError: damaged.
    """
    for block in source.blocks():
        arrays = source.read(block)
        order = _order(block, str(arrays["hash"]), len(arrays["distances"])) if source.shuffled else slice(None)
        content: dict[str, np.ndarray] = {}
        for name in COLUMNS:
            if name in arrays:
                content[name] = np.empty_like(arrays[name])
                content[name][order] = arrays[name]
        said = source.constants(block)
        content |= {"view_positions": arrays["view_positions"]}
        content |= {name: said[name] for name in ("grid_shape", "voxel_size") if name in said}
        content |= {"hash": arrays["hash"], "level": np.array(block.level, np.int32)}
        content |= {name: said[name] for name in ("sampling_mode",) if name in said}
        write_bytes(folder / block.file, npz_bytes(content))
    return len(source.blocks())


def holds_rays(folder: Path) -> bool:
    """Whether a folder is one of rays rather than a dataset."""
    packed = (folder / PACKED / INDEX).is_file()
    return not (folder / METADATA).is_file() and (packed or any(folder.glob("level_*")))


def convert_rays(source: Path, target: Path, layout: Layout) -> int:
    """Write rays in another layout to another folder, with what is said of how they were traced. Nothing is lost.

    Returns:
        How many blocks.

    Raises:
        InputError: ``target`` is not empty. MissingFileError, FormatError: no rays, or damaged.
    """
    rays = open_rays(source)
    # Half of the files would look like a smaller dataset.
    with new_folder(target) as work:
        if isinstance(rays, PackedRays):
            rays.check_files()
        count = write_packed_rays(work, [rays]) if layout == "packed" else write_ray_files(work, rays)
        for path in sorted(source.glob("*.json")):
            shutil.copyfile(path, work / path.name)
    return count


def remove_ray_files(folder: Path) -> None:
    """Remove the ``files`` layout's rays."""
    for path in folder.glob("level_*"):
        shutil.rmtree(path)


def _in_order(block: RayBlock, source: ShapeRays) -> dict[str, np.ndarray]:
    """A block's arrays, the rays in the order of the ``packed`` layout."""
    arrays = source.read(block)
    name = str(arrays["hash"])
    if not re.fullmatch("[0-9a-f]{64}", name) or (block.level and name != block.name):
        raise FormatError(f"{source.folder}: the rays of {block.name} say that they are of {name[:80]!r}.")
    if source.shuffled:
        return arrays
    order = _order(block, name, len(arrays["distances"]))
    return {key: array[order] if key in COLUMNS else array for key, array in arrays.items()}


def _order(block: RayBlock, content: str, rays: int) -> np.ndarray:
    """In which order the ``packed`` layout has a block's rays, (rays,) int64."""
    return np.random.default_rng([block.level, int(content[:16], 16)]).permutation(rays)


def _start_column(home: Path, name: str) -> BinaryIO:
    stream = (home / f".rays.{name}.partial").open("wb")
    stream.write(_header(name, 0))
    return stream


def _finish_column(home: Path, name: str, rays: int) -> dict[str, Any]:
    """Write the true length into a column's header, and place the file."""
    path = home / f".rays.{name}.partial"
    with path.open("r+b") as stream:
        stream.write(_header(name, rays))
    return place_array(home, f"rays.{name}", path, (rays, *COLUMNS[name][1]))


def _header(name: str, rays: int) -> bytes:
    """The header of a ``.npy`` file; of the same length whatever the number of rays (version 1.0)."""
    dtype, shape = COLUMNS[name]
    described = np.lib.format.dtype_to_descr(np.dtype(dtype))
    text = f"{{'descr': {described!r}, 'fortran_order': False, 'shape': {(rays, *shape)!r}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode("latin1") + b"\n"
