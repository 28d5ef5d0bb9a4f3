"""COLMAP captures: a sparse model (binary or text) beside a folder of photographs.

The model is looked for in ``sparse/0``, ``sparse``, ``colmap/sparse/0`` and ``colmap/sparse``, the pictures in
``images``, or in ``images_2``, ``images_4``, ... where only reduced ones are there. COLMAP's poses are world-to-camera
with OpenCV's axes (+Y down, looks along +Z); its pixels are ours: the first one's centre is (0.5, 0.5). Sources:
https://colmap.github.io/format.html and https://colmap.github.io/cameras.html.

Masks lie in ``masks`` under the names that COLMAP's own ``--ImageReader.mask_path`` wants, ``masks/a.jpg.png`` for
``images/a.jpg``, or as ``masks/a.png``; black is ignored (https://colmap.github.io/faq.html#mask-image-regions).

Frames are taken in order of their name, and every 8th of the pictures that exist is held out
(``CaptureOptions.eval_every``). Pictures without file, pose or camera are skipped and listed; points that no picture
saw or that lie nowhere are left out and counted.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voxfield.data.capture import (
    IMAGE_SUFFIXES,
    Capture,
    CaptureOptions,
    Frame,
    Intrinsics,
    Split,
    digest,
    reduced_only,
    resolve_inside,
)
from voxfield.data.formats.colmap_model import (
    Camera,
    Image,
    Points,
    find_table,
    read_bytes,
    read_cameras,
    read_images,
    read_points,
)
from voxfield.data.formats.photo_capture import MASKS, find_mask, mask_names, photo_capture
from voxfield.data.formats.poses import LARGEST_NUMBER, Pose, from_opencv
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE
from voxfield.data.sparse_points import ObservedPoints, SparsePoints
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.camera import CameraModel
from voxfield.geometry.lenses import COEFFICIENTS
from voxfield.geometry.ndc import is_forward_facing
from voxfield.geometry.rotations import rotations_from_quaternions
from voxfield.storage.skipped import Skipped

MODEL_FOLDERS: Final = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse")
_LENSES: Final[dict[str, tuple[CameraModel, str]]] = {
    "SIMPLE_PINHOLE": ("perspective", "f cx cy"),
    "PINHOLE": ("perspective", "fx fy cx cy"),
    "SIMPLE_RADIAL": ("perspective", "f cx cy k1"),
    "RADIAL": ("perspective", "f cx cy k1 k2"),
    "OPENCV": ("perspective", "fx fy cx cy k1 k2 p1 p2"),
    "FULL_OPENCV": ("perspective", "fx fy cx cy k1 k2 p1 p2 k3 d1 d2 d3"),
    "OPENCV_FISHEYE": ("fisheye", "fx fy cx cy k1 k2 k3 k4"),
    "SIMPLE_RADIAL_FISHEYE": ("fisheye", "f cx cy k1"),
    "RADIAL_FISHEYE": ("fisheye", "f cx cy k1 k2"),
    "SIMPLE_FISHEYE": ("fisheye", "f cx cy"),
    "FISHEYE": ("fisheye", "fx fy cx cy"),
    "FOV": ("fov", "fx fy cx cy omega"),
    "SIMPLE_DIVISION": ("division", "f cx cy k"),
    "DIVISION": ("division", "fx fy cx cy k"),
    "EUCM": ("eucm", "fx fy cx cy alpha beta"),
    "THIN_PRISM_FISHEYE": ("thin_prism_fisheye", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        "rad_tan_thin_prism_fisheye",
        "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3",
    ),
    "EQUIRECTANGULAR": ("equirectangular", "w h"),
}
"""Every model of COLMAP's, with its parameters in order; d1..d3 are the denominator's (COLMAP's k4..k6)."""
_OPENCV: Final = ("k1", "k2", "k3", "k4", "p1", "p2")


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a COLMAP model of cameras and images beside pictures, or that model's list of
    images.
    """
    root = _root_of(path)
    return root is not None and _find_model(root) is not None and _has_pictures(root)


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split.

    Raises:
        MissingFileError: no model. FormatError: files cut short or malformed, camera models that cannot be
        represented, paths that lead outside, no picture with a pose, masks that are no picture's.
    """
    root = _root_of(path) or path
    model = _find_model(root)
    if model is None:
        raise MissingFileError(
            f"{path}: no COLMAP model. Expected cameras and images (.bin or .txt) in one of {', '.join(MODEL_FOLDERS)}."
        )
    images = sorted(read_images(model.images), key=lambda image: image.name)
    posed, skipped = _pose_all(images, read_cameras(model.cameras), root, model, options)
    _check_masks(root, posed)
    points, observed, points_left_out = _sparse(model.points, posed)
    capture = photo_capture(
        format="colmap",
        file=model.images,
        root=root,
        frames=[one.frame for one in posed],
        left_out=skipped,
        split=split,
        options=options,
        source={
            "json_hash": digest(*(read_bytes(file) for file in model if file is not None)),
            "model": model.images.parent.relative_to(root).as_posix(),
            "points": 0 if points is None else len(points),
            "points_left_out": points_left_out,
        },
        reduced_only=reduced_only(root),
    )
    return replace(capture, forward_facing=_forward_facing(posed, observed), points=points, observed=observed)


class _Model(NamedTuple):
    """The files of a sparse model."""

    cameras: Path
    images: Path
    points: Path | None


class _Posed(NamedTuple):
    """A picture with everything it takes to use it."""

    frame: Frame
    image: Image
    rotation: Tensor
    """(3, 3) float64, world to camera, OpenCV's axes."""
    shift: Tensor
    """(3,) float64, world to camera."""


def _root_of(path: Path) -> Path | None:
    """The capture's folder: ``path`` itself, or the one that holds the model whose list of images ``path`` is."""
    if path.is_dir():
        return path
    if path.name not in ("images.bin", "images.txt"):
        return None
    roots = [root for root in path.parents for folder in MODEL_FOLDERS if root / folder == path.parent]
    return next((root for root in roots if _has_pictures(root)), None)


def _has_pictures(root: Path) -> bool:
    return (root / "images").is_dir() or bool(reduced_only(root))


def _find_model(path: Path) -> _Model | None:
    for folder in MODEL_FOLDERS:
        cameras, images = find_table(path / folder, "cameras"), find_table(path / folder, "images")
        if cameras is not None and images is not None:
            return _Model(cameras, images, find_table(path / folder, "points3D"))
    return None


def _pose_all(
    images: list[Image], cameras: dict[int, Camera], root: Path, model: _Model, options: CaptureOptions
) -> tuple[list[_Posed], list[Skipped]]:
    """Pictures with pose and lens, and those that lack one."""
    posed: list[_Posed] = []
    skipped: list[Skipped] = []
    lenses = {
        number: _read_lens(cameras[number], f"{model.cameras}: camera {number}")
        for number in sorted({image.camera for image in images} & set(cameras))
    }
    for image in images:
        fault = _fault(image, lenses)
        if fault is None and posed and posed[-1].frame.name == image.name:
            if _place(posed[-1].image) != _place(image):
                raise FormatError(
                    f"{model.images}: lists {image.name} twice, with different poses. Keep the right one."
                )
            fault = f"{model.images}: lists it twice. Remove one."
        if fault is not None:
            skipped.append(Skipped(path=image.name, reason=fault))
            continue
        path = resolve_inside(
            root, f"images/{image.name}", listed_in=str(model.images), allow_outside=options.allow_outside
        )
        rotation = rotations_from_quaternions(torch.tensor([image.quaternion], dtype=torch.float64))[0]
        shift = torch.tensor(image.translation, dtype=torch.float64)
        frame = Frame(
            name=image.name,
            path=path,
            mask_path=find_mask(
                root, mask_names(image.name), listed_in=str(model.images), allow_outside=options.allow_outside
            ),
            pose=_camera_to_world(rotation, shift),
            intrinsics=lenses[image.camera],
        )
        posed.append(_Posed(frame, image, rotation, shift))
    return posed, skipped


def _place(image: Image) -> tuple[object, ...]:
    """What says where a picture was taken, and through which lens."""
    return image.quaternion, image.translation, image.camera


def _check_masks(root: Path, posed: list[_Posed]) -> None:
    """Raise FormatError where there are masks, but of no picture: they were meant for something."""
    if not posed or any(one.frame.mask_path is not None for one in posed):
        return
    masks = (path for path in sorted((root / MASKS).rglob("*")) if path.suffix in IMAGE_SUFFIXES)
    stray = next(masks, None)
    if stray is not None:
        names = " or ".join(mask_names(posed[0].frame.name))
        raise FormatError(
            f"{root / MASKS}: expected masks named after their pictures ({names}), got none, but "
            f"{stray.relative_to(root / MASKS)}. Rename the masks, or the folder to do without."
        )


def _fault(image: Image, lenses: dict[int, Intrinsics]) -> str | None:
    """Why a picture cannot be placed, or None."""
    if not image.name:
        return "it has no name. Export the model again."
    numbers = (*image.quaternion, *image.translation)
    if not all(math.isfinite(number) and abs(number) <= LARGEST_NUMBER for number in numbers):
        return "its pose holds NaN, infinite or huge numbers. Register the picture again."
    if math.hypot(*image.quaternion) < 1e-6:
        return "its rotation is the zero quaternion. Register the picture again."
    if image.camera not in lenses:
        return f"its camera {image.camera} is not in the model. Export the model again."
    return None


def _camera_to_world(rotation: Tensor, shift: Tensor) -> Pose:
    """COLMAP's world-to-camera, OpenCV axes, as camera-to-world, OpenGL axes."""
    pose = torch.cat([rotation.T, -(rotation.T @ shift)[:, None]], dim=1)
    return tuple(tuple(row) for row in from_opencv(pose).tolist())


def _read_lens(camera: Camera, where: str) -> Intrinsics:
    """A camera as our lens model; raises FormatError where its numbers make none."""
    model, names = _LENSES[camera.kind.name]
    values = dict(zip(names.split(), camera.parameters, strict=True))
    if not (1 <= camera.width <= MOST_PIXELS_A_SIDE and 1 <= camera.height <= MOST_PIXELS_A_SIDE):
        raise FormatError(
            f"{where}: expected a size of 1 to {MOST_PIXELS_A_SIDE} pixels, got {camera.width}x{camera.height}. "
            "Export the model again."
        )
    if model == "equirectangular":
        # A full panorama; COLMAP's own numbers are the size over again.
        width, height = values["w"], values["h"]
        values |= {"fx": width / math.tau, "fy": height / math.pi, "cx": width / 2, "cy": height / 2}
    focal = (values.get("fx", values.get("f", math.nan)), values.get("fy", values.get("f", math.nan)))
    usable = all(math.isfinite(value) and abs(value) <= LARGEST_NUMBER for value in values.values())
    if not (usable and min(focal) > 0):
        raise FormatError(
            f"{where}: expected finite parameters with focal lengths above 0, got {list(camera.parameters)}. "
            "Calibrate it again."
        )
    below = tuple(values.get(name, 0.0) for name in ("d1", "d2", "d3"))
    distortion = tuple(values.get(name, 0.0) for name in COEFFICIENTS.get(model, _OPENCV))
    return Intrinsics(
        size=(camera.width, camera.height),
        focal=focal,
        angle=(None, None),
        principal=(values["cx"], values["cy"]),
        distortion=(*distortion, *below) if any(below) else distortion,
        model=model,
    )


def _sparse(
    file: Path | None, posed: list[_Posed]
) -> tuple[SparsePoints | None, tuple[ObservedPoints, ...] | None, int]:
    """(points, what each picture saw of them, how many points were left out)."""
    if file is None:
        return None, None, 0
    table = read_points(file)
    # NaN compares false.
    keep = (np.abs(table.positions) <= LARGEST_NUMBER).all(axis=1) & (table.track_lengths > 0)
    known = (table.errors >= 0) & (table.errors <= LARGEST_NUMBER)
    errors = np.where(known, table.errors, np.nan)
    table = Points(
        ids=table.ids[keep],
        positions=table.positions[keep],
        errors=errors[keep],
        track_lengths=table.track_lengths[keep],
    )
    points = SparsePoints(
        positions=torch.from_numpy(table.positions),
        errors=torch.from_numpy(table.errors.astype(np.float32)),
        track_lengths=torch.from_numpy(table.track_lengths),
    )
    order = np.argsort(table.ids, kind="stable")
    observed = tuple(_observe(one, table, order) for one in posed)
    return points, observed, int((~keep).sum())


def _observe(one: _Posed, table: Points, order: NDArray[np.int64]) -> ObservedPoints:
    """The points a picture saw in front of it; ``order`` sorts the table by id."""
    ids = one.image.points
    if len(table.ids):
        place = order[np.searchsorted(table.ids, ids, sorter=order).clip(max=len(table.ids) - 1)]
        seen = table.ids[place] == ids
    else:
        place, seen = np.zeros_like(ids), np.zeros(len(ids), dtype=bool)
    place, pixels = place[seen], one.image.pixels[seen]
    depth = table.positions[place] @ one.rotation[2].numpy() + float(one.shift[2])
    ahead = (depth > 0) & (np.abs(pixels) <= LARGEST_NUMBER).all(axis=1)
    return ObservedPoints(
        pixels=torch.from_numpy(pixels[ahead].astype(np.float32)),
        depth=torch.from_numpy(depth[ahead].astype(np.float32)),
        errors=torch.from_numpy(table.errors[place[ahead]].astype(np.float32)),
    )


def _forward_facing(posed: list[_Posed], observed: tuple[ObservedPoints, ...] | None) -> bool:
    """Whether all cameras look the same way from before the nearest points (all but 1 % of them)."""
    depth = torch.cat([seen.depth for seen in observed or ()] or [torch.zeros(0)])
    if not len(depth):
        return False
    near = float(depth.sort().values[len(depth) // 100])
    poses = torch.tensor([one.frame.pose for one in posed], dtype=torch.float64)
    return is_forward_facing(poses, near)
