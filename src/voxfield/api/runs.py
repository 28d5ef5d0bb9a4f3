"""Runs trained on photographs: rendering, measuring, exporting."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch

from voxfield.api import field_page
from voxfield.api.field_subject import field_subject
from voxfield.api.film import Filmed, Shoot, make_film, render_options, seen_by_rig
from voxfield.api.surface_exports import SurfaceExporter
from voxfield.api.trained_run import TrainedRun
from voxfield.checks import check_choice
from voxfield.colour import ToneMap, compared, display, linear_from_srgb
from voxfield.data.posed_images import PosedImages, Split, read_capture
from voxfield.errors import InputError, MissingFileError
from voxfield.export import nerfstudio
from voxfield.export.cameras import CamerasExport, CameraSplit, Space, write_cameras
from voxfield.export.focus import write_focus
from voxfield.export.surfaces import CloudConfig, MeshConfig, MeshSource, SurfaceExport
from voxfield.export.volumes import VolumeExport, exported, volume_of
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PathKind
from voxfield.geometry.pose import similarity_between
from voxfield.geometry.rigs import Rig, RigKind
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.recipes import build_model
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import colour_from_name, write_linear
from voxfield.storage.surface_files import check_surface_path
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.voxel_vdb import Layout, write_voxel_vdb
from voxfield.training.alignment import AlignmentConfig, PoseAligner
from voxfield.training.evaluate import chosen_pictures, evaluate
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.progress import Progress
from voxfield.training.settings import to_plain
from voxfield.viewer.subjects import FieldSubject


class Run(TrainedRun):
    """A field trained on photographs and what belongs to it. The model is loaded when first needed."""

    @property
    def experiment(self) -> PhotographExperiment:
        """The settings the run was made with."""
        return cast(PhotographExperiment, self.record.experiment)

    @functools.cached_property
    def captures(self) -> PosedImages:
        """The training split, whose cameras and bounds the model was built for."""
        return self.split("train")

    def split(
        self, split: Split, data: str | os.PathLike[str] | None = None, scales: Sequence[int] = ()
    ) -> PosedImages:
        """A split of the run's capture, or of another one in the same world; at other ``scales`` than the run's."""
        source = self.record.data_path if data is None else data
        if not os.path.exists(source):  # noqa: PTH110  (names that the system refuses count as absent)
            raise MissingFileError(f"{source}: the capture of this run is not there. Name it with --data.")
        options = self.experiment.capture
        if scales:
            options = dataclasses.replace(options, scales=tuple(scales))
        return read_capture(Path(source), split=split, options=options)

    @property
    def model(self) -> Model:
        """The model of the newest readable checkpoint, with averaged parameters if the run kept an average."""
        return cast(Model, self._loaded[0])

    def _build_model(self) -> torch.nn.Module:
        model = build_model(self.experiment.recipe, self.experiment.model, self.captures, self.record.seed)
        return cast(torch.nn.Module, model)

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
            vectors in the world, and of pyramids ``level`` (H, W): the one, 0 to the finest, that a pixel's width asks
            for at ``depth``, on the CPU.

        Raises:
            InputError: normals of a model that has none, or orthographic cameras for a pyramid.
        """
        options: dict[str, Any] = {"normals": True} if normals else {}
        if normals and not self.model.renders_normals:
            raise InputError(f"normals: {self.experiment.recipe} has none. Train nerfacto for them.")
        with kernels_own_the_cores(), torch.inference_mode():
            seen = self.model.render_image(cameras, i, background=self._background(background), **options)
        tone = self.captures.tone
        return seen if tone is None else {**seen, "rgb": seen["rgb"] / tone.exposure}

    def compile_for_rendering(self, progress: Progress) -> None:
        """Compile the kernels that rendering needs, where that was not done before."""
        compile_kernels(self.experiment.recipe, self.placement, progress, training=False)

    def subject(self) -> FieldSubject:
        """The field as the viewer shows it."""
        return field_subject(self.model, self.captures, self.experiment, self.placement)

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
        scales: Sequence[int] = (),
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
            scales: measure every picture reduced by each of these factors, such as (1, 2, 4, 8), whatever the run was
                trained on; none: the run's own (``capture.scales``). ``per_scale`` has the figures of each.
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
        captures = self.split(cast(Split, split), data, scales)
        if (captures.tone is None) != (self.captures.tone is None):
            kinds = ("sRGB", "linear") if captures.tone is None else ("linear", "sRGB")
            raise InputError(f"{data}: holds {kinds[0]} pictures, but the run was trained on {kinds[1]} ones.")
        model, about = self.model, self._loaded[1]
        count, folder = len(chosen_pictures(captures, settings)), self.path / "eval" / split
        with Progress(quiet=quiet) as progress:
            compile_kernels(self.experiment.recipe, self.placement, progress, training=False)
            with progress.stage(f"Evaluating {split}", count, "images") as stage, kernels_own_the_cores():
                metrics = evaluate(
                    model.render_image,
                    captures,
                    output=folder,
                    settings=settings,
                    context={**about, "device": str(self.placement), "threads": torch.get_num_threads()},
                    device=self.placement.device,
                    aligner=self._aligner(settings.alignment) if settings.align_poses else None,
                    on_progress=lambda _done, _total, name: stage.advance(1, name),
                )
        if settings.focus:
            write_focus(folder, title=f"{self.path.resolve().name}, {split}")
        return metrics

    def _aligner(self, settings: AlignmentConfig) -> PoseAligner:
        """What moves evaluation cameras: with the training cameras first, if their poses were refined."""
        model = self.model
        given = self.captures.image_cameras.camera_to_world
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
            quiet: no progress bar.

        Returns:
            The film's files. Frames that an interrupted call left of the very same film are not rendered again.

        Raises:
            InputError: bad settings, ``beside`` with EXR files, or a run beside that is of another world.
            MissingFileError, FormatError: the file of the camera path.
            MissingExtraError: a video is wanted and PyAV is missing, or EXR files and OpenEXR is.
        """
        options = render_options(format, exposure, tone_map, chunk_size)
        other = self._other(beside, format)
        film = make_film(
            kind,
            camera=camera,
            frames=frames,
            seconds=seconds,
            fps=fps,
            size=(width, height),
            eye_distance=eye_distance,
            base=lambda: (self.split(cast(Split, split)) if kind == "dataset" else self.captures).image_cameras,
            target=torch.tensor(self.captures.bounds.centre),
            unbounded=self.captures.unbounded,
        )
        name = film.name if other is None else f"{film.name}-beside-{other.path.resolve().name}"
        folder = Path(output) if output is not None else self.path / "renders" / name
        return Shoot(
            film=film,
            filmed=[run._filmed() for run in (self, other) if run is not None],
            folder=folder,
            video=folder.with_suffix(".mp4") if output is None else folder / f"{name}.mp4",
            format=format,
            exposure=exposure,
            tone_map=tone_map,
            save_depth=save_depth,
            options=options,
            quiet=quiet,
        ).run()

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

    def _other(self, beside: "str | os.PathLike[str] | Run | None", format: str) -> "Run | None":  # noqa: A002
        """The run whose pictures go beside this one's, checked to be of the same world."""
        if beside is None:
            return None
        if format == "exr":
            raise InputError("beside: pictures beside each other are for PNGs and videos. Choose another format.")
        other = beside if isinstance(beside, Run) else Run(Path(beside))
        own, others = (run.captures.transform.matrix for run in (self, other))
        if not torch.allclose(own, others, rtol=1e-4, atol=1e-4):
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

    def export_nerfstudio(
        self,
        output: str | os.PathLike[str],
        *,
        images: nerfstudio.Placement = "copy",
    ) -> nerfstudio.RunExport:
        """Write the run's cameras and pictures for nerfstudio, and its weights as safetensors.

        nerfstudio loads ``transforms.json`` and the pictures. It does not load the weights, whose layout is another;
        ``weights.json`` says what each tensor is.

        Args:
            output: folder for ``transforms.json``, pictures, ``weights.safetensors``, ``weights.json`` and
                ``world.json``, which says how the field's world lies to the file's coordinates.
            images: ``copy`` the pictures, or ``link`` them (hard links).

        Raises:
            InputError: ``output`` holds such files already. MissingFileError, FormatError: as opening the capture.
        """
        model, about = self._loaded
        return nerfstudio.export_run(
            self.captures,
            model,
            self.record.data_path,
            output,
            images=images,
            options=self.experiment.capture,
            about={"recipe": self.experiment.recipe, "settings": to_plain(self.experiment), **about},
        )

    def export_vdb(
        self,
        output: str | os.PathLike[str],
        *,
        resolution: int | None = None,
        layout: Layout = "grids",
        half: bool = False,
        sh_degree: int = 2,
        min_opacity: float = 0.01,
        compression: Compression = "blosc",
        level: int = 9,
    ) -> VolumeExport:
        """Write the run's field as an OpenVDB file, in the run's world (see `Run.captures`).

        Of a plenoxels run the grid as it was trained; training can go on from it (``train(..., start=output)``). Any
        other field is sampled, as `voxfield.bake` samples it.

        Args:
            output: the ``.vdb`` file.
            resolution: voxels along the longest side; None: those of a plenoxels run's own grid.
            layout: ``grids`` for other programs, ``compact`` for Voxfield: see `voxfield.storage.voxel_vdb`.
            half: values in 16 bits.
            sh_degree, min_opacity: of fields that are sampled: highest band of their colours' harmonics, and how
                opaque a voxel must be to be stored.
            compression, level: ``blosc``, ``zip`` or ``none``, and its effort, 0 to 9.

        Raises:
            InputError: options that do not fit, no resolution for a field without voxels, or one of normalised device
                coordinates, which has no place in the world, unless it is a plenoxels run's.
        """
        about = self._loaded[1]
        with kernels_own_the_cores():
            bounds, origins = self.captures.bounds, self.captures.cameras.origins.to(self.placement.device)
            grid = volume_of(self.model, bounds, origins, resolution, sh_degree=sh_degree, min_opacity=min_opacity)
        write_voxel_vdb(
            output,
            grid,
            layout=layout,
            half=half,
            compression=compression,
            level=level,
            configuration={
                "recipe": self.experiment.recipe,
                "model": to_plain(self.experiment.model),
                "world_from_capture": self.captures.transform.matrix.tolist(),
                "space": "world" if self.captures.ndc is None else "ndc",
                "step": about["step"],
            },
        )
        return exported(output, grid, self.model)

    export_html = field_page.export_html
    """See `voxfield.api.field_page.export_html`."""

    def export_mesh(
        self,
        output: str | os.PathLike[str],
        *,
        resolution: int = 256,
        source: MeshSource = "density",
        opacity: float = 0.5,
        min_part: float = 0.0,
        triangles: int | None = None,
        texture: int | None = None,
        space: Space = "world",
        quiet: bool = False,
    ) -> SurfaceExport:
        """Write the surface of the run's field as a triangle mesh with normals, coloured vertices or a texture.

        Args:
            output: the file, ``.glb``, ``.ply`` or ``.obj``; of a GLB +Y is up, of others +Z. Textures of a PLY or OBJ
                are PNG files beside it.
            resolution: voxels along the longest side of the region of interest, 8 to 768.
            source: ``density``: where a voxel stops ``opacity`` of the light; ``depth``: where the training cameras
                see surfaces, which suits fields whose density is soft.
            opacity: above 0 and below 1.
            min_part: connected parts with less than this share of all triangles are left out, 0 to 1.
            triangles: at most so many, at least 4; None: as many as are found, with a texture 50,000.
            texture: texels along a side of a texture, 64 to 8192; None: coloured vertices.
            space: coordinates of the run's ``world``, or those of its ``capture`` (see `Run.captures`).
            quiet: no progress bar.

        Raises:
            InputError: options that do not fit, no surface, one that cannot do with so few triangles, or a run in
                normalised device coordinates. MissingExtraError: a texture is wanted and xatlas is missing.
        """
        config = MeshConfig(
            resolution=resolution,
            source=source,
            opacity=opacity,
            min_part=min_part,
            triangles=triangles,
            texture=texture,
        )
        check_surface_path(output)
        return self._surfaces(space).write_mesh(output, config, quiet=quiet)

    def export_pointcloud(
        self,
        output: str | os.PathLike[str],
        *,
        points: int = 1_000_000,
        min_opacity: float = 0.5,
        space: Space = "world",
        seed: int = 0,
        quiet: bool = False,
    ) -> SurfaceExport:
        """Write coloured points with normals, where rays of the training cameras end in the run's field.

        Args:
            output: the ``.ply`` file.
            points: how many, 1 to 50 million.
            min_opacity: rays of which no more than this is stopped end nowhere, 0.5 to 0.999.
            space: coordinates of the run's ``world``, or those of its ``capture`` (see `Run.captures`).
            seed: of the pixels that are looked through.
            quiet: no progress bar.

        Raises:
            InputError: options that do not fit, hardly any ray ends, or a run in normalised device coordinates.
        """
        config = CloudConfig(points=points, min_opacity=min_opacity)
        return self._surfaces(space).write_cloud(output, config, seed=seed, quiet=quiet)

    def _surfaces(self, space: Space) -> SurfaceExporter:
        """What writes the run's meshes and points."""
        return SurfaceExporter(model=self.model, captures=self.captures, device=self.placement.device, space=space)

    def export_cameras(
        self, output: str | os.PathLike[str], *, split: CameraSplit = "all", space: Space = "world"
    ) -> CamerasExport:
        """Write the run's cameras, without their pictures, as a nerfstudio ``transforms.json``.

        Args:
            output: the ``.json`` file.
            split: ``train``, ``val``, ``test``, or ``all`` there are.
            space: poses in the run's ``world``, where its meshes, points and volumes are, with the corrections that
                training made to those of training cameras; or those of the ``capture``, corrected alike.

        Raises:
            InputError: options that do not fit. MissingFileError, FormatError: as opening the capture.
        """
        check_choice("split", split, get_args(CameraSplit))
        check_choice("space", space, get_args(Space))
        splits: dict[str, PosedImages] = {}
        for name in get_args(Split) if split == "all" else (split,):
            try:
                splits[name] = self.split(name)
            except MissingFileError:
                # The training split is what the run was made of; others may be absent.
                if name in {"train", split}:
                    raise
        with torch.no_grad():
            given = self.captures.image_cameras.camera_to_world.to(self.placement.device)
            refined = self.model.refined_poses(given).cpu() if "train" in splits else None
        return write_cameras(output, splits, space=space, refined=refined)
