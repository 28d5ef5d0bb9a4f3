"""Captures of the Eyeful Tower data set (Xu et al. 2023, VR-NeRF, https://github.com/facebookresearch/EyefulTower).

A scene's folder holds ``cameras.json`` (``KRT``: per picture ``cameraId``, ``width``, ``height``, ``K`` and the
world-to-camera ``T`` with OpenCV axes, both column by column, ``distortionModel``, ``distortion``), the same cameras as
Metashape's ``cameras.xml`` with rigs, ``splits.json`` with lists ``train`` and ``test``, and folders of pictures at
several sizes, all of the calibration at full size. ``cameras.json`` is read where it is there, else ``cameras.xml``.

Give the scene's folder (the first of ``FOLDERS`` that exists is read: JPEGs before EXRs) or one of its folders of
pictures. The EXRs are linear light, merged from bracketed exposures. World coordinates are metres, +Y up. Version 1 of
the rig has fisheye lenses, whose rim shows the rig: pictures of the scenes in ``CROP_RADII`` count only within a
circle, as nerfstudio's downloader sets it
(https://github.com/nerfstudio-project/nerfstudio/blob/main/nerfstudio/scripts/downloads/eyeful_tower.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from voxfield.data.capture import Capture, CaptureOptions, Frame, Intrinsics, Split, digest, resolve_inside
from voxfield.data.decode import Size, read_header
from voxfield.data.formats.metashape_xml import looks_like_export, read_export
from voxfield.data.formats.photo_capture import mentions, photo_capture
from voxfield.data.formats.poses import Pose, from_opencv, rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE, Table, read_table
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.camera import CameraModel
from voxfield.storage.skipped import Skipped

KRT_FILE: Final = "cameras.json"
XML_FILE: Final = "cameras.xml"
SPLITS_FILE: Final = "splits.json"
FOLDERS: Final = {
    "images-jpeg-2k": ".jpg",
    "images-jpeg-1k": ".jpg",
    "images-jpeg-4k": ".jpg",
    "images-jpeg-8k": ".jpg",
    "images-jpeg": ".jpg",
    "images-2k": ".exr",
    "images-1k": ".exr",
    "images-exr-2k": ".exr",
    "images-exr-1k": ".exr",
}
"""Folders of pictures, the preferred ones first, and how their files end. Linear ones are called by either name."""
CROP_RADII: Final = {"office1a": 0.43, "office2": 0.45, "seating_area": 0.375, "table": 0.45, "workshop": 0.45}
"""Radius of the circle that counts in a scene's fisheye pictures, as a share of the longer side."""

HEADERS_READ: Final = 9
"""Pictures whose size is looked at; one of another size among them is left out later and does not mislead."""
MOST_STRETCH: Final = 0.01
"""How far the two axes' reductions may differ: sizes are rounded to whole pixels."""


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """One picture as the calibration has it."""

    name: str
    """``<camera>/<camera>_<picture>``, without ending."""
    pose: Pose
    intrinsics: Intrinsics
    """At the calibration's full size."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a scene's folder, one of its folders of pictures, or its file of cameras."""
    if not path.is_dir() and path.name not in {KRT_FILE, XML_FILE}:
        return False
    scene, _ = _places(path)
    return _krt_in(scene) or (_xml_in(scene) and any((scene / name).is_dir() for name in FOLDERS))


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split: the lists of ``splits.json``, else every n-th picture in order of its path.

    Raises:
        MissingFileError: no cameras or no folder of pictures. FormatError: malformed cameras or lists.
    """
    scene, named = _places(path)
    folder = _pictures_folder(scene, named)
    use_json = (scene / KRT_FILE).is_file() and not (path.name == XML_FILE and path.is_file())
    file = scene / (KRT_FILE if use_json else XML_FILE)
    cameras, left_out, raw = _read_krt(file) if use_json else _read_xml(file)
    ending = FOLDERS[folder.name]
    known = {camera.name: f"{folder.name}/{camera.name}{ending}" for camera in cameras}
    lists, splits_raw = _read_splits(scene / SPLITS_FILE, known)
    cameras = sorted(cameras, key=lambda one: one.name)
    twice = next((one.name for one, other in zip(cameras, cameras[1:], strict=False) if one.name == other.name), None)
    if twice is not None:
        raise FormatError(f"{file}: has two cameras {twice!r}. Keep the right one, or download the file again.")
    names = [known[camera.name] for camera in cameras]
    wheres = [f"{file}: camera {camera.name!r}" for camera in cameras]
    paths = [
        resolve_inside(scene, name, listed_in=where, allow_outside=options.allow_outside)
        for name, where in zip(names, wheres, strict=True)
    ]
    sizes = _sizes(cameras, paths)
    radius = CROP_RADII.get(scene.resolve().name)
    frames = [
        Frame(
            name=name,
            path=picture,
            mask_path=None,
            pose=camera.pose,
            intrinsics=_at_size(camera.intrinsics, sizes, radius, where),
        )
        for camera, name, where, picture in zip(cameras, names, wheres, paths, strict=True)
    ]
    return photo_capture(
        format="eyefultower",
        file=file,
        root=scene,
        frames=frames,
        left_out=left_out,
        split=split,
        options=options,
        lists=lists,
        source={"pictures": folder.name, "json_hash": digest(raw, splits_raw)},
    )


def _places(path: Path) -> tuple[Path, Path | None]:
    """The scene's folder, and the folder of pictures if ``path`` names one."""
    if not path.is_dir():
        return path.parent, None
    if path.name in FOLDERS:
        scene = path.absolute().parent
        if _krt_in(scene) or _xml_in(scene):
            return scene, path
    return path, None


