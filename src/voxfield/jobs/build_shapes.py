"""Meshes to a hierarchical, deduplicated voxel dataset: in parallel, and resumable after being killed.

    output/
      metadata.json, splits.json and the dataset in its layout, see `voxfield.storage.shapes`
      failures.json    meshes that could not be used, if there are any
      .build/          what a later run continues from; removed when the dataset is complete

Every finished object lies in ``.build`` with a digest of its source and of the settings; only then is the dataset
written from them, in the order of object ids. So the same meshes and settings give the same bytes, however often the
work was interrupted and by however many processes it was done.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from voxfield.checks import check_bytes, check_choice, check_range
from voxfield.data.capture import digest
from voxfield.data.formats.meshes import VOXELISED_BYTES, find_meshes, read_mesh
from voxfield.distributed.executors import ExecutorSettings, open_executor
from voxfield.distributed.memory import MemoryNeed, MemoryPart, memory_bound, workers_within
from voxfield.errors import InputError, VoxfieldError
from voxfield.jobs.reporter import Reporter
from voxfield.jobs.split_shapes import SplitRatios, write_splits
from voxfield.kernels.scan_fill import Inside
from voxfield.storage.atomic import write_bytes, write_json
from voxfield.storage.npz import npz_bytes, read_npz
from voxfield.storage.one_writer import only_writer
from voxfield.storage.shape_dataset import ShapeDataset, open_shapes, write_shapes
from voxfield.storage.shapes import METADATA, SPLITS, DatasetAbout, Layout, ShapeObject, read_about
from voxfield.storage.skipped import Skipped
from voxfield.voxels.hierarchy import BlockLevel, BlockTree, build_tree, check_resolutions
from voxfield.voxels.voxelise import Coverage, voxelise

FAILURES_FILE: Final = "failures.json"
_WORK: Final = ".build"
_LATEST: Final = 253_402_300_799.0
"""Seconds from 1970 to the end of 9999."""
_VOXEL_BYTES: Final = 2.5
"""Of a voxel while its grid is filled and divided into blocks."""
_INDEX_BYTES: Final = 200
"""Of an object's nodes and of the names of its blocks, for each of the smallest blocks on a face of its cube."""
_REVISION: Final = 1
"""Raised when the same mesh and settings give other objects than before."""


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """How meshes become a dataset."""

    resolution: int = 128
    """Voxels along each axis of an object: a power of two, 4 to 1024."""
    min_resolution: int = 4
    """Voxels along each axis of the smallest blocks: a power of two, 4 to ``resolution``."""
    coverage: Coverage = "conservative"
    """Which voxels are set, see `voxfield.voxels.voxelise.voxelise`."""
    inside: Inside = "parity"
    """What inside means, see `voxfield.kernels.scan_fill.scan_fill`."""
    full_tree: bool = False
    """Keep every node of the tree, empty ones and those below full ones too."""
    symmetry: bool = False
    """Keep one block for all that it can be turned or mirrored into."""
    layout: Layout = "packed"
    """How the dataset lies on disk."""
    start_object: int = 0
    """How many meshes of the list are passed over; object ids count from the list's beginning."""
    num_objects: int | None = None
    """Most meshes taken; None takes all."""
    splits: SplitRatios = SplitRatios()
    """Shares of the splits."""
    run_on: ExecutorSettings = ExecutorSettings()
    """Where meshes are voxelised."""
    memory: int | str | None = None
    """Most memory, in bytes or as ``"8GB"``: fewer processes run where more do not fit. None: what can be spared."""

    def __post_init__(self) -> None:
        check_resolutions(self.resolution, self.min_resolution)
        check_choice("coverage", self.coverage, get_args(Coverage))
        check_choice("inside", self.inside, get_args(Inside))
        check_choice("layout", self.layout, get_args(Layout))
        check_range("start_object", self.start_object, minimum=0)
        if self.num_objects is not None:
            check_range("num_objects", self.num_objects, minimum=1)
        if self.memory is not None:
            check_bytes("memory", self.memory)

    def shape_digest(self, source_hash: str) -> str:
        """Changes when an object of this source would."""
        what: list[Any] = [_REVISION, self.resolution, self.min_resolution, self.coverage, self.inside, self.full_tree]
        if self.symmetry:
            what.append("symmetry")
        return digest(json.dumps(what).encode(), source_hash.encode())


