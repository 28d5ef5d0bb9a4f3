"""``voxfield dataset trace``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import Address, optional

EXAMPLE = "voxfield dataset trace dataset --output-dir rays --sphere-divisions 4 --samples-per-view 3000"

_SHOWN = 20


def command(
    dataset: Annotated[Positional[Path], arg(metavar="DATASET")],
    /,
    *,
    output_dir: Annotated[Path | None, optional("DIR")] = None,
    sphere_divisions: Annotated[int, arg(metavar="N")] = 4,
    samples_per_view: Annotated[int, arg(metavar="N")] = 3000,
    adaptive_sampling: bool = False,
    min_samples: Annotated[int, arg(metavar="N")] = 100,
    min_level: Annotated[int, arg(metavar="LEVEL")] = 0,
    max_level: Annotated[int | None, optional("LEVEL")] = None,
    start: Literal["near", "far", "faces"] = "near",
    seed: int = 42,
    layout: Literal["files", "packed"] = "files",
    executor: Literal["local", "dask"] = "local",
    scheduler: Annotated[str | None, optional("ADDRESS")] = None,
    workers: Annotated[int | None, optional("N")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Trace rays through a voxel dataset's blocks: what each meets first, how much matter it crosses.

    Run again with the same options it continues. The exit code is 1 when blocks could not be traced; they are named.

    Args:
        dataset: its folder.
        output_dir: folder for the rays: a new or empty one, or one that an earlier call made; ray_dataset_hierarchical
            beside the dataset, where train raynet looks for it, when not given.
        sphere_divisions: N * N cameras around each block.
        samples_per_view: rays of a camera, a third on each face.
        adaptive_sampling: half as many rays at each finer level, but not fewer than min-samples.
        min_samples: see adaptive-sampling.
        min_level: first level; 0 is whole objects.
        max_level: last level; without it the dataset's.
        start: rays enter from the camera's side (near), leave the faces turned away from it, towards it (far), or enter
            every face along its axis (faces).
        seed: the same seed gives the same rays.
        layout: a file a block, or a few mapped arrays, from which trainings load many times as fast.
        executor: processes of this machine, or the workers of a Dask cluster.
        scheduler: of Dask: tcp://HOST:8786, or the file that it wrote.
        workers: local processes; without it one for each core.
        memory: most memory, such as 8GB: fewer workers run where more do not fit; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.distributed.worker_server import begin_server

    begin_server("voxfield.jobs.trace_shapes", executor=executor, workers=workers)
    if output_dir is None:
        from voxfield.storage.shape_rays import USUAL_FOLDER

        output_dir = (dataset if isinstance(dataset, Address) else dataset.resolve()).parent / USUAL_FOLDER
    traced = voxfield.trace_shapes(
        dataset,
        output_dir,
        sphere_divisions=sphere_divisions,
        samples_per_view=samples_per_view,
        adaptive_sampling=adaptive_sampling,
        min_samples=min_samples,
        min_level=min_level,
        max_level=max_level,
        start=start,
        seed=seed,
        layout=layout,
        executor=executor,
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        quiet=quiet,
    )
    summary = traced.summary
    print(
        f"Traced {summary['processed']:,} of {summary['total_subvolumes']:,} blocks; "
        f"{summary['skipped_already_exists']:,} were there already, {summary['skipped_empty']:,} are empty"
    )
    for item in traced.failures[:_SHOWN]:
        print(f"Failed   {item.path}: {item.reason}")
    if len(traced.failures) > _SHOWN:
        print(f"Failed   {len(traced.failures) - _SHOWN} more")
    print(f"Wrote {output_dir}")
    return 1 if traced.failures else 0
