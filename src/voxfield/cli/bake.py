"""``voxfield bake``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield bake runs/lego-grid-ngp --output runs/lego-voxels --resolution 256"


def command(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    output: Annotated[Path, arg(metavar="DIR")],
    resolution: Annotated[int, arg(metavar="N")] = 256,
    sh_degree: Annotated[int, arg(metavar="N")] = 2,
    steps: Annotated[int, arg(metavar="N")] = 2000,
    max_images: Annotated[int, arg(metavar="N")] = 8,
    seed: Annotated[int, arg(metavar="N")] = 42,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
    settings: Annotated[tuple[str, ...], UseAppendAction, arg(name="set", metavar="PATH=VALUE")] = (),
) -> int:
    """Bake a run of any recipe into a sparse voxel grid, which needs no network.

    The grid is sampled from the run's field, then trained a little on the run's own pictures. What it cost is measured
    on held-out pictures. The new run is an ordinary one of the recipe plenoxels.

    Args:
        run: run directory of the source.
        output: directory of the new run.
        resolution: voxels along the longest side of the region of interest.
        sh_degree: highest band of the colours' spherical harmonics, 0 to 3.
        steps: steps of training after sampling.
        max_images: held-out pictures that both are measured on.
        seed: seed of every random choice.
        device: auto, cpu, cuda, cuda:1, xpu or mps.
        memory: most memory, such as 8GB; what there is to spare if not given.
        quiet: no progress bar.
        settings: change one setting of the new run; give the option again for more.
    """
    import voxfield
    from voxfield.storage.remote import shown

    baked = voxfield.bake(
        run,
        output,
        resolution=resolution,
        sh_degree=sh_degree,
        steps=steps,
        max_images=max_images,
        seed=seed,
        device=device,
        memory=memory,
        quiet=quiet,
        overrides=settings,
    )
    for note in baked.notes:
        print(note)
    print(f"Voxels   {baked.voxels:,}")
    for name, psnr in (("Source", baked.source_psnr), ("Sampled", baked.sampled_psnr), ("Trained", baked.psnr)):
        if psnr is not None:
            print(f"{name:<7}  {psnr:.2f} dB")
    run_dir = shown(baked.run.path)
    print(f"Run      {run_dir}")
    if baked.run.outcome == "interrupted":
        print(f"Interrupted and saved. Continue: voxfield train plenoxels DATA --output {run_dir} --resume")
        return 130
    return 1 if baked.run.left_out else 0
