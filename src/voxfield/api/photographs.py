"""Training on posed photographs."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from voxfield.api.books import Aftermath, TrainingTask, train_model
from voxfield.api.field_subject import field_subject
from voxfield.api.runs import Run
from voxfield.api.training_memory import check_photographs, within_memory
from voxfield.data.batches import Batches
from voxfield.data.capture import Split
from voxfield.data.capture_reading import LONGEST_SIDE, read_capture
from voxfield.data.depth_targets import DepthSampler
from voxfield.data.image_store import FaultyPixels
from voxfield.data.plain_backdrop import plain_backdrop
from voxfield.data.posed_images import PosedImages
from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.data.scales import Dropped
from voxfield.data.sliding_pool import SlidingPlan
from voxfield.distributed.devices import reset_peak_memory
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.models.backdrop import is_colour
from voxfield.models.base import Model
from voxfield.models.plenoxels import Plenoxels
from voxfield.recipes import build_model
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import colour_from_name
from voxfield.render.lpips import load_lpips
from voxfield.storage.skipped import Skipped
from voxfield.storage.voxel_files import is_archive, read_archive
from voxfield.storage.voxel_vdb import read_voxel_vdb
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.training_view import TrainingView
from voxfield.viewer.viewer import Viewer


def data_of(experiment: PhotographExperiment) -> str | None:  # noqa: ARG001  (settings never name a capture)
    """None: a person names the capture."""
    return None


def open_run(path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> Run:
    """Open a run on photographs."""
    return Run(path, outcome=outcome, left_out=left_out)


def train_on(task: TrainingTask) -> Run:
    """Read the capture and train on it."""
    experiment, notes = cast(PhotographExperiment, task.experiment), list(task.notes)
    if experiment.evaluation.lpips:
        # Weights that cannot be loaded are better found now than after an hour.
        load_lpips(experiment.evaluation.lpips)
    captures = read_capture(task.data, split="train", options=experiment.capture)
    if task.resume and task.recorded_hash not in (None, captures.source.get("hash")):
        notes.append("The pictures changed since the run was started: it does not continue as it would have.")
    if experiment.recipe != task.recipe:
        notes.append(
            f"On a CPU {task.recipe} is trained as {experiment.recipe}. As published: --set model.sampling=proposal."
        )
    if captures.skipped:
        notes.append(_skipped_line(captures.skipped))
    notes.extend(captures.remarks)
    if captures.scales is not None and captures.scales.dropped:
        notes.append(_dropped_line(captures.scales.dropped))
    if captures.tone is not None:
        # Recorded: every split, and every later use of the run, is exposed alike.
        exposed = dataclasses.replace(experiment.capture, exposure=captures.tone.exposure)
        experiment = dataclasses.replace(experiment, capture=exposed)
        notes.append(f"Linear pictures, exposed by a factor of {captures.tone.exposure:.4g}.")
    plain = plain_backdrop(captures.images) if experiment.model.background == "auto" else None
    if plain is not None:
        # Recorded, as it cannot be told from the pictures where they have moved.
        experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, background=plain))
        notes.append(
            f"The pictures have no alpha, and plain edges: {plain} lies behind the field. "
            "Where it is part of the scene: --set model.background=random."
        )
    held_out = _held_out(task.data, experiment, captures, notes)
    experiment = within_memory(task, experiment, captures, held_out)
    outcome, left_out = _train(task, experiment, captures, held_out, notes)
    return Run(task.run_dir, outcome=outcome, left_out=left_out)


def _train(
    task: TrainingTask,
    experiment: PhotographExperiment,
    captures: PosedImages,
    held_out: PosedImages | None,
    notes: list[str],
) -> tuple[str, tuple[Skipped, ...]]:
    """Train on ``captures``; how it ended, and the pictures that could not be used."""
    device, state = task.placement.device, task.state
    model = build_model(experiment.recipe, experiment.model, captures, task.seed)
    experiment = check_photographs(task, experiment, captures, held_out, model)
    if not captures.images.fits:
        notes.append(_sliding_line(captures, experiment.capture.rotate_every))
    for note in notes:
        task.progress.say(note)
    with task.ranks.one_first():
        compile_seconds = compile_kernels(
            experiment.recipe, task.placement, task.progress, unbounded=captures.unbounded
        )
    reset_peak_memory(device)
    if isinstance(model, Plenoxels) and task.start is not None and state is None:
        _start_from(model, task.start, task.progress)
    experiment = dataclasses.replace(experiment, model=model.config)
    behind, unsaid = model.config.background, experiment.evaluation.background == EvaluateConfig().background
    if unsaid and not captures.has_alpha and is_colour(behind):
        # What training composites behind the field is what pictures without alpha show where nothing is.
        seen = dataclasses.replace(experiment.evaluation, background=behind)
        experiment = dataclasses.replace(experiment, evaluation=seen)
    measure = None
    if held_out is not None and experiment.trainer.evaluation_images:
        measure = functools.partial(_quick_evaluation, held_out, experiment, task.run_dir, device)
    with RaySampler(
        captures,
        task.seed,
        device=device,
        rotate_every=experiment.capture.rotate_every,
        first_step=0 if state is None else int(state["step"]),
        scale_schedule=experiment.capture.scale_schedule,
        shift_copies=experiment.capture.shift_copies,
    ) as rays:
        batches: Batches[RayBatch] = rays
        depth = experiment.capture.depth
        if depth.source != "off":
            batches = DepthSampler(rays, captures, depth, seed=task.seed, device=device)
            captures = dataclasses.replace(captures, skipped=(*captures.skipped, *batches.left_out))
            if batches.left_out:
                notes = [*notes, _skipped_line(batches.left_out, "depth image")]
        return train_model(
            task,
            experiment,
            model,
            batches,
            data_hash=cast("str | None", captures.source.get("hash")),
            notes=notes,
            compile_seconds=compile_seconds,
            evaluation=measure,
            shown=functools.partial(_shown, task, captures, experiment),
            aftermath=functools.partial(_aftermath, captures),
        )


@contextlib.contextmanager
def _shown(
    task: TrainingTask, captures: PosedImages, experiment: PhotographExperiment, trainer: Trainer[RayBatch]
) -> Iterator[None]:
    """Inside, what ``trainer`` does is shown at the task's page, where it has one."""
    if task.page is None:
        yield
        return
    host, port = task.page
    with Viewer(
        field_subject(cast(Model, trainer.model), captures, experiment, trainer.placement),
        name=trainer.run_dir.resolve().name,
        photographs=Photographs(captures),
        paths=trainer.run_dir / "camera_paths",
        background=torch.tensor(colour_from_name(experiment.evaluation.background)),
        host=host,
        port=port,
        next_port=True,
    ) as viewer:
        task.progress.say(f"Watch it at {viewer.url}")
        trainer.onlooker = TrainingView(viewer)
        yield


