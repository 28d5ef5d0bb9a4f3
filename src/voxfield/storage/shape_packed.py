"""The ``packed`` layout of a voxel dataset: a few arrays that are mapped into memory, and an index.

    metadata.json
    packed/index.json               objects, files, their sizes and checksums
    packed/level_2.hashes.*.npy     (U, 32) uint8, sorted: the names of the level's blocks
    packed/level_2.words.0.*.npy    (n, W) int64: the blocks in the same order, one bit a voxel, in shards
    packed/nodes.*.npy              the nodes of all objects, one object after another
    packed/symmetries.*.npy         (nodes,) uint8: how each node's block lies, in datasets with symmetries

Files are named after their content, so an index never points to another version's. A node's block is a row among all of
its level.
"""

import bisect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.kernels.voxel_words import word_count
from voxfield.storage.atomic import write_json
from voxfield.storage.mapped_arrays import (
    INDEX,
    check_lengths,
    file_checksum,
    map_array,
    new_array,
    place_array,
    save_array,
)
from voxfield.storage.shapes import (
    METADATA,
    BlockCounts,
    ShapeObject,
    Shapes,
    dataset_metadata,
    different_pairs,
    read_about,
    read_json_object,
)
from voxfield.voxels.block_names import CountedNames, rows_of
from voxfield.voxels.hierarchy import NODE, BlockLevel, BlockTree

PACKED: Final = "packed"

_SCHEMA: Final = 1
_SHARD_BYTES: Final = 256 << 20


def write_packed(folder: Path, shapes: Shapes) -> None:
    """Write a dataset; ``metadata.json`` comes last.

    Objects are read twice: first their hashes are gathered, then their blocks written. Memory holds the hashes and
    nodes of all objects, and the blocks of one.
    """
    home = folder / PACKED
    home.mkdir(parents=True, exist_ok=True)
    counts = BlockCounts.for_levels(shapes.about.num_levels)
    roots = CountedNames()
    for shape in _each(shapes):
        counts.add(shape)
        roots.add(shape.tree.levels[0].hashes)
    writers = [
        _LevelWriter(home, level, shapes.about.base_resolution >> level, found.names)
        for level, found in enumerate([roots, *counts.levels[1:]])
    ]
    nodes, turns, objects = [], [], []
    for shape in _each(shapes):
        rows = [writer.add(blocks) for writer, blocks in zip(writers, shape.tree.levels, strict=True)]
        own = shape.tree.nodes.copy()
        for level in range(1, len(rows)):
            here = own["level"] == level
            own["block"][here] = rows[level][own["block"][here]]
        objects.append({"info": dict(shape.info), "root": int(rows[0][0]), "nodes": len(own)})
        nodes.append(own)
        turns.append(np.zeros(0, np.uint8) if shape.tree.symmetries is None else shape.tree.symmetries)
    index = {
        "schema": _SCHEMA,
        "nodes": save_array(home, "nodes", np.concatenate(nodes) if nodes else np.zeros(0, NODE)),
        **({"symmetries": save_array(home, "symmetries", np.concatenate(turns))} if shapes.about.symmetry else {}),
        "levels": [writer.finish() for writer in writers],
        "objects": objects,
    }
    write_json(home / INDEX, index)
    kept = {INDEX, *(entry["file"] for entry in _entries(index))}
    for path in home.iterdir():
        if path.name not in kept:
            path.unlink()
    write_json(folder / METADATA, dataset_metadata(shapes.about, counts, "packed"))


def _each(shapes: Shapes) -> Iterator[ShapeObject]:
    return (shapes.read(index) for index in range(len(shapes)))


