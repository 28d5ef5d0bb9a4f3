"""The JSON that NeRF-synthetic, instant-ngp and nerfstudio captures share: frames, poses and lens keys.

Everything is checked as it is read; a message names the file, the frame and the key.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from voxfield.data.capture import MOST_DEPTH_UNIT, Frame, Intrinsics, find_image, resolve_inside
from voxfield.data.formats.photo_capture import without_repeats
from voxfield.data.formats.poses import LARGEST_NUMBER, Pose, rigid_pose
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.camera import LENSES, CameraModel
from voxfield.geometry.lenses import COEFFICIENTS
from voxfield.storage.skipped import Skipped

MOST_PIXELS_A_SIDE: Final = 100_000

_PERSPECTIVE: Final = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_RATIONAL: Final = "FULL_OPENCV"
"""COLMAP's name of OpenCV's rational lenses, whose k4 to k6 are the denominator's. nerfstudio has none and says so."""
_FISHEYE: Final = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE")
_MODELS: Final[dict[str, CameraModel]] = {
    **dict.fromkeys((*_PERSPECTIVE, _RATIONAL), "perspective"),
    **dict.fromkeys(_FISHEYE, "fisheye"),
    "EQUIRECTANGULAR": "equirectangular",
    "ORTHOPHOTO": "orthographic",
    "ORTHOGRAPHIC": "orthographic",
    "FOV": "fov",
    "SIMPLE_DIVISION": "division",
    "DIVISION": "division",
    "EUCM": "eucm",
    "THIN_PRISM_FISHEYE": "thin_prism_fisheye",
    "RAD_TAN_THIN_PRISM_FISHEYE": "rad_tan_thin_prism_fisheye",
}
CAMERA_MODELS: Final[dict[CameraModel, str]] = {
    "perspective": "OPENCV",
    "fisheye": "OPENCV_FISHEYE",
    "equirectangular": "EQUIRECTANGULAR",
    "orthographic": "ORTHOPHOTO",
    "fov": "FOV",
    "division": "DIVISION",
    "eucm": "EUCM",
    "thin_prism_fisheye": "THIN_PRISM_FISHEYE",
    "rad_tan_thin_prism_fisheye": "RAD_TAN_THIN_PRISM_FISHEYE",
}
"""The name each model is written with: nerfstudio's, or COLMAP's where nerfstudio has no such model."""
_CROPPED: Final = ("fisheye", *COEFFICIENTS)
"""The models whose rim may be cut off."""
MOST_STOPS: Final = 60.0
"""Exposures of a frame reach up to this many stops."""
_DISTORTION: Final = ("k1", "k2", "k3", "k4", "p1", "p2")
_RATIONAL_DISTORTION: Final = ("k1", "k2", "k3", "p1", "p2", "k4", "k5", "k6")


@dataclass(frozen=True)
class Table:
    """A JSON object with typed reads; ``where`` starts every message."""

    where: str
    values: dict[str, Any]

    def number(self, key: str, *, above: float = -math.inf, below: float = math.inf) -> float | None:
        """The number at ``key``, or None when absent; raises unless it is finite and within (above, below)."""
        value = self.values.get(key)
        if value is None:
            return None
        number = _as_float(value)
        if number is None or abs(number) > LARGEST_NUMBER or not above < number < below:
            span = "" if above == -math.inf else f" above {above:g}"
            span += "" if below == math.inf else f" and below {below:g}"
            raise FormatError(
                f"{self.where}: expected {key} to be a number{span}, got {_short(value)}. Correct the file."
            )
        return number

    def whole(self, key: str, *, minimum: int, maximum: int) -> int | None:
        """The whole number at ``key`` (2.0 counts), or None when absent."""
        number = self.number(key)
        if number is None:
            return None
        if number != int(number) or not minimum <= number <= maximum:
            raise FormatError(
                f"{self.where}: expected {key} to be a whole number from {minimum} to {maximum}, "
                f"got {_short(self.values[key])}. Correct the file."
            )
        return int(number)

    def text(self, key: str) -> str | None:
        """The string at ``key``, or None when absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise FormatError(f"{self.where}: expected {key} to be a string, got {_short(value)}. Correct the file.")
        return value

    def texts(self, key: str) -> list[str] | None:
        """The list of strings at ``key``, or None when absent."""
        value = self.values.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise FormatError(
                f"{self.where}: expected {key} to be a list of paths, got {_short(value)}. Correct the file."
            )
        return value

    def numbers(self, key: str, count: int | None = None) -> list[float] | None:
        """The list of ``count`` numbers at ``key`` (any count when None), or None when absent. May still be NaN."""
        value = self.values.get(key)
        if value is None:
            return None
        numbers = [_as_float(entry) for entry in value] if isinstance(value, list) else [None]
        if None in numbers or (count is not None and len(numbers) != count):
            wanted = "numbers" if count is None else f"{count} numbers"
            raise FormatError(
                f"{self.where}: expected {key} to be a list of {wanted}, got {_short(value)}. Correct it."
            )
        return [number for number in numbers if number is not None]

    def matrix(self, key: str) -> torch.Tensor | None:
        """The 3x4 or 4x4 matrix at ``key`` as (4, 4) float64, or None when absent. Entries may still be NaN."""
        value = self.values.get(key)
        if value is None:
            return None
        rows = value if isinstance(value, list) and len(value) in (3, 4) else []
        numbers = [[_as_float(entry) for entry in row] for row in rows if isinstance(row, list) and len(row) == 4]
        if not rows or len(numbers) != len(rows) or any(entry is None for row in numbers for entry in row):
            raise FormatError(
                f"{self.where}: expected {key} to be 4 rows of 4 numbers, got {_short(value)}. Correct the file."
            )
        if len(numbers) == 3:
            numbers.append([0.0, 0.0, 0.0, 1.0])
        return torch.tensor(numbers, dtype=torch.float64)


def read_table(path: Path) -> tuple[Table, bytes]:
    """Read a JSON object from ``path``; returns it with the file's bytes.

    Raises:
        MissingFileError: no such file. FormatError: unreadable, not JSON, or not an object.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file. Give a capture's folder or its JSON file.") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}). Check the file and its permissions.") from error
    try:
        values = json.loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise FormatError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}). "
            "Correct it, or copy the file again if it was cut short."
        ) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"{path}: not a JSON text file ({type(error).__name__}). Copy or export it again.") from error
    if not isinstance(values, dict):
        raise FormatError(f"{path}: expected a JSON object, got {_short(values)}. Export it again.")
    return Table(str(path), values), raw


