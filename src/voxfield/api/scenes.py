"""Scenes of several fields: runs and volumes side by side in one world."""

import functools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch

from voxfield.api.film import Filmed, FilmOptions, Shoot, rendered, seen_by_rig
from voxfield.api.places import anywhere
from voxfield.api.runs import Run
from voxfield.checks import check_choice
from voxfield.colour import ToneMap, display, linear_from_srgb
from voxfield.data.capture import SPLITS, Split
from voxfield.data.scene_file import SceneMember, VolumeLook, read_scene
from voxfield.distributed.devices import Placement, place
from voxfield.distributed.executors import ExecutorKind
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PathKind, look_at
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rays import Rays
from voxfield.geometry.rigs import Rig, RigKind
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.composite import CompositeField, PlacedField
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.ray_fields import RayField, ray_field, voxel_ray_field
from voxfield.models.volume_fields import volume_ray_field
from voxfield.recipes import data_kind, load_recipe
from voxfield.render.image import colour_from_name, write_linear
from voxfield.storage.vdb import VdbFile
from voxfield.storage.voxel_vdb import is_voxel_vdb, read_voxel_vdb
from voxfield.training.experiment import read_experiment
from voxfield.training.progress import Progress
from voxfield.viewer.subjects import MODES, Mode, Subject

_RING: Final = 16
"""Cameras around a scene whose file names none."""
_RING_FIELD_OF_VIEW: Final = math.radians(50)
_RING_ELEVATION: Final = math.radians(25)
_RING_PIXELS: Final = 800


