"""Runs and scenes for Blender."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from voxfield.api.film import make_film
from voxfield.api.opening import open as open_source
from voxfield.api.places import anywhere
from voxfield.api.run_memory import SURFACE_BYTES, VOLUME_BYTES, check_sampling
from voxfield.api.runs import Run
from voxfield.api.scenes import Scene, density_name
from voxfield.api.volume_memory import check_volumes
from voxfield.api.volumes import crop_volume
from voxfield.checks import check_choice
from voxfield.data.capture import SPLITS
from voxfield.data.scene_file import SceneMember, VolumeLook
from voxfield.errors import InputError
from voxfield.export.blender import BlenderMember, BlenderPath, check_blender, make_blend, write_blender_script
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PathKind
from voxfield.geometry.pose import SceneTransform
from voxfield.models.plenoxels_config import PlenoxelsConfig
from voxfield.render.image import colour_from_name
from voxfield.storage.atomic import replacing
from voxfield.storage.vdb import VdbFile
from voxfield.storage.voxel_vdb import is_voxel_vdb

Form = Literal["volume", "mesh"]
"""What becomes of a field."""
DrawnCameras = Literal["train", "val", "test", "none"]
"""Whose cameras are drawn."""
_RESOLUTION: Final = 256
_CLASHING: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class BlenderExport:
    """What was written."""

    script: Path
    files: tuple[Path, ...]
    """Volumes and meshes, in a folder beside the script."""
    cameras: int
    """Cameras of photographs."""
    frames: int
    """Of the camera path; 0 without one."""
    blend: Path | None
    """The ``.blend`` file, where Blender was named."""
    left_out: tuple[str, ...]
    """What Blender gets not, in sentences."""


@anywhere("source", alone=("path",), output="output")
def export_blender(
    source: str | os.PathLike[str] | Run | Scene,
    output: str | os.PathLike[str],
    *,
    form: Form = "volume",
    resolution: int | None = None,
    cameras: DrawnCameras = "train",
    path: PathKind | str | os.PathLike[str] | None = "orbit",
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    seconds: float | None = None,
    blender: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    quiet: bool = False,
) -> BlenderExport:
    """Write a Python script that builds a run or a scene in Blender 4.2 or later, and the files it names.

    Args:
        source: a run on photographs or a scene, or where it is.
        output: the ``.py`` file; volumes or meshes go to the folder ``<name>_files`` beside it.
        form: fields as an OpenVDB ``volume`` with a material, or as a ``mesh`` with coloured vertices. Volumes of a
            scene stay volumes.
        resolution: voxels along a field's longest side; None: 256, of a plenoxels run's volume those of its grid.
        cameras: the split whose cameras are drawn, or ``none``. Of a scene those of the member its file names.
        path: what the camera that renders does: the name of a path, or the file of one, as `voxfield.Run.render_path`;
            None: there is none.
        frames, height, width, fps, seconds: of the path, as there.
        blender: Blender's program, or that of a Python which has the module ``bpy``: it makes ``<name>.blend`` beside
            the script.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What every member needs, one
            after another, is known before anything is written; what Blender takes itself is not counted.
        quiet: no progress bar.

    Raises:
        InputError: options that do not fit, too little memory, a field without a place in the world, or a mesh of a
            member that is cropped or thinned.
        MissingFileError, UnavailableError: there is no such Blender, it is too old, or fails.
    """
    source = _opened(source)
    check_choice("form", form, get_args(Form))
    check_choice("cameras", cameras, get_args(DrawnCameras))
    script = Path(output)
    if script.suffix.lower() != ".py":
        raise InputError(f"{output}: expected a file that ends in .py.")
    folder = script.with_name(f"{script.stem}_files")
    # What is asked for wrongly is better found before fields are sampled.
    if blender is not None:
        check_blender(blender)
    left_out: list[str] = []
    film = None if path is None else _film(source, path, frames, (width, height), fps, seconds)
    drawn, names = _drawn(source, cameras, left_out)
    listed = [_member_of_run(source)] if isinstance(source, Run) else source.description.members
    for member in listed:
        _check_member(source, member, form, resolution, memory)
    folder.mkdir(parents=True, exist_ok=True)
    members: list[BlenderMember] = []
    for number, member in enumerate(listed):
        # Names that differ only in what files cannot be called stay apart.
        stem = folder / f"{number:02d}_{_CLASHING.sub('_', member.name)[:80]}"
        members.append(_exported(source, member, stem, form, resolution, left_out, memory, quiet))
    background = source.experiment.evaluation.background if isinstance(source, Run) else source.description.background
    write_blender_script(
        script,
        members,
        name=f"Voxfield {script.stem}",
        cameras=drawn,
        camera_names=names,
        film=film,
        background=colour_from_name(background),
        size=max(_bounds(source).size),
    )
    return BlenderExport(
        script=script,
        files=tuple(script.parent / member.file for member in members),
        cameras=len(names),
        frames=0 if film is None else len(film.cameras),
        blend=None if blender is None else make_blend(blender, script, script.with_suffix(".blend")),
        left_out=tuple(left_out),
    )


def _opened(source: str | os.PathLike[str] | Run | Scene) -> Run | Scene:
    if isinstance(source, Run | Scene):
        return source
    opened = open_source(source)
    if not isinstance(opened, Run | Scene):
        recipe = opened.record.experiment.recipe
        raise InputError(f"{source}: is a run of {recipe}, and only runs on photographs are exported for Blender.")
    return opened


def _bounds(source: Run | Scene) -> Bounds:
    return source.captures.bounds if isinstance(source, Run) else source.bounds


def _member_of_run(run: Run) -> SceneMember:
    """A run as the only member of a scene."""
    return SceneMember(name=run.path.resolve().name, path=run.path, transform=SceneTransform.identity())


def _film(
    source: Run | Scene,
    path: PathKind | str | os.PathLike[str],
    frames: int | None,
    size: tuple[int | None, int | None],
    fps: float | None,
    seconds: float | None,
) -> BlenderPath:
    """The camera that renders: a perspective one, whatever films the path."""
    base: Callable[[], Cameras]
    if isinstance(source, Run):
        split = source.split("test") if path == "dataset" else source.captures
        base, unbounded = lambda: split.image_cameras, source.captures.unbounded
    else:
        base, unbounded = lambda: source.path_cameras("test" if path == "dataset" else None), False
    film = make_film(
        path,
        camera="perspective",
        frames=frames,
        seconds=seconds,
        fps=fps,
        size=size,
        eye_distance=None,
        base=base,
        target=torch.tensor(_bounds(source).centre),
        unbounded=unbounded,
    )
    cameras = film.rig.eyes[0]
    if cameras.model != "perspective":
        raise InputError(
            f"path: these photographs have {cameras.model} lenses, which Blender's camera has not. Film orbit."
        )
    return BlenderPath(name=f"{film.name} camera", cameras=cameras, fps=film.fps)


def _drawn(source: Run | Scene, split: DrawnCameras, left_out: list[str]) -> tuple[Cameras | None, tuple[str, ...]]:
    """The cameras of photographs, and what they are called; why there are none is added to ``left_out``."""
    if split == "none" or (isinstance(source, Scene) and source.description.cameras is None):
        return None, ()
    check_choice("cameras", split, SPLITS)
    if isinstance(source, Scene):
        cameras = source.cameras(split)
    else:
        captures = source.split(split)
        cameras = captures.image_cameras
        if split == "train":
            with torch.no_grad():
                poses = source.model.refined_poses(cameras.camera_to_world.to(source.placement.device)).cpu()
            cameras = replace(cameras, camera_to_world=poses)
    if cameras.model != "perspective":
        left_out.append(f"The cameras, whose lenses are {cameras.model}.")
        return None, ()
    return cameras, tuple(f"{split} {index}" for index in range(len(cameras)))


def _check_member(
    source: Run | Scene, member: SceneMember, form: Form, resolution: int | None, memory: int | str | None
) -> None:
    """Raise InputError where there is not the memory that the member's file needs; it is said when it is written."""
    if member.is_volume:
        if member.crop is not None:
            check_volumes([member.path], memory, quiet=True)
        return
    run = _run_of(source, member)
    mesh = form == "mesh"
    places = resolution or _RESOLUTION if mesh else _places(run, resolution)
    place_bytes = SURFACE_BYTES if mesh else VOLUME_BYTES
    check_sampling(run, memory, resolution=places, place_bytes=place_bytes, quiet=True)


