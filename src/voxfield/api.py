"""The public calls: train a field, open a run, measure, render and report on it. The command line calls only these."""

import dataclasses
import functools
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from voxfield.checks import check_bytes, check_choice
from voxfield.colour import ToneMap, compared, display, linear_from_srgb
from voxfield.data.capture import CaptureOptions
from voxfield.data.depth_targets import DepthSampler
from voxfield.data.image_store import FaultyPixels
from voxfield.data.posed_images import LONGEST_SIDE, PosedImages, Skipped, Split, open_capture, read_capture
from voxfield.data.ray_batches import Batches, RaySampler
from voxfield.data.sliding_pool import SlidingPlan
from voxfield.distributed.devices import Placement, place
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export import nerfstudio
from voxfield.export.focus import write_focus
from voxfield.export.report import write_report
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PathKind, camera_path
from voxfield.geometry.pose import similarity_between
from voxfield.jobs import fetch_eyefultower
from voxfield.jobs import process_photos as photos
from voxfield.jobs.doctor import cpu_name
from voxfield.jobs.sources import FetchOptions
from voxfield.kernels.threads import kernel_threads, kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.models.nerfacto import Nerfacto
from voxfield.recipes import build_model, load_recipe
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import colour_from_name, to_uint8, write_linear, write_png
from voxfield.render.lpips import load_lpips
from voxfield.render.video import require_video, write_video
from voxfield.storage.atomic import write_json
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.storage.exr import require_exr
from voxfield.storage.run_log import read_log
from voxfield.training.alignment import AlignmentConfig, PoseAligner
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.experiment import Experiment, RunRecord, read_experiment, resolve, write_experiment
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer

_TYPICAL_STEP_SECONDS = 0.1
"""A training step on two cores, measured on lego with the sizes for one minute; those for five took 0.2."""