def _entries(index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every file that an index names."""
    yield index["nodes"]
    if "symmetries" in index:
        yield index["symmetries"]
    for level in index["levels"]:
        yield level["hashes"]
        yield from level["words"]


class _LevelWriter:
    """Blocks of one level on their way into shards, whose rows are fixed beforehand."""

    def __init__(self, home: Path, level: int, resolution: int, names: np.ndarray) -> None:
        self.home, self.level, self.resolution, self.hashes = home, level, resolution, names
        self.written = np.zeros(len(names), bool)
        width = word_count(resolution)
        self.rows_per_shard = max(1, _SHARD_BYTES // (8 * width))
        self.shards: list[tuple[Path, np.ndarray]] = []
        for number, start in enumerate(range(0, len(names), self.rows_per_shard)):
            path = home / f".level_{level}.words.{number}.partial"
            rows = min(self.rows_per_shard, len(names) - start)
            shard = new_array(path, np.dtype(np.int64), (rows, width))
            self.shards.append((path, shard))

    def add(self, blocks: BlockLevel) -> np.ndarray:
        """Write the blocks that are new; returns the row of each."""
        rows = rows_of(blocks.hashes, self.hashes)
        new = ~self.written[rows]
        for number in np.unique(rows[new] // self.rows_per_shard):
            here = new & (rows // self.rows_per_shard == number)
            self.shards[number][1][rows[here] - number * self.rows_per_shard] = blocks.words[here]
        self.written[rows] = True
        return rows

    def finish(self) -> dict[str, Any]:
        """Close the shards and name them after their content."""
        words = []
        for number, (path, shard) in enumerate(self.shards):
            shard.flush()  # type: ignore[attr-defined]
            words.append(place_array(self.home, f"level_{self.level}.words.{number}", path, shard.shape))
        self.shards.clear()
        return {
            "level": self.level,
            "resolution": self.resolution,
            "hashes": save_array(self.home, f"level_{self.level}.hashes", self.hashes),
            "words": words,
        }


class PackedShapes:
    """A dataset in the ``packed`` layout. Its arrays are mapped, not read: opening costs nothing.

    Raises:
        MissingFileError, FormatError: no dataset, one that was never finished, or a damaged one.
    """

    layout: Final = "packed"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about, content = read_about(folder)
        home = folder / PACKED
        self._index = read_json_object(home / INDEX)
        about = self.about
        try:
            if self._index["schema"] != _SCHEMA:
                raise FormatError(f"{home / INDEX}: is of version {self._index['schema']}, expected {_SCHEMA}.")
            self._objects = self._index["objects"]
            self._nodes = np.asarray(map_array(home, self._index["nodes"], NODE, (None,)))
            self._symmetries = None
            if about.symmetry:
                kept = (len(self._nodes),)
                self._symmetries = np.asarray(map_array(home, self._index["symmetries"], np.dtype(np.uint8), kept))
            levels = self._index["levels"]
            self._hashes = [map_array(home, level["hashes"], np.dtype(np.uint8), (None, 32)) for level in levels]
            widths = [word_count(about.base_resolution >> level) for level in range(about.num_levels)]
            self._shards = [
                [map_array(home, entry, np.dtype(np.int64), (None, width)) for entry in level["words"]]
                for level, width in zip(levels, widths, strict=True)
            ]
            ends = np.cumsum([int(one["nodes"]) for one in self._objects])
            fits = (
                len(self._objects) == content["num_objects"]
                and (ends[-1] if len(ends) else 0) == len(self._nodes)
                and all(
                    int(one["nodes"]) >= 0 and isinstance(one["info"], dict) and isinstance(one["root"], int)
                    for one in self._objects
                )
                and all(
                    sum(map(len, shards)) == len(hashes)
                    for shards, hashes in zip(self._shards, self._hashes, strict=True)
                )
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{home / INDEX}: is damaged ({type(error).__name__}: {error}).") from error
        if not fits:
            raise FormatError(f"{home / INDEX}: does not fit its files. Build the dataset again.")
        self._ends = ends

    def __len__(self) -> int:
        return len(self._objects)

    def info(self, index: int) -> dict[str, Any]:
        """What is said of an object."""
        return dict(self._objects[index]["info"])

    def hashes(self, index: int) -> list[set[bytes]]:
        """The blocks that an object's nodes name, by level; none for level 0."""
        nodes = self._nodes[self._own(index)]
        found: list[set[bytes]] = [set()]
        for level in range(1, self.about.num_levels):
            rows = np.unique(nodes["block"][nodes["level"] == level])
            found.append({one.tobytes() for one in self._rows(self._hashes[level], rows, level)})
        return found

    def oriented(self, index: int) -> set[tuple[int, bytes, int]]:
        """The blocks that an object's nodes name, as they lie: level, hash and symmetry."""
        own, found = self._own(index), set()
        nodes = self._nodes[own]
        turns = np.zeros(len(nodes), np.uint8) if self._symmetries is None else self._symmetries[own]
        for level in range(1, self.about.num_levels):
            here = nodes["level"] == level
            rows, symmetries = different_pairs(nodes["block"][here], turns[here])
            names = self._rows(self._hashes[level], rows, level)
            found |= {(level, name.tobytes(), turn) for name, turn in zip(names, symmetries.tolist(), strict=True)}
        return found

    def read(self, index: int) -> ShapeObject:
        """An object, by its place in the order of object ids."""
        own = self._own(index)
        nodes = self._nodes[own].copy()
        levels = []
        for level in range(self.about.num_levels):
            here = nodes["level"] == level
            if level:
                rows, local = np.unique(nodes["block"][here], return_inverse=True)
                nodes["block"][here] = local
            else:
                rows = np.array([int(self._objects[index]["root"])])
            levels.append(
                BlockLevel(
                    level=level,
                    resolution=self.about.base_resolution >> level,
                    hashes=np.array(self._rows(self._hashes[level], rows, level)),
                    words=self._words(level, rows),
                )
            )
        tree = BlockTree(
            resolution=self.about.base_resolution,
            min_resolution=self.about.min_resolution,
            full_tree=self.about.full_tree,
            nodes=nodes,
            levels=tuple(levels),
            symmetries=None if self._symmetries is None else self._symmetries[own].copy(),
        )
        return ShapeObject(info=self.info(index), tree=tree)

    def block_names(self, level: int) -> list[bytes]:
        """The hashes of the different blocks of a level below 0, sorted."""
        return [name.tobytes() for name in np.asarray(self._hashes[level])]

    def block_words(self, level: int, name: bytes) -> np.ndarray:
        """The words (W,) of a block of a level below 0."""
        names = np.asarray(self._hashes[level]).view("V32").reshape(-1)
        row = bisect.bisect_left(names, name, key=bytes)
        if row == len(names) or bytes(names[row]) != name:
            raise MissingFileError(f"{self.folder}: level {level} has no block {name.hex()}.")
        return self._words(level, np.array([row]))[0]

    def root_words(self, index: int) -> np.ndarray:
        """The words (W,) of an object's level 0."""
        return self._words(0, np.array([int(self._objects[index]["root"])]))[0]

    def check_files(self) -> None:
        """Raise FormatError unless every file has the content that the index says."""
        for entry in _entries(self._index):
            path = self.folder / PACKED / entry["file"]
            if file_checksum(path) != entry["sha256"]:
                raise FormatError(f"{path}: its checksum is not the one in {INDEX}: it is damaged. Build again.")

    def _own(self, index: int) -> slice:
        """Where an object's nodes are."""
        end = int(self._ends[index])
        return slice(end - int(self._objects[index]["nodes"]), end)

    def _rows(self, array: np.ndarray, rows: np.ndarray, level: int) -> np.ndarray:
        if len(rows) and int(rows.max()) >= len(array):
            raise FormatError(f"{self.folder}: level {level}: a node names block {rows.max()} of {len(array)}.")
        return np.asarray(array[rows])

    def _words(self, level: int, rows: np.ndarray) -> np.ndarray:
        shards = self._shards[level]
        check_lengths(self.folder / PACKED, self._index["levels"][level]["words"])
        words = np.zeros((len(rows), word_count(self.about.base_resolution >> level)), np.int64)
        start = 0
        for shard in shards:
            here = (rows >= start) & (rows < start + len(shard))
            words[here] = shard[rows[here] - start]
            start += len(shard)
        return words
