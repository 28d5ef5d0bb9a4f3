"""``voxfield dataset build``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional
from voxfield.cli.tables import format_table

EXAMPLE = "voxfield dataset build meshes --output-dir dataset --resolution 128 --min-resolution 4"

_SHOWN = 20
"""Failures that are printed; the file has them all."""


def command(
    meshes: Annotated[Positional[tuple[str, ...]], arg(metavar="MESHES")] = (),
    /,
    *,
    output_dir: Annotated[Path, arg(metavar="DIR")],
    thingi10k: bool = False,
    resolution: Annotated[int, arg(metavar="N")] = 128,
    min_resolution: Annotated[int, arg(metavar="N")] = 4,
    coverage: Literal["surface", "solid", "conservative"] = "conservative",
    inside: Literal["parity", "winding"] = "parity",
    full_tree: bool = False,
    symmetry: bool = False,
    layout: Literal["packed", "files"] = "packed",
    num_objects: Annotated[int | None, optional("N")] = None,
    start_object: Annotated[int, arg(metavar="N")] = 0,
    train: Annotated[float, arg(metavar="SHARE")] = 0.8,
    val: Annotated[float, arg(metavar="SHARE")] = 0.2,
    test: Annotated[float, arg(metavar="SHARE")] = 0.0,
    seed: int = 42,
    executor: Literal["local", "dask"] = "local",
    scheduler: Annotated[str | None, optional("ADDRESS")] = None,
    workers: Annotated[int | None, optional("N")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Build a hierarchical voxel dataset from meshes, each different block kept once.

    Run again with the same folder it continues, and does again only what has changed. The exit code is 1 when meshes
    could not be used; they are named, and listed in failures.json.

    Args:
        meshes: mesh files (PLY, OBJ, STL, OFF, GLB, glTF, 3MF, or a ZIP with one), folders of them, patterns.
        thingi10k: meshes of Thingi10K in their place, --num-objects of them, which its own package downloads (extra
            neural-rendering).
        output_dir: folder of the dataset: a new or empty one, or one that an earlier call made.
        resolution: voxels along each axis of an object; a power of two, 4 to 1024.
        min_resolution: voxels along each axis of the smallest blocks; a power of two.
        coverage: voxels that a triangle touches, whose centre lies inside, or both.
        inside: parity does not mind faces turned the wrong way; winding fills overlapping parts.
        full_tree: keep every node, empty ones and those below full ones too.
        symmetry: keep one block for all that it can be turned or mirrored into.
        layout: few memory-mapped files, or a file a block.
        num_objects: most meshes taken.
        start_object: meshes passed over; object ids count from the list's beginning.
        train: share of the objects in the split; the three sum to 1.
        val: as train.
        test: as train.
        seed: of the splits.
        executor: processes of this machine, or the workers of a Dask cluster.
        scheduler: of Dask: tcp://HOST:8786, or the file that it wrote.
        workers: local processes; without it one for each core.
        memory: most memory, such as 8GB: fewer workers run where more do not fit; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.distributed.worker_server import begin_server

    if thingi10k or not meshes:
        meshes = _named(meshes, thingi10k, num_objects, start_object)
    begin_server("voxfield.jobs.build_shapes", executor=executor, workers=workers)
    from voxfield.jobs.build_shapes import FAILURES_FILE
    from voxfield.jobs.split_shapes import SplitRatios

    built = voxfield.build_shapes(
        meshes,
        output_dir,
        resolution=resolution,
        min_resolution=min_resolution,
        coverage=coverage,
        inside=inside,
        full_tree=full_tree,
        symmetry=symmetry,
        layout=layout,
        num_objects=num_objects,
        start_object=start_object,
        splits=SplitRatios(train=train, val=val, test=test, seed=seed),
        executor=executor,
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        quiet=quiet,
    )
    overall = built.stats["overall_stats"]
    rows = [
        ("objects", f"{built.objects:,} ({built.made:,} made now)"),
        ("blocks", f"{overall['total_subvolumes']:,}"),
        ("different blocks", f"{overall['unique_subvolumes']:,} ({overall['deduplication_ratio']:.1%})"),
    ]
    print(format_table(rows[0], rows[1:]))
    for item in built.failures[:_SHOWN]:
        print(f"Left out {item.path}: {item.reason}")
    if len(built.failures) > _SHOWN:
        print(f"Left out {len(built.failures) - _SHOWN} more: see {output_dir / FAILURES_FILE}")
    print(f"Wrote {output_dir}")
    return 1 if built.failures else 0


def _named(meshes: tuple[str, ...], thingi10k: bool, num_objects: int | None, start_object: int) -> tuple[str, ...]:
    """The meshes of Thingi10K; without it there have to be others."""
    from voxfield.errors import InputError

    if not thingi10k:
        raise InputError("missing MESHES: name mesh files, folders or patterns, or say --thingi10k.")
    if meshes:
        raise InputError(f"MESHES: --thingi10k takes their place. Leave {' '.join(meshes)} or --thingi10k out.")
    if num_objects is None:
        raise InputError("--thingi10k: say how many meshes with --num-objects; there are 10,000, of tens of gigabytes.")
    from voxfield.jobs.thingi10k import thingi10k_meshes

    return tuple(map(str, thingi10k_meshes(start_object + num_objects)))