RenderFormat = Literal["video", "images", "both", "exr"]


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

    Returns:
        The run; ``run.outcome`` says whether it was ``"finished"`` or ``"interrupted"`` (resume to continue), and
        ``run.left_out`` which pictures could not be used (also in ``failures.json``).

    Raises:
        InputError: bad settings, or ``output`` holds a run already (or one of another recipe).
        MissingFileError, FormatError: data, or the run to resume, that is absent or cannot be read.
        UnavailableError: the device or precision is not to be had here.
        TrainingDivergedError: the loss became NaN or infinite; checkpoints written before stay.
    """
    placement = place(device, precision)
    run_dir = Path(output) if output is not None else _default_run_dir(recipe, Path(data))
    experiment, record = load_recipe(recipe, _expected_minutes(steps, minutes)), None
    if resume:
        record = read_experiment(run_dir, load_recipe, recipe=recipe)
        experiment, seed = record.experiment, record.seed
    else:
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
) -> tuple[str, tuple[Skipped, ...]]:
    """Train on ``captures`` from ``state``, or from nothing if None, and keep the run directory's books.

    Returns:
        How it ended, and the pictures that could not be used.
    """
    compile_seconds = compile_kernels(experiment.recipe, placement, progress)
    model = cast(torch.nn.Module, build_model(experiment.recipe, experiment.model, captures, seed))
    measure = None
    if held_out is not None and experiment.trainer.evaluation_images:
        measure = functools.partial(_quick_evaluation, held_out, experiment, run_dir)
    with RaySampler(
        captures,
        seed,
        device=placement.device,
        rotate_every=experiment.capture.rotate_every,
        first_step=0 if state is None else int(state["step"]),
    ) as rays:
        batches: Batches = rays
        depth = experiment.capture.depth
        if depth.source != "off":
            batches = DepthSampler(rays, captures, depth, seed=seed, device=placement.device)
            captures = dataclasses.replace(captures, skipped=(*captures.skipped, *batches.left_out))
            if batches.left_out:
                notes = [*notes, _skipped_line(batches.left_out, "depth image")]
        trainer = Trainer(
            cast(Model, model.to(placement.device)),
            batches,
            experiment.trainer,
            run_dir=run_dir,
            placement=placement,
            seed=seed,
            evaluation=measure,
        )
        if state is not None:
            trainer.restore(state)
        about = {"machine": machine(), "device": str(placement)}
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
            outcome = trainer.train(log, progress)
            left_out = (*captures.skipped, *captures.images.failures)
            _record_failures(run_dir, left_out)
            if captures.images.failures:
                log.event(_skipped_line(captures.images.failures))
            if captures.images.faulty_pixels:
                log.event(_faulty_line(captures.images.faulty_pixels))
            log.end(outcome, step=trainer.step, train_seconds=trainer.seconds)
    return outcome, left_out


def open(run: str | os.PathLike[str]) -> "Run":  # noqa: A001  (voxfield.open reads well and shadows nothing here)
    """Open a run directory that `train` wrote.

    Raises:
        MissingFileError, FormatError: it is none, or damaged.
    """
    return Run(Path(run))


def convert_capture(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: nerfstudio.Placement = "copy",
    subsets: Sequence[str] = (),
    format: str = "auto",  # noqa: A002  (the option's name)
    eval_every: int = 8,
    allow_outside: bool = False,
) -> nerfstudio.Conversion:
    """Write a capture of any layout as nerfstudio's ``transforms.json``.

    Args:
        data: a capture's folder, or the file that lists it.
        output: folder of the new capture; may be the capture's own. Pictures inside it are referenced where they are.
        images: ``copy`` pictures outside ``output`` into its ``images``, or ``link`` them (hard links).
        subsets: smaller files to write beside it: ``"half"``, or a number of pictures such as ``"300"``.
        format: the capture's layout; ``auto`` looks at the files.
        eval_every: every so many-th picture (>= 2) is held out where the capture has no lists of its own.
        allow_outside: let the capture name files outside its folder. Only for files you trust.

    Returns:
        What was written; ``left_out`` says which pictures could not be used, and why.

    Raises:
        InputError: unknown options, or ``output`` holds such files already.
        MissingFileError, FormatError: a capture that is absent or cannot be read.
    """
    options = CaptureOptions(format=cast(Any, format), eval_every=eval_every, allow_outside=allow_outside)
    return nerfstudio.convert_capture(data, output, images=images, subsets=subsets, options=options)


def download_eyefultower(
    capture_names: Sequence[str] = ("riverview",),
    resolution_names: Sequence[str] = ("jpeg_2k",),
    *,
    output: str | os.PathLike[str] = "eyefultower",
    source: str = fetch_eyefultower.SOURCE,
    options: FetchOptions | None = None,
    quiet: bool = False,
) -> fetch_eyefultower.Download:
    """Fetch captures of the Eyeful Tower data set, each resolution with its ``transforms.json`` and smaller ones.

    What is there is not fetched again, what was cut is continued. Such files are made anew when pictures arrive.

    Args:
        capture_names: of ``jobs.fetch_eyefultower.CAPTURES``, or ``all``.
        resolution_names: of ``jobs.fetch_eyefultower.RESOLUTIONS``, or ``all``.
        output: folder for the captures' folders.
        source: where the captures are: an s3://, https:// or file:// address.
        options: transfers at a time, attempts, another S3 server, checking of what is there.
        quiet: no progress bar.

    Returns:
        What was done; ``failures`` says what could not be had or used (also in ``failures.json``).

    Raises:
        InputError: unknown names, or no room on the disk. TransferError: the source cannot be reached.
        MissingExtraError: fsspec or s3fs is missing.
    """
    with Progress(quiet=quiet) as progress:
        return fetch_eyefultower.download(
            capture_names,
            resolution_names,
            Path(output),
            prepare=_prepare_folder,
            display=progress.transfer,
            say=progress.say,
            source=source,
            options=options,
        )


def _prepare_folder(folder: Path, is_new: bool) -> Sequence[Skipped]:
    """Write the transforms files of an Eyeful Tower capture's folder of pictures, unless all is as it was."""
    subsets = ("300", nerfstudio.HALF)
    names = ("transforms.json", *(f"transforms_{name}.json" for name in subsets))
    options = CaptureOptions(format="eyefultower")
    if not is_new and all((folder / name).is_file() for name in names):
        # Pictures that were not to be had are still missing, and must not be forgotten.
        return open_capture(folder, split="train", options=options).missing
    return nerfstudio.convert_capture(folder, folder, subsets=subsets, overwrite=True, options=options).left_out


