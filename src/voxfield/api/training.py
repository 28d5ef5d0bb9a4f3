"""Training: finds out what a recipe learns from, and has that kind of data read and learnt from."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch

import voxfield
from voxfield.api.books import TrainingTask, default_run_dir, refuse_to_overwrite, resume_state
from voxfield.api.kinds import kind_of
from voxfield.api.places import anywhere
from voxfield.api.trained_run import TrainedRun
from voxfield.api.training_memory import training_process
from voxfield.checks import check_bytes
from voxfield.distributed.devices import Placement, place
from voxfield.distributed.memory import memory_bound
from voxfield.distributed.ranks import Ranks, joined, launched
from voxfield.errors import InputError, MissingFileError
from voxfield.recipes import ON_A_CPU, data_kind, for_device, load_recipe, read_settings
from voxfield.storage.one_writer import only_writer
from voxfield.storage.remote import local
from voxfield.training.experiment import EXPERIMENT_NAME, Experiment, RunRecord, check_seed, read_experiment, resolve
from voxfield.training.progress import Progress
from voxfield.training.settings import load_config_file, parse_overrides
from voxfield.viewer.access import PORT, listen
from voxfield.viewer.serving import require_viser

_TYPICAL_STEP_SECONDS = 0.1
"""A training step on two cores, measured on lego with the sizes for one minute; those for five took 0.2."""


@anywhere("data", alone=("config", "start"), folder="output", live=True)
def train(
    recipe: str,
    data: str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    seed: int = 42,
    device: str = "auto",
    precision: str = "auto",
    image_cache: int | str | None = None,
    max_memory: int | str | None = None,
    memory: int | str | None = None,
    quiet: bool = False,
    overrides: Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
    start: str | os.PathLike[str] | None = None,
    view: bool = False,
    host: str | None = None,
    port: int = PORT,
) -> TrainedRun:
    """Train a recipe: a radiance field from posed photographs, or a network of another kind.

    Args:
        recipe: what to train, a key of `voxfield.recipes.RECIPES` such as ``"grid-ngp"`` or ``"nerfacto"``.
        data: what to learn from: of photographs a capture's folder or its JSON file. Not needed where settings name it,
            nor to resume a run.
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
        max_memory: most memory for the voxels of plenoxels recipes, their gradients and moments, in bytes or as
            ``"2GB"``: ``model.max_bytes``.
        memory: most main memory for all of it, in bytes or as ``"8GB"``, of every process that trains; what there is to
            spare when None. Fewer pictures and voxels are held where they do not fit. See docs/memory.md.
        quiet: no progress bar.
        overrides: settings as ``"path=value"``.
        config: a YAML file of settings, or the ``experiment.json`` of another run.
        start: a ``.vdb`` file of a voxel grid that a plenoxels training begins with, in place of a fresh one (see
            `Run.export_vdb`), or svox2's ``ckpt.npz``. Schedules begin anew, in the stage of the grid's resolution.
        view: show the training in a browser while it runs, at a cost of less than a tenth of its speed.
        host: for whom, see `voxfield.view`.
        port: of the page; where it is in use, the next that is free.

    Started by a launcher (``torchrun``), every process calls this alike, and they train together: see docs/scaling.md.
    Only rank 0 writes and says anything.

    Returns:
        The run; ``run.outcome`` says whether it was ``"finished"`` or ``"interrupted"`` (resume to continue), and
        ``run.left_out`` which pictures could not be used (also in ``failures.json``).

    Raises:
        InputError: bad settings, too little memory, no such ``host``, or ``output`` holds a run already (or one of
            another recipe), or is trained into by another process.
        MissingFileError, FormatError: data, or the run to resume, that is absent or cannot be read.
        UnavailableError: the device or precision is not to be had here.
        TrainingDivergedError: the loss became NaN or infinite; checkpoints written before stay.
        LostRankError: one of several processes is gone; the run can be resumed.
    """
    if data_kind(recipe) != "photographs":
        for name, given in (("view", view), ("image_cache", image_cache is not None)):
            if given:
                raise InputError(
                    f"{name}: is for photographs, and {recipe} trains on {data_kind(recipe)}. Leave it out."
                )
    if view and launched().leads:
        # A page that cannot be is better known of now than when there is a run half begun.
        require_viser()
        listen(host, port, or_next=True).close()
    check_seed(seed)
    bound, ranks = memory_bound(memory), launched()
    placement = place(device, precision, ranks)
    process = training_process(placement.device)
    with joined(ranks, placement.device, versions=f"voxfield {voxfield.__version__}, torch {torch.__version__}"):
        record: RunRecord[Experiment] | None = None
        again = _begun_before(ranks, output, recipe, data)
        if resume or again:
            run_dir = _resumed(output, recipe, data)
            record = read_experiment(run_dir, load_recipe, recipes=(recipe, ON_A_CPU.get(recipe, recipe)))
            experiment, seed = record.experiment, record.seed
        else:
            experiment = load_recipe(_stand_in(recipe, placement, overrides, config), _expected_minutes(steps, minutes))
        begin = _starting_grid(None if again else start, record)
        has_voxels = hasattr(experiment.model, "max_bytes")
        if begin is not None and not has_voxels:
            raise InputError(f"start (--from): {recipe} has no voxels to begin with; plenoxels recipes have.")
        explicit = {"capture.cache_bytes": None if image_cache is None else check_bytes("image_cache", image_cache)}
        if max_memory is not None:
            if not has_voxels:
                raise InputError(f"max_memory: bounds the voxels of plenoxels recipes; {recipe} has none.")
            explicit["model.max_bytes"] = check_bytes("max_memory", max_memory)
        said: list[str] = []
        translate = functools.partial(_translated, recipe, str(config), said)
        experiment = resolve(experiment, config=config, overrides=overrides, explicit=explicit, translate=translate)
        experiment = _with_limits(experiment, steps, minutes)
        kind = kind_of(recipe)
        source = _source(recipe, data, record, kind.data_of(experiment))
        if record is None:
            run_dir = Path(output) if output is not None else default_run_dir(recipe, source)
        with _held(ranks, run_dir, new=record is None), Progress(quiet=quiet or not ranks.leads) as progress:
            state, notes = (None, []) if record is None else resume_state(run_dir)
            if state is not None and experiment.trainer.progress(state["step"], state["seconds"]) >= 1.0:
                progress.say(f"{run_dir} is finished. To train it further, give a larger --steps or --minutes.")
                return kind.open_run(run_dir, outcome="finished")
            run = kind.train_on(
                TrainingTask(
                    recipe=recipe,
                    experiment=experiment,
                    data=source,
                    run_dir=run_dir,
                    seed=seed,
                    placement=placement,
                    resume=record is not None,
                    state=state,
                    start=begin,
                    page=(host, port) if view and ranks.leads else None,
                    recorded_hash=None if record is None else record.data_hash,
                    notes=[*said, *notes],
                    progress=progress,
                    ranks=ranks,
                    bound=bound,
                    process=process,
                )
            )
            if ranks.leads:
                run.report()
        return run


@contextmanager
def _held(ranks: Ranks, run_dir: Path, *, new: bool) -> Iterator[None]:
    """Nobody else trains into ``run_dir`` inside; a new run finds none there. All ranks are refused, or none is."""
    with ExitStack() as held:
        with ranks.all_or_none():
            if ranks.leads:
                held.enter_context(only_writer(run_dir))
                if new:
                    refuse_to_overwrite(run_dir)
        yield


def _translated(recipe: str, source: str, said: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """A file's settings in the recipe's names; ``said`` gets what there is to say of them."""
    settings, notes = read_settings(recipe, values, source)
    said += notes
    return settings


def _begun_before(
    ranks: Ranks, output: str | os.PathLike[str] | None, recipe: str, data: str | os.PathLike[str] | None
) -> bool:
    """Whether a launcher that lost a rank has started all again: its command is still the one that began the run."""
    begun = False
    if ranks.leads and ranks.restarts and not (output is None and data is None):
        run_dir = _resumed(output, recipe, data)
        if (run_dir / EXPERIMENT_NAME).exists():
            names = (recipe, ON_A_CPU.get(recipe, recipe))
            begun = read_experiment(run_dir, load_recipe, recipes=names).extra.get("job") == ranks.job
    return ranks.texts("yes" if begun else "no")[0] == "yes"


def _resumed(output: str | os.PathLike[str] | None, recipe: str, data: str | os.PathLike[str] | None) -> Path:
    """The run directory to continue."""
    if output is None and data is None:
        raise InputError("resume: which run? Name it with --output.")
    return Path(output) if output is not None else default_run_dir(recipe, cast("str", data))


def _source(
    recipe: str, data: str | os.PathLike[str] | None, record: RunRecord[Experiment] | None, named: str | None
) -> Path:
    """What to train on: as given, else as the settings say, else what the run that is resumed was started on."""
    if data is not None:
        return Path(data)
    if named is not None:
        return local(named)
    if record is not None:
        return local(record.data_path)
    raise InputError(f"missing DATA: what shall {recipe} learn from? voxfield train {recipe} DATA")


def _starting_grid(start: str | os.PathLike[str] | None, record: RunRecord[Experiment] | None) -> Path | None:
    """The file that training begins with: of a resumed run the one it began with."""
    if record is not None:
        if start is not None:
            raise InputError(
                "start (--from): a run that is resumed goes on from its own checkpoint. Leave out one of the two."
            )
        begun = record.extra.get("start")
        return None if begun is None else local(str(begun))
    if start is None:
        return None
    path = Path(start).resolve()
    if path.is_dir():
        raise InputError(
            f"start (--from): {start}: expected a .vdb file or svox2's ckpt.npz, got a folder. Of a run: "
            f"voxfield export vdb {start} --output voxels.vdb"
        )
    if not path.is_file():
        raise MissingFileError(f"start (--from): {start}: there is no such file.")
    return path


def _stand_in(
    recipe: str, placement: Placement, overrides: Sequence[str], config: str | os.PathLike[str] | None
) -> str:
    """``recipe``, or the one that stands in for it on this device unless settings say otherwise."""
    sources = [parse_overrides(overrides)] + ([] if config is None else [load_config_file(config)])
    names = {for_device(recipe, placement.device.type, settings) for settings in sources}
    return recipe if recipe in names else names.pop()


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
