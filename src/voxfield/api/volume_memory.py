"""What work on volumes' files needs of memory: by their topology, which is read without their values."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from voxfield.distributed.memory import MemoryPart, check_short_job, need_of, process_part
from voxfield.storage.compressed import CompressedFile, is_compressed
from voxfield.storage.remote import shown
from voxfield.storage.vdb import VdbFile
from voxfield.storage.vdb.layout import VALUE_TYPES
from voxfield.storage.voxel_vdb import METADATA_NAME, read_description
from voxfield.training.progress import Progress
from voxfield.voxels.vdb_tree import LEAF_VOXELS

_PLACE_BYTES: Final = 5
"""Of a place of a voxel grid, stored or not: its link and its clearance."""


def check_volumes(
    sources: Sequence[str | os.PathLike[str]],
    memory: int | str | None,
    *,
    quiet: bool,
    names: Sequence[str] = (),
    made: float = 0.3,
    box_bytes: int = 0,
    kernels: bool = False,
    remedy: str = "Take fewer grids at a time",
) -> None:
    """Say what reading volumes and working on them needs, where it is much.

    Args:
        sources: ``.vdb`` files or compressed ones, all in memory together.
        memory: as `voxfield.distributed.memory.memory_bound`.
        quiet: say nothing.
        names: grids that are read; all where empty.
        made: bytes of what is made of the grids, for each byte of theirs.
        box_bytes: bytes of what is made for each voxel of the box around the largest grid, empty ones too.
        kernels: whether our kernels run, as they do wherever a compressed volume is unpacked.
        remedy: what a person can lower.

    Raises:
        InputError: it is more than ``memory``, or than there is.
        MissingFileError, FormatError: as opening the files.
    """
    kernels = kernels or any(is_compressed(Path(source)) for source in sources)
    held = sum(volume_bytes(source, names) for source in sources)
    box = max(box_voxels(source, names) for source in sources) if box_bytes else 0
    need = need_of(
        MemoryPart(what=f"grids of {', '.join(shown(Path(source)) for source in sources)}", size=held),
        MemoryPart(what="what is made of them", size=int(held * made) + box * box_bytes),
        process=process_part(kernels=kernels),
    )
    check_short_job(memory, need, remedy, Progress(quiet=quiet).say)


def box_voxels(source: str | os.PathLike[str], names: Sequence[str] = ()) -> int:
    """Voxels of the box around the active ones of a file's largest grid; of a compressed one, that its blocks fill."""
    if is_compressed(Path(source)):
        packed = CompressedFile(source)
        return max((one.leaves * LEAF_VOXELS for one in packed.grids if not names or one.name in names), default=0)
    file = VdbFile(source)
    headers = [file.find(name) for name in names] if names else list(file.grids)
    boxes = [file.summary(header).topology.active_bounds for header in headers if header.kind is not None]
    return max((math.prod((box[1].astype(np.int64) - box[0]).tolist()) for box in boxes if box is not None), default=0)


def volume_bytes(source: str | os.PathLike[str], names: Sequence[str] = ()) -> int:
    """Memory of a file's grids once they are read; those that share a tree count once.

    Raises:
        MissingFileError, FormatError: as opening the file. InputError: names that are absent.
    """
    if is_compressed(Path(source)):
        packed = CompressedFile(source)
        chosen = [one for one in packed.grids if not names or one.name in names]
        return sum(one.leaves * LEAF_VOXELS * _voxel_bytes(one.type_name) for one in chosen)
    file = VdbFile(source)
    headers = [file.find(name) for name in names] if names else list(file.grids)
    if METADATA_NAME in file.metadata:
        return _voxel_grid_bytes(file)
    trees = {header.parent or header.unique_name: header for header in headers if header.kind is not None}
    return sum(
        len(file.summary(header).topology.origins) * LEAF_VOXELS * _voxel_bytes(header.type_name)
        for header in trees.values()
    )


def _voxel_grid_bytes(file: VdbFile) -> int:
    """Of a voxel grid that Voxfield wrote: values, the table of where they are, and the blocks that these come in."""
    frame, _ = read_description(file)
    topologies = [file.summary(header).topology for header in file.grids if header.kind is not None]
    blocks = sum(len(one.origins) for one in topologies) * LEAF_VOXELS * _voxel_bytes("int32")
    channels = 1 + 3 * (frame.sh_degree + 1) ** 2
    values = max((one.active_count for one in topologies), default=0) * channels * 4
    return values + math.prod(frame.resolution) * _PLACE_BYTES + blocks


def _voxel_bytes(type_name: str) -> int:
    """Of a voxel: its value, and whether it is active."""
    return VALUE_TYPES[type_name].nbytes + 1
