"""Ray-traced supervision for a voxel dataset: rays around every block that is not empty, and what they meet.

    output/
      trace.json                 the parameters; another call must have the same
      processing_summary.json    what was done
      level_2/f3/f30c11..._rays.npz     one file a block; of level 0, one an object
      packed/                    instead of these, where asked for (`voxfield.storage.shape_rays`)

Each file is written whole, from a seed of its own, so an interrupted run is continued to the same bytes.
"""

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from voxfield.checks import check_bytes, check_choice, check_range
from voxfield.distributed.executors import ExecutorSettings, open_executor
from voxfield.distributed.memory import MemoryNeed, MemoryPart, memory_bound, workers_within
from voxfield.errors import InputError, VoxfieldError
from voxfield.geometry.voxel_views import RayStart, sample_views
from voxfield.jobs.reporter import Reporter
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.storage.atomic import write_bytes, write_json
from voxfield.storage.mapped_arrays import INDEX
from voxfield.storage.npz import npz_bytes, read_npz
from voxfield.storage.one_writer import only_writer
from voxfield.storage.shape_dataset import ShapeDataset, open_shapes
from voxfield.storage.shape_rays import (
    PACKED,
    PARAMETERS,
    FileRays,
    PackedRays,
    RayBlock,
    remove_ray_files,
    write_packed_rays,
)
from voxfield.storage.shapes import Layout, read_json_object
from voxfield.storage.skipped import Skipped
from voxfield.voxels.hierarchy import hash_blocks