@dataclass(frozen=True, kw_only=True)
class BuiltShapes:
    """What a build did."""

    output: Path
    objects: int
    """Objects of the dataset."""
    made: int
    """Of them, those made by this call."""
    failures: tuple[Skipped, ...]
    """Meshes that could not be used, with reasons; also in ``failures.json``."""
    stats: dict[str, Any]
    """The dataset's ``metadata.json``."""


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One mesh on its way to an object. Pickled to the workers."""

    object_id: str
    source: Path
    name: str
    """The source as the dataset names it."""
    source_hash: str
    key: str
    artefact: Path
    settings: ShapeSettings

    @property
    def identity(self) -> tuple[str, str, str]:
        """What must be the same for an object to be the one wanted."""
        return self.object_id, self.name, self.key


def build_shapes(
    sources: Sequence[str | Path], output: Path, *, settings: ShapeSettings, progress: Reporter
) -> BuiltShapes:
    """Meshes to a dataset.

    Args:
        sources: mesh files, folders of them, patterns.
        output: folder of the dataset: new, empty, or from an earlier call.
        settings: how.
        progress: told of everything.

    Raises:
        InputError: ``output`` holds other files or is being written to, no mesh could be used, or there is too little
            memory to voxelise one.
        MissingFileError: sources that do not exist.
    """
    # Absolute, as workers may be elsewhere.
    files = [path.absolute() for path in find_meshes(sources)] if settings.run_on.scheduler else find_meshes(sources)
    output = output.absolute() if settings.run_on.scheduler else output
    chosen = files[settings.start_object :][: settings.num_objects]
    if not chosen:
        raise InputError(
            f"start_object: expected less than the number of meshes, {len(files)}, got {settings.start_object}."
        )
    settings = _within_memory(chosen, settings, progress)
    with only_writer(output):
        return _build(chosen, files, output, settings, progress)


def _within_memory(chosen: Sequence[Path], settings: ShapeSettings, progress: Reporter) -> ShapeSettings:
    """With as many workers as memory is enough for; what they need is said."""
    voxels, largest = settings.resolution**3, max(path.stat().st_size if path.is_file() else 0 for path in chosen)
    bound = memory_bound(settings.memory)
    run_on, need = workers_within(
        bound,
        settings.run_on,
        tasks=len(chosen),
        each=int(voxels * _VOXEL_BYTES) + largest * VOXELISED_BYTES,
        what="meshes and grids",
    )
    surface = (settings.resolution // settings.min_resolution) ** 2
    index = MemoryPart(what="index of blocks", size=len(chosen) * surface * _INDEX_BYTES)
    need = MemoryNeed(parts=(*need.parts, index))
    bound.check(need, "Take a lower --resolution, a higher --min-resolution or fewer objects at a time")
    progress.say(str(need))
    return dataclasses.replace(settings, run_on=run_on)


def _build(
    chosen: Sequence[Path], files: Sequence[Path], output: Path, settings: ShapeSettings, progress: Reporter
) -> BuiltShapes:
    """Those of ``files`` that were chosen, to a dataset."""
    _check_output(output)
    work = output / _WORK
    # Named from what all of them share, so that taking more of the same list changes no name.
    base = Path(os.path.commonpath([path.resolve().parent for path in files]))
    tasks, failures = _plan(chosen, base, work, settings)
    done = _open_finished(output, settings)
    kept = {} if done is None else _keys(done)
    if done is None and (output / METADATA).is_file():
        progress.say(f"{output}: the dataset there is damaged, or has other blocks; it is made anew.")
    work.mkdir(parents=True, exist_ok=True)
    pending = [task for task in tasks if task.identity not in kept and not _is_made(task)]
    failures += _make(pending, work, settings, progress) if pending else []
    unusable = {item.path for item in failures}
    made = [task for task in tasks if str(task.source) not in unusable]
    failures.sort(key=lambda item: item.path)
    _record(output, failures)
    if not made:
        raise InputError(
            f"{output}: none of {len(chosen)} meshes could be used; {failures[0].path}: {failures[0].reason}"
        )
    if done is not None and done.layout == settings.layout and set(kept) == {task.identity for task in made}:
        progress.say(f"{output} is up to date: nothing was done again.")
        if not (output / SPLITS).is_file():
            write_splits(done, output, settings.splits)
        shutil.rmtree(work)
        return _result(output, len(made), 0, tuple(failures))
    for task in made:
        if done is not None and task.identity in kept:
            write_bytes(task.artefact, _pack_object(done.read(kept[task.identity])))
    # From here on the dataset is not the old one any more.
    for name in (METADATA, SPLITS):
        (output / name).unlink(missing_ok=True)
    # Clocks may have been anywhere: years from 1970 to 9999 have a name.
    newest = min(max(0.0, *(task.source.stat().st_mtime for task in made)), _LATEST)
    about = DatasetAbout(
        base_resolution=settings.resolution,
        min_resolution=settings.min_resolution,
        full_tree=settings.full_tree,
        symmetry=settings.symmetry,
        created_at=datetime.datetime.fromtimestamp(int(newest), datetime.UTC).isoformat(),
    )
    with progress.stage("Writing the dataset", 1):
        write_shapes(output, _Artefacts(about, [task.artefact for task in made]), settings.layout)
    write_splits(open_shapes(output), output, settings.splits)
    shutil.rmtree(work)
    new = sum(str(task.source) not in unusable for task in pending)
    return _result(output, len(made), new, tuple(failures))


def _result(output: Path, objects: int, made: int, failures: tuple[Skipped, ...]) -> BuiltShapes:
    stats = json.loads((output / METADATA).read_text(encoding="utf-8"))
    return BuiltShapes(output=output, objects=objects, made=made, failures=failures, stats=stats)


def _check_output(output: Path) -> None:
    """Raise InputError unless ``output`` is new, empty or ours."""
    if (output / _WORK).is_dir() or not any(output.iterdir()):
        return
    try:
        # What is replaced must be a dataset, not whatever has such a file.
        read_about(output)
    except VoxfieldError as error:
        raise InputError(f"{output}: holds other files already. Name a new or empty folder. ({error})") from error


def _plan(files: Sequence[Path], base: Path, work: Path, settings: ShapeSettings) -> tuple[list[_Task], list[Skipped]]:
    """A task for each mesh that can be opened, and those that cannot."""
    tasks, failures = [], []
    for number, path in enumerate(files, start=settings.start_object):
        try:
            with path.open("rb") as stream:
                source_hash = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            failures.append(Skipped(path=str(path), reason=f"cannot be read ({error.strerror})."))
            continue
        object_id = f"{number:04d}"
        tasks.append(
            _Task(
                object_id=object_id,
                source=path,
                name=path.resolve().relative_to(base).as_posix(),
                source_hash=source_hash,
                key=settings.shape_digest(source_hash),
                artefact=work / f"object_{object_id}.npz",
                settings=settings,
            )
        )
    return tasks, failures


def _open_finished(output: Path, settings: ShapeSettings) -> ShapeDataset | None:
    """The dataset that is there, if it is complete and has objects of this kind."""
    if not (output / METADATA).is_file():
        return None
    try:
        dataset = open_shapes(output)
    except VoxfieldError:
        # Damaged: what it consists of is made again.
        return None
    about = dataset.about
    there = (about.base_resolution, about.min_resolution, about.full_tree, about.symmetry)
    wanted = (settings.resolution, settings.min_resolution, settings.full_tree, settings.symmetry)
    return dataset if there == wanted else None


def _keys(dataset: ShapeDataset) -> dict[tuple[str, Any, Any], int]:
    """Where the objects of a dataset are, by what a task's ``identity`` compares."""
    infos = [dataset.info(index) for index in range(len(dataset))]
    return {(info["object_id"], info.get("source_file"), info.get("build_key")): at for at, info in enumerate(infos)}


