"""Whether a voxel dataset holds what it says: every file, every block, every object."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxfield.errors import VoxfieldError
from voxfield.jobs.reporter import Reporter
from voxfield.storage.shape_dataset import open_shapes
from voxfield.storage.shape_packed import PackedShapes
from voxfield.storage.shapes import METADATA, BlockCounts
from voxfield.storage.skipped import Skipped
from voxfield.voxels.hierarchy import check_tree


@dataclass(frozen=True, kw_only=True)
class CheckedShapes:
    """What a verification found."""

    objects: int
    """Objects looked at."""
    blocks: int
    """Different blocks among them, level 0 aside."""
    faults: tuple[Skipped, ...]
    """Files or objects that are damaged, with reasons."""


def check_shapes(folder: Path, *, progress: Reporter) -> CheckedShapes:
    """Verify a dataset: checksums of files, names of blocks, lossless reassembly at every level, counts.

    Raises:
        MissingFileError, FormatError: it cannot be opened at all.
    """
    dataset = open_shapes(folder)
    faults: list[Skipped] = []
    if isinstance(dataset, PackedShapes):
        try:
            dataset.check_files()
        except VoxfieldError as error:
            faults.append(Skipped(path=str(folder), reason=str(error)))
    counts = BlockCounts.for_levels(dataset.about.num_levels)
    with progress.stage("Verifying", len(dataset), "objects") as stage:
        for index in range(len(dataset)):
            try:
                shape = dataset.read(index)
                check_tree(shape.tree)
                occupied = int(np.bitwise_count(shape.tree.levels[0].words.view(np.uint64)).sum())
                stated = shape.info.get("num_occupied_voxels")
                if stated != occupied:
                    reason = f"has {occupied} voxels, but its metadata says {stated}."
                    faults.append(Skipped(path=f"object_{shape.object_id}", reason=reason))
                counts.add(shape)
            except VoxfieldError as error:
                faults.append(Skipped(path=f"object number {index}", reason=str(error)))
            stage.advance()
    if not faults:
        faults += _check_counts(folder, counts)
    blocks = sum(len(level) for level in counts.levels)
    return CheckedShapes(objects=len(dataset), blocks=blocks, faults=tuple(faults))


def _check_counts(folder: Path, counts: BlockCounts) -> Sequence[Skipped]:
    content: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    if content.get("deduplication_stats") != counts.level_stats():
        return [Skipped(path=str(folder / METADATA), reason="its counts are not those of the objects. Build again.")]
    return []