SUMMARY: Final = "processing_summary.json"
_RAY_BYTES: Final = 400
"""Of a ray while its block is traced and packed."""
_VOXEL_BYTES: Final = 1
"""Of a voxel while the grid it is in is traced."""
_BLOCK_BYTES: Final = 600
"""Of a block on the list of those that are traced."""
_BATCH: Final = 32
"""Blocks a worker takes at a time."""


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """Which rays are traced."""

    sphere_divisions: int = 4
    """Cameras' polar angles and azimuths: divisions**2 cameras; 1 to 1024."""
    samples_per_view: int = 3000
    """Rays of a camera, a third on each face; at least 3."""
    adaptive_sampling: bool = False
    """Take half as many rays at each finer level, but not fewer than ``min_samples``."""
    min_samples: int = 100
    """See ``adaptive_sampling``; at least 3."""
    min_level: int = 0
    """First level; 0 is whole objects."""
    max_level: int | None = None
    """Last level; None is the dataset's."""
    start: RayStart = "near"
    """Where rays begin, see `voxfield.geometry.voxel_views.RayStart`."""
    seed: int = 42
    """The same seed gives the same rays."""
    run_on: ExecutorSettings = ExecutorSettings()
    """Where blocks are traced."""
    memory: int | str | None = None
    """Most memory, in bytes or as ``"8GB"``: fewer processes run where more do not fit. None: what can be spared."""
    layout: Layout = "files"
    """``files``: a file a block. ``packed``: a few mapped arrays, from which loaders read many times as fast."""

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, get_args(Layout))
        check_range("sphere_divisions", self.sphere_divisions, minimum=1, maximum=1024)
        check_range("samples_per_view", self.samples_per_view, minimum=3, maximum=1 << 24)
        check_range("min_samples", self.min_samples, minimum=3, maximum=1 << 24)
        check_range("min_level", self.min_level, minimum=0)
        if self.max_level is not None:
            check_range("max_level", self.max_level, minimum=self.min_level)
        check_choice("start", self.start, get_args(RayStart))
        check_range("seed", self.seed, minimum=0, maximum=2**31 - 1)
        if self.memory is not None:
            check_bytes("memory", self.memory)

    def samples_at(self, level: int) -> int:
        """Rays of a camera at a level."""
        return (
            max(self.min_samples, self.samples_per_view >> level) if self.adaptive_sampling else self.samples_per_view
        )

    def parameters(self) -> dict[str, Any]:
        """What a block's rays depend on."""
        names = ("sphere_divisions", "samples_per_view", "adaptive_sampling", "min_samples", "start", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class TracedShapes:
    """What a trace did."""

    output: Path
    summary: dict[str, Any]
    """The content of ``processing_summary.json``."""
    failures: tuple[Skipped, ...]
    """Blocks that could not be traced, with reasons."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """One block or object to trace. Pickled to the workers."""

    level: int
    name: str
    """Hash in hexadecimal, or the object's id at level 0."""
    index: int
    """Place of the object at level 0."""

    @property
    def file(self) -> str:
        return f"level_{self.level}/{self.name[:2]}/{self.name}_rays.npz"


def trace_shapes(folder: Path, output: Path, *, settings: TraceSettings, progress: Reporter) -> TracedShapes:
    """Trace rays through a dataset's blocks.

    Args:
        folder: the dataset.
        output: folder for the rays: new, empty, or from an earlier call with the same parameters.
        settings: which rays.
        progress: told of everything.

    Raises:
        InputError: levels that the dataset does not have, or ``output`` was made with other parameters, is being
            written to, or is not ours; or there is too little memory to trace a block.
        MissingFileError, FormatError: no dataset, or a damaged one.
    """
    dataset = open_shapes(folder)
    last = dataset.about.num_levels - 1
    top = last if settings.max_level is None else settings.max_level
    if settings.min_level > last or top > last:
        raise InputError(f"min_level, max_level: expected at most the dataset's last level, {last}.")
    settings = _within_memory(dataset, settings, top, progress)
    with only_writer(output):
        return _trace_levels(dataset, output, settings, top, progress)


def _within_memory(dataset: ShapeDataset, settings: TraceSettings, top: int, progress: Reporter) -> TraceSettings:
    """With as many workers as memory is enough for; what they need is said."""
    levels = range(settings.min_level, top + 1)
    blocks = sum(len(dataset.block_names(level)) if level else len(dataset) for level in levels)
    cameras = settings.sphere_divisions**2
    each = max(
        cameras * settings.samples_at(level) * _RAY_BYTES + (dataset.about.base_resolution >> level) ** 3 * _VOXEL_BYTES
        for level in levels
    )
    bound = memory_bound(settings.memory)
    run_on, need = workers_within(
        bound, settings.run_on, tasks=-(-blocks // _BATCH), each=each, what="rays and the blocks they pass"
    )
    need = MemoryNeed(parts=(*need.parts, MemoryPart(what="list of blocks", size=blocks * _BLOCK_BYTES)))
    bound.check(need, "Trace fewer rays (--samples-per-view, --sphere-divisions) or levels")
    progress.say(str(need))
    return dataclasses.replace(settings, run_on=run_on)


def _trace_levels(
    dataset: ShapeDataset, output: Path, settings: TraceSettings, top: int, progress: Reporter
) -> TracedShapes:
    """Trace the blocks of the levels from ``settings.min_level`` to ``top``."""
    folder = dataset.folder
    _check_output(output, settings, dataset.about.base_resolution)
    packed = PackedRays(output) if (output / PACKED / INDEX).is_file() else None
    blocks = list(_blocks(dataset, settings.min_level, top))
    total = len(blocks)
    if packed is not None:
        blocks = _not_packed(dataset, packed, blocks)
    counts = {"processed": 0, "skipped_already_exists": total - len(blocks), "skipped_empty": 0}
    failures = []
    with progress.stage("Tracing", len(blocks), "blocks") as stage:
        for name, outcome in _trace_all(folder.absolute(), output.absolute(), settings, blocks):
            if outcome in counts:
                counts[outcome] += 1
            else:
                failures.append(Skipped(path=name, reason=outcome))
            stage.advance()
    for left in output.glob("level_*/*/.*.partial"):
        # Of workers that were killed.
        left.unlink()
    summary = {
        "dataset_dir": str(folder),
        "output_dir": str(output),
        **settings.parameters(),
        "samples_per_level": {str(level): settings.samples_at(level) for level in range(settings.min_level, top + 1)},
        "total_subvolumes": total,
        **counts,
        "errors": len(failures),
        "min_level": settings.min_level,
        "max_level": top,
    }
    if settings.layout == "packed" and any(output.glob("level_*")):
        write_packed_rays(output, [FileRays(output), *([packed] if packed is not None else [])])
        remove_ray_files(output)
    write_json(output / SUMMARY, summary)
    return TracedShapes(output=output, summary=summary, failures=tuple(failures))


def _not_packed(dataset: ShapeDataset, packed: PackedRays, blocks: Sequence[_Block]) -> list[_Block]:
    """The blocks that are not among the packed ones, or are objects that have changed since."""
    there = set(packed.blocks())

    def known(block: _Block) -> bool:
        traced = RayBlock(block.level, block.name)
        if traced not in there or block.level:
            return traced in there
        content = hash_blocks(dataset.root_words(block.index)[None])[0].tobytes().hex()
        return str(packed.read(traced, 0, 0)["hash"]) == content

    return [block for block in blocks if not known(block)]


def _check_output(output: Path, settings: TraceSettings, resolution: int) -> None:
    """Raise InputError unless ``output`` is new, empty, or was made with the same parameters of such a dataset."""
    file = output / PARAMETERS
    parameters = {**settings.parameters(), "base_resolution": resolution}
    if settings.layout == "files" and (output / PACKED / INDEX).is_file():
        raise InputError(
            f"{output}: its rays are packed. Add --layout packed, name another --output-dir, or "
            "unpack them: voxfield dataset convert RAYS OUTPUT --layout files"
        )
    if file.is_file():
        # Earlier versions did not keep the dataset's resolution.
        before, now = {"base_resolution": resolution, **read_json_object(file)}, parameters
        if before != now:
            differ = ", ".join(f"{name} {before.get(name)}" for name in now if before.get(name) != now[name])
            raise InputError(
                f"{output}: its rays were traced with {differ}. Repeat that, or name another --output-dir."
            )
        return
    # What a call that was killed here left is none of the other files.
    if any(not path.name.endswith(".partial") for path in output.iterdir()):
        raise InputError(f"{output}: holds other files already. Name a new or empty folder.")
    write_json(file, parameters)


def _blocks(dataset: ShapeDataset, first: int, last: int) -> Iterator[_Block]:
    for level in range(first, last + 1):
        if level == 0:
            for index in range(len(dataset)):
                yield _Block(level=0, name=str(dataset.info(index)["object_id"]), index=index)
        else:
            for name in dataset.block_names(level):
                yield _Block(level=level, name=name.hex(), index=-1)


def _trace_all(
    folder: Path, output: Path, settings: TraceSettings, blocks: Sequence[_Block]
) -> Iterator[tuple[str, str]]:
    """Names of blocks with what became of them: a count's name, or a reason."""
    batches = [blocks[start : start + _BATCH] for start in range(0, len(blocks), _BATCH)]
    trace = partial(_trace_batch, folder, output, settings, uuid.uuid4().hex)
    with open_executor(settings.run_on, tasks=len(batches), folders=[folder, output]) as executor:
        for _, outcomes in executor.run(trace, batches):
            yield from outcomes


@lru_cache(maxsize=1)
def _opened(folder: Path, call: str) -> ShapeDataset:  # noqa: ARG001  (another call may find another dataset)
    """The dataset, opened once a process and call."""
    return open_shapes(folder)


def _trace_batch(
    folder: Path, output: Path, settings: TraceSettings, call: str, blocks: Sequence[_Block]
) -> list[tuple[str, str]]:
    dataset = _opened(folder, call)
    return [(block.name, _trace(dataset, output, settings, block)) for block in blocks]


def _trace(dataset: ShapeDataset, output: Path, settings: TraceSettings, block: _Block) -> str:
    """Trace one block, unless it is there; returns a count's name, or why not."""
    path = output / block.file
    resolution = dataset.about.base_resolution >> block.level
    try:
        if block.level and path.is_file():
            return "skipped_already_exists"
        words = (
            dataset.block_words(block.level, bytes.fromhex(block.name))
            if block.level
            else dataset.root_words(block.index)
        )
        content = hash_blocks(words[None])[0].tobytes().hex()
        if path.is_file() and str(read_npz(path)["hash"]) == content:
            return "skipped_already_exists"
        if not words.any():
            return "skipped_empty"
        if block.level and content != block.name:
            return "does not hold what its name says: it is damaged. Run: voxfield dataset verify"
        write_bytes(path, npz_bytes(trace_block(words, resolution, block.level, content, settings)))
    except (VoxfieldError, KeyError) as error:
        return str(error)
    return "processed"


def trace_block(
    words: np.ndarray, resolution: int, level: int, name: str, settings: TraceSettings
) -> dict[str, np.ndarray]:
    """The arrays of a ``_rays.npz``.

    Args:
        words: (W,) int64, the block's.
        resolution: voxels along each of its axes.
        level: its level.
        name: its hash in hexadecimal.
        settings: which rays.

    Returns:
        ``origins``, ``directions`` (N, 3) float32, in voxels about the block's centre; ``distances`` (N,) float32, the
        length in occupied voxels; ``hits`` (N,) uint8; ``hit_distances`` (N,) float32, to the first occupied voxel, inf
        without one; ``normals`` (N, 3) int8; ``voxel_ids`` (N,) int32, x + y R + z R**2, -1 without one; ``face_ids``,
        ``view_ids`` (N,) int32; ``view_positions`` (V, 3) float32; and ``grid_shape``, ``voxel_size``, ``hash``,
        ``level``, ``sampling_mode``.
    """
    seed = np.random.SeedSequence([settings.seed, level, int(name[:16], 16)])
    views = sample_views(
        resolution,
        divisions=settings.sphere_divisions,
        samples=settings.samples_at(level),
        start=settings.start,
        seed=seed,
    )
    origins = torch.from_numpy(views.origins).double() + resolution / 2
    hits = traverse_voxels(origins, torch.from_numpy(views.directions).double(), torch.from_numpy(words), resolution)
    return {
        "origins": views.origins,
        "directions": views.directions,
        "distances": hits.chord.numpy(),
        "hits": (hits.chord > 0).to(torch.uint8).numpy(),
        "hit_distances": hits.distance.numpy(),
        "normals": hits.normal.numpy(),
        "voxel_ids": hits.voxel.int().numpy(),
        "face_ids": views.face_ids,
        "view_ids": views.view_ids,
        "view_positions": views.view_positions,
        "grid_shape": np.array([resolution] * 3, np.int32),
        "voxel_size": np.array(1.0, np.float32),
        "hash": np.array(name),
        "level": np.array(level, np.int32),
        "sampling_mode": np.array("all_faces" if settings.start == "faces" else "sphere"),
    }