def _krt_in(scene: Path) -> bool:
    return mentions(scene / KRT_FILE, b'"KRT"', within=65536)


def _xml_in(scene: Path) -> bool:
    return looks_like_export(scene / XML_FILE)


def _pictures_folder(scene: Path, named: Path | None) -> Path:
    found = named or next((scene / name for name in FOLDERS if (scene / name).is_dir()), None)
    if found is None:
        wanted = scene / next(iter(FOLDERS))
        raise MissingFileError(f"{wanted}: no such folder. Download it, or another size of the pictures.")
    return found


def _read_krt(file: Path) -> tuple[list[_Camera], list[Skipped], bytes]:
    table, raw = read_table(file)
    entries = table.values.get("KRT")
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{file}: expected 'KRT' to be a list of cameras. Download the file again.")
    cameras = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FormatError(f"{file}: camera {index}: expected an object. Download the file again.")
        name = Table(f"{file}: camera {index}", entry).text("cameraId")
        if not name:
            raise FormatError(f"{file}: camera {index}: no cameraId. Download the file again.")
        own = Table(f"{file}: camera {name!r}", entry)
        cameras.append(_Camera(name=name, pose=_krt_pose(own), intrinsics=_krt_lens(own)))
    return cameras, [], raw


def _krt_pose(own: Table) -> Pose:
    """World-to-camera, column by column, OpenCV axes, as camera-to-world, OpenGL axes."""
    stored = own.matrix("T")
    if stored is None:
        raise FormatError(f"{own.where}: no T. Download the file again.")
    world_to_camera = torch.tensor(rigid_pose(stored.T, where=own.where, name="T"), dtype=torch.float64)
    rotation = world_to_camera[:, :3].T
    pose = torch.cat([rotation, -rotation @ world_to_camera[:, 3:]], dim=1)
    return rigid_pose(from_opencv(pose), where=own.where, name="T")