class Scene:
    """A scene file and its members, which are loaded when first needed."""

    def __init__(self, path: str | os.PathLike[str], *, device: str = "auto") -> None:
        """Open a scene.

        Args:
            path: the ``.json`` file, see `voxfield.data.scene_file`.
            device: ``auto``, or a torch device.

        Raises:
            MissingFileError: there is no such file, or one of its members is not there.
            FormatError: it is no scene, or damaged.
            InputError: a member that no scene can hold.
        """
        self.description = read_scene(path)
        self.path = self.description.path
        self.placement: Placement = place(device, "auto")
        self.runs = {member.name: _run(member, device) for member in self.description.members if not member.is_volume}
        self._behind = torch.tensor(colour_from_name(self.description.background))

    @functools.cached_property
    def field(self) -> CompositeField:
        """All members as one field."""
        members = [self._placed(member) for member in self.description.members]
        return CompositeField(members, device=self.placement.device)

    @property
    def bounds(self) -> Bounds:
        """The box around what its members are about."""
        return self.field.bounds

    def render(self, cameras: Cameras, i: int = 0, *, background: str | None = None) -> dict[str, torch.Tensor]:
        """What camera ``i`` of ``cameras`` (in the scene's world) sees.

        Args:
            cameras, i: the camera.
            background: colour name or ``r,g,b``; None: the scene's.

        Returns:
            ``rgb`` (H, W, 3): sRGB, ``opacity`` (H, W) in [0, 1], ``depth`` (H, W) in the scene's units, on the CPU.
        """
        behind = self._behind if background is None else torch.tensor(colour_from_name(background))
        with kernels_own_the_cores():
            return self.field.render_image(cameras, i, background=behind)

    @anywhere(alone=("kind",), folder="output", back="self")
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
        save_depth: bool = False,
        chunk_size: int | None = None,
        executor: ExecutorKind = "local",
        scheduler: str | None = None,
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> list[Path]:
        """Render a camera path through the scene: see `voxfield.Run.render_path`, whose arguments these are.

        Paths that have a name lead along the cameras of the member that the file names under ``cameras``, or else
        around everything; ``dataset`` needs that member. Frames go to ``renders/<scene>-<kind>`` beside the file. EXR
        files are premultiplied with A in place of the background.

        Raises:
            InputError: bad settings. MissingFileError, FormatError: the file of the camera path.
            MissingExtraError: a video is wanted and PyAV is missing, or EXR files and OpenEXR is.
        """
        asked = FilmOptions.of_call(locals())
        return rendered(self._shoot(asked), Scene, self.path, asked, executor, scheduler)

    def _shoot(self, asked: FilmOptions) -> Shoot:
        """What renders a film."""
        asked.renderer()
        film = asked.film(
            base=lambda: self.path_cameras(asked.split if asked.kind == "dataset" else None),
            target=torch.tensor(self.bounds.centre),
            unbounded=False,
        )
        asked = asked.within_memory(film, [run.path for run in self.runs.values()], self.placement.device)
        return asked.shoot(film, [self._filmed()], self.path.parent / "renders", f"{self.path.stem}-{film.name}")

    def info(self) -> dict[str, Any]:
        """What the scene holds, in the types JSON has: members with what they are and where they stand."""
        return {
            "path": str(self.path),
            "bounds": self.bounds.to_dict(),
            "background": self.description.background,
            "members": {
                member.name: {
                    "path": str(member.path),
                    "kind": "volume" if member.is_volume else self.runs[member.name].experiment.recipe,
                    "scale": member.transform.scale,
                    "bounds": placed.bounds.to_dict(),
                    "cropped": member.crop is not None,
                }
                for member, placed in zip(self.description.members, self.field.members, strict=True)
            },
        }

    def subject(self) -> "SceneSubject":
        """The scene as the viewer shows it."""
        return SceneSubject(self.field, self.background)

    @property
    def background(self) -> torch.Tensor:
        """(3,) sRGB: the colour behind everything."""
        return self._behind

    def compile_for_rendering(self, progress: Progress) -> None:
        """Compile the kernels that rendering needs, where that was not done before."""
        for run in {run.experiment.recipe: run for run in self.runs.values()}.values():
            run.compile_for_rendering(progress)

    def cameras(self, split: str = "train") -> Cameras:
        """The cameras of a split of the member that the file names under ``cameras``, in the scene's world.

        Raises:
            InputError: it names none, or there is no such split.
        """
        check_choice("split", split, SPLITS)
        name = self.description.cameras
        if name is None:
            raise InputError(
                f'{self.path}: names no member whose cameras are taken. Add "cameras": and the name of a run.'
            )
        member = next(one for one in self.description.members if one.name == name)
        return _moved(self.runs[name].split(cast(Split, split)).image_cameras, member.transform)

    def path_cameras(self, split: str | None = None) -> Cameras:
        """The cameras along which paths lead that have a name: those of a ``split``; None: those of the training, or
        where the file names no member some around everything.
        """
        if split is not None or self.description.cameras is not None:
            return self.cameras(split or "train")
        return _ring(self.bounds)

    def _filmed(self) -> Filmed:
        return Filmed(
            identity=[self._identity(member) for member in self.description.members],
            background=self.description.background,
            see=lambda rig, index, options: self._look(rig, index, options, self._behind),
            on_screen=_on_screen,
            write_exr=self._write_exr,
            prepare=self.compile_for_rendering,
        )

    def _identity(self, member: SceneMember) -> Any:
        """Plain values that say what a member is now."""
        placed = [member.transform.matrix.tolist(), member.crop and member.crop.to_dict(), member.density_factor]
        if member.is_volume:
            stat = member.path.stat()
            return [*placed, str(member.path), stat.st_size, stat.st_mtime_ns, str(member.look)]
        return [*placed, str(member.path), self.runs[member.name].weights]

    def _look(self, rig: Rig, index: int, options: dict[str, Any], background: torch.Tensor) -> dict[str, torch.Tensor]:
        return seen_by_rig(self.field.render_image, rig, index, background=background, **options)

    def _write_exr(self, path: Path, rig: Rig, index: int, options: dict[str, Any]) -> Path:
        """Write what a rig sees as linear light without a background."""
        seen = self._look(rig, index, options, torch.zeros(3))
        opacity = seen["opacity"]
        # Colours were premultiplied as sRGB values.
        rgb = linear_from_srgb(seen["rgb"] / opacity[..., None].clamp(min=1e-6)) * opacity[..., None]
        return write_linear(path, rgb, depth=seen["depth"], opacity=opacity)

    def _placed(self, member: SceneMember) -> PlacedField:
        try:
            field, is_linear = self._field_of(member)
        except InputError as error:
            raise InputError(f"{self.path}: {member.name}: {error}") from None
        return PlacedField(
            field=field,
            transform=member.transform,
            crop=member.crop,
            density_factor=member.density_factor,
            to_srgb=display if is_linear else None,
        )

    def _field_of(self, member: SceneMember) -> tuple[RayField, bool]:
        """What a member is, and whether its colours are linear light."""
        device = self.placement.device
        if not member.is_volume:
            run = self.runs[member.name]
            model, captures = run.model, run.captures
            if isinstance(model, Plenoxels) and model.spheres is not None and member.crop is None:
                raise InputError(
                    "has spheres around its grid, which scenes do not show. Give it a crop, so that what is left is "
                    "meant."
                )
            return ray_field(model, captures.bounds), captures.tone is not None
        if is_voxel_vdb(member.path):
            if member.look is not None:
                raise InputError("was exported from a run and has colours of its own. Remove the keys of its grids.")
            return voxel_ray_field(read_voxel_vdb(member.path).grid.float().to(device)), False
        look = member.look or VolumeLook()
        file = VdbFile(member.path)
        density = file.read(density_name(file, look.density_grid))
        colour = look.colour if look.colour_grid is None else file.read(look.colour_grid)
        field = volume_ray_field(density, colour, device=device, source=str(member.path))
        return field, look.colour_space == "linear"