def _run_of(source: Run | Scene, member: SceneMember) -> Run:
    return source if isinstance(source, Run) else source.runs[member.name]


def _places(run: Run, resolution: int | None) -> int | None:
    """Voxels along a volume's longest side; None: those of the run's own grid."""
    own = isinstance(run.experiment.model, PlenoxelsConfig)
    return resolution or (None if own else _RESOLUTION)


def _exported(
    source: Run | Scene,
    member: SceneMember,
    stem: Path,
    form: Form,
    resolution: int | None,
    left_out: list[str],
    memory: int | str | None,
    quiet: bool,
) -> BlenderMember:
    """Write a member's file, ``stem`` and an ending; what Blender does not get is added to ``left_out``."""
    file = stem.with_name(f"{stem.name}.{'ply' if form == 'mesh' and not member.is_volume else 'vdb'}")
    if member.is_volume:
        return _volume(member, _cropped(member, member.path, file, memory, quiet))
    run = _run_of(source, member)
    if form == "mesh":
        if member.crop is not None or member.density_factor != 1:
            raise InputError(f"{member.name}: meshes have neither crop nor density_factor. Export it as a volume.")
        run.export_mesh(file, resolution=resolution or _RESOLUTION, memory=memory, quiet=quiet)
        return BlenderMember(name=member.name, file=_relative(file), kind="mesh", transform=member.transform)
    places = _places(run, resolution)
    done = run.export_vdb(file, resolution=places, half=True, memory=memory, quiet=quiet)
    if done.left_out:
        left_out.append(f"Of {member.name} {done.left_out}.")
    _cropped(member, file, file, memory, quiet)
    left_out.append(f"Of {member.name} how colours change with the view.")
    return BlenderMember(
        name=member.name,
        file=_relative(file),
        kind="volume",
        transform=member.transform,
        density_factor=member.density_factor,
        colour_grid="sh_coeff_0",
        harmonics=True,
        linear=run.captures.tone is not None,
    )


def _volume(member: SceneMember, file: Path) -> BlenderMember:
    """A member that is an OpenVDB file."""
    options: dict[str, Any] = {"colour_grid": "sh_coeff_0", "harmonics": True}
    if not is_voxel_vdb(member.path):
        look = member.look or VolumeLook()
        options = {
            "density_grid": density_name(VdbFile(member.path), look.density_grid),
            "colour_grid": look.colour_grid,
            "colour": look.colour,
            "linear": look.colour_space == "linear",
        }
    return BlenderMember(
        name=member.name,
        file=_relative(file),
        kind="volume",
        transform=member.transform,
        density_factor=member.density_factor,
        **options,
    )


def _cropped(member: SceneMember, source: Path, file: Path, memory: int | str | None, quiet: bool) -> Path:
    """The member's volume without what its crop cuts off, as ``file``."""
    if member.crop is not None:
        crop_volume(source, file, member.crop.minimum, member.crop.maximum, world=True, memory=memory, quiet=quiet)
    elif source != file:
        with replacing(file) as temporary:
            shutil.copyfile(source, temporary)
    return file


def _relative(file: Path) -> str:
    """How the script names a file of the folder beside it."""
    return f"{file.parent.name}/{file.name}"