def _is_made(task: _Task) -> bool:
    """Whether the object lies ready, made from the same source and settings."""
    try:
        info = json.loads(read_npz(task.artefact)["info"].tobytes())
        return (info["build_key"], info["source_file"]) == (task.key, task.name)
    except (VoxfieldError, KeyError, ValueError):
        return False


def _make(tasks: Sequence[_Task], work: Path, settings: ShapeSettings, progress: Reporter) -> list[Skipped]:
    """Make objects on all workers; returns the meshes that could not be used."""
    failures = []
    with (
        open_executor(settings.run_on, tasks=len(tasks), folders=[work]) as executor,
        progress.stage("Voxelising", len(tasks), "meshes") as stage,
    ):
        for task, reason in executor.run(_make_object, tasks):
            if reason is not None:
                failures.append(Skipped(path=str(task.source), reason=reason))
            stage.advance(note=task.name)
    return failures


def _make_object(task: _Task) -> str | None:
    """Read, voxelise and divide one mesh; returns why not, if not."""
    settings = task.settings
    try:
        mesh = read_mesh(task.source)
        grid = voxelise(
            mesh.vertices, mesh.faces, settings.resolution, coverage=settings.coverage, inside=settings.inside
        )
    except MemoryError:
        return "needs more memory than there is."
    except VoxfieldError as error:
        return str(error).removeprefix(f"{task.source}: ")
    if grid.occupied == 0:
        return "encloses no voxel: it has no volume or holes too large. Use coverage=conservative or surface."
    tree = build_tree(
        grid.words.numpy(),
        settings.resolution,
        settings.min_resolution,
        full_tree=settings.full_tree,
        symmetry=settings.symmetry,
    )
    used = mesh.vertices[np.unique(mesh.faces)]
    used = used[np.isfinite(used).all(1)]
    low, high = used.min(0), used.max(0)
    info = {
        "object_id": task.object_id,
        "source_file": task.name,
        "voxel_pitch": grid.pitch,
        "grid_origin": list(grid.origin),
        "original_bbox_min": low.tolist(),
        "original_bbox_max": high.tolist(),
        "original_extents": (high - low).tolist(),
        "num_occupied_voxels": grid.occupied,
        "occupancy_ratio": grid.occupied / settings.resolution**3,
        "faces": len(mesh.faces),
        "faces_left_out": grid.faces_left_out,
        "coverage": settings.coverage,
        "inside": settings.inside,
        "source_hash": task.source_hash,
        "build_key": task.key,
    }
    write_bytes(task.artefact, _pack_object(ShapeObject(info=info, tree=tree)))
    return None


