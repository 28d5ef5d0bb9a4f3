"""A capture as a reader hands it over: frames with poses and intrinsics, before any image is opened.

Readers (``data.formats``) turn a folder or file into a ``Capture``; ``data.capture_reading`` opens the images, settles
resolution and world, and makes ``PosedImages``. To add a format, write a module with ``recognises(path)`` and
``read(path, split, options)`` and list it in ``data.capture_reading``.
"""

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.colour import check_exposure
from voxfield.data.scales import Uneven, check_scales, check_schedule
from voxfield.data.sparse_points import ObservedPoints, SparsePoints
from voxfield.errors import FormatError, InputError
from voxfield.geometry import lenses
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import CameraModel
from voxfield.geometry.distortion import Coefficients, largest_radius
from voxfield.geometry.pose import Centre, Orientation, SceneTransform
from voxfield.storage.skipped import Skipped

Split = Literal["train", "val", "test"]
SPLITS: Final = ("train", "val", "test")
FormatName = Literal[
    "auto",
    "blender",
    "nerfstudio",
    "colmap",
    "llff",
    "pynerf",
    "record3d",
    "polycam",
    "neus",
    "eyefultower",
    "metashape",
]
FORMATS: Final[tuple[str, ...]] = get_args(FormatName)
IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".exr", ".EXR")
"""Endings tried, in this order, for a frame whose path has none."""


