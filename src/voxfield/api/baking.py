"""Baking a trained field into a voxel grid."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from voxfield.api.books import refuse_to_overwrite
from voxfield.api.places import anywhere
from voxfield.api.run_memory import VOLUME_BYTES, check_sampling
from voxfield.api.runs import Run
from voxfield.api.trained_run import TrainedRun, machine
from voxfield.api.training import train
from voxfield.checks import check_range
from voxfield.data.capture import Split
from voxfield.data.capture_reading import read_capture
from voxfield.data.posed_images import PosedImages
from voxfield.distributed.devices import Placement, place
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.backdrop import is_colour
from voxfield.models.baking import BakeConfig, bake_field, bake_spheres, bake_steps
from voxfield.models.base import Model
from voxfield.models.plenoxels import Plenoxels, scene_box
from voxfield.models.plenoxels_config import SpheresConfig, VoxelRate
from voxfield.models.point_fields import point_field
from voxfield.recipes import build_model, load_recipe
from voxfield.storage.atomic import write_json
from voxfield.storage.checkpoint import save_checkpoint
from voxfield.storage.remote import local
from voxfield.training.evaluate import evaluate
from voxfield.training.experiment import PhotographExperiment, resolve, write_experiment
from voxfield.training.optimisers import make_optimiser
from voxfield.training.progress import Progress

RECIPE = "plenoxels"
"""Recipe of a baked run."""
BAKE_NAME = "bake.json"
"""File of a baked run that says what it was made of and what that cost."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baked:
    """A run that was baked, and what that cost."""

    run: Run
    """The plenoxels run, trained further from the sampled grid."""
    source_psnr: float | None
    """Of the source on held-out pictures, dB; None: the capture has none."""
    sampled_psnr: float | None
    """Of the grid as it was sampled, on the same pictures."""
    psnr: float | None
    """Of the grid after training, on the same pictures; None where that was interrupted too."""
    voxels: int
    """Voxels stored after sampling."""
    notes: tuple[str, ...]
    """What was lost or done otherwise, in sentences."""

    @property
    def lost(self) -> float | None:
        """How much better the source is, dB."""
        return None if self.source_psnr is None or self.psnr is None else self.source_psnr - self.psnr


@anywhere("run", folder="output")
def bake(
    run: "str | os.PathLike[str] | Run",
    output: str | os.PathLike[str],
    *,
    resolution: int = 256,
    sh_degree: int = 2,
    steps: int = 2000,
    max_images: int = 8,
    seed: int = 42,
    device: str = "auto",
    memory: int | str | None = None,
    quiet: bool = False,
    overrides: Sequence[str] = (),
) -> Baked:
    """Turn a trained field into a voxel grid without a network: sample it, then train it a little on its pictures.

    The result is an ordinary ``plenoxels`` run: ``eval``, ``render``, ``report`` and ``train --resume`` know it.
    ``bake.json`` in it keeps what this returns. What a grid cannot hold is lost: what is finer than its voxels, and
    what changes with the view faster than harmonics of ``sh_degree``. Scenes without bounds have spheres around the
    grid: of what lies there distances are rounded to a sphere's, and colours are the same from everywhere.

    Args:
        run: the source, of any recipe but those in normalised device coordinates.
        output: directory of the new run.
        resolution: voxels along the longest side of the region of interest, 8 to 1024.
        sh_degree: highest band of the colours' harmonics, 0 to 3.
        steps: of training after sampling, at least 1.
        max_images: held-out pictures that source and grid are compared on, evenly spread, at least 1.
        seed: of the places that are sampled and the training.
        device: ``auto``, or a torch device.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. The training's is said apart.
        quiet: no progress bar.
        overrides: settings of the new run as ``"path=value"``, see the recipe ``plenoxels``.

    Raises:
        InputError: bad settings, too little memory, a source that learnt from no photographs, cannot be asked point by
            point or has no matter, or ``output`` holds a run already.
        MissingFileError, FormatError: as opening ``run`` and its capture.
    """
    config = BakeConfig(resolution=resolution, sh_degree=sh_degree)
    check_range("steps", steps, minimum=1)
    check_range("max_images", max_images, minimum=1)
    source = run if isinstance(run, Run) else Run(run.path if isinstance(run, TrainedRun) else Path(run))
    run_dir, placement = Path(output), place(device, "float32")
    refuse_to_overwrite(run_dir)
    experiment = _sized(source, config, resolve(_experiment(source, config, steps), overrides=overrides))
    held_out = _held_out(source, experiment)
    check_sampling(source, memory, resolution=resolution, place_bytes=VOLUME_BYTES, quiet=quiet)
    with Progress(quiet=quiet) as progress:
        module = cast(torch.nn.Module, source.model).to(placement.device).eval()
        model = _sampled(source, experiment, config, placement, seed, progress)
        measured = {
            name: _measured(one, held_out, experiment, run_dir / "eval" / name, max_images, placement, progress)
            for name, one in (("source", cast(Model, module)), ("sampled", cast(Model, model)))
        }
        _write_run(run_dir, source, dataclasses.replace(experiment, model=model.config), model, seed, placement)
        voxels = model.grid.num_voxels
        del model
    done = cast(
        Run,
        train(RECIPE, source.record.data_path, output=run_dir, resume=True, device=device, memory=memory, quiet=quiet),
    )
    psnr = None
    if held_out is not None and done.outcome == "finished":
        psnr = done.evaluate(split=held_out.split, max_images=max_images, memory=memory, quiet=quiet)["psnr"]
    baked = Baked(
        run=done,
        source_psnr=measured["source"],
        sampled_psnr=measured["sampled"],
        psnr=psnr,
        voxels=voxels,
        notes=_notes(source, held_out),
    )
    write_json(run_dir / BAKE_NAME, _facts(source, config, baked))
    return baked