def read_frames(table: Table, file: Path, root: Path, *, allow_outside: bool) -> tuple[list[Frame], list[Skipped]]:
    """Every frame of ``table``, checked, in the order of the file; and those that repeat an earlier one, left out.

    A frame's lens keys win over the file's. Paths are relative to ``root``; missing extensions are found on disk.

    Raises:
        FormatError: frames missing or not a list, a wrong type, a pose that is not rigid, a lens without focal length,
        one picture with two poses or lenses.
    """
    entries = table.values.get("frames")
    if not isinstance(entries, list):
        raise FormatError(f"{file}: expected 'frames' to be a list, got {_short(entries)}. Export the file again.")
    if not entries:
        raise FormatError(f"{file}: the list of frames is empty. Export the capture again, with its pictures.")
    frames = []
    for index, entry in enumerate(entries):
        where = f"{file}: frame {index}"
        if not isinstance(entry, dict):
            raise FormatError(f"{where}: expected an object, got {_short(entry)}. Correct or remove the frame.")
        name = Table(where, entry).text("file_path")
        if not name:
            raise FormatError(f"{where}: no file_path. Add it or remove the frame.")
        own = Table(f"{where} ({name})", entry)
        mask, depth = own.text("mask_path"), own.text("depth_file_path")
        path = resolve_inside(root, name, listed_in=where, allow_outside=allow_outside)
        found = find_image(path)
        if found is not path:
            # A link may hide behind the missing extension.
            found = resolve_inside(root, str(found), listed_in=where, allow_outside=allow_outside)
        frame = Frame(
            name=name,
            path=found,
            mask_path=resolve_inside(root, mask, listed_in=where, allow_outside=allow_outside) if mask else None,
            pose=_read_pose(own),
            intrinsics=read_intrinsics(Table(own.where, {**table.values, **entry})),
            depth_path=resolve_inside(root, depth, listed_in=where, allow_outside=allow_outside) if depth else None,
            stops=own.number("exposure_stops", above=-MOST_STOPS, below=MOST_STOPS) or 0.0,
        )
        frames.append((own.where, frame))
    return without_repeats(frames)


def read_depth_unit(table: Table) -> float | None:
    """What one step of the depth images is worth in the file's units, or None where it does not say."""
    return table.number("depth_unit_scale_factor", above=0.0, below=MOST_DEPTH_UNIT)


