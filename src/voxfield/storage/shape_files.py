"""The ``files`` layout of a voxel dataset: a folder an object, a file a block.

    metadata.json  registry.json
    objects/object_0003/{metadata.json, subdivision_map.json, level_0.npz}
    subvolumes/level_2/f3/f30c11....npz

Every ``.npz`` has the key ``voxels``: bool, axes z, y, x. A map lists the nodes below level 0; in a dataset with
symmetries each says which one, ``symmetry``, maps its block onto the voxels there.
"""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.kernels.cube_symmetry import SYMMETRIES
from voxfield.kernels.voxel_words import pack_blocks, unpack_blocks, word_count
from voxfield.storage.atomic import write_bytes, write_json, write_text
from voxfield.storage.npz import npz_bytes, read_npz
from voxfield.storage.shapes import (
    METADATA,
    BlockCounts,
    ShapeObject,
    Shapes,
    dataset_metadata,
    read_about,
    read_json_object,
)
from voxfield.voxels.hierarchy import NODE, BlockLevel, BlockTree, hash_blocks, hexadecimal

REGISTRY: Final = "registry.json"
MAP: Final = "subdivision_map.json"


def block_path(level: int, name: str) -> str:
    """Where a block lies below the dataset's folder."""
    return f"subvolumes/level_{level}/{name[:2]}/{name}.npz"


def write_files(folder: Path, shapes: Shapes) -> None:
    """Write a dataset; ``metadata.json`` comes last. Blocks that are there already are kept, others are removed."""
    counts = BlockCounts.for_levels(shapes.about.num_levels)
    empty: set[bytes] = set()
    for index in range(len(shapes)):
        shape = shapes.read(index)
        counts.add(shape)
        for blocks in shape.tree.levels[1:]:
            empty.update(name.tobytes() for name in blocks.hashes[~blocks.words.any(1)])
        _write_object(folder, shape)
    registry = {
        name.hex(): {
            "level": level,
            "count": count,
            "path": block_path(level, name.hex()),
            "is_empty": name in empty,
            "resolution": shapes.about.base_resolution >> level,
        }
        for level, level_counts in enumerate(counts.levels)
        for name, count in zip(map(np.ndarray.tobytes, level_counts.names), level_counts.counts.tolist(), strict=True)
    }
    overall = counts.overall()
    stats = {
        "total_subvolumes": overall["total_subvolumes"],
        "unique_subvolumes": overall["unique_subvolumes"],
        "overall_deduplication_ratio": overall["deduplication_ratio"],
        "levels": list(range(1, shapes.about.num_levels)),
        "level_stats": counts.level_stats(),
    }
    write_json(folder / REGISTRY, {"stats": stats, "registry": registry})
    _remove_strangers(folder, set(registry), set(counts.objects))
    write_json(folder / METADATA, dataset_metadata(shapes.about, counts, "files"))


def _write_object(folder: Path, shape: ShapeObject) -> None:
    tree = shape.tree
    home = folder / "objects" / f"object_{shape.object_id}"
    names = [hexadecimal(blocks.hashes) for blocks in tree.levels]
    empty = [~blocks.words.any(1) for blocks in tree.levels]
    for blocks, level_names in zip(tree.levels[1:], names[1:], strict=True):
        paths = [folder / block_path(blocks.level, name) for name in level_names]
        new = [index for index, path in enumerate(paths) if not path.exists()]
        for index, voxels in zip(new, unpack_blocks(blocks.words[new], blocks.resolution), strict=True):
            _write_block(paths[index], voxels)
    root = unpack_blocks(tree.levels[0].words, tree.resolution)[0]
    write_bytes(home / "level_0.npz", npz_bytes({"voxels": root}))
    turns = None if tree.symmetries is None else tree.symmetries.tolist()
    records = [
        {
            "object_id": shape.object_id,
            "level": level,
            "octant_index": octant,
            **{f"position_{axis}": at % (2 * side) for axis, at in zip("xyz", corner, strict=True)},
            **{f"global_position_{axis}": at for axis, at in zip("xyz", corner, strict=True)},
            "hash": names[level][block],
            "is_empty": bool(empty[level][block]),
            **({} if turns is None else {"symmetry": turns[row]}),
        }
        for row, (level, octant, *corner, block) in enumerate(tree.nodes.tolist())
        for side in (tree.resolution >> level,)
    ]
    # One record a line: a map is read by people too, and indentation would double it.
    lines = ",\n".join(json.dumps(record) for record in records)
    write_text(home / MAP, f"[\n{lines}\n]\n")
    write_json(home / METADATA, dict(shape.info))


