"""The public calls: train a field, open a run, measure it, render it, report on it. The command line calls only these."""

import dataclasses
import functools
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch

from voxfield.data.posed_images import PosedImages, Split, read_capture
from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import SyntheticScene
from voxfield.distributed.devices import Placement, place
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.report import write_report
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import camera_path
from voxfield.kernels.threads import kernel_threads, kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.recipes import build_model, load_recipe
from voxfield.render.image import colour_from_name, to_uint8, write_png
from voxfield.render.lpips import load_lpips
from voxfield.render.video import require_video, write_video
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.storage.run_log import read_log
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.experiment import Experiment, RunRecord, read_experiment, resolve, write_experiment
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.trainer import MovingAverage, Trainer

RenderFormat = Literal["video", "images", "both"]


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
    quiet: bool = False,
    overrides: Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
) -> "Run":
    """Train a radiance field from posed photographs.

    Args:
        recipe: what to train, ``"grid-ngp"``.
        data: a capture's folder or its JSON file.
        output: run directory; ``runs/<name of data>-<recipe>`` when None.
        steps: stop after this many steps. Given without ``minutes`` it replaces the recipe's limits.
        minutes: stop after this many minutes of training; compiling and evaluating do not count.
        resume: continue the run in ``output`` from its newest checkpoint (of a finished run: nothing to do).
        seed: seed of every random choice.
        device: ``auto``, or a torch device.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``: of the networks.
        quiet: no progress bar.
        overrides: settings as ``"path=value"``.
        config: a YAML file of settings, or the ``experiment.json`` of another run.

    Returns:
        The run; ``run.outcome`` says whether it was ``"finished"`` or ``"interrupted"`` (resume to continue).

    Raises:
        VoxfieldError: bad settings, data that cannot be read, a loss that diverged.
    """
    placement = place(device, precision)
    run_dir = Path(output) if output is not None else _default_run_dir(recipe, Path(data))
    if resume:
        record = read_experiment(run_dir, load_recipe, recipe=recipe)
        experiment, seed = record.experiment, record.seed
    else:
        _refuse_to_overwrite(run_dir)
        experiment = load_recipe(recipe)
    experiment = resolve(experiment, config=config, overrides=overrides)
    experiment = _with_limits(experiment, steps, minutes)
    # Weights that cannot be loaded are better found now than after an hour.
    lpips = load_lpips(experiment.evaluation.lpips) if experiment.evaluation.lpips else None
    with Progress(quiet=quiet) as progress:
        captures = read_capture(data, split="train", options=experiment.capture)
        if captures.skipped:
            progress.say(_skipped_line(captures))
        held_out = _held_out(data, experiment)
        seconds = compile_kernels(placement, progress)
        model = cast(torch.nn.Module, build_model(recipe, experiment.model, captures, seed)).to(placement.device)
        with RaySampler(captures, seed, device=placement.device) as batches:
            measure = functools.partial(_quick_evaluation, captures=held_out, experiment=experiment, run_dir=run_dir)
            trainer = Trainer(
                cast(Model, model),
                batches,
                experiment.trainer,
                run_dir=run_dir,
                placement=placement,
                seed=seed,
                evaluation=measure if held_out is not None and experiment.trainer.evaluation_images else None,
            )
            resume_step, problems = None, []
            if resume:
                _, state, problems = load_latest(run_dir, device=placement.device)
                trainer.restore(state)
                resume_step = trainer.step
            write_experiment(
                run_dir,
                experiment,
                seed=seed,
                data_path=str(Path(data).resolve()),
                data_hash=cast("str | None", captures.source.get("hash")),
                extra={"machine": machine(), "device": str(placement)},
            )
            with RunLog(run_dir, resume_step=resume_step, tensorboard=experiment.trainer.tensorboard) as log:
                log.start(
                    recipe=recipe,
                    data=str(data),
                    seed=seed,
                    device=str(placement),
                    machine=machine(),
                    compile_seconds=seconds,
                )
                for problem in problems:
                    log.event(f"{problem} Continued from the one before.")
                if captures.skipped:
                    log.event(_skipped_line(captures))
                outcome = trainer.train(log, progress)
                for failure in captures.images.failures:
                    log.event(f"A picture could not be decoded and was left out: {failure}")
                log.end(outcome, step=trainer.step, train_seconds=trainer.seconds)
    del lpips
    run = Run(run_dir, outcome=outcome)
    run.report()
    return run