def _krt_lens(own: Table) -> Intrinsics:
    width = own.whole("width", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    height = own.whole("height", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    if width is None or height is None:
        raise FormatError(f"{own.where}: no width or height. Download the file again.")
    columns = own.values.get("K")
    columns = columns if isinstance(columns, list) and len(columns) == 3 else [None] * 3
    first, second, third = (Table(own.where, {"K": column}).numbers("K", 3) or [math.nan] * 3 for column in columns)
    fx, fy, cx, cy = first[0], second[1], third[0], third[1]
    zeros = (first[1], first[2], second[2], third[2] - 1)
    if not (0 < fx < math.inf and 0 < fy < math.inf) or any(value != 0 for value in zeros) or abs(second[0]) > 0.25:
        raise FormatError(
            f"{own.where}: expected K to be fx 0 0, 0 fy 0, cx cy 1 (column by column), focal lengths above 0, got "
            f"{own.values.get('K')!r:.80}. Download the file again."
        )
    model, distortion = _krt_distortion(own)
    return Intrinsics(
        size=(width, height),
        focal=(fx, fy),
        angle=(None, None),
        principal=(cx, cy),
        distortion=distortion,
        model=model,
    )


def _krt_distortion(own: Table) -> tuple[CameraModel, tuple[float, float, float, float, float, float]]:
    """(model, (k1, k2, k3, k4, p1, p2)) of ``distortion``: k1 k2 p1 p2 k3 of a pinhole lens, k1 k2 k3 k4 _ _ p1 p2 of
    a fisheye one (whose k4 is 0 in the published scenes; its p1 and p2, small, have no part in ``Cameras``' model).
    """
    model = own.text("distortionModel")
    numbers = own.numbers("distortion") or []
    if not all(math.isfinite(number) for number in numbers):
        raise FormatError(f"{own.where}: distortion holds NaN or infinite numbers. Download the file again.")
    if model == "RadialAndTangential" and len(numbers) == 5:
        k1, k2, p1, p2, k3 = numbers
        return "perspective", (k1, k2, k3, 0.0, p1, p2)
    if model == "Fisheye" and len(numbers) == 8:
        k1, k2, k3, k4, _, _, p1, p2 = numbers
        return "fisheye", (k1, k2, k3, k4, p1, p2)
    raise FormatError(
        f"{own.where}: expected distortionModel RadialAndTangential with 5 numbers or Fisheye with 8, got {model!r} "
        f"with {len(numbers)}. Download the file again."
    )


def _read_xml(file: Path) -> tuple[list[_Camera], list[Skipped], bytes]:
    """The cameras of Metashape's export: label 10_DSC0001 is the picture 10/10_DSC0001."""
    export = read_export(file)
    cameras = []
    for camera in export.cameras:
        stem = camera.label.rsplit(".", 1)[0] if camera.label.lower().endswith((".jpg", ".exr")) else camera.label
        folder, underscore, _ = stem.partition("_")
        name = f"{folder}/{stem}" if underscore and folder else stem
        cameras.append(_Camera(name=name, pose=camera.pose, intrinsics=camera.intrinsics))
    return cameras, list(export.left_out), export.raw


def _read_splits(file: Path, known: Mapping[str, str]) -> tuple[dict[str, frozenset[str]] | None, bytes]:
    """Frame names by split, or None without the file; and its bytes. ``known`` are frames' names by their cameras'."""
    if not file.is_file():
        return None, b""
    table, raw = read_table(file)
    lists: dict[str, list[str]] = {name: table.texts(name) or [] for name in ("train", "val", "test")}
    if not any(lists.values()):
        raise FormatError(f"{file}: expected lists 'train' and 'test'. Download the file again.")
    seen: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if name not in known:
                raise FormatError(
                    f"{file}: {split} lists {name!r}, which is not among the cameras. Correct it or download it again."
                )
            if seen.setdefault(name, split) != split:
                raise FormatError(f"{file}: lists {name!r} for both {seen[name]} and {split}. Keep it in one of them.")
    return {split: frozenset(known[name] for name in names) for split, names in lists.items()}, raw


def _sizes(cameras: Sequence[_Camera], paths: Sequence[Path]) -> dict[Size, Size]:
    """Full size -> size of the folder's pictures: the commonest of the first few that can be read."""
    found: dict[Size, list[Size]] = {}
    for camera, picture in zip(cameras, paths, strict=True):
        full = camera.intrinsics.size
        if full is None or len(found.setdefault(full, [])) == HEADERS_READ:
            continue
        try:
            found[full].append(read_header(picture).size)
        except FormatError:
            # It is reported when the pictures are opened.
            continue
    return {full: max(sizes, key=sizes.count) for full, sizes in found.items() if sizes}


def _at_size(full: Intrinsics, sizes: Mapping[Size, Size], radius: float | None, where: str) -> Intrinsics:
    """The lens at the size of the folder's pictures, with the scene's crop if it is a fisheye."""
    before: Any = full.size
    width, height = sizes.get(before, before)
    x, y = width / before[0], height / before[1]
    if abs(x / y - 1) > MOST_STRETCH:
        raise FormatError(
            f"{where}: calibrated at {before[0]}x{before[1]} pixels, but pictures are {width}x{height}: not the same "
            "shape. Download the pictures again."
        )
    return replace(
        full.at_size((width, height)),
        crop_radius=radius * max(width, height) if radius is not None and full.model == "fisheye" else None,
    )