def _write_block(path: Path, voxels: np.ndarray) -> None:
    """Make a block's file. Not flushed to the disk one by one, which takes longer than all the rest: a power cut may
    leave one damaged, which `check_tree` finds by its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex[:12]}.partial"
    try:
        temporary.write_bytes(npz_bytes({"voxels": voxels}))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_strangers(folder: Path, names: set[str], objects: set[str]) -> None:
    """Remove blocks and objects that the dataset no longer has, and what an interrupted run left."""
    for path in (folder / "subvolumes").glob("level_*/*/*"):
        if path.name.endswith(".partial") or (path.suffix == ".npz" and path.stem not in names):
            path.unlink()
    for path in (folder / "objects").glob("object_*"):
        if path.name.removeprefix("object_") not in objects:
            shutil.rmtree(path)


def remove_files(folder: Path) -> None:
    """Remove what the layout consists of, but for ``metadata.json``."""
    (folder / REGISTRY).unlink(missing_ok=True)
    for name in ("subvolumes", "objects"):
        shutil.rmtree(folder / name, ignore_errors=True)


class FileShapes:
    """A dataset in the ``files`` layout.

    Raises:
        MissingFileError, FormatError: no dataset, one that was never finished, or a damaged one.
    """

    layout: Final = "files"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about, content = read_about(folder)
        # Datasets of other programs call the array's first axis x, and say nothing.
        self._axes = "xyz" if content.get("axes") == "zyx" else "zyx"
        self._homes = sorted(
            (path for path in (folder / "objects").glob("object_*") if (path / METADATA).is_file()),
            key=lambda path: (len(path.name), path.name),
        )
        if len(self._homes) != content.get("num_objects"):
            raise FormatError(
                f"{folder}: has {len(self._homes)} complete objects, but {METADATA} says {content.get('num_objects')}: "
                "it is half-written. Run the same `voxfield dataset build` again."
            )

    def __len__(self) -> int:
        return len(self._homes)

    def info(self, index: int) -> dict[str, Any]:
        """What an object's ``metadata.json`` says."""
        home = self._homes[index]
        content = read_json_object(home / METADATA)
        if f"object_{content.get('object_id')}" != home.name:
            raise FormatError(f"{home / METADATA}: is that of object {content.get('object_id')!r}.")
        return content

    def hashes(self, index: int) -> list[set[bytes]]:
        """The blocks that an object's nodes name, by level; none for level 0."""
        found: list[set[bytes]] = [set() for _ in range(self.about.num_levels)]
        for level, name, *_ in self._records(index):
            found[level].add(bytes.fromhex(name))
        return found

    def oriented(self, index: int) -> set[tuple[int, bytes, int]]:
        """The blocks that an object's nodes name, as they lie: level, hash and symmetry."""
        return {(level, bytes.fromhex(name), turn) for level, name, _, _, _, _, turn in self._records(index)}

    def block_names(self, level: int) -> list[bytes]:
        """The hashes of the different blocks of a level below 0, sorted."""
        path = self.folder / REGISTRY
        try:
            registry = read_json_object(path)["registry"].items()
            return sorted(bytes.fromhex(name) for name, entry in registry if entry["level"] == level)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path}: is damaged ({type(error).__name__}: {error}).") from error

    def block_words(self, level: int, name: bytes) -> np.ndarray:
        """The words (W,) of a block of a level below 0."""
        side = self.about.base_resolution >> level
        return pack_blocks(self._read_voxels(self.folder / block_path(level, name.hex()), side)[None])[0]

    def root_words(self, index: int) -> np.ndarray:
        """The words (W,) of an object's level 0."""
        return pack_blocks(self._read_voxels(self._homes[index] / "level_0.npz", self.about.base_resolution)[None])[0]

    def read(self, index: int) -> ShapeObject:
        """An object, by its place in the order of object ids."""
        records = list(self._records(index))
        nodes, turns = np.zeros(len(records), NODE), np.zeros(len(records), np.uint8)
        named: list[list[bytes]] = [sorted(names) for names in self.hashes(index)]
        number = [{name: rank for rank, name in enumerate(names)} for names in named]
        for row, (level, name, octant, x, y, z, turn) in enumerate(records):
            nodes[row] = (level, octant, x, y, z, number[level][bytes.fromhex(name)])
            turns[row] = turn
        root = self.root_words(index)[None]
        levels = [BlockLevel(level=0, resolution=self.about.base_resolution, hashes=hash_blocks(root), words=root)]
        for level, wanted in enumerate(named[1:], start=1):
            side = self.about.base_resolution >> level
            words = np.zeros((len(wanted), word_count(side)), np.int64)
            for rank, block in enumerate(wanted):
                words[rank] = self.block_words(level, block)
            hashes = np.frombuffer(b"".join(wanted), np.uint8).reshape(-1, 32)
            levels.append(BlockLevel(level=level, resolution=side, hashes=hashes, words=words))
        tree = BlockTree(
            resolution=self.about.base_resolution,
            min_resolution=self.about.min_resolution,
            full_tree=self.about.full_tree,
            nodes=nodes,
            levels=tuple(levels),
            symmetries=turns if self.about.symmetry else None,
        )
        return ShapeObject(info=self.info(index), tree=tree)

    def _records(self, index: int) -> Iterator[tuple[int, str, int, int, int, int, int]]:
        """Level, hash, octant, x, y, z and symmetry of an object's nodes, checked."""
        path = self._homes[index] / MAP
        resolution, depth = self.about.base_resolution, self.about.num_levels
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for record in content:
                level, octant, name = int(record["level"]), int(record["octant_index"]), str(record["hash"])
                turn = int(record["symmetry"]) if self.about.symmetry and level else 0
                corner = [int(record[f"global_position_{axis}"]) for axis in self._axes]
                if level == 0:
                    continue
                if not (
                    0 < level < depth
                    and 0 <= octant < 8
                    and 0 <= turn < SYMMETRIES
                    and re.fullmatch("[0-9a-f]{64}", name)
                    and all(0 <= at < resolution for at in corner)
                ):
                    raise FormatError(f"{path}: has a record that does not fit: {json.dumps(record)[:200]}.")
                x, y, z = corner
                yield level, name, octant, x, y, z, turn
        except FileNotFoundError as error:
            raise MissingFileError(f"{path}: no such file.") from error
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path}: is damaged ({type(error).__name__}: {error}).") from error

    def _read_voxels(self, path: Path, side: int) -> np.ndarray:
        arrays = read_npz(path, most_bytes=side**3)
        voxels = arrays.get("voxels")
        if voxels is None or voxels.dtype != bool or voxels.shape != (side, side, side):
            there = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
            raise FormatError(f"{path}: expected voxels, bool {(side,) * 3}, got {there or 'nothing'}.")
        return voxels
