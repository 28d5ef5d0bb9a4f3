"""What every training does, whatever it learns from: resuming, the run directory's files, the log, failures."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from voxfield.api.trained_run import machine
from voxfield.data.batches import Batches
from voxfield.distributed.devices import Placement, device_memory
from voxfield.distributed.memory import MemoryBound, MemoryPart
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError
from voxfield.models.base import Trainable
from voxfield.storage import remote
from voxfield.storage.atomic import write_json
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.storage.skipped import Skipped
from voxfield.training.experiment import Experiment, to_dict, write_experiment
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.trainer import Evaluation, Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTask:
    """A training that is asked for, its settings resolved, its data not yet read."""

    recipe: str
    """As it was named; ``experiment.recipe`` may stand in for it on this device."""
    experiment: Experiment
    """All settings."""
    data: Path
    """What to learn from."""
    run_dir: Path
    """Where the run is written."""
    seed: int
    """Of every random choice."""
    placement: Placement
    """Device and precision."""
    resume: bool
    """Whether the run is there already and continues."""
    state: dict[str, Any] | None
    """Its newest checkpoint, where it has one."""
    start: Path | None
    """File of the grid that the model begins with, in place of a fresh one."""
    page: tuple[str | None, int] | None
    """Host and port at which the training is shown; None: it is not."""
    recorded_hash: str | None
    """Hash of the data it was started on, where that is known."""
    notes: list[str]
    """What there is to say of the training before it starts."""
    progress: Progress
    """Shows what is done."""
    ranks: Ranks = ALONE
    """Who trains together."""
    bound: MemoryBound = MemoryBound(size=None, allowed=False)
    """Main memory that it may take."""
    process: MemoryPart = MemoryPart(what="this process", size=0)
    """What this process needed before it worked on anything."""


@dataclass(frozen=True, kw_only=True)
class Aftermath:
    """What there is to say of the data once training has used them."""

    left_out: Sequence[Skipped] = ()
    """What could not be used: it is listed in ``failures.json``."""
    remarks: Sequence[str] = field(default_factory=list)
    """Sentences for the log."""


def _unseen(trainer: Trainer[Any]) -> AbstractContextManager[None]:  # noqa: ARG001  (whoever trains)
    return nullcontext()


def train_model(
    task: TrainingTask,
    experiment: Experiment,
    model: Trainable[Any],
    batches: Batches[Any],
    *,
    data_hash: str | None,
    notes: Sequence[str] = (),
    compile_seconds: float = 0.0,
    evaluation: Evaluation | None = None,
    shown: Callable[[Trainer[Any]], AbstractContextManager[None]] = _unseen,
    aftermath: Callable[[], Aftermath] = Aftermath,
    threads_for_torch: bool = False,
) -> tuple[str, tuple[Skipped, ...]]:
    """Train ``model`` from the task's checkpoint, or from nothing, and keep the run directory's books.

    Args:
        task: what was asked for.
        experiment: its settings with a value for every ``auto``: what is recorded.
        model: on any device.
        batches: what it learns from.
        data_hash: hash of the data's description.
        notes: what the log says first.
        compile_seconds: spent on compiling before.
        evaluation: measures the model now and then.
        shown: shows what the trainer does, inside.
        aftermath: asked once training has ended.
        threads_for_torch: let torch's operators use all cores: for models that are all torch's, not our kernels.

    Returns:
        How it ended, and what could not be used.

    Raises:
        FormatError: the checkpoint belongs to a model of another size.
        InputError: ranks have other settings, data or checkpoints than each other.
        TrainingDivergedError: the loss became NaN or infinite; checkpoints written before stay.
    """
    # Before anything is exchanged whose sizes they decide.
    task.ranks.check_same(
        settings=json.dumps(to_dict(experiment), default=str, sort_keys=True),
        seed=str(task.seed),
        data=str(data_hash),
        checkpoint="none" if task.state is None else str(task.state["step"]),
    )
    trainer = Trainer(
        cast("Trainable[Any]", cast(torch.nn.Module, model).to(task.placement.device)),
        batches,
        experiment.trainer,
        run_dir=task.run_dir,
        placement=task.placement,
        seed=task.seed,
        evaluation=evaluation,
        threads_for_torch=threads_for_torch,
        ranks=task.ranks,
    )
    if task.state is not None:
        trainer.restore(task.state)
    if not task.ranks.leads:
        outcome = trainer.train(None, task.progress)
        task.ranks.wait()
        return outcome, tuple(aftermath().left_out)
    about: dict[str, Any] = {"machine": machine(task.placement.device), "device": str(task.placement)}
    about |= {} if task.start is None else {"start": remote.shown(task.start)}
    about |= {} if task.ranks.job is None else {"ranks": task.ranks.size, "job": task.ranks.job}
    named = remote.shown(task.data)
    data_path = named if remote.url_of(named) is not None else str(task.data.resolve())
    write_experiment(task.run_dir, experiment, seed=task.seed, data_path=data_path, data_hash=data_hash, extra=about)
    resume_step = trainer.step if task.resume else None
    with RunLog(task.run_dir, resume_step=resume_step, tensorboard=experiment.trainer.tensorboard) as log:
        log.start(recipe=experiment.recipe, data=named, seed=task.seed, compile_seconds=compile_seconds, **about)
        for note in notes:
            log.event(note)
        with shown(trainer):
            outcome = trainer.train(log, task.progress)
        after = aftermath()
        _record_failures(task.run_dir, after.left_out)
        for remark in after.remarks:
            log.event(remark)
        log.end(outcome, step=trainer.step, train_seconds=trainer.seconds, **_peak_memory(task.placement.device))
    task.ranks.wait()
    return outcome, tuple(after.left_out)


def resume_state(run_dir: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest readable checkpoint, or None for a run stopped before its first; and what there is to say."""
    if not list_checkpoints(run_dir):
        return None, ["The run had no checkpoint yet: it starts again from the first step."]
    path, state, problems = load_latest(run_dir)
    return state, [f"{problem} Continued from {path.name}." for problem in problems]


def default_run_dir(recipe: str, data: str | os.PathLike[str]) -> Path:
    """Where a run is written when nobody says: ``runs/<name of data>-<recipe>``. A link counts by its own name."""
    named = Path(os.path.normpath(Path(data).absolute()))
    name = named.parent.name if named.suffix in {".json", ".xml", ".npz"} else named.name
    return Path("runs") / f"{name or 'capture'}-{recipe}"


def refuse_to_overwrite(run_dir: Path) -> None:
    """Raise InputError if ``run_dir`` holds a run."""
    if any((run_dir / name).exists() for name in ("experiment.json", "log.jsonl")) or list_checkpoints(run_dir):
        raise InputError(
            f"{run_dir}: holds a run already. Name another --output, or go on with it: voxfield train RECIPE "
            f"--output {run_dir} --resume"
        )


def _peak_memory(device: torch.device) -> dict[str, int | None]:
    """The most bytes held at once, as the log's last line has them: by the process, and on an accelerator in use."""
    held = {"peak_memory_bytes": device_memory(torch.device("cpu")).peak}
    return held if device.type == "cpu" else {**held, "peak_device_memory_bytes": device_memory(device).peak}


def _record_failures(run_dir: Path, left_out: Sequence[Skipped]) -> None:
    """``failures.json`` lists what was left out; there is none when all was used."""
    path = run_dir / "failures.json"
    if left_out:
        write_json(path, [dataclasses.asdict(item) for item in left_out])
    else:
        path.unlink(missing_ok=True)