def process_photos(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    kind: Literal["auto", "images", "video"] = "auto",
    frames: int = 150,
    drop_blurred: bool = False,
    camera_model: photos.CameraModelName = "OPENCV",
    cameras: Literal["shared", "own"] = "shared",
    matching: Literal["auto", "exhaustive", "sequential"] = "auto",
    max_size: int = 1600,
    features: int = 4096,
    reduced: int = 0,
    eval_every: int = 8,
    seed: int = 42,
    quiet: bool = False,
) -> photos.ProcessedPhotos:
    """Make a capture with poses from plain photographs or a video, with COLMAP, on the CPU.

    Called again with the same ``output`` it continues, and does again only what has changed.

    Args:
        source: folder of photographs (subfolders included), or a video file.
        output: folder of the capture: new, empty, or from an earlier call. Holds ``images``, ``sparse/0`` (COLMAP's
            model), ``transforms.json`` and the report ``process.json``.
        kind: what ``source`` must be; ``auto`` looks.
        frames: how many frames to take of a video, spread evenly in time, the sharpest of each window (3 to 10,000).
        drop_blurred: leave out pictures much less sharp than the median; they are named either way.
        camera_model: COLMAP's name of the lens model.
        cameras: ``shared`` by all pictures of one size and EXIF focal length, or each picture its ``own``.
        matching: compare all pairs (``exhaustive``), or neighbours in order of time or name and evenly spread ones with
            one another (``sequential``); ``auto``: sequential for a video and more than 200 photographs.
        max_size: longest side, in pixels, at which features are looked for.
        features: most features of a picture; matching takes time with its square.
        reduced: also write copies reduced by 2, 4, ... 2^``reduced`` into ``images_2``, ``images_4``, ...
        eval_every: hold out every so many-th picture (>= 2).
        seed: of every random choice.
        quiet: no progress bar.

    Returns:
        What became of every picture; ``complete`` says whether all were placed.

    Raises:
        InputError: bad settings; ``output`` holds other files or lies in ``source``; too few pictures, or none that
            overlap enough.
        MissingFileError, FormatError: ``source`` is absent or cannot be read.
        MissingExtraError: pycolmap (extra ``photos``) or, for a video, PyAV (``video``) is missing.
    """
    check_choice("kind", kind, ("auto", "images", "video"))
    settings = photos.PhotoSettings(
        frames=frames,
        drop_blurred=drop_blurred,
        camera_model=camera_model,
        cameras=cameras,
        matching=matching,
        max_size=max_size,
        features=features,
        reduced=reduced,
        eval_every=eval_every,
        seed=seed,
    )
    if kind == "auto":
        kind = "video" if Path(source).is_file() else "images"

    def write_capture(folder: Path, every: int) -> Sequence[Skipped]:
        options = CaptureOptions(format="colmap", eval_every=every)
        return nerfstudio.convert_capture(folder, folder, options=options).left_out

    with Progress(quiet=quiet) as progress:
        return photos.process_photos(
            Path(source), Path(output), kind=kind, settings=settings, write_capture=write_capture, progress=progress
        )


