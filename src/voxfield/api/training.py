"""Training a field."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from voxfield.api.runs import Run, field_subject, machine
from voxfield.checks import check_bytes
from voxfield.data.depth_targets import DepthSampler
from voxfield.data.image_store import FaultyPixels
from voxfield.data.posed_images import LONGEST_SIDE, PosedImages, Skipped, Split, read_capture
from voxfield.data.ray_batches import Batches, RaySampler
from voxfield.data.sliding_pool import SlidingPlan
from voxfield.distributed.devices import Placement, device_memory, place, reset_peak_memory
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.models.base import Model
from voxfield.recipes import ON_A_CPU, build_model, for_device, load_recipe
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import colour_from_name
from voxfield.render.lpips import load_lpips
from voxfield.storage.atomic import write_json
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.experiment import Experiment, read_experiment, resolve, write_experiment
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.settings import load_config_file, parse_overrides
from voxfield.training.trainer import Trainer
from voxfield.viewer.access import PORT, listen
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.serving import require_viser
from voxfield.viewer.training_view import TrainingView
from voxfield.viewer.viewer import Viewer

_TYPICAL_STEP_SECONDS = 0.1
"""A training step on two cores, measured on lego with the sizes for one minute; those for five took 0.2."""


def train(
    recipe: str,
    data: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    seed: int = 42,
    device: str = "auto",
    precision: str = "auto",
    image_cache: int | str | None = None,
    quiet: bool = False,
    overrides: Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
    view: bool = False,
    host: str | None = None,
    port: int = PORT,
) -> "Run":
    """Train a radiance field from posed photographs.

    Args:
        recipe: what to train, a key of `voxfield.recipes.RECIPES` such as ``"grid-ngp"`` or ``"nerfacto"``.
        data: a capture's folder or its JSON file.
        output: run directory; ``runs/<name of data>-<recipe>`` when None.
        steps: stop after this many steps. Given without ``minutes`` it replaces the recipe's limits.
        minutes: stop after this many minutes of training; compiling and evaluating do not count.
        resume: continue the run in ``output`` from its newest readable checkpoint, with its settings and seed; those
            given here replace its own. Of a finished run: nothing to do.
        seed: seed of every random choice.
        device: ``auto``, or a torch device.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``: of the networks.
        image_cache: most memory for decoded pictures, in bytes or as ``"4GB"``: ``capture.cache_bytes``. Of captures
            beyond it a changing part is kept.
        quiet: no progress bar.
        overrides: settings as ``"path=value"``.
        config: a YAML file of settings, or the ``experiment.json`` of another run.
        view: show the training in a browser while it runs, at a cost of less than a tenth of its speed.
        host: for whom, see `voxfield.view`.
        port: of the page; where it is in use, the next that is free.

    Returns:
        The run; ``run.outcome`` says whether it was ``"finished"`` or ``"interrupted"`` (resume to continue), and
        ``run.left_out`` which pictures could not be used (also in ``failures.json``).

    Raises:
        InputError: bad settings, no such ``host``, or ``output`` holds a run already (or one of another recipe).
        MissingFileError, FormatError: data, or the run to resume, that is absent or cannot be read.
        UnavailableError: the device or precision is not to be had here.
        TrainingDivergedError: the loss became NaN or infinite; checkpoints written before stay.
    """
    if view:
        # A page that cannot be is better known of now than when there is a run half begun.
        require_viser()
        listen(host, port, or_next=True).close()
    placement = place(device, precision)
    run_dir = Path(output) if output is not None else _default_run_dir(recipe, Path(data))
    record = None
    if resume:
        record = read_experiment(run_dir, load_recipe, recipes=(recipe, ON_A_CPU.get(recipe, recipe)))
        experiment, seed = record.experiment, record.seed
    else:
        experiment = load_recipe(_stand_in(recipe, placement, overrides, config), _expected_minutes(steps, minutes))
        _refuse_to_overwrite(run_dir)
    explicit = {"capture.cache_bytes": None if image_cache is None else check_bytes("image_cache", image_cache)}
    experiment = resolve(experiment, config=config, overrides=overrides, explicit=explicit)
    experiment = _with_limits(experiment, steps, minutes)
    if experiment.evaluation.lpips:
        # Weights that cannot be loaded are better found now than after an hour.
        load_lpips(experiment.evaluation.lpips)
    state, notes = _resume_state(run_dir, placement) if resume else (None, [])
    with Progress(quiet=quiet) as progress:
        if state is not None and experiment.trainer.progress(state["step"], state["seconds"]) >= 1.0:
            progress.say(f"{run_dir} is finished. To train it further, give a larger --steps or --minutes.")
            return Run(run_dir, outcome="finished")
        captures = read_capture(Path(data), split="train", options=experiment.capture)
        if record is not None and record.data_hash not in (None, captures.source.get("hash")):
            notes.append("The pictures changed since the run was started: it does not continue as it would have.")
        if experiment.recipe != recipe:
            notes.append(
                f"On a CPU {recipe} is trained as {experiment.recipe}. As published: --set model.sampling=proposal."
            )
        if captures.skipped:
            notes.append(_skipped_line(captures.skipped))
        if captures.tone is not None:
            # Recorded: every split, and every later use of the run, is exposed alike.
            exposed = dataclasses.replace(experiment.capture, exposure=captures.tone.exposure)
            experiment = dataclasses.replace(experiment, capture=exposed)
            notes.append(f"Linear pictures, exposed by a factor of {captures.tone.exposure:.4g}.")
        if not captures.images.fits:
            notes.append(_sliding_line(captures, experiment.capture.rotate_every))
        held_out = _held_out(data, experiment, captures, notes)
        for note in notes:
            progress.say(note)
        outcome, left_out = _train_into(
            run_dir,
            experiment,
            captures,
            held_out,
            seed=seed,
            placement=placement,
            resume=resume,
            state=state,
            notes=notes,
            data=data,
            progress=progress,
            page=(host, port) if view else None,
        )
    run = Run(run_dir, outcome=outcome, left_out=left_out)
    run.report()
    return run


def _train_into(
    run_dir: Path,
    experiment: Experiment,
    captures: PosedImages,
    held_out: PosedImages | None,
    *,
    seed: int,
    placement: Placement,
    resume: bool,
    state: dict[str, Any] | None,
    notes: list[str],
    data: str | os.PathLike[str],
    progress: Progress,
    page: tuple[str | None, int] | None,
) -> tuple[str, tuple[Skipped, ...]]:
    """Train on ``captures`` from ``state``, or from nothing if None, and keep the run directory's books.

    `page` is the host and port to show the training at; None: it is not shown.

    Returns:
        How it ended, and the pictures that could not be used.
    """
    compile_seconds = compile_kernels(experiment.recipe, placement, progress)
    reset_peak_memory(placement.device)
    model = build_model(experiment.recipe, experiment.model, captures, seed)
    experiment = dataclasses.replace(experiment, model=model.config)
    measure = None
    if held_out is not None and experiment.trainer.evaluation_images:
        measure = functools.partial(_quick_evaluation, held_out, experiment, run_dir, placement.device)
    with RaySampler(
        captures,
        seed,
        device=placement.device,
        rotate_every=experiment.capture.rotate_every,
        first_step=0 if state is None else int(state["step"]),
        scale_schedule=experiment.capture.scale_schedule,
    ) as rays:
        batches: Batches = rays
        depth = experiment.capture.depth
        if depth.source != "off":
            batches = DepthSampler(rays, captures, depth, seed=seed, device=placement.device)
            captures = dataclasses.replace(captures, skipped=(*captures.skipped, *batches.left_out))
            if batches.left_out:
                notes = [*notes, _skipped_line(batches.left_out, "depth image")]
        trainer = Trainer(
            cast(Model, cast(torch.nn.Module, model).to(placement.device)),
            batches,
            experiment.trainer,
            run_dir=run_dir,
            placement=placement,
            seed=seed,
            evaluation=measure,
        )
        if state is not None:
            trainer.restore(state)
        about = {"machine": machine(placement.device), "device": str(placement)}
        write_experiment(
            run_dir,
            experiment,
            seed=seed,
            data_path=str(Path(data).resolve()),
            data_hash=cast("str | None", captures.source.get("hash")),
            extra=about,
        )
        resume_step = trainer.step if resume else None
        with RunLog(run_dir, resume_step=resume_step, tensorboard=experiment.trainer.tensorboard) as log:
            log.start(recipe=experiment.recipe, data=str(data), seed=seed, compile_seconds=compile_seconds, **about)
            for note in notes:
                log.event(note)
            with _shown(page, trainer, captures, experiment, progress):
                outcome = trainer.train(log, progress)
            left_out = (*captures.skipped, *captures.images.failures)
            _record_failures(run_dir, left_out)
            if captures.images.failures:
                log.event(_skipped_line(captures.images.failures))
            if captures.images.faulty_pixels:
                log.event(_faulty_line(captures.images.faulty_pixels))
            held = _peak_memory(placement.device)
            log.end(outcome, step=trainer.step, train_seconds=trainer.seconds, **held)
    return outcome, left_out


@contextlib.contextmanager
def _shown(
    page: tuple[str | None, int] | None,
    trainer: Trainer,
    captures: PosedImages,
    experiment: Experiment,
    progress: Progress,
) -> Iterator[None]:
    """Inside, what ``trainer`` does is shown at ``page``, a host and a port; at None it is not."""
    if page is None:
        yield
        return
    host, port = page
    with Viewer(
        field_subject(trainer.model, captures, experiment, trainer.placement),
        name=trainer.run_dir.resolve().name,
        photographs=Photographs(captures),
        paths=trainer.run_dir / "camera_paths",
        background=torch.tensor(colour_from_name(experiment.evaluation.background)),
        host=host,
        port=port,
        next_port=True,
    ) as viewer:
        progress.say(f"Watch it at {viewer.url}")
        trainer.onlooker = TrainingView(viewer)
        yield


def _peak_memory(device: torch.device) -> dict[str, int | None]:
    """The most bytes held at once, as the log's last line has them: by the process, and on an accelerator in use."""
    held = {"peak_memory_bytes": device_memory(torch.device("cpu")).peak}
    return held if device.type == "cpu" else {**held, "peak_device_memory_bytes": device_memory(device).peak}