def read_intrinsics(table: Table) -> Intrinsics:
    """The lens that a table (file keys overlaid by a frame's) describes."""
    width = table.whole("w", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    height = table.whole("h", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    model = _read_model(table)
    # A whole turn may be rounded up.
    widest = math.pi if model == "perspective" else 2 * math.pi + 1e-3
    focal = (table.number("fl_x", above=0.0), table.number("fl_y", above=0.0))
    angle = (
        table.number("camera_angle_x", above=0.0, below=widest),
        table.number("camera_angle_y", above=0.0, below=widest),
    )
    if model == "orthographic" or model in COEFFICIENTS:
        angle = (None, None)
    elif model == "equirectangular":
        focal = tuple(None if value is None else value / _focal_unit(model) for value in focal)  # type: ignore[assignment]
        angle = (2 * math.pi, math.pi) if angle == (None, None) else angle
    if focal == (None, None) and angle == (None, None):
        angles = "" if model == "orthographic" or model in COEFFICIENTS else " or camera_angle_x (radians)"
        raise FormatError(f"{table.where}: no focal length. Add fl_x (pixels){angles} to the file.")
    # A stated focal length of one axis stands for both before an angle of the other axis is looked at.
    if focal[0] is not None or focal[1] is not None:
        angle = (None, None)
    return Intrinsics(
        size=(width, height) if width is not None and height is not None else None,
        focal=focal,
        angle=angle,
        principal=(table.number("cx"), table.number("cy")),
        distortion=_read_distortion(table, model),
        model=model,
        crop_radius=table.number("fisheye_crop_radius", above=0.0) if model in _CROPPED else None,
    )


def lens_keys(intrinsics: Intrinsics, size: tuple[int, int]) -> dict[str, Any]:
    """The keys that state a lens for pictures of ``size``: what ``read_intrinsics`` reads back.

    ``crop_border`` has none.
    """
    (fx, fy), (cx, cy) = intrinsics.resolve(size)
    unit = _focal_unit(intrinsics.model)
    keys: dict[str, Any] = {"w": size[0], "h": size[1], "fl_x": fx * unit, "fl_y": fy * unit, "cx": cx, "cy": cy}
    keys["camera_model"] = CAMERA_MODELS[intrinsics.model]
    if intrinsics.model in _CROPPED and intrinsics.crop_radius is not None:
        keys["fisheye_crop_radius"] = intrinsics.crop_radius
    if intrinsics.model in COEFFICIENTS:
        return keys | dict(zip(COEFFICIENTS[intrinsics.model], intrinsics.distortion, strict=True))
    lens, below = intrinsics.distortion[:6], intrinsics.distortion[6:]
    if any(below):
        k1, k2, k3, k4, p1, p2 = lens
        if k4:
            raise FormatError("expected a rational lens without an r^8 term: transforms.json has no place for both.")
        keys["camera_model"] = _RATIONAL
        keys.update(zip(_RATIONAL_DISTORTION, (k1, k2, k3, p1, p2, *below), strict=True))
    elif any(lens):
        keys.update(zip(_DISTORTION, lens, strict=True))
    return keys


def _focal_unit(model: CameraModel) -> float:
    """The file's focal length per ours: nerfstudio states half the width of a full panorama, which is pixels per half
    turn, not per radian.
    """
    return math.pi if model == "equirectangular" else 1.0


def _read_distortion(table: Table, model: CameraModel) -> tuple[float, ...]:
    if model in COEFFICIENTS:
        stated = {key: table.number(key) for key in COEFFICIENTS[model]}
        missing = [key for key, value in stated.items() if value is None]
        if missing:
            raise FormatError(
                f"{table.where}: expected {', '.join(stated)} of a {CAMERA_MODELS[model]} lens, got no {missing[0]}. "
                "Export it again."
            )
        return tuple(value for value in stated.values() if value is not None)
    if table.text("camera_model") == _RATIONAL:
        k1, k2, k3, p1, p2, *below = (table.number(key) or 0.0 for key in _RATIONAL_DISTORTION)
        return k1, k2, k3, 0.0, p1, p2, *below
    k1, k2, k3, k4, p1, p2 = (table.number(key) or 0.0 for key in _DISTORTION)
    if model not in LENSES and any((k1, k2, k3, k4, p1, p2)):
        raise FormatError(
            f"{table.where}: expected no distortion (k1..k4, p1, p2) for {model} cameras. Remove it or undistort the "
            "pictures."
        )
    return k1, k2, k3, k4, p1, p2


def _read_model(table: Table) -> CameraModel:
    stated = table.text("camera_model")
    if any(key.startswith("ftheta_") for key in table.values):
        raise FormatError(f"{table.where}: f-theta lenses are not supported. Undistort the pictures to PINHOLE.")
    if stated is None:
        return "fisheye" if table.values.get("is_fisheye") is True else "perspective"
    if stated in _MODELS:
        return _MODELS[stated]
    known = ", ".join((*CAMERA_MODELS.values(), *_PERSPECTIVE[1:3], _RATIONAL))
    raise FormatError(
        f"{table.where}: camera_model {stated!r} is not supported (known: {known}). Undistort the pictures."
    )


def _read_pose(table: Table) -> Pose:
    """The frame's pose, checked to be rigid and cleaned of rounding."""
    matrix = table.matrix("transform_matrix")
    if matrix is None:
        raise FormatError(f"{table.where}: no transform_matrix. Add the camera-to-world pose or remove the frame.")
    return rigid_pose(matrix, where=table.where, name="transform_matrix")


def _as_float(value: Any) -> float | None:
    """A JSON number as a float (NaN and infinities included); None for anything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _short(value: Any) -> str:
    """A value for a message, cut to one short line."""
    if value is None:
        return "nothing"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."
