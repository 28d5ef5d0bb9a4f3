"""What a film is made of: its cameras, its frames, and what an interrupted call left of them."""

import functools
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import torch

from voxfield.api.reel import Reel, film_identity
from voxfield.api.run_memory import PIXEL_BYTES, RAY_BYTES, USUAL_RAYS, check_memory, field_part, rays_within
from voxfield.checks import check_choice, check_range, nearest_names
from voxfield.colour import ToneMap, display
from voxfield.data.camera_path import CameraPath, read_camera_path
from voxfield.distributed.executors import ExecutorKind, ExecutorSettings, open_executor
from voxfield.distributed.memory import MemoryPart, process_part
from voxfield.errors import InputError, UnavailableError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PATH_KINDS, PathKind, camera_path
from voxfield.geometry.rigs import Rig, RigKind, make_rig
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.kernels.workspace import keep_at_most
from voxfield.render.image import depth_colours, side_by_side, to_uint8, write_png
from voxfield.render.video import require_video, write_video
from voxfield.storage.atomic import replacing
from voxfield.storage.exr import require_exr
from voxfield.storage.spherical_mp4 import Layout, write_spherical
from voxfield.training.progress import Progress, Stage

RenderFormat = Literal["video", "images", "both", "exr"]

_PANORAMAS: Final[dict[str, tuple[int, int]]] = {
    "fisheye": (1024, 1024),
    "equirectangular": (2048, 1024),
    "vr180": (2048, 1024),
    "ods": (2048, 2048),
}
"""Width and height of frames where nobody says."""
SPHERICAL: Final[dict[str, Layout]] = {
    "equirectangular": "mono360",
    "vr180": "left-right180",
    "ods": "top-bottom360",
}
"""What headsets are told of videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Film:
    """What `Shoot` renders."""

    name: str
    """Of the path and what films it."""
    fps: float
    """Frames a second."""
    rig: Rig
    """The cameras of its frames."""


def advancing(pictures: Iterable[torch.Tensor], stage: Stage) -> Iterator[torch.Tensor]:
    """The pictures, each noted in the progress."""
    for picture in pictures:
        stage.advance(1)
        yield picture


def write_depth(path: Path, seen: Mapping[str, torch.Tensor]) -> None:
    """Write depth (H, W) as it is and coloured, beside each other; ``path`` has no ending yet."""
    exact = path.with_suffix(".npy")
    with replacing(exact) as temporary, temporary.open("wb") as stream:
        np.save(stream, seen["depth"].float().cpu().numpy(), allow_pickle=False)
    write_png(path.with_suffix(".png"), depth_colours(seen["depth"], seen["opacity"]))


def read_path(kind: str | os.PathLike[str]) -> CameraPath:
    """The camera path in a file; what is neither a file nor a path's name is said to be none of either."""
    if Path(kind).suffix.lower() != ".json":
        near = nearest_names(str(kind), PATH_KINDS)
        raise InputError(f"path: unknown value {str(kind)!r}. {near} Or name a camera path's .json file.")
    return read_camera_path(kind)


