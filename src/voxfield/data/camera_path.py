"""Camera paths as nerfstudio's JSON: what its viewer and Blender add-on write, and ``ns-render camera-path`` reads.

``camera_path`` lists the frames: ``camera_to_world``, 16 numbers row by row, OpenGL axes, and ``fov``, the vertical
field of view in degrees. Beside it stand ``render_width``, ``render_height``, ``fps``, ``seconds``, ``camera_type`` and
the ``keyframes`` that the frames were made from. Whatever else a file holds is kept as it is, so that reading and
writing it loses nothing. Poses are in the world of the run the path was made for.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from voxfield.checks import check_range
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import through
from voxfield.geometry.pose import is_rigid, orthonormalise
from voxfield.geometry.rigs import RigKind
from voxfield.storage.atomic import write_json

MOST_FRAMES: Final = 100_000
MOST_BYTES: Final = 1 << 28
_CAMERA_TYPES: Final[dict[str, RigKind]] = {
    "perspective": "perspective",
    "fisheye": "fisheye",
    "equirectangular": "equirectangular",
    "vr180": "vr180",
    "omnidirectional": "ods",
}
_NAMES: Final = {kind: name for name, kind in _CAMERA_TYPES.items()}


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a camera is and how much it sees."""

    matrix: tuple[float, ...]
    """16 numbers: camera-to-world, row by row, OpenGL axes."""
    fov: float
    """Vertical field of view, degrees, above 0 and below 180."""
    aspect: float = 1.0
    """Width over height."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """What else the file says of it."""

    @classmethod
    def from_pose(cls, pose: Tensor, *, fov: float, aspect: float) -> "View":
        """A view from a pose (3, 4)."""
        rows = [*pose.double().reshape(-1).tolist(), 0.0, 0.0, 0.0, 1.0]
        return cls(matrix=tuple(rows), fov=fov, aspect=aspect)

    @property
    def pose(self) -> Tensor:
        """(3, 4) float64, with a rotation that is exactly one."""
        pose = torch.tensor(self.matrix, dtype=torch.float64).reshape(4, 4)[:3]
        return torch.cat([orthonormalise(pose[None, :, :3])[0], pose[:, 3:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class CameraPath:
    """A camera path."""

    frames: tuple[View, ...]
    """What is rendered, in order."""
    keyframes: tuple[View, ...] = ()
    """What the frames were made from, where the file says so as nerfstudio has since 1.0."""
    camera: RigKind = "perspective"
    """What films it."""
    width: int = 1920
    """Of a frame, pixels."""
    height: int = 1080
    """Of a frame, pixels."""
    fps: float = 24.0
    """Frames a second."""
    seconds: float = 4.0
    """Length."""
    loop: bool = False
    """Whether the last frame leads back to the first."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """What else the file holds."""

    def through_keyframes(self, frames: int | None = None) -> "CameraPath":
        """This path with its frames made anew from its keyframes: a smooth curve, as long from each to the next.

        Args:
            frames: how many; None: ``seconds`` times ``fps``.

        Raises:
            InputError: there are no keyframes.
        """
        if not self.keyframes:
            raise InputError("The camera path has no keyframes. Add one at least.")
        count = frames if frames is not None else max(1, round(self.seconds * self.fps))
        check_range("frames", count, minimum=1, maximum=MOST_FRAMES)
        poses = through(torch.stack([key.pose for key in self.keyframes]), frames=count, loop=self.loop)
        fovs = _even([key.fov for key in self.keyframes], count, loop=self.loop)
        aspect = self.width / self.height
        made = tuple(View.from_pose(pose, fov=fov, aspect=aspect) for pose, fov in zip(poses, fovs, strict=True))
        return replace(self, frames=made)

    def cameras(self, width: int | None = None, height: int | None = None) -> Cameras:
        """The frames' cameras, perspective ones whatever films the path.

        Args:
            width, height: pixels; None: the path's, in proportion to the other where that is given.

        Raises:
            InputError: there are no frames, or a size is off range.
        """
        if not self.frames:
            raise InputError("The camera path has no frames. Add keyframes and save it again.")
        if width is None and height is None:
            width, height = self.width, self.height
        elif width is None:
            width = max(1, round((height or 0) * self.width / self.height))
        elif height is None:
            height = max(1, round(width * self.height / self.width))
        for name, value in (("width", width), ("height", height)):
            check_range(name, value or 0, minimum=1, maximum=100_000)
        width, height, count = int(width), int(height or 0), len(self.frames)
        focal = [0.5 * height / math.tan(math.radians(view.fov) / 2) for view in self.frames]
        return Cameras(
            camera_to_world=torch.stack([view.pose for view in self.frames]).float(),
            focal=torch.tensor(focal)[:, None].repeat(1, 2),
            principal=torch.tensor([[width / 2, height / 2]]).repeat(count, 1),
            width=torch.full((count,), width, dtype=torch.int64),
            height=torch.full((count,), height, dtype=torch.int64),
        )

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            **self.other,
            "camera_type": _NAMES[self.camera],
            "render_height": self.height,
            "render_width": self.width,
            "fps": self.fps,
            "seconds": self.seconds,
            "is_cycle": self.loop,
            **({"keyframes": [_view_json(key, "matrix") for key in self.keyframes]} if self.keyframes else {}),
            "camera_path": [_view_json(view, "camera_to_world") for view in self.frames],
        }

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the path as a file; it appears whole or not at all."""
        write_json(path, self.to_json())
        return Path(path)