MOST_DEPTH_UNIT: Final = 1e6
"""Largest worth of one step of a depth image, in the capture's units."""


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """Which observed distances training is given."""

    source: Literal["off", "auto", "images", "points"] = "off"
    """``images``: the depth images that frames name; ``points``: the sparse points that pictures saw; ``auto``: images
    where the capture names some, else points."""
    unit: float | None = None
    """What one step of a depth image is worth, in the capture's units, above 0; None: what the capture's file says
    (``depth_unit_scale_factor``), else 0.001, metres from millimetres."""
    along: Literal["axis", "ray"] = "axis"
    """What a depth image measures: ``axis`` the distance along the optical axis, ``ray`` that from the camera's
    centre."""
    point_rays: float = 0.25
    """Rays to sparse points that a batch gets besides its own, as a share of those, above 0 to 4."""

    def __post_init__(self) -> None:
        check_choice("source", self.source, ("off", "auto", "images", "points"))
        check_choice("along", self.along, ("axis", "ray"))
        if self.unit is not None:
            check_range("unit", self.unit, above=0.0, maximum=MOST_DEPTH_UNIT)
        check_range("point_rays", self.point_rays, above=0.0, maximum=4.0)


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """How a capture is read."""

    format: FormatName = "auto"
    """Layout of the data; ``auto`` looks at the files."""
    downscale: int | Literal["auto"] = "auto"
    """Whole factor (>= 1) the pictures are reduced by; ``auto`` doubles it until the longest side is at most 1600
    pixels."""
    scales: tuple[int, ...] = (1,)
    """Whole factors, rising, that every picture is there reduced by once more, by area filtering: 1,2,4,8 for an
    anti-aliased field. Errors of their pixels count by their squares; each must divide the pictures."""
    uneven_scales: Uneven = "refuse"
    """What becomes of pictures that a scale does not divide: ``crop`` leaves the last rows and columns out of their
    copies at that scale."""
    shift_copies: bool = True
    """Pixels of reduced copies are learnt from anywhere on their picture, not only where the copy has them: coarse
    levels are then not learnt by heart. Of pictures that are all in memory and have no masks."""
    scale_schedule: dict[int, int] | None = None
    """From which step on which scales are learnt from, coarse to fine: {0: 8, 2000: 4, 5000: 2, 10000: 1} begins with
    8, adds 4 at step 2000, and so on. None: all of them from the start."""
    orientation: Orientation = "up"
    """``up`` turns the cameras' mean up to +Z, ``none`` keeps the axes of the file. Blender scenes keep theirs."""
    centre: Centre = "auto"
    """What goes to the origin: ``focus`` the point the cameras look at, ``poses`` their middle, ``none`` nothing
    moves; ``auto`` is focus when they look inward, else poses. Blender scenes keep their origin."""
    auto_scale: bool = True
    """Scale the world so that all camera centres fit in [-1, 1]^3. Blender scenes keep their units."""
    eval_every: int = 8
    """Without lists in the file, every ``eval_every``-th picture (>= 2) is held out: number 0, 8, 16, ... by path."""
    scene_bounds: tuple[float, float, float, float, float, float] | None = None
    """Region of interest in the world (x0, y0, z0, x1, y1, z1) in place of the format's own."""
    region: Literal["auto", "format", "points"] = "auto"
    """Where the region of interest comes from: ``format`` the layout's own rule, ``points`` the box around the middle
    98 % of the capture's sparse points; ``auto`` is points where there are some and the cameras do not look inward."""
    space: Literal["world", "ndc"] = "world"
    """Coordinates that the field is learnt in: ``ndc``, normalised device coordinates, for LLFF and COLMAP captures
    whose cameras all look the same way."""
    near: float | None = None
    """Nearest distance sampled along a ray, in world units (>= 0), in place of the format's own."""
    max_images: int | None = None
    """Keep at most this many pictures (>= 1) of the split, evenly spread."""
    cache_bytes: int = 1_500_000_000
    """Bytes of decoded pictures kept in memory (>= 1). Of captures beyond it a changing part is kept: random pixels of
    many pictures, and the pictures being decoded within the same bound."""
    rotate_every: int | None = None
    """Of captures beyond ``cache_bytes``: steps (>= 1) from one newly decoded picture to the next; None: 25 for 8k
    pictures, in proportion to their pixels, so that decoding takes a small share of two cores."""
    depth: DepthOptions = DepthOptions()
    """Distances to learn from, for models that do (``depth-nerfacto``)."""
    exposure: float | Literal["auto"] = "auto"
    """Linear pictures (EXR) only: factor on their values, above 0, that brings them to what a photograph shows as 0 to
    1. ``auto`` brings the log-average luminance of a few pictures to 0.18; a run records what it found."""
    tone_mu: float = 50.0
    """Linear pictures only: mu of the curve log(1 + mu x) / log(1 + mu) of exposed values x, above 0, in which errors
    are counted."""
    allow_outside: bool = False
    """Let paths in the file lead outside the data folder. Only for files you trust."""

    def __post_init__(self) -> None:
        check_choice("format", self.format, FORMATS)
        check_choice("region", self.region, ("auto", "format", "points"))
        check_choice("space", self.space, ("world", "ndc"))
        if self.downscale != "auto":
            if isinstance(self.downscale, bool) or not isinstance(self.downscale, int):
                raise InputError(f"downscale: expected a whole number or 'auto', got {self.downscale!r}.")
            check_range("downscale", self.downscale, minimum=1, maximum=4096)
        check_scales(self.scales)
        check_choice("uneven_scales", self.uneven_scales, get_args(Uneven))
        if self.scale_schedule is not None:
            check_schedule(self.scale_schedule)
        check_choice("orientation", self.orientation, ("up", "none"))
        check_choice("centre", self.centre, ("auto", "poses", "focus", "none"))
        check_range("eval_every", self.eval_every, minimum=2)
        check_range("cache_bytes", self.cache_bytes, minimum=1)
        if self.exposure != "auto":
            check_exposure("exposure", self.exposure)
        check_range("tone_mu", self.tone_mu, above=0.0, maximum=1e6)
        if self.rotate_every is not None:
            check_range("rotate_every", self.rotate_every, minimum=1)
        if self.near is not None:
            check_range("near", self.near, minimum=0.0, maximum=1e6)
        if self.max_images is not None:
            check_range("max_images", self.max_images, minimum=1)
        if self.scene_bounds is not None and len(self.scene_bounds) != 6:
            raise InputError(f"scene_bounds: expected 6 numbers x0 y0 z0 x1 y1 z1, got {self.scene_bounds}.")


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A frame's lens as its file states it, at the resolution the file speaks of."""

    size: tuple[int, int] | None
    """(width, height) in pixels; None when the file leaves it to the picture."""
    focal: tuple[float | None, float | None]
    """(fx, fy) in pixels, where stated."""
    angle: tuple[float | None, float | None]
    """Full fields of view (x, y) in radians, where stated."""
    principal: tuple[float | None, float | None]
    """(cx, cy) in pixels; None is the middle."""
    distortion: tuple[float, ...]
    """k1, k2, k3, k4, p1, p2 and, of rational lenses, d1, d2, d3 (``geometry.distortion``); of the models of
    ``geometry.lenses`` what its ``COEFFICIENTS`` lists."""
    model: CameraModel
    """The projection."""
    crop_radius: float | None = None
    """Pixels further than this from the picture's middle are ignored (the rim of a fisheye lens); None keeps all."""
    crop_border: int = 0
    """Pixels this near to an edge of the picture are ignored (>= 0; black rims that undistortion leaves)."""

    def resolve(self, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
        """((fx, fy), (cx, cy)) in pixels for a picture of ``size``; an axis without focal length or angle takes the
        other's.
        """
        focal: list[float | None] = []
        for axis in range(2):
            stated, angle = self.focal[axis], self.angle[axis]
            if stated is None and angle is not None:
                # Equidistant lenses and panoramas map angles linearly; a perspective lens maps tangents.
                half = math.tan(angle / 2) if self.model == "perspective" else angle / 2
                if not half > 0:
                    raise FormatError(f"a field of view of {angle:g}, expected more than 0. Correct the camera angle.")
                stated = size[axis] / 2 / half
            focal.append(stated)
        fx, fy = focal[0] or focal[1], focal[1] or focal[0]
        if fx is None or fy is None:
            raise FormatError("no focal length: the reader must ask for fl_x or camera_angle_x")
        cx = size[0] / 2 if self.principal[0] is None else self.principal[0]
        cy = size[1] / 2 if self.principal[1] is None else self.principal[1]
        return (fx, fy), (cx, cy)

    def at_size(self, size: tuple[int, int]) -> "Intrinsics":
        """The same lens for pictures reduced or enlarged to ``size``, where the file states theirs."""
        if self.size is None or self.size == size:
            return replace(self, size=size)
        (fx, fy), (cx, cy) = self.resolve(self.size)
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        return replace(
            self,
            size=size,
            focal=(fx * x, fy * y),
            principal=(cx * x, cy * y),
            crop_radius=None if self.crop_radius is None else self.crop_radius * min(x, y),
            crop_border=math.ceil(self.crop_border * max(x, y)),
        )

    def fault(self, size: tuple[int, int]) -> str | None:
        """What makes this lens impossible for a picture of ``size``, in words that say what to do; None if nothing."""
        focal, principal = self.resolve(size)
        if self.model == "equirectangular":
            turn, tilt = size[0] / focal[0], size[1] / focal[1]
            if turn > 2 * math.pi + 0.01 or tilt > math.pi + 0.01:
                return (
                    f"expected an equirectangular picture of at most 360x180 degrees, got {math.degrees(turn):.0f}x"
                    f"{math.degrees(tilt):.0f}. Correct fl_x and fl_y (half the width of a full panorama), or leave "
                    "them out."
                )
        if self.model in lenses.COEFFICIENTS:
            wrong = lenses.fault(self.model, self.distortion)
            if wrong is not None:
                return f"{wrong}. Calibrate the {self.model} lens again."
        if self.model == "fisheye" or self.model in lenses.COEFFICIENTS:
            reach = self._reach(focal)
            if self.crop_radius is not None:
                needed = self.crop_radius + math.dist(principal, (size[0] / 2, size[1] / 2))
            else:
                needed = min(principal[0], size[0] - principal[0], principal[1], size[1] - principal[1])
            if reach < needed:
                terms = ", ".join(lenses.COEFFICIENTS.get(self.model, ("k1..k4",)))
                return (
                    f"expected a {self.model} lens that shows every angle up to pi once within {needed:.0f} pixels of "
                    f"its axis, but its model turns back or ends at {reach:.0f}. Correct the focal length and {terms}, "
                    "or set fisheye_crop_radius below that."
                )
        return None

    def circle(self, size: tuple[int, int]) -> tuple[float, float, float] | None:
        """(x, y, radius) in pixels of a picture of ``size``: outside it nothing counts; None when all does.

        The stated crop about the picture's middle (as in nerfstudio), else what the model of a fisheye, or of
        another lens that ends, can show, about its axis.
        """
        if self.crop_radius is not None:
            return size[0] / 2, size[1] / 2, self.crop_radius
        if self.model != "fisheye" and self.model not in lenses.COEFFICIENTS:
            return None
        focal, (cx, cy) = self.resolve(size)
        reach = self._reach(focal)
        corner = math.hypot(max(cx, size[0] - cx), max(cy, size[1] - cy))
        return (cx, cy, reach) if reach < corner else None

    def _reach(self, focal: tuple[float, float]) -> float:
        """Pixels from the axis up to which every angle is shown once."""
        if self.model in lenses.COEFFICIENTS:
            return lenses.reach(self.model, self.distortion) * min(focal)
        lens = Coefficients(*torch.tensor(self.distortion, dtype=torch.float64)[:, None])
        return float(largest_radius(lens)) * min(focal)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of a capture, not yet opened."""

    name: str
    """Its path as the file gives it."""
    path: Path
    """Where it is, resolved; it may not exist."""
    mask_path: Path | None
    """Its mask (0 = ignore), resolved; it may not exist."""
    pose: tuple[tuple[float, ...], ...]
    """3 rows of 4: camera-to-world in capture coordinates, OpenGL axes, rigid."""
    intrinsics: Intrinsics
    depth_path: Path | None = None
    """Its depth image (16-bit grey, or a ``.npy`` array; 0 = unknown), resolved; it may not exist."""
    stops: float = 0.0
    """Of a linear picture: how much brighter than the others it was exposed; its values are light times 2 to that."""
    weight: float = 1.0
    """How much an error of one of its pixels counts, above 0: more for a coarse copy of an image than for its finest.
    Where weights differ, frames of the same pose are copies of one image."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What a reader returns: all frames, which of them are asked for, and how the world is to be laid out."""

    format: str
    """The reader's name."""
    file: Path
    """The file that lists the frames, for messages."""
    root: Path
    """The data folder."""
    frames: tuple[Frame, ...]
    """Every frame of the capture that poses are normalised over."""
    chosen: tuple[int, ...]
    """Indices of the split's frames in ``frames``, those with files present; in their order."""
    missing: tuple[Skipped, ...]
    """Pictures the reader leaves out: without a file, without a usable pose or camera, switched off."""
    normalised: bool
    """Whether orientation, centre and scale may be changed."""
    before: SceneTransform = field(default_factory=SceneTransform.identity)
    """What the file says was already applied to get from the original reconstruction to its poses."""
    bounds: Bounds
    """Region of interest: in capture coordinates when ``bounds_in_capture``, else in the world."""
    bounds_in_capture: bool
    """Which coordinates ``bounds`` is in."""
    unbounded: bool
    """Whether there is anything to see beyond the bounds."""
    near: float
    """Nearest distance sampled along a ray: in capture units when ``near_in_capture``, else in world units."""
    near_in_capture: bool = False
    """Which units ``near`` is in."""
    forward_facing: bool = False
    """Whether all cameras look the same way from before the scene, so that normalised device coordinates apply
    (``geometry.ndc``)."""
    reduced_only: tuple[int, ...] = ()
    """Factors of the folders of reduced pictures, ascending, where the full pictures are not there."""
    depth_unit: float | None = None
    """What one step of the depth images is worth in the capture's units, above 0, where the file says so."""
    points: SparsePoints | None = None
    """The reconstruction's sparse points, where the format has them."""
    observed: tuple[ObservedPoints, ...] | None = None
    """For every frame the sparse points it saw, where the format has them."""
    source: dict[str, object]
    """Facts about the source for the record: aabb_scale, split rule, hash of the files that list frames."""
    remarks: tuple[str, ...] = ()
    """What a person should know of it, a sentence each."""

    def poses(self) -> torch.Tensor:
        """(N, 3, 4) float64 poses of all frames."""
        return torch.tensor([frame.pose for frame in self.frames], dtype=torch.float64).reshape(-1, 3, 4)


def resolve_inside(root: Path, relative: str, *, listed_in: str, allow_outside: bool) -> Path:
    """The file a capture's path names, refused when it leads outside the data folder.

    ``..`` and symbolic links are followed first, so that neither hides where a path really leads.

    Raises:
        FormatError: starting with ``listed_in`` (the file and frame the path stands in), naming the path and what to
        do.
    """
    if "\0" in relative:
        raise FormatError(f"{listed_in}: a file path holds a NUL character; correct the entry.")
    try:
        resolved = (root / relative).resolve()
    except (OSError, RuntimeError) as error:
        raise FormatError(
            f"{listed_in}: the path {relative!r} cannot be followed ({error}); correct the entry."
        ) from error
    if not allow_outside and not resolved.is_relative_to(root.resolve()):
        raise FormatError(
            f"{listed_in}: the path {relative!r} leads outside the data folder {root}.\n"
            "Move the picture inside, or set capture.allow_outside=true if you trust this file."
        )
    return resolved


def find_image(path: Path) -> Path:
    """``path`` itself if it is a file, else with the first of ``IMAGE_SUFFIXES`` that exists, else ``path``
    unchanged.
    """
    if is_file(path) or not path.name:
        return path
    for suffix in IMAGE_SUFFIXES:
        candidate = path.with_name(path.name + suffix)
        if is_file(candidate):
            return candidate
    return path


def reduced_copy(path: Path, factor: int) -> Path | None:
    """The picture made beforehand in ``images_4`` for ``images`` and factor 4, if it exists (its ending may differ).

    The folder beside is that of the file's own folder or, for files in subfolders, of the ``images`` or ``masks`` above
    it.
    """
    if factor == 1:
        return None
    above = [parent for parent in path.parents[1:] if parent.name in ("images", "masks")][:1]
    for folder in (path.parent, *above):
        same = folder.with_name(f"{folder.name}_{factor}") / path.relative_to(folder)
        for candidate in (same, *(same.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)):
            if is_file(candidate):
                return candidate
    return None


def check_size(path: Path, size: tuple[int, int], stated: tuple[int, int], factor: int) -> None:
    """Raise FormatError unless the picture at ``path`` is of the ``stated`` size or, for a ``factor`` above 1, of that
    reduced by it, to within the rounding of any program.
    """
    expected = stated[0] / factor, stated[1] / factor
    if max(abs(size[0] - expected[0]), abs(size[1] - expected[1])) > (1.01 if factor > 1 else 0):
        raise FormatError(
            f"{path}: is {size[0]}x{size[1]} pixels, but its frame says {expected[0]:g}x{expected[1]:g}. "
            "Correct w and h, or restore the picture."
        )


def reduced_only(root: Path) -> tuple[int, ...]:
    """Factors of the folders ``images_2``, ``images_4``, ... below ``root``, ascending, where ``images`` is not there
    or empty; nothing where it holds something.
    """
    full = root / "images"
    try:
        if full.is_dir() and any(full.iterdir()):
            return ()
    except OSError as error:
        raise FormatError(f"{full}: cannot be read ({error.strerror}). Check the folder's permissions.") from error
    named = (path.name.removeprefix("images_") for path in root.glob("images_*") if path.is_dir())
    return tuple(sorted({int(factor) for factor in named if factor.isascii() and factor.isdigit() and int(factor) > 1}))


def is_present(path: Path, factors: tuple[int, ...]) -> bool:
    """Whether a picture or a copy of it reduced by one of ``factors`` is there."""
    return is_file(path) or any(reduced_copy(path, factor) is not None for factor in factors)


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file that can be reached: names the system refuses and closed folders count as absent."""
    try:
        return path.is_file()
    except OSError:
        return False


def every_nth(count: int, split: Split, every: int) -> list[int]:
    """Indices of [0, count) in ``split``: multiples of ``every`` are held out (val and test alike), the rest train."""
    held_out = split != "train"
    return [index for index in range(count) if (index % every == 0) == held_out]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` indices of [0, count), evenly spread and starting with the first."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]


def digest(*parts: bytes) -> str:
    """SHA-256 over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()