def frame_size(kind: RigKind, cameras: Cameras, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height of frames: what is missing follows from the first camera's shape, or a panorama's."""
    own_width, own_height = _PANORAMAS.get(kind, (int(cameras.width[0]), int(cameras.height[0])))
    if width is None and height is None:
        return own_width, own_height
    if width is None:
        return max(1, round(own_width * cast(int, height) / own_height)), cast(int, height)
    return width, height if height is not None else max(1, round(own_height * width / own_width))


@dataclass(frozen=True, kw_only=True)
class FilmOptions:
    """What is asked of a film: arguments of `voxfield.api.Run.render_path`, in types that travel to other processes."""

    kind: str
    frames: int | None
    height: int | None
    width: int | None
    fps: float | None
    seconds: float | None
    output: str | None
    format: str
    exposure: float
    tone_map: ToneMap
    split: str
    camera: RigKind | None
    eye_distance: float | None
    save_depth: bool
    chunk_size: int | None
    beside: str | None = None
    quiet: bool = False
    memory: int | str | None = None

    @classmethod
    def of_call(cls, arguments: Mapping[str, Any]) -> "FilmOptions":
        """The options among the arguments of a call, ``locals()`` of it: paths, and runs that are open, become text."""
        asked = {field.name: arguments[field.name] for field in fields(cls) if field.name in arguments}
        for name in ("kind", "output", "beside"):
            if asked.get(name) is not None:
                asked[name] = os.fspath(getattr(asked[name], "path", asked[name]))
        return cls(**asked)

    def within_memory(self, film: Film, runs: Sequence[Path], device: torch.device) -> "FilmOptions":
        """The same with as many rays at a time as ``memory`` leaves room for; what the film of ``runs`` needs is said.

        Raises:
            InputError: too little memory for one frame.
        """
        width, height = film.rig.size
        pixels = MemoryPart(what=f"frames of {width} x {height} pixels", size=width * height * PIXEL_BYTES * len(runs))
        fields = [field_part(run) for run in runs]
        rays = rays_within(self.memory, self.chunk_size or 0, [process_part(device), *fields, pixels])
        looked = MemoryPart(what="rays looked at together", size=(rays or USUAL_RAYS) * RAY_BYTES)
        remedy = "Take smaller frames (--width, --height), or fewer rays at a time (--chunk-size)"
        check_memory(self.memory, pixels, looked, held=fields, device=device, remedy=remedy, quiet=self.quiet)
        keep_at_most(looked.size)
        return replace(self, chunk_size=rays or None)

    def film(self, *, base: Callable[[], Cameras], target: torch.Tensor, unbounded: bool) -> Film:
        """The film's cameras; the arguments are those of `make_film`."""
        return make_film(
            self.kind,
            camera=self.camera,
            frames=self.frames,
            seconds=self.seconds,
            fps=self.fps,
            size=(self.width, self.height),
            eye_distance=self.eye_distance,
            base=base,
            target=target,
            unbounded=unbounded,
        )

    def shoot(self, film: Film, filmed: "Sequence[Filmed]", home: Path, name: str) -> "Shoot":
        """What renders the film, into the folder ``name`` of ``home`` where no ``output`` is asked for.

        Raises:
            InputError: bad settings. MissingExtraError: a package for the format is missing.
        """
        folder = Path(self.output) if self.output is not None else home / name
        return Shoot(
            film=film,
            filmed=filmed,
            folder=folder,
            video=folder.with_suffix(".mp4") if self.output is None else folder / f"{name}.mp4",
            format=self.format,
            exposure=self.exposure,
            tone_map=self.tone_map,
            save_depth=self.save_depth,
            options=self.renderer(),
            quiet=self.quiet,
        )

    def renderer(self) -> dict[str, Any]:
        """Options of the model's renderer. Bad values are better found before the first frame than after it."""
        check_choice("format", self.format, get_args(RenderFormat))
        display(torch.zeros(1, 3), stops=self.exposure, tone_map=self.tone_map)
        if self.format == "exr":
            require_exr()
        elif self.format != "images":
            require_video()
        if self.chunk_size is None:
            return {}
        check_range("chunk_size", self.chunk_size, minimum=1)
        return {"rays_per_chunk": self.chunk_size}

    def elsewhere(self, folder: Path) -> "FilmOptions":
        """The same for a process with another working directory, which writes frames into ``folder``."""
        return replace(
            self,
            kind=self.kind if self.kind in PATH_KINDS else str(Path(self.kind).absolute()),
            output=str(folder.absolute()),
            beside=None if self.beside is None else str(Path(self.beside).absolute()),
            quiet=True,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Filmed:
    """What is seen in a film: a run or a scene."""

    identity: Any
    """Plain values that say which field it is, in which state."""
    background: str
    """Name of the colour behind it."""
    see: Callable[[Rig, int, dict[str, Any]], dict[str, torch.Tensor]]
    """What the eyes of a rig see as one frame, with options of the renderer: ``rgb``, ``opacity``, ``depth``."""
    on_screen: Callable[[torch.Tensor, float, ToneMap], torch.Tensor]
    """Its colours as sRGB values, so many stops brighter."""
    write_exr: Callable[[Path, Rig, int, dict[str, Any]], Path]
    """Write what a rig sees as linear light."""
    prepare: Callable[[Progress], None]
    """Whatever takes time before the first frame."""


def make_film(
    kind: PathKind | str | os.PathLike[str],
    *,
    camera: RigKind | None,
    frames: int | None,
    seconds: float | None,
    fps: float | None,
    size: tuple[int | None, int | None],
    eye_distance: float | None,
    base: Callable[[], Cameras],
    target: torch.Tensor,
    unbounded: bool,
) -> Film:
    """The cameras of a film; the options are those of `voxfield.api.Run.render_path`.

    Args:
        size: width and height.
        base: the cameras along which paths that have a name lead, asked for only of these.
        target: (3,): what the eyes of stereo look at.
        unbounded: whether there is something around the cameras.

    Raises:
        InputError: options out of range, or that do not suit the path or the cameras.
        MissingFileError, FormatError: no such path, or a damaged one.
    """
    if frames is not None:
        check_range("frames", frames, minimum=1)
    for name, value, most in (("seconds", seconds, 86_400), ("fps", fps, 1000)):
        if value is not None:
            check_range(name, value, above=0, maximum=most)
    if kind in PATH_KINDS:
        fps = 24.0 if fps is None else fps
        camera, along = camera or "perspective", base()
        if camera != "perspective" and kind == "dataset" and along.model != "perspective":
            raise InputError(f"camera: these photographs have {along.model} lenses of their own. Leave it out.")
        width, height = frame_size(camera, along, *size)
        count = frames if frames is not None else max(1, round((seconds or 5.0) * fps))
        cameras = camera_path(kind, along, frames=count, width=width, height=height, unbounded=unbounded)
        name, level = str(kind), True
    else:
        path = read_path(kind)
        fps = path.fps if fps is None else fps
        if path.keyframes and (frames is not None or seconds is not None):
            path = path.through_keyframes(frames or max(1, round((seconds or 0.0) * fps)))
        # Whoever set the cameras by hand meant them so: they are not turned upright.
        name, level, asked = Path(kind).stem, False, camera
        camera = camera or path.camera
        cameras = path.cameras()
        of_file = asked in (None, path.camera)
        width, height = frame_size("perspective" if of_file else camera, cameras, *size)
        cameras = path.cameras(width, height)
    rig = make_rig(camera, cameras, width=width, height=height, eye_distance=eye_distance, target=target, level=level)
    return Film(name=name if camera == "perspective" else f"{name}-{camera}", fps=fps, rig=rig)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shoot:
    """One call that renders a film: see `voxfield.api.Run.render_path`."""

    film: Film
    filmed: Sequence[Filmed]
    """What is seen, from left to right."""
    folder: Path
    """Of the frames."""
    video: Path
    """The video, where one is asked for."""
    format: str
    exposure: float
    tone_map: ToneMap
    save_depth: bool
    options: dict[str, Any]
    """Of the renderer."""
    quiet: bool

    def run(self, make: "Callable[[str], Shoot] | None" = None, where: ExecutorSettings | None = None) -> list[Path]:
        """Render, and return the film's files.

        Args:
            make, where: other processes render the frames: what makes the film with a hash there, picklable, and which
                they are. None: this one.

        Raises:
            UnavailableError: where they are to be rendered, they cannot be.
        """
        film, reel = self.film, self.reel()
        with Progress(quiet=self.quiet) as progress:
            if make is not None and where is not None:
                with progress.stage(f"Rendering {film.name}", len(film.rig), "frames") as stage:
                    self._render_elsewhere(reel, make, where, stage)
            for one in self.filmed:
                one.prepare(progress)
            with progress.stage(f"Rendering {film.name}", len(film.rig), "frames") as stage, kernels_own_the_cores():
                if self.format == "exr":
                    for index in range(len(film.rig)):
                        self.make_frame(reel, index)
                        reel.note(index)
                        stage.advance(1)
                else:
                    self._develop(advancing((self._frame(reel, index) for index in range(len(film.rig))), stage))
        written: list[Path] = []
        for index in range(len(film.rig)):
            written += [reel.file(index)] if self.format != "video" else []
            written += self._depth_files(index)
        reel.finish()
        return [*written, self.video] if self.format in ("video", "both") else written

    def reel(self) -> Reel:
        """Its frames."""
        first, suffix = self.filmed[0], ".exr" if self.format == "exr" else ".png"
        looks: dict[str, Any] = {"runs": [one.identity for one in self.filmed], "background": first.background}
        looks |= {"exposure": self.exposure, "tone_map": self.tone_map}
        # Frames and depth of another film may lie there under the same names.
        looks |= {"frames": suffix, "depth": self.save_depth}
        identity = film_identity(self.film.rig, looks)
        return Reel(self.folder, identity, suffix=suffix, keep=self.format != "video")

    def _render_elsewhere(
        self, reel: Reel, make: "Callable[[str], Shoot]", where: ExecutorSettings, stage: Stage
    ) -> None:
        missing = [index for index in range(len(self.film.rig)) if not self._is_there(reel, index)]
        stage.advance(len(self.film.rig) - len(missing))
        folders = [reel.folder.absolute()]
        with open_executor(where, tasks=len(missing), folders=folders) as executor:
            # In order: a reel's note is that all frames so far are there.
            for index, _ in executor.run(functools.partial(render_frame, make, reel.film), missing, ordered=True):
                reel.note(index)
                stage.advance(1)

    def _is_there(self, reel: Reel, index: int) -> bool:
        return reel.has(index) and all(file.is_file() for file in self._depth_files(index))

    def _develop(self, pictures: Iterable[torch.Tensor]) -> None:
        """Take all pictures, and write the video if one is asked for."""
        if self.format == "images":
            deque(pictures, maxlen=0)
            return
        write_video(self.video, (picture.numpy() for picture in pictures), fps=self.film.fps)
        if len(self.filmed) == 1 and self.film.rig.kind in SPHERICAL:
            write_spherical(self.video, SPHERICAL[self.film.rig.kind])

    def _frame(self, reel: Reel, index: int) -> torch.Tensor:
        """A frame (H, W, 3) uint8: rendered, or read where it is there already."""
        picture = reel.picture(index) if self._is_there(reel, index) else None
        if picture is None:
            picture = self.make_frame(reel, index)
            assert picture is not None
            reel.note(index)
        return picture

    def make_frame(self, reel: Reel, index: int) -> torch.Tensor | None:
        """Render a frame and write it and its depth; (H, W, 3) uint8. EXR files only where they are missing; None."""
        if self.format == "exr":
            if not reel.has(index):
                self.filmed[0].write_exr(reel.file(index), self.film.rig, index, self.options)
            return None
        shown = []
        for place, one in enumerate(self.filmed):
            seen = one.see(self.film.rig, index, self.options)
            shown.append(to_uint8(one.on_screen(seen["rgb"], self.exposure, self.tone_map)))
            if place == 0 and self.save_depth:
                write_depth(self.folder / f"depth_{index:05d}", seen)
        picture = side_by_side(shown)
        write_png(reel.file(index), picture)
        return picture

    def _depth_files(self, index: int) -> list[Path]:
        """The files of a frame's depth."""
        if not self.save_depth:
            return []
        return [self.folder / f"depth_{index:05d}{suffix}" for suffix in (".npy", ".png")]


def rendered(
    shoot: Shoot,
    opening: Callable[[Path], Any],
    path: Path,
    asked: FilmOptions,
    executor: ExecutorKind,
    scheduler: str | None,
) -> list[Path]:
    """The files of a film once they are rendered: see `Shoot.run`.

    Args:
        shoot: the film.
        opening: opens what it is of, with a method ``_shoot``, in other processes; picklable and hashable.
        path: what it opens.
        asked: what is asked of the film.
        executor, scheduler: see `ExecutorSettings`.

    Raises:
        InputError: a scheduler is missing or unused. As `voxfield.distributed.executors.open_executor`.
    """
    where = ExecutorSettings(executor=executor, scheduler=scheduler)
    if where.executor == "local":
        return shoot.run()
    make = functools.partial(made_again, opening, path.absolute(), asked.elsewhere(shoot.folder))
    return shoot.run(make, where)


@functools.lru_cache(maxsize=1)
def made_again(opening: Callable[[Path], Any], path: Path, asked: FilmOptions, film: str) -> Shoot:
    """What films ``path``, a run's or a scene's, in another process; kept there for the frames of this ``film``.

    Raises:
        UnavailableError: it is not the ``film`` that was asked for, as files are others here.
    """
    shoot: Shoot = opening(path)._shoot(asked)
    if shoot.reel().film != film:
        raise UnavailableError(
            f"A worker on {platform.node()} reads another state of what is rendered. Wait until its training has "
            "ended, and let all workers see the same files."
        )
    return shoot


def render_frame(make: Callable[[str], Shoot], film: str, index: int) -> None:
    """A task: render a frame of the film with this hash, which ``make`` makes here."""
    shoot = make(film)
    with kernels_own_the_cores():
        shoot.make_frame(shoot.reel(), index)


def seen_by_rig(
    render_image: Callable[..., dict[str, torch.Tensor]], rig: Rig, index: int, **options: Any
) -> dict[str, torch.Tensor]:
    """What the eyes of a rig see through a model's ``render_image``, as one frame."""
    with torch.inference_mode():
        eyes = [render_image(eye, index, **options) for eye in rig.eyes]
    return {name: rig.frame([eye[name] for eye in eyes]) for name in eyes[0]}
