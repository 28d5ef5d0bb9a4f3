"""``voxfield sample diffusion``."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield sample diffusion runs/shapes --num 16 --sampler dpm-solver++ --steps 20 --output samples"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path | None, optional("DIR")] = None,
    num: Annotated[int, arg(metavar="N")] = 16,
    sampler: Annotated[Literal["ddpm", "ddim", "dpm-solver++"] | None, optional("ddpm|ddim|dpm-solver++")] = None,
    steps: Annotated[int | None, optional("N")] = None,
    eta: Annotated[float | None, optional("X")] = None,
    guidance: Annotated[float | None, optional("X")] = None,
    label: Annotated[int | None, optional("N")] = None,
    projection: Annotated[Path | None, optional("FILE")] = None,
    seed: Annotated[int, arg(metavar="N")] = 0,
    batch: Annotated[int, arg(metavar="N")] = 16,
    formats: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("hdf5", "sheet"),
    threshold: Annotated[float, arg(metavar="X")] = 0.5,
    points: Annotated[int, arg(metavar="N")] = 4096,
    method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
    reference: Annotated[Path | None, optional("DATA")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
) -> int:
    """Draw volumes from a diffusion, write them for other programs, and measure them.

    With --reference also metrics.json: coverage, minimum matching distance, 1-NN accuracy, Jensen-Shannon divergence,
    Frechet distance, occupancy, beside a mean-shape and a noise baseline, and how near each volume is to one that was
    trained on.

    Args:
        run: run directory of a diffusion.
        output: folder for the files; RUN/samples when not given.
        num: how many volumes.
        sampler: ddpm, ddim or dpm-solver++; as the run's settings say when not given.
        steps: how often the network is asked for each volume.
        eta: noise that ddim adds at every step, 0 to 1.
        guidance: strength of the class, 1 as trained; more makes volumes more typical and less varied.
        label: class to make, for runs with classes.
        projection: mean of the volume to make along the run's model.projection, for runs with one: a picture or .npy
            array of values from 0 to 1, rows and columns being the other axes in the order z, y, x; .npy arrays may
            hold one for each volume.
        seed: of all noise; the same seed gives the same volumes.
        batch: volumes made at once; memory grows with it, see --memory.
        formats: any of hdf5, tiff, vdb, mesh, points, sheet, turntable.
        threshold: least value that is inside, for meshes, points, pictures and measures.
        points: of each point cloud.
        method: of meshes: dual_contouring keeps the sharp edges and corners that marching_cubes bevels.
        reference: real volumes to measure against; the run's own data mean those it was not trained on.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: no progress bar.
    """
    import voxfield
    from voxfield.api.diffusion import DiffusionRun
    from voxfield.cli.run_kinds import require_run
    from voxfield.cli.tables import format_nested
    from voxfield.errors import InputError

    opened = require_run(voxfield.open(run), "make volumes")
    if not isinstance(opened, DiffusionRun):
        raise InputError(
            f"{run}: is a run of {opened.record.experiment.recipe}, which makes no volumes. Name a run of diffusion."
        )
    folder = run / "samples" if output is None else output
    made: dict[str, Any] = opened.sample(
        folder,
        num,
        sampler=sampler,
        steps=steps,
        eta=eta,
        guidance=guidance,
        label=label,
        projection=projection,
        seed=seed,
        batch=batch,
        formats=formats,
        threshold=threshold,
        points=points,
        method=method,
        reference=reference,
        memory=memory,
        quiet=quiet,
    )
    if "metrics" in made:
        shown = {name: made["metrics"][name] for name in ("generated", "training", "baselines", "reference")}
        print(format_nested(shown))
    for note in made["notes"]:
        print(note)
    print(f"Wrote  {len(made['files'])} files in {folder}")
    return 0
