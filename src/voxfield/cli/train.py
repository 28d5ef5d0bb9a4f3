"""``voxfield train``."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from voxfield.cli.options import optional

EXAMPLE = "voxfield train grid-ngp path/to/capture --minutes 5 --set model.field.log2_table_size=17"


def command(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")],
    data: Annotated[Positional[Path | None], arg(metavar="[DATA]")] = None,
    /,
    *,
    output: Annotated[Path | None, optional("DIR")] = None,
    steps: Annotated[int | None, optional("N")] = None,
    minutes: Annotated[float | None, optional("M")] = None,
    resume: bool = False,
    seed: Annotated[int, arg(metavar="N")] = 42,
    device: Annotated[str, arg(metavar="NAME")] = "auto",
    precision: Annotated[str, arg(metavar="NAME")] = "auto",
    image_cache: Annotated[str | None, optional("SIZE")] = None,
    max_memory: Annotated[str | None, optional("SIZE")] = None,
    memory: Annotated[str | None, optional("SIZE")] = None,
    quiet: bool = False,
    settings: Annotated[tuple[str, ...], UseAppendAction, arg(name="set", metavar="PATH=VALUE")] = (),
    config: Annotated[Path | None, optional("FILE")] = None,
    start: Annotated[Path | None, arg(name="from", metavar="FILE", help_behavior_hint="")] = None,
    view: bool = False,
    host: Annotated[str | None, optional("HOST")] = None,
    port: Annotated[int, arg(metavar="N")] = 7007,
) -> int:
    """Train a recipe: a radiance field from posed photographs, or a network of another kind.

    Which value of a setting wins: a flag here, then --set, then the --config file, then the recipe.
    Ctrl-C saves and stops; --resume continues. The exit code is 1 when pictures had to be left out.

    Args:
        recipe: what to train: grid-ngp, nerfacto, nerfacto-big, nerfacto-huge, depth-nerfacto, pynerf,
            pynerf-synthetic, pynerf-occupancy-grid, plenoxels, plenoxels-fast, plenoxels-llff,
            plenoxels-360, plenoxels-custom, raynet, diffusion or voxel-autoencoder.
        data: folder of a capture (COLMAP, nerfstudio, NeRF-synthetic, Metashape, ...), or the file that lists its
            photographs; for raynet a voxel dataset; for diffusion a prerendered folder, a file of volumes, or the word
            procedural. Not needed to continue a run, nor where --config names the data.
        output: run directory; runs/NAME of the capture when not given.
        steps: stop after this many steps.
        minutes: stop after this many minutes of training; compiling and evaluating do not count.
        resume: continue the run in --output from its last checkpoint.
        seed: seed of every random choice; the same seed gives the same run.
        device: auto, cpu, cuda, cuda:1, xpu or mps.
        precision: auto, float32, bfloat16 or float16, for the networks.
        image_cache: memory for decoded pictures, such as 4GB; 1.5GB when not given. Captures beyond it are trained from
            a part that changes.
        max_memory: most memory for the voxels of plenoxels recipes, such as 2GB; the recipe's own limit when not given.
            The least visible voxels are dropped, or a lower resolution is taken, to stay within it.
        memory: most memory for all of it, such as 8GB; what there is to spare when not given. Fewer pictures and voxels
            are held to stay within it.
        quiet: no progress bar.
        settings: change one setting; give the option again for more.
        config: YAML file of settings, or the experiment.json of another run.
        start: begin with the voxel grid of this file, as written by: voxfield export vdb; or svox2's ckpt.npz. Of
            plenoxels recipes.
        view: show the training in a browser, with buttons to pause and stop it.
        host: with --view, listen on this address of the machine's; see voxfield view.
        port: with --view, the page's port; where it is in use, the next.
    """
    import voxfield
    from voxfield.distributed.ranks import launched
    from voxfield.storage.remote import shown

    run = voxfield.train(
        recipe,
        data,
        output=output,
        steps=steps,
        minutes=minutes,
        resume=resume,
        seed=seed,
        device=device,
        precision=precision,
        image_cache=image_cache,
        max_memory=max_memory,
        memory=memory,
        quiet=quiet,
        overrides=settings,
        config=config,
        start=start,
        view=view,
        host=host,
        port=port,
    )
    if not launched().leads:
        return 130 if run.outcome == "interrupted" else int(bool(run.left_out))
    print(f"Run:     {shown(run.path)}")
    print(f"Report:  {shown(run.path / 'report.html')}")
    if run.outcome == "interrupted":
        named = recipe if data is None else f"{recipe} {data}"
        print(f"Interrupted and saved. Continue: voxfield train {named} --output {shown(run.path)} --resume")
        return 130
    if run.left_out:
        what = "pictures" if isinstance(run, voxfield.Run) else "examples"
        print(f"Trained without {len(run.left_out)} {what} that could not be used: {shown(run.path / 'failures.json')}")
        return 1
    return 0