def _experiment(source: Run, config: BakeConfig, steps: int) -> PhotographExperiment:
    """Settings of the new run but for its resolution: the recipe's, for a grid that knows already where matter is."""
    base = cast(PhotographExperiment, load_recipe(RECIPE))
    model = dataclasses.replace(
        base.model,
        sh_degree=config.sh_degree,
        density_rate=VoxelRate(initial=3.0, final=0.3, reach=1.0),
        sh_rate=VoxelRate(initial=1e-2, final=1e-3, reach=1.0),
        spheres=SpheresConfig(
            density_rate=VoxelRate(initial=0.3, final=3e-2, reach=1.0),
            rgb_rate=VoxelRate(initial=1e-2, final=1e-3, reach=1.0),
        ),
        tv_until=0.5,
        weight_threshold=1.28,
        dilate=1,
    )
    # One scale: a voxel has no others. Distances were for the source's losses.
    capture = dataclasses.replace(source.experiment.capture, scales=(1,), scale_schedule=None)
    capture = dataclasses.replace(capture, depth=dataclasses.replace(capture.depth, source="off"))
    trainer = dataclasses.replace(base.trainer, steps=steps)
    return dataclasses.replace(
        base, model=model, capture=capture, trainer=trainer, evaluation=source.experiment.evaluation
    )


