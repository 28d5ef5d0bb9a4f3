"""Runs trained on photographs: rendering, measuring, exporting."""

import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from voxfield.api.field_run import FieldRun
from voxfield.api.film import Filmed, FilmOptions, Shoot, rendered, seen_by_rig
from voxfield.api.levels import read_voxels
from voxfield.api.measuring import Measurement, score_elsewhere
from voxfield.api.places import anywhere
from voxfield.api.run_memory import MEASURED_BYTES, RAY_BYTES, USUAL_RAYS, check_memory, field_part
from voxfield.colour import ToneMap, compared, linear_from_srgb
from voxfield.data.capture import Split
from voxfield.data.posed_images import PosedImages
from voxfield.distributed.executors import ExecutorKind, ExecutorSettings
from voxfield.distributed.memory import MemoryPart
from voxfield.errors import InputError
from voxfield.export.focus import write_focus
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PathKind
from voxfield.geometry.pose import similarity_between
from voxfield.geometry.rigs import Rig, RigKind
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.kernels.workspace import keep_at_most
from voxfield.models.plenoxels import Plenoxels
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import write_linear
from voxfield.training.alignment import PoseAligner
from voxfield.training.evaluate import EvaluateConfig, chosen_pictures, evaluate, picture_scorer
from voxfield.training.image_scores import ImageScorer
from voxfield.training.progress import Progress


