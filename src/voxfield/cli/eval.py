"""``voxfield eval``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield eval runs/lego --split test --lpips-weights path/to/weights"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    data: Annotated[Path | None, optional("DIR")] = None,
    split: Literal["test", "val", "train"] = "test",
    lpips_weights: Annotated[str | None, optional("PATH")] = None,
    max_images: Annotated[int | None, optional("N")] = None,
    background: Annotated[str | None, optional("COLOUR")] = None,
    align_poses: bool = False,
    scales: Annotated[tuple[int, ...], arg(metavar="N ...")] = (),
    executor: Literal["local", "dask"] = "local",
    scheduler: Annotated[str | None, optional("ADDRESS")] = None,
    volume: Annotated[Path | None, optional("FILE.vdb")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Measure a run on what it was not trained on: of photographs PSNR, SSIM, LPIPS, speed, and what is wrong.

    Writes eval/SPLIT/metrics.json. Of photographs also one picture each (truth, prediction, error, depth), and
    focus.html, which tells blur from misalignment, other exposure and other content.

    Args:
        run: run directory.
        data: the capture or dataset, when it is no longer where the run found it.
        split: which photographs, or other examples.
        lpips_weights: file or folder of LPIPS weights, or trunk and heads with a comma between; without it LPIPS is
            not measured.
        max_images: measure only this many photographs, evenly chosen.
        background: white, black, grey, #rrggbb, or r,g,b from 0 to 1; as the run says when not given.
        align_poses: also move each camera to where the field explains its photograph best, and measure there; some
            seconds per photograph. The plain figures stay as they are.
        scales: measure each photograph reduced by these factors, such as 1 2 4 8, whatever the run was trained on; the
            run's own when not given. A table has the figures of each.
        executor: this process, or the workers of a Dask cluster.
        scheduler: of Dask: tcp://HOST:8786, or the file that it wrote.
        volume: measure this voxel grid in place of the run's own, of plenoxels: one that was made coarser, thinned, or
            compressed and unpacked. Writes to eval/SPLIT-NAME.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.cli.run_kinds import refuse_photographic, require_run

    opened = require_run(voxfield.open(run), "are measured")
    if not isinstance(opened, voxfield.Run):
        photographic = {
            "--lpips-weights": lpips_weights,
            "--max-images": max_images,
            "--background": background,
            "--align-poses": align_poses,
            "--scales": scales,
            "--executor": executor != "local",
            "--memory": memory,
            "--volume": volume,
        }
        refuse_photographic(opened, photographic)
        metrics = opened.evaluate(split=split, data=data, quiet=quiet)
        return print_measures(opened.path, split, metrics)
    if volume is not None:
        opened = opened.with_volume(volume)
    metrics = opened.evaluate(
        split=split,
        data=data,
        lpips_weights=lpips_weights,
        max_images=max_images,
        background=background,
        align_poses=align_poses,
        scales=scales,
        executor=executor,
        scheduler=scheduler,
        memory=memory,
        quiet=quiet,
    )
    return print_metrics(opened.path, split if volume is None else f"{split}-{volume.stem}", metrics)


def print_measures(run: Path, split: str, metrics: Mapping[str, Any]) -> int:
    """Print the numbers measured on a split of a run on other data than photographs; returns the exit code."""
    from voxfield.cli.tables import format_nested

    print(f"{run}, {split}")
    print(format_nested(metrics))
    print(f"Wrote  {run / 'eval' / split / 'metrics.json'}")
    return 0


def print_metrics(run: Path, split: str, metrics: Mapping[str, Any]) -> int:
    """Print what was measured on a split of a run; returns the exit code."""
    from voxfield.cli.tables import format_metric, format_scales

    print(f"{metrics['num_images']} {split} images of {run}")
    if "psnr_srgb" in metrics:
        spaces = metrics["protocol"]["colour_space"]
        print(f"PSNR   {format_metric(metrics, 'psnr', 2)} dB  [{spaces['psnr']}]")
        print(f"PSNR   {format_metric(metrics, 'psnr_srgb', 2)} dB  [exposed, {spaces['psnr_srgb']}]")
    else:
        print(f"PSNR   {format_metric(metrics, 'psnr', 2)} dB")
    if metrics.get("psnr_aligned") is not None:
        print(f"       {format_metric(metrics, 'psnr_aligned', 2)} dB with aligned poses")
    print(f"SSIM   {format_metric(metrics, 'ssim', 4)}")
    if metrics.get("lpips") is None:
        print("LPIPS  not measured: name weights with --lpips-weights")
    else:
        network = (metrics["protocol"].get("lpips") or {}).get("network", "LPIPS")
        print(f"LPIPS  {format_metric(metrics, 'lpips', 4)}  [{network}]")
    print(f"Speed  {metrics['num_rays_per_sec']:,.0f} rays/s, {metrics['fps']:.3g} images/s")
    if metrics.get("avg_error") is not None:
        print(f"Error  {format_metric(metrics, 'avg_error', 5)}  [geometric mean of the errors of the three]")
    if metrics.get("per_scale"):
        print(format_scales(metrics))
    if metrics.get("verdicts"):
        print("Focus  " + ", ".join(f"{count} {words}" for words, count in metrics["verdicts"].items()))
        print(f"Wrote  {run / 'eval' / split / 'focus.html'}")
    print(f"Wrote  {run / 'eval' / split / 'metrics.json'}")
    if metrics["skipped"]:
        print(f"Measured without {len(metrics['skipped'])} pictures that could not be used: listed there.")
        return 1
    return 0
