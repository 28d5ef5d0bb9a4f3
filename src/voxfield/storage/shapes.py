"""What a voxel dataset of shapes is, however it is laid out: objects, each with an octree of blocks, and their counts.

Two layouts hold the same: ``files`` (a JSON map an object, a ``.npz`` a block: ``shape_files.py``) and ``packed`` (a
few memory-mapped arrays: ``shape_packed.py``). ``shape_dataset.py`` opens either.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from voxfield.errors import FormatError, MissingFileError
from voxfield.voxels.block_names import NAME_BYTES, CountedNames
from voxfield.voxels.hierarchy import BlockTree

Layout = Literal["files", "packed"]
"""How a dataset lies on disk."""
METADATA: Final = "metadata.json"
SPLITS: Final = "splits.json"
VERSION: Final = "1.0"
MOST_JSON_BYTES: Final = 4 << 30


@dataclass(frozen=True, kw_only=True)
class ShapeObject:
    """An object of a dataset."""

    info: Mapping[str, Any]
    """What its ``metadata.json`` says: ``object_id`` ("0003"), ``source_file``, ``voxel_pitch``, ..."""
    tree: BlockTree

    @property
    def object_id(self) -> str:
        """Four digits or more."""
        return str(self.info["object_id"])


@dataclass(frozen=True, kw_only=True)
class DatasetAbout:
    """What a dataset's ``metadata.json`` says beside its counts."""

    base_resolution: int
    """Voxels along each axis of an object."""
    min_resolution: int
    """Voxels along each axis of the smallest blocks."""
    full_tree: bool
    """Whether every node is kept."""
    created_at: str
    """ISO 8601. Of the newest source, so that the same sources give the same bytes."""
    symmetry: bool = False
    """Whether blocks are kept in one form for all that they can be turned or mirrored into."""
    dataset_name: str = "Hierarchical_Voxels"

    @property
    def num_levels(self) -> int:
        """Levels, the whole grid included."""
        return (self.base_resolution // self.min_resolution).bit_length()


class Shapes(Protocol):
    """Objects one can iterate several times, reading one at a time."""

    about: DatasetAbout

    def __len__(self) -> int:
        """How many objects."""

    def read(self, index: int) -> ShapeObject:
        """An object, by its place in the order of object ids."""


@dataclass(kw_only=True)
class BlockCounts:
    """How often each block of each level is a node."""

    levels: list[CountedNames]
    """By level; level 0 is not counted."""
    empty: list[int]
    """Nodes without any voxel."""
    objects: list[str] = field(default_factory=list)
    oriented: list[CountedNames] = field(default_factory=list)
    """By level, for datasets with symmetries: the different blocks as they lie, each a symmetry before a hash."""

    @classmethod
    def for_levels(cls, num_levels: int) -> "BlockCounts":
        """Nothing counted yet."""
        return cls(
            levels=[CountedNames() for _ in range(num_levels)],
            empty=[0] * num_levels,
            oriented=[CountedNames(8 + NAME_BYTES) for _ in range(num_levels)],
        )

    def add(self, shape: ShapeObject) -> None:
        """Count an object's nodes."""
        self.objects.append(shape.object_id)
        for blocks in shape.tree.levels[1:]:
            here = shape.tree.nodes["level"] == blocks.level
            nodes = shape.tree.nodes[here]
            if shape.tree.symmetries is not None:
                which, turns = different_pairs(nodes["block"], shape.tree.symmetries[here])
                self.oriented[blocks.level].add(np.hstack([turns[:, None].view(np.uint8), blocks.hashes[which]]))
            counts = np.bincount(nodes["block"], minlength=len(blocks.hashes))
            self.empty[blocks.level] += int(counts[~blocks.words.any(1)].sum())
            self.levels[blocks.level].add(blocks.hashes, counts)

    def level_stats(self) -> dict[str, dict[str, Any]]:
        """For each level below 0: level, unique, total, empty, deduplication_ratio (unique / total); with symmetries
        also oriented: how many different blocks there are as they lie.
        """
        return {
            str(level): {
                "level": level,
                "unique": len(counts),
                "total": counts.total(),
                "empty": self.empty[level],
                "deduplication_ratio": _ratio(len(counts), counts.total()),
                **({"oriented": len(self.oriented[level])} if any(map(len, self.oriented)) else {}),
            }
            for level, counts in enumerate(self.levels)
            if level
        }

    def overall(self) -> dict[str, Any]:
        """Sums over the levels."""
        total, unique = sum(one.total() for one in self.levels), sum(map(len, self.levels))
        return {
            "total_subvolumes": total,
            "unique_subvolumes": unique,
            "deduplication_ratio": _ratio(unique, total),
        }


def different_pairs(blocks: np.ndarray, symmetries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs of a block's number and a symmetry, sorted: (P,) int64 of each."""
    pairs = np.unique(blocks.astype(np.int64) << 8 | symmetries)
    return pairs >> 8, pairs & 255


def _ratio(unique: int, total: int) -> float:
    return unique / total if total else 0.0


def dataset_metadata(about: DatasetAbout, counts: BlockCounts, layout: Layout) -> dict[str, Any]:
    """The content of a dataset's ``metadata.json``."""
    return {
        "dataset_name": about.dataset_name,
        "version": VERSION,
        "created_at": about.created_at,
        "layout": layout,
        "axes": "zyx",
        "base_resolution": about.base_resolution,
        "min_resolution": about.min_resolution,
        "full_tree": about.full_tree,
        "symmetry": about.symmetry,
        "num_levels": about.num_levels,
        "level_resolutions": [about.base_resolution >> level for level in range(about.num_levels)],
        "num_objects": len(counts.objects),
        "compression_enabled": layout == "files",
        "deduplication_stats": counts.level_stats(),
        "overall_stats": counts.overall(),
    }


def read_about(folder: Path) -> tuple[DatasetAbout, dict[str, Any]]:
    """A dataset's ``metadata.json``, checked, and all that it says.

    Raises:
        MissingFileError: the folder is no dataset, or one that was never finished.
        FormatError: damaged.
    """
    path = folder / METADATA
    if not path.is_file():
        if (folder / ".build").is_dir():
            said = f"its building was interrupted: run the same `voxfield dataset build` again ({METADATA} is missing)."
        elif folder.is_dir():
            said = f"no dataset ({METADATA} is missing). Make one: voxfield dataset build MESHES --output-dir DATASET"
        else:
            said = f"no such folder. Make a dataset: voxfield dataset build MESHES --output-dir {folder}"
        raise MissingFileError(f"{folder}: {said}")
    content = read_json_object(path)
    try:
        about = DatasetAbout(
            base_resolution=int(content["base_resolution"]),
            min_resolution=int(content["min_resolution"]),
            full_tree=bool(content.get("full_tree", True)),
            symmetry=bool(content.get("symmetry", False)),
            created_at=str(content["created_at"]),
            dataset_name=str(content["dataset_name"]),
        )
        known = content.get("layout", "files") in {"files", "packed"}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"{path}: is damaged (expected a dataset's {error}).") from error
    sides = (about.base_resolution, about.min_resolution)
    if not 1 <= sides[1] <= sides[0] or any(side & (side - 1) for side in sides):
        raise FormatError(
            f"{path}: expected powers of two as base and min resolution, the base's no smaller, got {sides}."
        )
    if not known:
        raise FormatError(f"{path}: has an unknown layout {content.get('layout')!r}.")
    return about, content


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        MissingFileError: there is none. FormatError: it is no JSON object.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise FormatError(f"{path}: is larger than the {MOST_JSON_BYTES:,} bytes that are read.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file.") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content
