"""What a film is made of: its cameras, its frames, and what an interrupted call left of them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import torch

from voxfield.checks import check_choice, check_range, nearest_names
from voxfield.colour import ToneMap, display
from voxfield.data.camera_path import CameraPath, read_camera_path
from voxfield.data.posed_images import PosedImages
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import PATH_KINDS
from voxfield.geometry.rigs import Rig, RigKind
from voxfield.render.image import depth_colours, write_png
from voxfield.render.video import require_video
from voxfield.storage.atomic import replacing, write_json
from voxfield.storage.exr import require_exr
from voxfield.storage.spherical_mp4 import Layout
from voxfield.training.progress import Stage

_NAME: Final = "film.json"
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


class Reel:
    """A folder of frames that are rendered in order and all belong to one film: the same field, cameras and looks.

    ``film.json`` in it holds the hash of what the film is, and how many frames of it there are. Frames that lie
    there of another film are rendered again.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, suffix: str = ".png", keep: bool = True) -> None:
        """Open the reel in ``folder``.

        Args:
            folder: where frames are written.
            identity: plain values that say which film it is.
            suffix: of the frames' files.
            keep: whether the frames are wanted; otherwise they lie in a folder of their own until `finish`.

        Raises:
            InputError: the folder cannot be made.
        """
        self.folder = folder if keep else folder.with_name(f".{folder.name}-frames")
        self._suffix, self._keep = suffix, keep
        self._film = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._done = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = json.loads((self.folder / _NAME).read_text(encoding="utf-8"))
            if held["film"] == self._film:
                self._done = int(held["frames"])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written to ({error.strerror}).") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # not a film's record: nothing is known of the frames

    def file(self, index: int) -> Path:
        """Where frame ``index`` is written."""
        return self.folder / f"frame_{index:05d}{self._suffix}"

    def has(self, index: int) -> bool:
        """Whether frame ``index`` of this film is there."""
        return index < self._done and self.file(index).is_file()

    def note(self, index: int) -> None:
        """Frame ``index`` has been written, and all before it."""
        self._done = index + 1
        write_json(self.folder / _NAME, {"film": self._film, "frames": self._done})

    def picture(self, index: int) -> torch.Tensor | None:
        """Frame ``index``, (H, W, 3) uint8, if it is there and whole."""
        from PIL import Image

        if not self.has(index):
            return None
        try:
            with Image.open(self.file(index)) as image:
                return torch.from_numpy(np.asarray(image.convert("RGB")).copy())
        except (OSError, ValueError):
            return None

    def finish(self) -> None:
        """Called when the film is done: frames that nobody wants are removed."""
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def film_identity(rig: Rig, looks: Mapping[str, Any]) -> dict[str, Any]:
    """What a film is: the cameras of its frames, and plain values that say how they look."""
    digest = hashlib.sha256()
    for eye in rig.eyes:
        lens = [] if eye.distortion is None else [eye.distortion]
        for tensor in (eye.camera_to_world, eye.focal, eye.principal, eye.width, eye.height, *lens):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        digest.update(repr((eye.model, eye.eye_offset)).encode())
    return {"kind": rig.kind, "cameras": digest.hexdigest(), **looks}


@dataclass(frozen=True, kw_only=True, eq=False)
class Film:
    """What `voxfield.api.Run.render_path` renders."""

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


def render_options(format: str, exposure: float, tone_map: ToneMap, chunk_size: int | None) -> dict[str, Any]:  # noqa: A002
    """Options of the model's renderer. Bad values are better found now than after the first frame."""
    check_choice("format", format, get_args(RenderFormat))
    display(torch.zeros(1, 3), stops=exposure, tone_map=tone_map)
    if format == "exr":
        require_exr()
    elif format != "images":
        require_video()
    if chunk_size is None:
        return {}
    check_range("chunk_size", chunk_size, minimum=1)
    return {"rays_per_chunk": chunk_size}


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


def check_same_world(path: Path, captures: PosedImages, other_path: Path, others: PosedImages) -> None:
    """Raise InputError, naming the runs' paths, unless cameras see the same in the worlds of both."""
    if not torch.allclose(captures.transform.matrix, others.transform.matrix, rtol=1e-4, atol=1e-4):
        raise InputError(
            f"{path}: its world is another than that of {other_path}, so no camera sees the same in both. "
            "Train both on the same capture, with the same capture.orientation, centre and auto_scale."
        )


@dataclass(frozen=True, eq=False)
class Stretch:
    """What the frames of one call of `Run.render_path` have in common."""

    film: Film
    reel: Reel
    depth_folder: Path | None
    """Where their depth is written too; None: nowhere."""
    other: Any
    """Whose pictures go beside."""
    exposure: float
    tone_map: ToneMap
    options: dict[str, Any]

    def depth_files(self, index: int) -> list[Path]:
        """The files of a frame's depth."""
        if self.depth_folder is None:
            return []
        return [self.depth_folder / f"depth_{index:05d}{suffix}" for suffix in (".npy", ".png")]
