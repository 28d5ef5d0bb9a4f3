"""The ``splits.json`` of a voxel dataset: which objects are for training, and which blocks therefore are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.shapes import SPLITS, read_json_object


@dataclass(frozen=True, kw_only=True)
class ShapeSplits:
    """Objects and blocks by split."""

    objects: Mapping[str, str]
    """Object id to split."""
    usage: Mapping[str, Mapping[str, str]]
    """Hash of a block to the objects that use it, each with its split."""
    trivial: frozenset[str]
    """Blocks that are all empty or all full, which every split has."""

    def has(self, split: str, level: int, name: str) -> bool:
        """Whether a block, or at level 0 an object, belongs to a split: any of its objects does, or it is trivial."""
        if level == 0:
            return self.objects.get(name) == split
        return name in self.trivial or split in self.usage.get(name, {}).values()


def read_splits(folder: Path) -> ShapeSplits:
    """The splits of a dataset.

    Raises:
        MissingFileError: it has none. FormatError: damaged.
    """
    path = folder / SPLITS
    if not path.is_file():
        raise MissingFileError(f"Splits file not found: {path}. Make it: voxfield dataset split {folder}")
    content = read_json_object(path)
    objects, usage = _mapping(path, content, "object_splits"), _mapping(path, content, "hash_object_usage")
    trivial = content.get("trivial_hashes", [])
    if not isinstance(trivial, list) or not all(isinstance(used, dict) for used in usage.values()):
        raise FormatError(f"{path}: is damaged. Make it again: voxfield dataset split {folder}")
    return ShapeSplits(objects=objects, usage=usage, trivial=frozenset(map(str, trivial)))


def _mapping(path: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: has no {key!r}. Make it again: voxfield dataset split {path.parent}")
    return value