def open(run: str | os.PathLike[str]) -> "Run":  # noqa: A001  (voxfield.open reads well and shadows nothing here)
    """Open a run directory that `train` wrote.

    Raises:
        MissingFileError, FormatError: it is none, or damaged.
    """
    return Run(Path(run))


class Run:
    """A trained field and what belongs to it. The model is loaded when first needed."""

    def __init__(self, path: Path, *, outcome: str | None = None, device: str = "auto") -> None:
        """Open ``path``; ``outcome`` is how a training in this process ended."""
        self.path, self.outcome = path, outcome
        self.record: RunRecord = read_experiment(path, load_recipe)
        self.placement: Placement = place(device, "auto")

    @property
    def experiment(self) -> Experiment:
        """The settings the run was made with."""
        return self.record.experiment

    @functools.cached_property
    def captures(self) -> PosedImages:
        """The training split, whose cameras and bounds the model was built for."""
        return self.split("train")

    def split(self, split: Split, data: str | os.PathLike[str] | None = None) -> PosedImages:
        """A split of the run's capture, or of another one in the same world."""
        source = self.record.data_path if data is None else data
        if not Path(source).exists():
            raise MissingFileError(f"{source}: the capture of this run is not there. Name it with --data.")
        return read_capture(source, split=split, options=self.experiment.capture)

    @functools.cached_property
    def model(self) -> Model:
        """The model of the newest readable checkpoint, with averaged parameters if the run kept an average."""
        return self._loaded[0]

    @functools.cached_property
    def _loaded(self) -> tuple[Model, dict[str, Any]]:
        path, state, _ = load_latest(self.path, device=self.placement.device)
        model = build_model(self.experiment.recipe, self.experiment.model, self.captures, self.record.seed)
        module = cast(torch.nn.Module, model).to(self.placement.device)
        try:
            module.load_state_dict(state["model"])
        except (RuntimeError, KeyError) as error:
            raise FormatError(f"{path}: does not fit {self.path / 'experiment.json'}: {error}") from None
        if state.get("average") is not None:
            average = MovingAverage(module, self.experiment.trainer.ema_decay)
            average.load_state_dict(state["average"])
            with torch.no_grad():
                for parameter, value in zip(module.parameters(), state["average"]["values"], strict=True):
                    parameter.copy_(value)
        about = {"step": int(state["step"]), "train_seconds": float(state["seconds"]), "checkpoint": path.name}
        return cast(Model, module.eval()), about

    def render(self, cameras: Cameras, i: int = 0, *, background: str | None = None) -> dict[str, torch.Tensor]:
        """What camera ``i`` of ``cameras`` (in the run's world) sees.

        Returns:
            ``rgb`` (H, W, 3) in [0, 1], ``opacity`` (H, W) in [0, 1], ``depth`` (H, W) in world units, on the CPU.
        """
        colour = torch.tensor(colour_from_name(background or self.experiment.evaluation.background))
        with kernels_own_the_cores(), torch.inference_mode():
            return self.model.render_image(cameras, i, background=colour)

    def evaluate(
        self,
        *,
        split: str = "test",
        data: str | os.PathLike[str] | None = None,
        lpips_weights: str | os.PathLike[str] | None = None,
        max_images: int | None = None,
        background: str | None = None,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Measure the run on a split; writes ``eval/<split>/metrics.json`` and a panel per image.

        Args:
            split: ``train``, ``val`` or ``test``.
            data: another capture in the same world; None: the run's own.
            lpips_weights: see `voxfield.render.lpips.load_lpips`; None leaves LPIPS out (null in the metrics).
            max_images: measure only this many, evenly spread.
            background: colour name or ``r,g,b``; None: the run's setting.
            quiet: no progress bar.

        Returns:
            What ``metrics.json`` holds.
        """
        settings = self.experiment.evaluation
        changes: dict[str, Any] = {"max_images": max_images if max_images is not None else settings.max_images}
        if background is not None:
            changes["background"] = background
        if lpips_weights is not None:
            changes["lpips"] = str(lpips_weights)
        settings = dataclasses.replace(settings, **changes)
        captures = self.split(cast(Split, split), data)
        model, about = self._loaded
        count = min(len(captures), settings.max_images or len(captures))
        with Progress(quiet=quiet) as progress:
            compile_kernels(self.placement, progress)
            with progress.stage(f"Evaluating {split}", count, "images") as stage, kernels_own_the_cores():
                return evaluate(
                    model.render_image,
                    captures,
                    output=self.path / "eval" / split,
                    settings=settings,
                    context={**about, "device": str(self.placement), "threads": torch.get_num_threads()},
                    on_progress=lambda _done, _total, name: stage.advance(1, name),
                )

    def render_path(
        self,
        kind: str,
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float = 24.0,
        seconds: float | None = None,
        output: str | os.PathLike[str] | None = None,
        format: str = "both",  # noqa: A002  (the option's name)
        quiet: bool = False,
    ) -> list[Path]:
        """Render a camera path to PNGs, an MP4, or both, into ``renders/<kind>``.

        Args:
            kind: ``orbit``, ``spiral``, ``interpolate`` (between the training cameras) or ``dataset`` (the held-out ones).
            frames: number of frames; None: ``seconds`` times ``fps``.
            height, width: pixels; None: the capture's, one follows from the other.
            fps: frames a second of the video, above 0.
            seconds: length, used when ``frames`` is None; None: 5.
            output: folder; None: ``renders/<kind>`` of the run.
            format: ``video``, ``images`` or ``both``.
            quiet: no progress bar.

        Returns:
            The files written. Frames that exist already are rendered again.

        Raises:
            MissingExtraError: a video is wanted and PyAV is missing.
        """
        if format not in ("video", "images", "both"):
            raise InputError(f"format: expected video, images or both, got {format!r}.")
        if format != "images":
            require_video()
        base = self.split("test").cameras if kind == "dataset" else self.captures.cameras
        width, height = _frame_size(base, width, height)
        count = frames if frames is not None else max(1, round((seconds or 5.0) * fps))
        cameras = camera_path(kind, base, frames=count, width=width, height=height)
        folder = Path(output) if output is not None else self.path / "renders" / kind
        colour = torch.tensor(colour_from_name(self.experiment.evaluation.background))
        model = self.model
        written: list[Path] = []
        with Progress(quiet=quiet) as progress:
            compile_kernels(self.placement, progress)
            with progress.stage(f"Rendering {kind}", len(cameras), "frames") as stage, kernels_own_the_cores():

                def pictures() -> Iterator[torch.Tensor]:
                    for index in range(len(cameras)):
                        with torch.inference_mode():
                            picture = to_uint8(model.render_image(cameras, index, background=colour)["rgb"])
                        if format != "video":
                            path = folder / f"frame_{index:05d}.png"
                            write_png(path, picture)
                            written.append(path)
                        stage.advance(1)
                        yield picture

                if format == "images":
                    for _ in pictures():
                        pass
                else:
                    video = folder.with_suffix(".mp4") if output is None else folder / f"{kind}.mp4"
                    write_video(video, (picture.numpy() for picture in pictures()), fps=fps)
                    written.append(video)
        return written

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        return write_report(self.path)

    def info(self) -> dict[str, Any]:
        """What the run is: recipe, data, settings, progress, checkpoints, last metrics."""
        log = read_log(self.path / "log.jsonl")
        last = next((entry for entry in reversed(log) if entry.get("kind") == "train"), {})
        end = next((entry for entry in reversed(log) if entry.get("kind") in ("start", "end")), {})
        return {
            "path": str(self.path),
            "recipe": self.experiment.recipe,
            "data": self.record.data_path,
            "created": self.record.created,
            "state": end.get("reason", "running or killed"),
            "step": last.get("step"),
            "train_minutes": round(last["train_seconds"] / 60, 2) if "train_seconds" in last else None,
            "train_psnr": last.get("psnr"),
            "rays_per_second": last.get("rays_per_second"),
            "checkpoints": [path.name for path in list_checkpoints(self.path)],
            "settings": dataclasses.asdict(self.experiment),
            "versions": dict(self.record.versions),
        }


def compile_kernels(placement: Placement, progress: Progress) -> float:
    """Have the kernels compiled (the first time) or loaded from their cache, so that no training time goes into it.

    Returns:
        Seconds it took.
    """
    began = time.perf_counter()
    if placement.device.type != "cpu":
        return 0.0
    scene = SyntheticScene.example().posed_images(count=2, resolution=16)
    experiment = load_recipe("grid-ngp")
    small = dataclasses.replace(
        experiment.model,
        field=dataclasses.replace(experiment.model.field, log2_table_size=8, max_resolution=64),
        occupancy=dataclasses.replace(experiment.model.occupancy, resolution=16),
        samples_per_batch=512,
        final_samples_per_batch=512,
    )
    with progress.stage("Preparing kernels (compiled once, then cached)", 3) as stage, kernels_own_the_cores():
        model = build_model("grid-ngp", small, scene, 0)
        with RaySampler(scene, 0) as batches:
            trainer = Trainer(
                model, batches, experiment.trainer, run_dir=Path(), placement=placement, seed=0
            )
            stage.advance(1)
            trainer.rehearse()
            stage.advance(1)
            with torch.inference_mode():
                model.render_image(scene.cameras, 0, background=torch.ones(3))
            stage.advance(1)
    return time.perf_counter() - began


def machine() -> str:
    """One line that names the processor, its threads and torch, for logs and results."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {kernel_threads()} threads, {platform.system()}, torch {torch.__version__}"


def _quick_evaluation(
    model: Model, *, captures: PosedImages, experiment: Experiment, run_dir: Path
) -> dict[str, Any]:
    """Metrics on a few held-out images while training; no pictures but the panels of the last time."""
    settings: EvaluateConfig = dataclasses.replace(
        experiment.evaluation, max_images=experiment.trainer.evaluation_images, lpips=None
    )
    result = evaluate(model.render_image, captures, output=run_dir / "eval" / "training", settings=settings)
    return {"split": captures.split, **{name: result[name] for name in ("psnr", "ssim", "lpips")}}


def _held_out(data: str | os.PathLike[str], experiment: Experiment) -> PosedImages | None:
    """The validation split, else the test split, else None: a capture without either can still be trained."""
    for split in ("val", "test"):
        try:
            return read_capture(data, split=cast(Split, split), options=experiment.capture)
        except (FormatError, MissingFileError):
            continue
    return None


def _with_limits(experiment: Experiment, steps: int | None, minutes: float | None) -> Experiment:
    """Limits given as flags replace both limits of the recipe."""
    if steps is None and minutes is None:
        return experiment
    trainer = dataclasses.replace(experiment.trainer, steps=steps, minutes=minutes)
    return dataclasses.replace(experiment, trainer=trainer)


def _default_run_dir(recipe: str, data: Path) -> Path:
    resolved = data.resolve()
    name = resolved.parent.name if resolved.suffix == ".json" else resolved.name
    return Path("runs") / f"{name or 'capture'}-{recipe}"


def _refuse_to_overwrite(run_dir: Path) -> None:
    if (run_dir / "experiment.json").exists() or list_checkpoints(run_dir):
        raise InputError(f"{run_dir}: holds a run already. Continue it with --resume, or name another --output.")


def _skipped_line(captures: PosedImages) -> str:
    names = ", ".join(f"{item.path} ({item.reason})" for item in captures.skipped[:2])
    more = len(captures.skipped) - 2
    return f"{len(captures.skipped)} pictures left out: {names}{f' and {more} more' if more > 0 else ''}."


def _frame_size(cameras: Cameras, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height of frames: what is missing follows from the first camera's shape."""
    own_width, own_height = int(cameras.width[0]), int(cameras.height[0])
    if width is None and height is None:
        return own_width, own_height
    if width is None:
        return max(1, round(own_width * cast(int, height) / own_height)), cast(int, height)
    return width, height if height is not None else max(1, round(own_height * width / own_width))
