"""``voxfield prerender``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = (
    "voxfield prerender --input-h5 pointclouds.h5 --output-dir prerendered_voxels_128 --voxel-size 128 --sigma 1.0 "
    "--volume-dims 28000 28000 1600 --threshold 0.001"
)

_SHOWN = 20
"""Failures that are printed; the file has them all."""


def command(
    points: Annotated[Positional[tuple[str, ...]], arg(metavar="POINTS")] = (),
    /,
    *,
    input_h5: Annotated[Path | None, optional("FILE")] = None,
    output_dir: Annotated[Path | None, optional("DIR")] = None,
    config: Annotated[Path | None, optional("FILE")] = None,
    data_key: Annotated[str | None, optional("NAME")] = None,
    voxel_size: Annotated[tuple[int, ...] | None, optional("N [N N]")] = None,
    voxelization_method: Annotated[
        Literal["occupancy", "density", "gaussian", "trilinear"] | None,
        optional("occupancy|density|gaussian|trilinear"),
    ] = None,
    sigma: Annotated[tuple[float, ...] | None, optional("S [S S]")] = None,
    sigma_units: Annotated[Literal["voxels", "physical"] | None, optional("voxels|physical")] = None,
    volume_dims: Annotated[tuple[float, float, float] | None, optional("X Y Z")] = None,
    volume_origin: Annotated[tuple[float, float, float] | None, optional("X Y Z")] = None,
    padding: Annotated[tuple[float, float, float] | None, optional("X Y Z")] = None,
    mode: Annotated[Literal["corrected", "compatible"] | None, optional("corrected|compatible")] = None,
    outside: Annotated[Literal["drop", "clamp"] | None, optional("drop|clamp")] = None,
    normalise: Annotated[Literal["sample", "global", "none"] | None, optional("sample|global|none")] = None,
    threshold: Annotated[float | None, optional("VALUE")] = None,
    precision: Annotated[int | None, optional("DECIMALS")] = None,
    max_samples: Annotated[int | None, optional("N")] = None,
    batch_size: Annotated[int | None, optional("N")] = None,
    compression: Annotated[
        Literal["gzip", "lzf", "blosc", "zstd", "none"] | None, optional("gzip|lzf|blosc|zstd|none")
    ] = None,
    compression_level: Annotated[int | None, optional("N")] = None,
    dtype: Annotated[Literal["float32", "float16", "uint8"] | None, optional("float32|float16|uint8")] = None,
    overwrite: bool = False,
    executor: Annotated[Literal["local", "dask"] | None, optional("local|dask")] = None,
    scheduler: Annotated[str | None, optional("ADDRESS")] = None,
    workers: Annotated[int | None, optional("N")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Render point clouds to voxels once, so that training reads them.

    Which value of a parameter wins: a flag here, then the --config file, then the default. Run again with the same
    folder it continues; a folder with voxels of other parameters is refused. The exit code is 1 when samples failed;
    they are named, and listed in failures.json.

    Args:
        points: files (HDF5, NPY, NPZ, PLY, PCD, XYZ, CSV, LAS, LAZ), folders of them, patterns.
        input_h5: as POINTS.
        output_dir: folder to write to.
        config: YAML file with the sections data and prerender; others are not looked at.
        data_key: name of the dataset in HDF5 and NPZ files; pointclouds, point_clouds, data or points if not given.
        voxel_size: voxels along each axis, or along x, y and z; default 128.
        voxelization_method: what a voxel holds; default gaussian.
        sigma: of the gaussian, for all axes or for x, y and z; default 1.
        sigma_units: of sigma; default voxels.
        volume_dims: size of the volume in the points' units; the box about all points if not given.
        volume_origin: its least corner; default 0 0 0.
        padding: added to the volume on both sides; default 0 0 0.
        mode: which voxel a point lies in; compatible repeats the formula of older programs; default corrected.
        outside: points outside the volume are dropped or moved onto its border; default drop.
        normalise: by each sample's own range, that of all samples, or not; default sample.
        threshold: lesser values become 0, after normalising; default 0.
        precision: decimals kept; default 10.
        max_samples: only the first N.
        batch_size: samples a file; default 100.
        compression: blosc and zstd are fast, and readers need hdf5plugin too; default gzip.
        compression_level: of gzip, 1 to 9; default 1.
        dtype: how values are stored; default float32.
        overwrite: remove voxels of other parameters from the folder.
        executor: processes of this machine, or the workers of a Dask cluster; default local.
        scheduler: of Dask: tcp://HOST:8786, or the file that it wrote.
        workers: local processes; without it one for each core.
        memory: most memory, such as 8GB: fewer workers run where more do not fit; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.distributed.worker_server import begin_server

    begin_server("voxfield.jobs.prerender", executor=executor, workers=workers)
    from voxfield.storage.prerendered import FAILURES
    from voxfield.storage.remote import shown

    done = voxfield.prerender(
        [*points, *([input_h5] if input_h5 is not None else [])],
        output_dir,
        config=config,
        data_key=data_key,
        voxel_size=voxel_size,
        voxelization_method=voxelization_method,
        sigma=sigma,
        sigma_units=sigma_units,
        volume_dims=volume_dims,
        volume_origin=volume_origin,
        padding=padding,
        mode=mode,
        outside=outside,
        normalise=normalise,
        threshold=threshold,
        precision=precision,
        max_samples=max_samples,
        batch_size=batch_size,
        compression=compression,
        compression_level=compression_level,
        dtype=dtype,
        overwrite=overwrite or None,
        executor=executor,
        scheduler=scheduler,
        workers=workers,
        memory=memory,
        quiet=quiet,
    )
    about = done.metadata
    for item in done.failures[:_SHOWN]:
        print(f"Failed: sample {item.index}, {item.name}: {item.reason}")
    if len(done.failures) > _SHOWN:
        print(f"{len(done.failures) - _SHOWN} more failed: see {shown(done.output / FAILURES)}")
    print(
        f"Not 0: {about['share_not_zero']:.2%} of the voxels, {about['share_not_zero_before_threshold']:.2%} before "
        f"the threshold. A threshold of {about['suggested_threshold']:.3g} leaves "
        f"{about['suggested_threshold_share_not_zero']:.2%} and loses 0.1% of the sum of values."
    )
    if about["parameters"]["dtype"] != "float32":
        print(
            f"Storing as {about['parameters']['dtype']} changed values by {about['largest_storage_error']:.2g} at most."
        )
    failed = f", {len(done.failures)} failed" if done.failures else ""
    print(
        f"Pre-rendering is complete: {done.samples:,} samples ({done.made:,} made now{failed}) in {done.batches:,} "
        f"batches: {shown(done.output)}"
    )
    return 1 if done.failures else 0
