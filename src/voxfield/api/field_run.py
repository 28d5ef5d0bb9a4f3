"""The field of a run on photographs: opened, looked at, exported."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch

from voxfield.api import field_page
from voxfield.api.field_subject import field_subject
from voxfield.api.places import anywhere
from voxfield.api.run_memory import SURFACE_BYTES, VOLUME_BYTES, check_cloud, check_sampling
from voxfield.api.surface_exports import SurfaceExporter
from voxfield.api.trained_run import TrainedRun
from voxfield.checks import check_choice
from voxfield.colour import ToneMap, display, linear_from_srgb
from voxfield.data.capture import Split
from voxfield.data.capture_reading import read_capture
from voxfield.data.posed_images import PosedImages
from voxfield.errors import InputError, MissingFileError
from voxfield.export import nerfstudio
from voxfield.export.cameras import CamerasExport, CameraSplit, Space, write_cameras
from voxfield.export.surfaces import CloudConfig, MeshConfig, MeshSource, SurfaceExport
from voxfield.export.volumes import VolumeExport, exported, volume_of
from voxfield.geometry.camera import Cameras
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.recipes import PHOTOGRAPHS, build_model, data_kind
from voxfield.recipes.rehearsal import compile_kernels
from voxfield.render.image import colour_from_name
from voxfield.storage.remote import local
from voxfield.storage.skipped import Skipped
from voxfield.storage.surface_files import check_surface_path
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.voxel_vdb import Layout, write_voxel_vdb
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.progress import Progress
from voxfield.training.settings import to_plain
from voxfield.viewer.subjects import FieldSubject
from voxfield.voxels.isosurface import SurfaceMethod


class FieldRun(TrainedRun):
    """A field trained on photographs. The model is loaded when first needed."""

    def __init__(
        self, path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = (), device: str = "auto"
    ) -> None:
        """Open ``path``, see `TrainedRun`; InputError of a run that learnt from other data."""
        super().__init__(path, outcome=outcome, left_out=left_out, device=device)
        self._moved_to: Path | None = None
        recipe = self.record.experiment.recipe
        if data_kind(recipe) != PHOTOGRAPHS:
            raise InputError(
                f"{path}: is a run of {recipe}, and only runs on photographs have a field to look at, render or bake. "
                "Name one of those."
            )

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
        source = self._capture if data is None else local(data)
        if not os.path.exists(source):  # noqa: PTH110  (names that the system refuses count as absent)
            raise MissingFileError(
                f"{source}: the capture of this run is not there. Put it back, or a link to it; voxfield eval takes "
                "its new place as --data, train --resume as DATA."
            )
        options = self.experiment.capture
        if scales:
            options = dataclasses.replace(options, scales=tuple(scales))
        return read_capture(source, split=split, options=options)

    @property
    def _capture(self) -> Path:
        return self._moved_to or local(self.record.data_path)

    def _taken_from(self, data: str | os.PathLike[str] | None) -> None:
        """Learn where the run's capture has moved to, if it is no longer where it was."""
        if data is not None and not os.path.exists(self._capture):  # noqa: PTH110  (as in `split`)
            self._moved_to = local(data)

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
        unbounded = self.captures.unbounded
        compile_kernels(self.experiment.recipe, self.placement, progress, unbounded=unbounded, training=False)

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

    @anywhere(folder="output")
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
            self._capture,
            output,
            images=images,
            options=self.experiment.capture,
            about={"recipe": self.experiment.recipe, "settings": to_plain(self.experiment), **about},
        )

    @anywhere(output="output")
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
        memory: int | str | None = None,
        quiet: bool = True,
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
            memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known
                before.
            quiet: do not say that much is needed.

        Raises:
            InputError: options that do not fit, too little memory, no resolution for a field without voxels, or one of
                normalised device coordinates, which has no place in the world, unless it is a plenoxels run's.
        """
        check_sampling(self, memory, resolution=resolution, place_bytes=VOLUME_BYTES, quiet=quiet)
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

    @anywhere(output="output")
    def export_mesh(
        self,
        output: str | os.PathLike[str],
        *,
        resolution: int = 256,
        source: MeshSource = "density",
        method: SurfaceMethod = "marching_cubes",
        opacity: float = 0.5,
        min_part: float = 0.0,
        triangles: int | None = None,
        texture: int | None = None,
        space: Space = "world",
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> SurfaceExport:
        """Write the surface of the run's field as a triangle mesh with normals, coloured vertices or a texture.

        Args:
            output: the file, ``.glb``, ``.ply`` or ``.obj``; of a GLB +Y is up, of others +Z. Textures of a PLY or OBJ
                are PNG files beside it.
            resolution: voxels along the longest side of the region of interest, 8 to 768.
            source: ``density``: where a voxel stops ``opacity`` of the light; ``depth``: where the training cameras
                see surfaces, which suits fields whose density is soft.
            method: ``marching_cubes``, or ``dual_contouring``, which keeps sharp edges and corners.
            opacity: above 0 and below 1.
            min_part: connected parts with less than this share of all triangles are left out, 0 to 1.
            triangles: at most so many, at least 4; None: as many as are found, with a texture 200,000, or
                fewer if not so many fit. Up to 50,000 are laid out in charts that one can paint on.
            texture: texels along a side of a texture, 64 to 8192; None: coloured vertices.
            space: coordinates of the run's ``world``, or those of its ``capture`` (see `Run.captures`).
            memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known
                before.
            quiet: no progress bar.

        Raises:
            InputError: options that do not fit, too little memory, no surface, one that cannot do with so few
                triangles, or a run in normalised device coordinates. MissingExtraError: a texture is wanted and xatlas
                is missing.
        """
        config = MeshConfig(
            resolution=resolution,
            source=source,
            method=method,
            opacity=opacity,
            min_part=min_part,
            triangles=triangles,
            texture=texture,
        )
        check_surface_path(output)
        check_sampling(self, memory, resolution=resolution, place_bytes=SURFACE_BYTES, quiet=quiet)
        return self._surfaces(space).write_mesh(output, config, quiet=quiet)

    @anywhere(output="output")
    def export_pointcloud(
        self,
        output: str | os.PathLike[str],
        *,
        points: int = 1_000_000,
        min_opacity: float = 0.5,
        space: Space = "world",
        seed: int = 0,
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> SurfaceExport:
        """Write coloured points with normals, where rays of the training cameras end in the run's field.

        Args:
            output: the ``.ply`` file.
            points: how many, 1 to 50 million.
            min_opacity: rays of which no more than this is stopped end nowhere, 0.5 to 0.999.
            space: coordinates of the run's ``world``, or those of its ``capture`` (see `Run.captures`).
            seed: of the pixels that are looked through.
            memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known
                before.
            quiet: no progress bar.

        Raises:
            InputError: options that do not fit, too little memory, hardly any ray ends, or a run in normalised device
                coordinates.
        """
        config = CloudConfig(points=points, min_opacity=min_opacity)
        check_surface_path(output, (".ply",))
        check_cloud(self, memory, points=points, quiet=quiet)
        return self._surfaces(space).write_cloud(output, config, seed=seed, quiet=quiet)

    def _surfaces(self, space: Space) -> SurfaceExporter:
        """What writes the run's meshes and points."""
        return SurfaceExporter(model=self.model, captures=self.captures, device=self.placement.device, space=space)

    @anywhere(output="output")
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
