"""Making voxel datasets of shapes: building, dividing, verifying, converting."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from voxfield.api.places import anywhere
from voxfield.checks import check_choice, check_range, nearest_names
from voxfield.distributed.executors import ExecutorKind, ExecutorSettings
from voxfield.distributed.memory import MemoryPart, check_short_job, need_of, process_part
from voxfield.errors import InputError
from voxfield.export.shape_pictures import write_contact_sheet, write_turntable
from voxfield.geometry.voxel_views import RayStart
from voxfield.jobs import build_shapes as building
from voxfield.jobs.check_shapes import CheckedShapes, check_shapes
from voxfield.jobs.split_shapes import SplitRatios, write_splits
from voxfield.jobs.trace_shapes import TracedShapes, TraceSettings
from voxfield.jobs.trace_shapes import trace_shapes as trace_blocks
from voxfield.kernels.scan_fill import Inside
from voxfield.storage.shape_dataset import convert_shapes as convert_layout
from voxfield.storage.shape_dataset import open_shapes
from voxfield.storage.shape_rays import convert_rays, holds_rays
from voxfield.storage.shapes import Layout
from voxfield.training.progress import Progress
from voxfield.voxels.voxelise import Coverage

_OBJECT_BYTES: Final = 5
"""Of a voxel of an object while it is read and taken apart. Measured."""
_NAME_BYTES: Final = 600
"""Of a different block: its name, and how often it comes. Measured."""


@anywhere("meshes", folder="output")
def build_shapes(
    meshes: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    resolution: int = 128,
    min_resolution: int = 4,
    coverage: Coverage = "conservative",
    inside: Inside = "parity",
    full_tree: bool = False,
    symmetry: bool = False,
    layout: Layout = "packed",
    num_objects: int | None = None,
    start_object: int = 0,
    splits: SplitRatios | None = None,
    executor: ExecutorKind = "local",
    scheduler: str | None = None,
    workers: int | None = None,
    memory: int | str | None = None,
    quiet: bool = False,
) -> building.BuiltShapes:
    """Turn meshes into a hierarchical voxel dataset in which every different block is kept once.

    Called again with the same ``output`` it continues where it was interrupted, and does again only what has changed.

    Args:
        meshes: mesh files (PLY, OBJ, STL, OFF, GLB, glTF, 3MF, or a ZIP with one), folders of them, patterns.
        output: folder of the dataset: new, empty, or from an earlier call.
        resolution: voxels along each axis of an object; a power of two, 4 to 1024.
        min_resolution: voxels along each axis of the smallest blocks; a power of two, 4 to ``resolution``.
        coverage: ``surface``: voxels that a triangle touches; ``solid``: whose centre lies inside; ``conservative``:
            both.
        inside: ``parity`` does not mind faces turned the wrong way, ``winding`` fills overlapping parts.
        full_tree: keep every node, empty ones and those below full ones too.
        symmetry: keep one block for all that it can be turned or mirrored into, and say of every node how it lies.
        layout: ``packed`` (few memory-mapped files) or ``files`` (a file a block).
        num_objects: most meshes taken.
        start_object: meshes passed over; object ids count from the list's beginning.
        splits: shares of train, val and test; 0.8, 0.2 and 0 if absent.
        executor: ``local``: processes of this machine; ``dask``: the workers of a Dask cluster.
        scheduler: of Dask: its address (``tcp://host:8786``), or scheduler file.
        workers: local processes; one for each core if absent.
        memory: most memory, in bytes or as ``"8GB"``: fewer workers run where more do not fit; what there is to spare
            if absent.
        quiet: no progress bar.

    Returns:
        What was done; ``failures`` says which meshes could not be used, and why (also in ``failures.json``).

    Raises:
        InputError: bad settings, ``output`` holds other files, no mesh could be used, or too little memory.
        MissingFileError: sources that do not exist.
        UnavailableError: workers were killed, or the cluster is not there. What is done is kept.
    """
    settings = building.ShapeSettings(
        resolution=resolution,
        min_resolution=min_resolution,
        coverage=coverage,
        inside=inside,
        full_tree=full_tree,
        symmetry=symmetry,
        layout=layout,
        num_objects=num_objects,
        start_object=start_object,
        splits=splits or SplitRatios(),
        run_on=ExecutorSettings(executor=executor, scheduler=scheduler, workers=workers),
        memory=memory,
    )
    sources = [meshes] if isinstance(meshes, str | os.PathLike) else list(meshes)
    with Progress(quiet=quiet) as progress:
        return building.build_shapes(
            [os.fspath(source) for source in sources], Path(output), settings=settings, progress=progress
        )


@anywhere("dataset", folder="output")
def trace_shapes(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    sphere_divisions: int = 4,
    samples_per_view: int = 3000,
    adaptive_sampling: bool = False,
    min_samples: int = 100,
    min_level: int = 0,
    max_level: int | None = None,
    start: RayStart = "near",
    seed: int = 42,
    layout: Layout = "files",
    executor: ExecutorKind = "local",
    scheduler: str | None = None,
    workers: int | None = None,
    memory: int | str | None = None,
    quiet: bool = False,
) -> TracedShapes:
    """Trace rays through every block of a dataset that is not empty: what each meets first, how much matter it crosses.

    Called again with the same parameters and ``output`` it continues where it was interrupted.

    Args:
        dataset: its folder.
        output: folder for the rays: new, empty, or from an earlier call.
        sphere_divisions: d * d cameras around each block.
        samples_per_view: rays of a camera, a third on each face.
        adaptive_sampling: half as many rays at each finer level, but not fewer than ``min_samples``.
        min_samples: see ``adaptive_sampling``.
        min_level: first level; 0 is whole objects.
        max_level: last level; the dataset's if absent.
        start: ``near``: rays enter from the camera's side; ``far``: they leave the faces turned away from it, towards
            it; ``faces``: they enter every face along its axis.
        seed: the same seed gives the same rays.
        layout: ``files``: a file a block; ``packed``: a few mapped arrays, for quick loading.
        executor: ``local``: processes of this machine; ``dask``: the workers of a Dask cluster.
        scheduler: of Dask: its address (``tcp://host:8786``), or scheduler file.
        workers: local processes; one for each core if absent.
        memory: most memory, in bytes or as ``"8GB"``: fewer workers run where more do not fit; what there is to spare
            if absent.
        quiet: no progress bar.

    Returns:
        What was done; ``failures`` says which blocks could not be traced.

    Raises:
        InputError: bad settings, ``output`` was made with others, or too little memory.
        MissingFileError, FormatError: no dataset, or a damaged one.
        UnavailableError: workers were killed, or the cluster is not there. What is done is kept.
    """
    settings = TraceSettings(
        sphere_divisions=sphere_divisions,
        samples_per_view=samples_per_view,
        adaptive_sampling=adaptive_sampling,
        min_samples=min_samples,
        min_level=min_level,
        max_level=max_level,
        start=start,
        seed=seed,
        layout=layout,
        run_on=ExecutorSettings(executor=executor, scheduler=scheduler, workers=workers),
        memory=memory,
    )
    with Progress(quiet=quiet) as progress:
        return trace_blocks(Path(dataset), Path(output), settings=settings, progress=progress)


@anywhere("dataset", back="dataset")
def split_shapes(
    dataset: str | os.PathLike[str],
    *,
    train: float = 0.8,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 42,
    forbid_shared: bool = False,
) -> dict[str, Any]:
    """Divide a dataset's objects into train, val and test anew.

    Sizes are exact by largest remainder. The file ``splits.json`` is replaced.

    Args:
        dataset: its folder.
        train: share of the objects, in [0, 1]; the three must sum to 1.
        val: as ``train``.
        test: as ``train``.
        seed: the same seed and objects give the same splits.
        forbid_shared: no block that is neither empty nor full is in two splits: what objects of several use belongs to
            the first of train, val and test, and copies of an object go to one split.

    Returns:
        The content of ``splits.json``.

    Raises:
        InputError: shares that do not sum to 1. MissingFileError, FormatError: no dataset, or a damaged one.
    """
    ratios = SplitRatios(train=train, val=val, test=test, seed=seed, forbid_shared=forbid_shared)
    return write_splits(open_shapes(Path(dataset)), Path(dataset), ratios)


@anywhere("dataset")
def verify_shapes(
    dataset: str | os.PathLike[str], *, memory: int | str | None = None, quiet: bool = False
) -> CheckedShapes:
    """Verify a dataset: checksums of files, names of blocks, lossless reassembly at every level, counts.

    Args:
        dataset: its folder.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if absent. What is needed is known before.
        quiet: no progress bar.

    Returns:
        What was found.

    Raises:
        InputError: too little memory. MissingFileError, FormatError: no dataset, or one that cannot be opened.
    """
    with Progress(quiet=quiet) as progress:
        _check_memory(Path(dataset), memory, progress)
        return check_shapes(Path(dataset), progress=progress)


def _check_memory(dataset: Path, memory: int | str | None, progress: Progress) -> None:
    """Say what reading a dataset object by object needs; InputError where there is not as much."""
    shapes = open_shapes(dataset)
    blocks = sum(len(shapes.block_names(level)) for level in range(1, shapes.about.num_levels))
    need = need_of(
        MemoryPart(what="an object", size=shapes.about.base_resolution**3 * _OBJECT_BYTES),
        MemoryPart(what="names of blocks", size=blocks * _NAME_BYTES),
        process=process_part(kernels=False),
    )
    check_short_job(memory, need, "There is no smaller way to read this dataset", progress.say)


@anywhere("dataset", folder="output")
def convert_shapes(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layout: Layout,
    memory: int | str | None = None,
    quiet: bool = True,
) -> int:
    """Write a dataset, or traced rays, in another layout; nothing is lost, and converting back gives the same bytes.

    Args:
        dataset: its folder, or that of the rays.
        output: a new or empty folder.
        layout: ``packed`` or ``files``.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if absent. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        How many objects; of rays, how many blocks.

    Raises:
        InputError: ``output`` is not empty, or too little memory.
        MissingFileError, FormatError: no dataset, or a damaged one.
    """
    check_choice("layout", layout, ("packed", "files"))
    if holds_rays(Path(dataset)):
        return convert_rays(Path(dataset), Path(output), layout)
    with Progress(quiet=quiet) as progress:
        _check_memory(Path(dataset), memory, progress)
    return convert_layout(Path(dataset), Path(output), layout)


@anywhere("dataset", output="output")
def view_shapes(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    objects: Sequence[str] = (),
    count: int = 64,
    columns: int = 8,
    size: int = 160,
    turntable: bool = False,
    frames: int = 48,
    quiet: bool = True,
) -> Path:
    """Write a contact sheet: a PNG with a picture of each of a dataset's objects and its id; or the objects turning.

    Args:
        dataset: its folder.
        output: the PNG to write; of turntables an ``.mp4`` of all objects side by side (extra ``video``), or a folder
            for a ``.gif`` of each.
        objects: ids of those to show; none: ``count`` of all, evenly chosen.
        count: see ``objects``, at least 1.
        columns: pictures in a row.
        size: pixels along each side of a picture, 16 to 1024.
        turntable: write objects that turn once in two seconds.
        frames: pictures of a turn, 2 to 480.
        quiet: no progress bar.

    Returns:
        ``output``.

    Raises:
        InputError: ids that there are not, or bad settings.
        MissingFileError, FormatError: no dataset, or a damaged one.
        MissingExtraError, UnavailableError: videos cannot be written here.
    """
    check_range("count", count, minimum=1)
    shapes = open_shapes(Path(dataset))
    if not len(shapes):
        raise InputError(f"{dataset}: has no objects to show.")
    places = {str(shapes.info(index)["object_id"]): index for index in range(len(shapes))}
    strange = [name for name in objects if name not in places]
    if strange:
        raise InputError(f"objects: {dataset} has no object {strange[0]!r}. {nearest_names(strange[0], places)}")
    every = list(places.values())
    shown = [places[name] for name in objects] or [
        every[index * len(every) // min(count, len(every))] for index in range(min(count, len(every)))
    ]
    if not turntable:
        return write_contact_sheet(shapes, Path(output), objects=shown, columns=columns, size=size)
    steps = frames if Path(output).suffix.lower() == ".mp4" else len(shown)
    with Progress(quiet=quiet) as progress, progress.stage("Turning objects", steps) as stage:
        write_turntable(
            shapes,
            Path(output),
            objects=shown,
            columns=columns,
            size=size,
            frames=frames,
            advance=stage.advance,
        )
    return Path(output)