def _quick_evaluation(
    captures: PosedImages, experiment: Experiment, run_dir: Path, device: torch.device, model: Model
) -> dict[str, Any]:
    """Metrics on a few held-out images while training; no pictures but the panels of the last time."""
    settings: EvaluateConfig = dataclasses.replace(
        experiment.evaluation,
        max_images=experiment.trainer.evaluation_images,
        lpips=None,
        focus=False,
        align_poses=False,
    )
    folder = run_dir / "eval" / "training"
    result = evaluate(model.render_image, captures, output=folder, settings=settings, device=device)
    return {"split": captures.split, **{name: result[name] for name in ("psnr", "ssim", "lpips")}}


def _stand_in(
    recipe: str, placement: Placement, overrides: Sequence[str], config: str | os.PathLike[str] | None
) -> str:
    """``recipe``, or the one that stands in for it on this device unless settings say otherwise."""
    sources = [parse_overrides(overrides)] + ([] if config is None else [load_config_file(config)])
    names = {for_device(recipe, placement.device.type, settings) for settings in sources}
    return recipe if recipe in names else names.pop()


def _resume_state(run_dir: Path, placement: Placement) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest readable checkpoint, or None for a run stopped before its first; and what there is to say."""
    if not list_checkpoints(run_dir):
        return None, ["The run had no checkpoint yet: it starts again from the first step."]
    path, state, problems = load_latest(run_dir, device=placement.device)
    return state, [f"{problem} Continued from {path.name}." for problem in problems]


def _held_out(
    data: str | os.PathLike[str], experiment: Experiment, captures: PosedImages, notes: list[str]
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
            return read_capture(Path(data), split=split, options=options)
        except (FormatError, MissingFileError) as error:
            faults.append(str(error))
    notes.append(f"Nothing is measured while training: {faults[-1]}")
    return None


def _record_failures(run_dir: Path, left_out: Sequence[Skipped]) -> None:
    """``failures.json`` lists the pictures that were left out; there is none when all were used."""
    path = run_dir / "failures.json"
    if left_out:
        write_json(path, [dataclasses.asdict(item) for item in left_out])
    else:
        path.unlink(missing_ok=True)


def _expected_minutes(steps: int | None, minutes: float | None) -> float | None:
    """About how long a training with these limits takes on a few cores, for a recipe to choose its sizes by."""
    by_steps = None if steps is None else steps * _TYPICAL_STEP_SECONDS / 60.0
    return min((limit for limit in (minutes, by_steps) if limit is not None), default=None)


def _with_limits(experiment: Experiment, steps: int | None, minutes: float | None) -> Experiment:
    """Limits given as flags replace both limits of the recipe."""
    if steps is None and minutes is None:
        return experiment
    trainer = dataclasses.replace(experiment.trainer, steps=steps, minutes=minutes)
    return dataclasses.replace(experiment, trainer=trainer)


def _default_run_dir(recipe: str, data: Path) -> Path:
    resolved = data.resolve()
    name = resolved.parent.name if resolved.suffix in {".json", ".xml", ".npz"} else resolved.name
    return Path("runs") / f"{name or 'capture'}-{recipe}"


def _refuse_to_overwrite(run_dir: Path) -> None:
    if any((run_dir / name).exists() for name in ("experiment.json", "log.jsonl")) or list_checkpoints(run_dir):
        raise InputError(f"{run_dir}: holds a run already. Continue it with --resume, or name another --output.")


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


def _faulty_line(faulty: Sequence[FaultyPixels]) -> str:
    broken, negative = sum(one.broken for one in faulty), sum(one.negative for one in faulty)
    names = ", ".join(one.name for one in faulty[:2]) + (f" and {len(faulty) - 2} more" if len(faulty) > 2 else "")
    return f"{broken} pixels are NaN or infinite (masked) and {negative} negative (taken as 0): {names}."