def _sized(source: Run, config: BakeConfig, experiment: PhotographExperiment) -> PhotographExperiment:
    """The same with the resolution that was asked for, in the box that the grid will have."""
    if experiment.model.resolutions != load_recipe(RECIPE).model.resolutions:
        raise InputError("model.resolutions: baking sets them. Use --resolution.")
    captures = source.captures
    model, behind = experiment.model, source.experiment.model.background
    if model.background == "auto" and not captures.has_alpha and is_colour(behind):
        model = dataclasses.replace(model, background=behind)  # the source may end in nothing there
    model = model.settled(unbounded=captures.unbounded, has_alpha=captures.has_alpha, ndc=captures.ndc is not None)
    size = config.size(scene_box(model, captures.bounds, captures.cameras))
    # A coarser stage that is over already: who opens the run, or trains one with these settings, starts small.
    coarse = tuple(max(2, side // 2) for side in size)
    return dataclasses.replace(
        experiment, model=dataclasses.replace(model, resolutions=(coarse, size), refine_at=(0.3,))
    )


def _sampled(
    source: Run,
    experiment: PhotographExperiment,
    config: BakeConfig,
    placement: Placement,
    seed: int,
    progress: Progress,
) -> Plenoxels:
    """A model of the new run's settings with the source's densities and colours."""
    captures, device = source.captures, placement.device
    config = dataclasses.replace(config, sh_degree=experiment.model.sh_degree)
    module = cast(torch.nn.Module, build_model(RECIPE, experiment.model, captures, seed))
    model = cast(Plenoxels, module.to(device))
    box = model.world_bounds
    field = point_field(source.model, max(box.size) / config.resolution)
    generator = torch.Generator().manual_seed(seed)
    with progress.stage("Sampling the field", bake_steps(config, box), "layers") as stage, kernels_own_the_cores():
        grid = bake_field(
            field,
            box,
            captures.cameras.origins.to(device),
            config=config,
            generator=generator,
            advance=stage.advance,
        )
        spheres = None
        if model.spheres is not None:
            spheres = bake_spheres(field, model.spheres, box, config=config, generator=generator)
        model.begin_with(grid, spheres)
    return model


def _held_out(source: Run, experiment: PhotographExperiment) -> PosedImages | None:
    """The test split as the new run reads it, else the validation split, else None."""
    splits: tuple[Split, ...] = ("test", "val")
    for split in splits:
        try:
            return read_capture(local(source.record.data_path), split=split, options=experiment.capture)
        except (FormatError, MissingFileError):
            continue
    return None


def _measured(
    model: Model,
    captures: PosedImages | None,
    experiment: PhotographExperiment,
    folder: Path,
    max_images: int,
    placement: Placement,
    progress: Progress,
) -> float | None:
    """PSNR on some of the held-out pictures."""
    if captures is None:
        return None
    settings = experiment.evaluation.quick(max_images)
    with progress.stage(f"Measuring the {folder.name}", max_images, "images") as stage, kernels_own_the_cores():
        found = evaluate(
            model.render_image,
            captures,
            output=folder,
            settings=settings,
            device=placement.device,
            on_progress=lambda _done, _total, name: stage.advance(1, name),
        )
    return cast("float | None", found["psnr"])


def _write_run(
    run_dir: Path, source: Run, experiment: PhotographExperiment, model: Plenoxels, seed: int, placement: Placement
) -> None:
    """A run directory as training leaves it, at step 0."""
    settings = experiment.trainer
    optimiser = make_optimiser(
        settings.optimiser,
        model.parameter_groups(),
        beta1=settings.beta1,
        beta2=settings.beta2,
        epsilon=settings.epsilon,
    )
    state = {
        "seconds": 0.0,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": None,
    }
    write_experiment(
        run_dir,
        experiment,
        seed=seed,
        data_path=source.record.data_path,
        data_hash=cast("str | None", source.captures.source.get("hash")),
        extra={"machine": machine(placement.device), "device": str(placement), "baked_from": str(source.path)},
    )
    save_checkpoint(run_dir, 0, state, keep=settings.keep_checkpoints)


def _notes(source: Run, held_out: PosedImages | None) -> tuple[str, ...]:
    notes = []
    if source.captures.unbounded:
        notes.append(
            "The capture sees beyond the grid: what lies there is kept on spheres, its distance rounded to theirs and "
            "its colour the same from everywhere."
        )
    poses = source.captures.image_cameras.camera_to_world
    with torch.no_grad():
        if source.model.refined_poses(poses) is not poses:
            notes.append("Training corrected the source's poses; the grid is trained on those of the capture.")
    if held_out is None:
        notes.append("The capture has no held-out pictures: nothing was measured.")
    return tuple(notes)


def _facts(source: Run, config: BakeConfig, baked: Baked) -> dict[str, Any]:
    """What ``bake.json`` holds."""
    return {
        "source": str(source.path),
        "source_recipe": source.experiment.recipe,
        "settings": dataclasses.asdict(config),
        "psnr": {"source": baked.source_psnr, "sampled": baked.sampled_psnr, "trained": baked.psnr},
        "voxels": baked.voxels,
        "notes": list(baked.notes),
    }