def read_camera_path(file: str | os.PathLike[str]) -> CameraPath:
    """Read a camera path.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is no camera path; the message says where it is wrong.
    """
    path = Path(file)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{path}: expected a camera path of at most {MOST_BYTES >> 20} MiB.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such camera path.") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: expected a camera path as JSON, but it is not valid JSON.") from None
    return parse_camera_path(content, source=str(path))


def parse_camera_path(content: Any, *, source: str) -> CameraPath:
    """A camera path from the content of its file; ``source`` names it in messages.

    Raises:
        FormatError: it is none.
    """
    if not isinstance(content, dict) or not isinstance(content.get("camera_path"), list):
        raise FormatError(f"{source}: expected a JSON object with a list under 'camera_path', as nerfstudio writes.")
    if len(content["camera_path"]) > MOST_FRAMES:
        raise FormatError(f"{source}: expected at most {MOST_FRAMES:,} frames, got {len(content['camera_path']):,}.")
    if not content["camera_path"]:
        raise FormatError(f"{source}: holds no frames ('camera_path' is empty). Add keyframes and save it again.")
    rest = dict(content)
    frames = _views(rest.pop("camera_path"), "camera_to_world", f"{source}: camera_path")
    keys = rest.get("keyframes")
    keyframes: tuple[View, ...] = ()
    # Before 1.0 nerfstudio wrote keyframes as text in another layout: those stay as they are.
    if isinstance(keys, list) and all(isinstance(key, dict) and isinstance(key.get("matrix"), list) for key in keys):
        keyframes = _views(rest.pop("keyframes"), "matrix", f"{source}: keyframes") if keys else ()
    kind = rest.pop("camera_type", "perspective")
    if not isinstance(kind, str) or kind.lower() not in _CAMERA_TYPES:
        raise FormatError(f"{source}: camera_type: expected one of {', '.join(_CAMERA_TYPES)}, got {kind!r}.")
    width, height = (
        _number(rest.pop(name, default), f"{source}: {name}", 1, 100_000, whole=True)
        for name, default in (("render_width", 1920), ("render_height", 1080))
    )
    fps = _number(rest.pop("fps", 24.0), f"{source}: fps", 1e-3, 240.0)
    seconds = _number(rest.pop("seconds", len(frames) / fps), f"{source}: seconds", 0.0, 1e6)
    return CameraPath(
        frames=frames,
        keyframes=keyframes,
        camera=_CAMERA_TYPES[kind.lower()],
        width=int(width),
        height=int(height),
        fps=fps,
        seconds=seconds,
        loop=bool(rest.pop("is_cycle", False)),
        other=rest,
    )


def _view_json(view: View, key: str) -> dict[str, Any]:
    return {key: list(view.matrix), "fov": view.fov, "aspect": view.aspect, **view.other}


def _views(entries: Sequence[Any], key: str, where: str) -> tuple[View, ...]:
    views = []
    for index, entry in enumerate(entries):
        name = f"{where}[{index}]"
        if not isinstance(entry, dict):
            raise FormatError(f"{name}: expected an object with {key!r} and 'fov', got {type(entry).__name__}.")
        rest = dict(entry)
        numbers = _flat(rest.pop(key, None))
        if numbers is None or len(numbers) != 16 or not all(map(math.isfinite, numbers)):
            raise FormatError(f"{name}: {key}: expected 16 finite numbers, a 4x4 matrix row by row.")
        matrix = torch.tensor(numbers, dtype=torch.float64).reshape(4, 4)
        if not bool(is_rigid(matrix)) or float((matrix[3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().max()) > 1e-6:
            raise FormatError(f"{name}: {key}: expected a rotation and a position; this matrix also scales or shears.")
        views.append(
            View(
                matrix=tuple(numbers),
                fov=_number(rest.pop("fov", 50.0), f"{name}: fov", 1e-3, 179.9),
                aspect=_number(rest.pop("aspect", 1.0), f"{name}: aspect", 1e-3, 1e3),
                other=rest,
            )
        )
    return tuple(views)


def _flat(matrix: Any) -> list[float] | None:
    """The numbers of a matrix, given flat or as rows."""
    if not isinstance(matrix, list):
        return None
    flat = [value for row in matrix for value in (row if isinstance(row, list) else [row])]
    fits = all(isinstance(value, int | float) and not isinstance(value, bool) for value in flat)
    return [float(value) for value in flat] if fits else None


def _number(value: Any, where: str, low: float, high: float, *, whole: bool = False) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise FormatError(f"{where}: expected {kind} from {low:g} to {high:g}, got {value!r}.")
    return float(value)


def _even(values: list[float], count: int, *, loop: bool) -> list[float]:
    """Values at ``count`` even times from the first to the last, or of a loop round to the first again."""
    stops = torch.tensor([*values, values[0]] if loop else values, dtype=torch.float64)
    segments = len(stops) - 1
    if segments == 0:
        return [values[0]] * count
    steps = torch.arange(count, dtype=torch.float64)
    along = steps * segments / count if loop else steps * segments / max(count - 1, 1)
    before = along.floor().long().clamp(max=segments - 1)
    return torch.lerp(stops[before], stops[before + 1], along - before).tolist()