class Run(FieldRun):
    """A field trained on photographs and what belongs to it: films, measures, files for other programs."""

    def with_volume(self, volume: str | os.PathLike[str]) -> "Run":
        """This plenoxels run with the voxel grid of an OpenVDB file in place of its own: to see what a volume that was
        thinned, made coarser, compressed and unpacked, or edited elsewhere looks like, and to measure it.

        Spheres around the grid stay as they are. What the result measures goes to ``eval/<split>-<name of the file>``.

        Args:
            volume: what `export_vdb`, `voxfield.make_levels`, `voxfield.optimise_volume` or
                `voxfield.decompress_volume` wrote of this run's grid; any resolution.

        Raises:
            InputError: the run is of another recipe, or the grid's harmonics of another degree.
            MissingFileError, FormatError: the file is absent, damaged, or holds no voxel grid.
        """
        if not isinstance(self.model, Plenoxels):
            raise InputError(
                f"{volume}: takes the place of a voxel grid, and {self.path} is a run of {self.experiment.recipe}. "
                "Bake it first: voxfield bake."
            )
        grid = read_voxels(volume)[0].grid
        shown = copy.deepcopy(self.model)
        try:
            shown.show(grid)
        except InputError as error:
            raise InputError(f"{volume}: {error}") from None
        run = Run(self.path, outcome=self.outcome, left_out=self.left_out, device=str(self.placement.device))
        run._volume = Path(volume).absolute()
        run.__dict__["_loaded"] = (shown, {**self.weights, "volume": str(run._volume)})
        return run

    _volume: Path | None = None
    """The file whose grid is shown in place of the run's own."""

    @property
    def _opening(self) -> "_Opening":
        """What opens it in other processes."""
        return _Opening(volume=None if self._volume is None else str(self._volume))

    @anywhere("data", alone=("lpips_weights",), back="self")
    def evaluate(
        self,
        *,
        split: str = "test",
        data: str | os.PathLike[str] | None = None,
        lpips_weights: str | os.PathLike[str] | None = None,
        max_images: int | None = None,
        background: str | None = None,
        align_poses: bool = False,
        scales: Sequence[int] = (),
        executor: ExecutorKind = "local",
        scheduler: str | None = None,
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Measure the run on a split; writes ``eval/<split>/metrics.json``, a panel per image, and ``focus.html``.

        Args:
            split: ``train``, ``val`` or ``test``.
            data: where the run's capture is now, or another one in the same world; None: where the run found it.
            lpips_weights: see `voxfield.render.lpips.load_lpips`; None leaves LPIPS out (null in the metrics).
            max_images: measure only this many, evenly spread.
            background: colour name or ``r,g,b``; None: the run's setting.
            align_poses: also move each camera to where the field explains its photograph best and measure there,
                ``psnr_aligned``; or as the run's settings say.
            scales: measure every picture reduced by each of these factors, such as (1, 2, 4, 8), whatever the run was
                trained on; none: the run's own (``capture.scales``). ``per_scale`` has the figures of each.
            executor: ``local``: this process measures; ``dask``: the workers of a Dask cluster, which see the same
                files. Their speed is what each of them renders at, on one thread.
            scheduler: of Dask: its address (``tcp://host:8786``), or scheduler file.
            memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known
                before.
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
        self._taken_from(data)
        captures = self.split(cast(Split, split), data, scales)
        if (captures.tone is None) != (self.captures.tone is None):
            kinds = ("sRGB", "linear") if captures.tone is None else ("linear", "sRGB")
            raise InputError(f"{data}: holds {kinds[0]} pictures, but the run was trained on {kinds[1]} ones.")
        if not _same_world(self.captures, captures):
            raise InputError(
                f"{data}: its world is another than that of {self.path}, whose field it cannot measure. Name the "
                "capture that the run was trained on."
            )
        self._check_pictures(captures, memory, quiet)
        where = ExecutorSettings(executor=executor, scheduler=scheduler)
        count = len(chosen_pictures(captures, settings))
        named = split if self._volume is None else f"{split}-{self._volume.stem}"
        folder = self.path.absolute() / "eval" / named
        asked = Measurement(
            split=split,
            data=None if data is None else str(Path(data).absolute()),
            scales=tuple(scales),
            settings=settings.with_absolute_paths(),
            output=str(folder),
        )
        elsewhere = None
        if where.executor != "local":
            step = self.weights["step"]
            elsewhere = score_elsewhere(self._opening, self.path.absolute(), asked, step=step, where=where)
        with Progress(quiet=quiet) as progress:
            compile_kernels(
                self.experiment.recipe, self.placement, progress, unbounded=captures.unbounded, training=False
            )
            with progress.stage(f"Evaluating {split}", count, "images") as stage, kernels_own_the_cores():
                metrics = evaluate(
                    self.model.render_image,
                    captures,
                    output=folder,
                    settings=settings,
                    context={
                        **self.weights,
                        "executor": where.executor,
                        "device": str(self.placement),
                        "threads": torch.get_num_threads(),
                    },
                    device=self.placement.device,
                    aligner=self._aligner(settings),
                    elsewhere=elsewhere,
                    on_progress=lambda _done, _total, name: stage.advance(1, name),
                )
        if settings.focus:
            write_focus(folder, title=f"{self.path.resolve().name}, {split}")
        return metrics

    def _check_pictures(self, captures: PosedImages, memory: int | str | None, quiet: bool) -> None:
        """Say what measuring pictures needs; InputError where there is not as much."""
        keep_at_most(USUAL_RAYS * RAY_BYTES)
        store = captures.images
        pixels = max(height * width for height, width, _ in map(store.shape, range(len(store))))
        check_memory(
            memory,
            MemoryPart(what="a picture, measured", size=pixels * MEASURED_BYTES),
            MemoryPart(what="photographs", size=min(store.cache_bytes, store.total_bytes)),
            MemoryPart(what="rays looked at together", size=USUAL_RAYS * RAY_BYTES),
            held=[field_part(self.path)],
            device=self.placement.device,
            remedy="Measure smaller pictures (--scales 2), or give the run a smaller capture.cache_bytes",
            quiet=quiet,
        )

    def _picture_scorer(self, asked: Measurement) -> ImageScorer:
        """What scores the pictures of a split one by one, as `evaluate` does."""
        self._taken_from(asked.data)
        return picture_scorer(
            self.model.render_image,
            self.split(cast(Split, asked.split), asked.data, asked.scales),
            output=asked.output,
            settings=asked.settings,
            aligner=self._aligner(asked.settings),
            device=self.placement.device,
        )

    def _aligner(self, settings: EvaluateConfig) -> PoseAligner | None:
        """What moves evaluation cameras, if that is asked for: with the training cameras first, if those moved."""
        if not settings.align_poses:
            return None
        model = self.model
        given = self.captures.image_cameras.camera_to_world
        with torch.no_grad():
            refined = model.refined_poses(given)
        # Computed only where poses changed: a drift of rounding would move every camera.
        drift = None if refined is given else similarity_between(given, refined)
        tone = self.captures.tone
        return PoseAligner(
            lambda rays, *, background: compared(model.colours_with_gradient(rays, background=background), tone),
            settings=settings.alignment,
            drift=drift,
            parameters=cast(torch.nn.Module, model).parameters(),
            device=self.placement.device,
            seed=self.record.seed,
        )

    @anywhere("beside", alone=("kind",), folder="output", back="self")
    def render_path(
        self,
        kind: PathKind | str | os.PathLike[str],
        *,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        seconds: float | None = None,
        output: str | os.PathLike[str] | None = None,
        format: str = "both",  # noqa: A002  (the option's name)
        exposure: float = 0.0,
        tone_map: ToneMap = "none",
        split: str = "test",
        camera: RigKind | None = None,
        eye_distance: float | None = None,
        beside: "str | os.PathLike[str] | Run | None" = None,
        save_depth: bool = False,
        chunk_size: int | None = None,
        executor: ExecutorKind = "local",
        scheduler: str | None = None,
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> list[Path]:
        """Render a camera path to PNGs, an MP4, or both, or to EXR files, into ``renders/<kind>``.

        Args:
            kind: ``orbit``, ``spiral``, ``interpolate`` (between the training cameras), ``zoom`` (away and back),
                ``dataset`` (a split's own cameras), or the file of a camera path (`voxfield.data.camera_path`).
            frames: number of frames; None: ``seconds`` times ``fps``, or as the file has them.
            height, width: pixels; None: the capture's or the file's, one follows from the other. Of panoramas 1024 rows
                for each eye.
            fps: frames a second of the video, above 0; None: 24, or as the file says.
            seconds: length, used when ``frames`` is None; None: 5.
            output: folder; None: ``renders/<kind>`` of the run, with ``beside`` ``renders/<kind>-beside-<name>``.
            format: ``video``, ``images`` or ``both``; or ``exr``: linear light with depth as Z and, where the capture
                has alpha, premultiplied with A in place of the background. In the pictures' units if those are linear.
            exposure: stops by which PNGs and videos are brightened, from the run's own exposure; -60 to 60.
            tone_map: how they show what is brighter than white: ``none`` clips, ``filmic`` rolls off.
            split: whose cameras ``dataset`` takes: ``train``, ``val`` or ``test``.
            camera: what films the path: ``perspective``, ``fisheye`` (180 degrees), ``equirectangular`` (360), or for
                headsets ``vr180`` or ``ods`` (360 degrees), in stereo; None: perspective, or as the file says. MP4
                files of panoramas say so to headsets. See `voxfield.geometry.rigs`.
            eye_distance: of stereo, world units; None: a thirtieth of the way to the middle of the capture.
            beside: another run in the same world, whose pictures are put to the right of this one's.
            save_depth: also write every frame's depth: ``depth_00000.npy``, (H, W) float32 in world units along the
                rays, and ``depth_00000.png`` to look at.
            chunk_size: rays looked at together, at least 1, which bounds the memory; None: what suits the model.
            executor: ``local``: this process renders; ``dask``: a Dask cluster's workers, which see the same files.
            scheduler: of Dask: its address (``tcp://host:8786``), or scheduler file.
            memory: most memory, in bytes or as ``"8GB"``: fewer rays are looked at together where they do not fit; what
                there is to spare if None.
            quiet: no progress bar.

        Returns:
            The film's files. Frames that an interrupted call left of the very same film are not rendered again.

        Raises:
            InputError: bad settings, ``beside`` with EXR files, or a run beside that is of another world.
            MissingFileError, FormatError: the file of the camera path.
            MissingExtraError: a video is wanted and PyAV is missing, or EXR files and OpenEXR is.
        """
        asked = FilmOptions.of_call(locals())
        shoot = self._shoot(asked, beside if isinstance(beside, Run) else None)
        return rendered(shoot, self._opening, self.path, asked, executor, scheduler)

    def _shoot(self, asked: FilmOptions, beside: "Run | None" = None) -> Shoot:
        """What renders a film; ``beside``: the run that ``asked`` names, where it is open already."""
        asked.renderer()
        other = self._other(asked, beside)
        film = asked.film(
            base=lambda: self._cameras_of_path(asked),
            target=torch.tensor(self.captures.bounds.centre),
            unbounded=self.captures.unbounded,
        )
        asked = asked.within_memory(film, [run.path for run in (self, other) if run is not None], self.placement.device)
        name = film.name if self._volume is None else f"{film.name}-{self._volume.stem}"
        name += "" if other is None else f"-beside-{other.path.resolve().name}"
        filmed = [run._filmed() for run in (self, other) if run is not None]
        return asked.shoot(film, filmed, self.path / "renders", name)

    def _cameras_of_path(self, asked: FilmOptions) -> Cameras:
        """The cameras along which a path that has a name leads."""
        captures = self.split(cast(Split, asked.split)) if asked.kind == "dataset" else self.captures
        return captures.image_cameras

    def _filmed(self) -> Filmed:
        """The run as what a film shows."""
        return Filmed(
            identity=self.weights,
            background=self.experiment.evaluation.background,
            see=self._look,
            on_screen=self._on_screen,
            write_exr=self._write_exr,
            prepare=self.compile_for_rendering,
        )

    def _look(
        self, rig: Rig, index: int, options: dict[str, Any], background: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """What the eyes of a rig see, in the space of the model's colours, as one frame."""
        behind = self._background() if background is None else background
        return seen_by_rig(self.model.render_image, rig, index, background=behind, **options)

    def _other(self, asked: FilmOptions, beside: "Run | None") -> "Run | None":
        """The run whose pictures go beside this one's, checked to be of the same world."""
        if asked.beside is None:
            return None
        if asked.format == "exr":
            raise InputError("beside: pictures beside each other are for PNGs and videos. Choose another format.")
        other = beside or Run(Path(asked.beside))
        if not _same_world(self.captures, other.captures):
            raise InputError(
                f"{other.path}: its world is another than that of {self.path}, so no camera sees the same in both. "
                "Train both on the same capture, with the same capture.orientation, centre and auto_scale."
            )
        return other

    def _write_exr(self, path: Path, rig: Rig, index: int, options: dict[str, Any]) -> Path:
        """Write what a rig sees as linear light in the pictures' units; where those have alpha, no background."""
        captures = self.captures
        background = torch.zeros(3) if captures.has_alpha else self._background()
        seen = self._look(rig, index, options, background)
        rgb, opacity = seen["rgb"], seen["opacity"] if captures.has_alpha else None
        if captures.tone is not None:
            rgb = rgb / captures.tone.exposure
        elif opacity is None:
            rgb = linear_from_srgb(rgb)
        else:
            # Colours of an sRGB model are premultiplied in sRGB values.
            rgb = linear_from_srgb(rgb / opacity[..., None].clamp(min=1e-6)) * opacity[..., None]
        return write_linear(path, rgb, depth=seen["depth"], opacity=opacity)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Opening:
    """Opens a run as it is open here, also in another process."""

    volume: str | None

    def __call__(self, path: Path) -> Run:
        run = Run(path)
        return run if self.volume is None else run.with_volume(self.volume)


def _same_world(one: PosedImages, other: PosedImages) -> bool:
    """Whether the coordinates of two captures were made the world's in the same way."""
    return torch.allclose(one.transform.matrix, other.transform.matrix, rtol=1e-4, atol=1e-4)