def _aftermath(captures: PosedImages) -> Aftermath:
    """Pictures left out, also those found to be broken while training."""
    images = captures.images
    remarks = [_skipped_line(images.failures)] if images.failures else []
    remarks += [_faulty_line(images.faulty_pixels)] if images.faulty_pixels else []
    return Aftermath(left_out=(*captures.skipped, *images.failures), remarks=remarks)


def _quick_evaluation(
    captures: PosedImages, experiment: PhotographExperiment, run_dir: Path, device: torch.device, model: Model
) -> dict[str, Any]:
    """Metrics on a few held-out images while training; no pictures but the panels of the last time."""
    settings = experiment.evaluation.quick(experiment.trainer.evaluation_images)
    folder = run_dir / "eval" / "training"
    result = evaluate(model.render_image, captures, output=folder, settings=settings, device=device)
    return {"split": captures.split, **{name: result[name] for name in ("psnr", "ssim", "lpips")}}


def _start_from(model: Plenoxels, path: Path, progress: Progress) -> None:
    """Give ``model`` the voxel grid of a file: OpenVDB's, svox2's or a compact one."""
    try:
        if is_archive(path):
            grid, left_out = read_archive(path)
            if left_out:
                progress.say(left_out)
        else:
            grid = read_voxel_vdb(path).grid
        model.start_from(grid)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _held_out(
    data: Path, experiment: PhotographExperiment, captures: PosedImages, notes: list[str]
) -> PosedImages | None:
    """The validation split, else the test split, else None: a capture without either can still be trained.

    Pictures of a capture that does not fit in memory are read small: rendering one of 8k takes minutes and gigabytes.
    """
    faults: list[str] = []
    options = experiment.capture
    if (
        not captures.images.fits
        and max(int(captures.cameras.width.max()), int(captures.cameras.height.max())) > LONGEST_SIDE
    ):
        options = dataclasses.replace(options, downscale="auto")
        notes.append(f"While training, pictures are measured reduced to at most {LONGEST_SIDE} pixels a side.")
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        try:
            return read_capture(data, split=split, options=options)
        except (FormatError, MissingFileError) as error:
            faults.append(str(error))
    notes.append(f"Nothing is measured while training: {faults[-1]}")
    return None


def _sliding_line(captures: PosedImages, rotate_every: int | None) -> str:
    images = captures.images
    plan = SlidingPlan.within_cache(images, rotate_every=rotate_every)
    return (
        f"{len(captures)} pictures take {images.total_bytes / 1e9:.3g} GB, the image cache "
        f"{images.cache_bytes / 1e9:.3g} GB: {plan.part:.1%} of the pixels of {plan.pictures} pictures are held at a "
        f"time, and a new picture is taken in every {plan.rotate_every} steps."
    )


def _skipped_line(left_out: Sequence[Skipped], what: str = "picture") -> str:
    names = ", ".join(f"{item.path} ({item.reason})" for item in left_out[:2])
    more = f" and {len(left_out) - 2} more" if len(left_out) > 2 else ""
    were = f"{what} was" if len(left_out) == 1 else f"{what}s were"
    return f"{len(left_out)} {were} left out: {names}{more}."


def _dropped_line(dropped: Sequence[Dropped]) -> str:
    parts = ", ".join(
        f"at scale {one.scale} up to {_counted(one.rows, 'row')} and {_counted(one.columns, 'column')} of "
        f"{_counted(one.pictures, 'picture')}"
        for one in dropped
    )
    return f"Reduced copies leave out what their scale does not divide: {parts}. To stop instead: uneven_scales=refuse."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _faulty_line(faulty: Sequence[FaultyPixels]) -> str:
    broken, negative = sum(one.broken for one in faulty), sum(one.negative for one in faulty)
    names = ", ".join(one.name for one in faulty[:2]) + (f" and {len(faulty) - 2} more" if len(faulty) > 2 else "")
    return f"{broken} pixels are NaN or infinite (masked) and {negative} negative (taken as 0): {names}."