def _pack_object(shape: ShapeObject) -> bytes:
    arrays = {
        "info": np.frombuffer(json.dumps(dict(shape.info)).encode(), np.uint8),
        "nodes": shape.tree.nodes,
        **({} if shape.tree.symmetries is None else {"symmetries": shape.tree.symmetries}),
        **{f"words_{blocks.level}": blocks.words for blocks in shape.tree.levels},
        **{f"hashes_{blocks.level}": blocks.hashes for blocks in shape.tree.levels},
    }
    return npz_bytes(arrays, compress=False)


class _Artefacts:
    """Finished objects on their way into the dataset."""

    def __init__(self, about: DatasetAbout, paths: Sequence[Path]) -> None:
        self.about, self._paths = about, list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> ShapeObject:
        """An object, by its place in the order of object ids."""
        arrays = read_npz(self._paths[index])
        about = self.about
        levels = [
            BlockLevel(
                level=level,
                resolution=about.base_resolution >> level,
                hashes=arrays[f"hashes_{level}"],
                words=arrays[f"words_{level}"],
            )
            for level in range(about.num_levels)
        ]
        tree = BlockTree(
            resolution=about.base_resolution,
            min_resolution=about.min_resolution,
            full_tree=about.full_tree,
            nodes=arrays["nodes"],
            levels=tuple(levels),
            symmetries=arrays.get("symmetries"),
        )
        return ShapeObject(info=json.loads(arrays["info"].tobytes()), tree=tree)


def _record(output: Path, failures: Sequence[Skipped]) -> None:
    """``failures.json`` lists the meshes that could not be used; there is none when all is well."""
    if failures:
        write_json(output / FAILURES_FILE, [dataclasses.asdict(item) for item in failures])
    else:
        (output / FAILURES_FILE).unlink(missing_ok=True)