class SceneSubject(Subject):
    """A scene as the viewer shows it."""

    def __init__(self, field: CompositeField, background: torch.Tensor) -> None:
        """Look at ``field`` before ``background`` (3,) sRGB."""
        self._field, self._background = field, background
        self.bounds = field.bounds
        self.modes: tuple[Mode, ...] = MODES[:-1]

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:  # noqa: ARG002  (normals follow from depth)
        """See `voxfield.viewer.subjects.Subject.look`."""
        seen = self._field.render_rays(rays.to(self._field.device), background=self._background)
        return {name: value.cpu() for name, value in seen.items()}


def _run(member: SceneMember, device: str) -> Run:
    """The run of a member."""
    recipe = read_experiment(member.path, load_recipe).experiment.recipe
    if data_kind(recipe) != "photographs":
        raise InputError(f"{member.path}: is a run of {recipe}, and scenes hold only runs on photographs.")
    return Run(member.path, device=device)


def density_name(file: VdbFile, name: str | None = None) -> str:
    """The name of a file's grid of densities: the one that is named, else ``density``, else the only one of numbers.

    Raises:
        InputError: none is named and it cannot be told.
    """
    if name is not None:
        return name
    numbers = [header.name for header in file.grids if header.kind is not None and header.kind.channels == ()]
    if "density" in numbers:
        return "density"
    if len(numbers) != 1:
        listed = ", ".join(numbers) or "none"
        raise InputError(f"{file.path}: which grid is its density? Set density_grid. Grids of numbers: {listed}.")
    return numbers[0]


def _moved(cameras: Cameras, transform: SceneTransform) -> Cameras:
    """Cameras of a member's world in the scene's."""
    scale = transform.scale
    # Pixels of orthographic cameras are lengths, those of others angles.
    focal = cameras.focal / scale if cameras.model == "orthographic" else cameras.focal
    poses = transform.apply_poses(cameras.camera_to_world)
    return replace(cameras, camera_to_world=poses, focal=focal, eye_offset=cameras.eye_offset * scale)


def _ring(bounds: Bounds) -> Cameras:
    """Cameras around a box that see all of it."""
    centre = torch.tensor(bounds.centre, dtype=torch.float64)
    distance = 0.5 * math.hypot(*bounds.size) / math.sin(_RING_FIELD_OF_VIEW / 2)
    azimuth = torch.arange(_RING, dtype=torch.float64) / _RING * (2 * math.pi)
    level, rise = math.cos(_RING_ELEVATION), math.sin(_RING_ELEVATION)
    towards = torch.stack([level * azimuth.cos(), level * azimuth.sin(), torch.full_like(azimuth, rise)], dim=1)
    poses = look_at(centre + distance * towards, centre.expand(_RING, 3)).float()
    focal = 0.5 * _RING_PIXELS / math.tan(_RING_FIELD_OF_VIEW / 2)
    size = torch.full((_RING,), _RING_PIXELS, dtype=torch.int64)
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((_RING, 2), focal),
        principal=torch.full((_RING, 2), 0.5 * _RING_PIXELS),
        width=size,
        height=size.clone(),
    )


def _on_screen(rgb: torch.Tensor, stops: float, tone_map: ToneMap) -> torch.Tensor:
    """Colours as sRGB values, touched only where something is asked for."""
    if stops == 0 and tone_map == "none":
        return rgb
    return display(linear_from_srgb(rgb), stops=stops, tone_map=tone_map)