class Run:
    """A trained field and what belongs to it. The model is loaded when first needed."""

    def __init__(
        self, path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = (), device: str = "auto"
    ) -> None:
        """Open ``path``; ``outcome`` is how a training in this process ended, ``left_out`` pictures it did without."""
        self.path, self.outcome, self.left_out = path, outcome, tuple(left_out)
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
        return read_capture(Path(source), split=split, options=self.experiment.capture)

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
            reason = " ".join(str(error).split())[:160]
            raise FormatError(f"{path}: does not fit {self.path / 'experiment.json'} ({reason}).") from None
        if state.get("average") is not None:
            with torch.no_grad():
                for parameter, value in zip(module.parameters(), state["average"]["values"], strict=True):
                    parameter.copy_(value)
        about = {"step": int(state["step"]), "train_seconds": float(state["seconds"]), "checkpoint": path.name}
        return cast(Model, module.eval()), about

    def render(
        self, cameras: Cameras, i: int = 0, *, background: str | None = None, normals: bool = False
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` of ``cameras`` (in the run's world) sees.

        Args:
            cameras, i: the camera.
            background: colour name or ``r,g,b``; None: the run's setting.
            normals: return normals too, of models that have them (nerfacto).

        Returns:
            ``rgb`` (H, W, 3): sRGB in [0, 1], or of a run on linear pictures linear light in their units; ``opacity``
            (H, W) in [0, 1], ``depth`` (H, W) in world units, and where asked for or learnt ``normals`` (H, W, 3), unit
            vectors in the world, on the CPU.

        Raises:
            InputError: normals of a model that has none.
        """
        options: dict[str, Any] = {"normals": True} if normals else {}
        if normals and not isinstance(self.model, Nerfacto):
            raise InputError(f"normals: {self.experiment.recipe} has none. Train nerfacto for them.")
        with kernels_own_the_cores(), torch.inference_mode():
            seen = self.model.render_image(cameras, i, background=self._background(background), **options)
        tone = self.captures.tone
        return seen if tone is None else {**seen, "rgb": seen["rgb"] / tone.exposure}

    def _background(self, name: str | None = None) -> torch.Tensor:
        """A colour (3,) by name, or the run's, in the space of the model's colours."""
        colour = torch.tensor(colour_from_name(name or self.experiment.evaluation.background))
        return colour if self.captures.tone is None else linear_from_srgb(colour)

    def _on_screen(self, rgb: torch.Tensor, stops: float, tone_map: ToneMap) -> torch.Tensor:
        """The model's colours as sRGB values; those of sRGB runs are touched only where something is asked for."""
        if self.captures.tone is None:
            if stops == 0 and tone_map == "none":
                return rgb
            rgb = linear_from_srgb(rgb)
        return display(rgb, stops=stops, tone_map=tone_map)

    def evaluate(
        self,
        *,
        split: str = "test",
        data: str | os.PathLike[str] | None = None,
        lpips_weights: str | os.PathLike[str] | None = None,
        max_images: int | None = None,
        background: str | None = None,
        align_poses: bool = False,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Measure the run on a split; writes ``eval/<split>/metrics.json``, a panel per image, and ``focus.html``.

        Args:
            split: ``train``, ``val`` or ``test``.
            data: another capture in the same world; None: the run's own.
            lpips_weights: see `voxfield.render.lpips.load_lpips`; None leaves LPIPS out (null in the metrics).
            max_images: measure only this many, evenly spread.
            background: colour name or ``r,g,b``; None: the run's setting.
            align_poses: also move each camera to where the field explains its photograph best and measure there,
                ``psnr_aligned``; or as the run's settings say.
            quiet: no progress bar.

        Returns:
            What ``metrics.json`` holds.
        """
        settings = self.experiment.evaluation
        changes: dict[str, Any] = {"max_images": max_images if max_images is not None else settings.max_images}
        changes["align_poses"] = align_poses or settings.align_poses
        if background is not None:
            changes["background"] = background
        if lpips_weights is not None:
            changes["lpips"] = str(lpips_weights)
        settings = dataclasses.replace(settings, **changes)
        captures = self.split(cast(Split, split), data)
        if (captures.tone is None) != (self.captures.tone is None):
            kinds = ("sRGB", "linear") if captures.tone is None else ("linear", "sRGB")
            raise InputError(f"{data}: holds {kinds[0]} pictures, but the run was trained on {kinds[1]} ones.")
        model, about = self._loaded
        count, folder = min(len(captures), settings.max_images or len(captures)), self.path / "eval" / split
        with Progress(quiet=quiet) as progress:
            compile_kernels(self.experiment.recipe, self.placement, progress, training=False)
            with progress.stage(f"Evaluating {split}", count, "images") as stage, kernels_own_the_cores():
                metrics = evaluate(
                    model.render_image,
                    captures,
                    output=folder,
                    settings=settings,
                    context={**about, "device": str(self.placement), "threads": torch.get_num_threads()},
                    aligner=self._aligner(settings.alignment) if settings.align_poses else None,
                    on_progress=lambda _done, _total, name: stage.advance(1, name),
                )
        if settings.focus:
            write_focus(folder, title=f"{self.path.resolve().name}, {split}")
        return metrics

    def _aligner(self, settings: AlignmentConfig) -> PoseAligner:
        """What moves evaluation cameras: with the training cameras first, if their poses were refined."""
        model = self.model
        given = self.captures.cameras.camera_to_world
        with torch.no_grad():
            refined = model.refined_poses(given)
        # Computed only where poses changed: a drift of rounding would move every camera.
        drift = None if refined is given else similarity_between(given, refined)
        tone = self.captures.tone
        return PoseAligner(
            lambda rays, *, background: compared(model.colours_with_gradient(rays, background=background), tone),
            settings=settings,
            drift=drift,
            parameters=cast(torch.nn.Module, model).parameters(),
            device=self.placement.device,
            seed=self.record.seed,
        )

    def render_path(
        self,
        kind: PathKind,
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float = 24.0,
        seconds: float | None = None,
        output: str | os.PathLike[str] | None = None,
        format: str = "both",  # noqa: A002  (the option's name)
        exposure: float = 0.0,
        tone_map: ToneMap = "none",
        quiet: bool = False,
    ) -> list[Path]:
        """Render a camera path to PNGs, an MP4, or both, or to EXR files, into ``renders/<kind>``.

        Args:
            kind: ``orbit``, ``spiral``, ``interpolate`` (between the training cameras) or ``dataset`` (the held-out
            ones). frames: number of frames; None: ``seconds`` times ``fps``.
            height, width: pixels; None: the capture's, one follows from the other.
            fps: frames a second of the video, above 0.
            seconds: length, used when ``frames`` is None; None: 5.
            output: folder; None: ``renders/<kind>`` of the run.
            format: ``video``, ``images`` or ``both``; or ``exr``: linear light with depth as Z and, where the capture
                has alpha, premultiplied with A in place of the background. In the pictures' units if those are linear.
            exposure: stops by which PNGs and videos are brightened, from the run's own exposure; -60 to 60.
            tone_map: how they show what is brighter than white: ``none`` clips, ``filmic`` rolls off.
            quiet: no progress bar.

        Returns:
            The files written. Frames that exist already are rendered again.

        Raises:
            MissingExtraError: a video is wanted and PyAV is missing, or EXR files and OpenEXR is.
        """
        check_choice("format", format, get_args(RenderFormat))
        # Bad values are better found now than after the first frame.
        display(torch.zeros(1, 3), stops=exposure, tone_map=tone_map)
        if format == "exr":
            require_exr()
        elif format != "images":
            require_video()
        base = self.split("test").cameras if kind == "dataset" else self.captures.cameras
        width, height = _frame_size(base, width, height)
        count = frames if frames is not None else max(1, round((seconds or 5.0) * fps))
        cameras = camera_path(kind, base, frames=count, width=width, height=height)
        folder = Path(output) if output is not None else self.path / "renders" / kind
        model, colour = self.model, self._background()
        written: list[Path] = []
        with Progress(quiet=quiet) as progress:
            compile_kernels(self.experiment.recipe, self.placement, progress, training=False)
            with progress.stage(f"Rendering {kind}", len(cameras), "frames") as stage, kernels_own_the_cores():

                def pictures() -> Iterator[torch.Tensor]:
                    for index in range(len(cameras)):
                        with torch.inference_mode():
                            rgb = model.render_image(cameras, index, background=colour)["rgb"]
                            picture = to_uint8(self._on_screen(rgb, exposure, tone_map))
                        if format != "video":
                            path = folder / f"frame_{index:05d}.png"
                            write_png(path, picture)
                            written.append(path)
                        stage.advance(1)
                        yield picture

                if format == "exr":
                    for index in range(len(cameras)):
                        written.append(self._write_exr(folder / f"frame_{index:05d}.exr", cameras, index))
                        stage.advance(1)
                elif format == "images":
                    for _ in pictures():
                        pass
                else:
                    video = folder.with_suffix(".mp4") if output is None else folder / f"{kind}.mp4"
                    write_video(video, (picture.numpy() for picture in pictures()), fps=fps)
                    written.append(video)
        return written

    def _write_exr(self, path: Path, cameras: Cameras, index: int) -> Path:
        """Write what a camera sees as linear light in the pictures' units; where those have alpha, no background."""
        captures = self.captures
        background = torch.zeros(3) if captures.has_alpha else self._background()
        with torch.inference_mode():
            seen = self.model.render_image(cameras, index, background=background)
        rgb, opacity = seen["rgb"], seen["opacity"] if captures.has_alpha else None
        if captures.tone is not None:
            rgb = rgb / captures.tone.exposure
        elif opacity is None:
            rgb = linear_from_srgb(rgb)
        else:
            # Colours of an sRGB model are premultiplied in sRGB values.
            rgb = linear_from_srgb(rgb / opacity[..., None].clamp(min=1e-6)) * opacity[..., None]
        return write_linear(path, rgb, depth=seen["depth"], opacity=opacity)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        return write_report(self.path)

    def info(self) -> dict[str, Any]:
        """What the run is: recipe, data, settings, progress, checkpoints, last metrics."""
        log = read_log(self.path / "log.jsonl")
        last: dict[str, Any] = next((entry for entry in reversed(log) if entry.get("kind") == "train"), {})
        end: dict[str, Any] = next((entry for entry in reversed(log) if entry.get("kind") in ("start", "end")), {})
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


def machine() -> str:
    """One line that names the processor, its threads and torch, for logs and results."""
    return f"{cpu_name()}, {kernel_threads()} threads, {platform.system()}, torch {torch.__version__}"


def _quick_evaluation(captures: PosedImages, experiment: Experiment, run_dir: Path, model: Model) -> dict[str, Any]:
    """Metrics on a few held-out images while training; no pictures but the panels of the last time."""
    settings: EvaluateConfig = dataclasses.replace(
        experiment.evaluation,
        max_images=experiment.trainer.evaluation_images,
        lpips=None,
        focus=False,
        align_poses=False,
    )
    result = evaluate(model.render_image, captures, output=run_dir / "eval" / "training", settings=settings)
    return {"split": captures.split, **{name: result[name] for name in ("psnr", "ssim", "lpips")}}


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


def _frame_size(cameras: Cameras, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height of frames: what is missing follows from the first camera's shape."""
    own_width, own_height = int(cameras.width[0]), int(cameras.height[0])
    if width is None and height is None:
        return own_width, own_height
    if width is None:
        return max(1, round(own_width * cast(int, height) / own_height)), cast(int, height)
    return width, height if height is not None else max(1, round(own_height * width / own_width))
