"""The XML that Agisoft Metashape exports: cameras, lenses, rigs and components, checked as they are read.

Metashape's camera has OpenCV axes; its pose is camera to chunk. A component (or, in older files, the chunk) has a
similarity from there to the world. A camera of a rig's other sensors has no pose of its own: it is its master camera's
times the place of its sensor in the rig. Lenses follow Appendix D of the Metashape Professional manual,

    x' = x*(1 + k1*r2 + k2*r2^2 + k3*r2^3 + k4*r2^4) + p1*(r2 + 2*x*x) + 2*p2*x*y
    u = w/2 + cx + x'*f + x'*b1 + y'*b2,    v = h/2 + cy + y'*f

so p1 and p2 are OpenCV's p2 and p1, fx is f + b1, and b2 is a skew, which ``Cameras`` does not have. A fisheye lens has
the same terms of the angle. Sources: https://www.agisoft.com/pdf/metashape-pro_2_1_en.pdf and the converter of the
EyefulTower data set's authors (``metashape_to_krt.py``).
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import torch
from torch import Tensor

from voxfield.data.capture import Intrinsics
from voxfield.data.formats.photo_capture import mentions
from voxfield.data.formats.poses import LARGEST_NUMBER, Pose, from_opencv, rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.camera import CameraModel
from voxfield.geometry.pose import SceneTransform
from voxfield.storage.skipped import Skipped

MOST_BYTES: Final = 1 << 28
"""A camera takes about 2 kB: this is more than 100,000 of them."""
MOST_SKEW_PIXELS: Final = 0.25
"""What b2 may move a pixel by at the picture's edge and still be left out."""

_MODELS: Final[dict[str, CameraModel]] = {"frame": "perspective", "fisheye": "fisheye"}
_UNUSED: Final = ("p3", "p4", "k5")
"""Coefficients ``Cameras`` has no place for."""


@dataclass(frozen=True, kw_only=True)
class AlignedCamera:
    """A picture with its pose and lens."""

    label: str
    """The picture's name, often without its ending."""
    group: str | None
    """The camera group it is in."""
    pose: Pose
    """Camera to world, OpenGL axes."""
    intrinsics: Intrinsics


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export holds."""

    cameras: tuple[AlignedCamera, ...]
    """Those that are switched on, aligned, and have a lens that ``Cameras`` can express; in the file's order."""
    left_out: tuple[Skipped, ...]
    """The others, with reasons."""
    raw: bytes = field(repr=False)
    """The file."""


@dataclass(frozen=True, kw_only=True)
class _Sensor:
    intrinsics: Intrinsics | None
    """None when ``fault`` says why there is none."""
    fault: str
    """Why the lens cannot be used; empty when it can."""
    in_rig: Tensor | None
    """(4, 4): sensor to its rig's master; None outside rigs."""


def looks_like_export(file: Path) -> bool:
    """Whether the file begins as Metashape's exports do."""
    return mentions(file, b"<document", within=4096) and mentions(file, b"<chunk", within=65536)


def read_export(file: Path) -> Export:
    """Read an export.

    Raises:
        MissingFileError: no such file. FormatError: not such XML, a document type (entities could expand without
        limit), several chunks, malformed numbers, poses that are not rigid.
    """
    chunk, raw = _read_chunk(file)
    sensors = {_id(sensor): _read_sensor(sensor, file) for sensor in chunk.findall("sensors/sensor")}
    placements = _read_placements(chunk, file)
    listed = _listed(chunk)
    own = {_id(camera): camera for _, camera in listed}
    found: list[tuple[str | None, AlignedCamera]] = []
    left_out = []
    for group, camera in listed:
        label = camera.get("label") or f"camera {_id(camera)}"
        where = f"{file}: camera {label!r}"
        sensor = sensors.get(camera.get("sensor_id"))
        local, fault = _local_pose(camera, own, sensor, where)
        if camera.get("enabled") in {"false", "0"}:
            fault = "it is disabled in Metashape"
        elif sensor is None or sensor.intrinsics is None:
            fault = "its sensor is not in the file" if sensor is None else sensor.fault
        if fault or local is None or sensor is None or sensor.intrinsics is None:
            left_out.append(Skipped(path=label, reason=f"{where}: {fault}"))
            continue
        component = _component_of(camera, own)
        pose = _place(local, placements.get(component, placements.get(None)), where)
        found.append((component, AlignedCamera(label=label, group=group, pose=pose, intrinsics=sensor.intrinsics)))
    kept, apart = _one_world(found, placements, file)
    return Export(cameras=tuple(kept), left_out=(*left_out, *apart), raw=raw)


def _read_chunk(file: Path) -> tuple[ElementTree.Element, bytes]:
    """The one chunk with cameras, and the file's bytes."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise FormatError(f"{file}: above {MOST_BYTES >> 20} MiB. Export the cameras of one chunk only.")
        raw = file.read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: no such file. Export the cameras as XML from Metashape.") from error
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror}). Check the file and its permissions.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: not UTF-8 text. Export the cameras again.") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FormatError(f"{file}: has a document type, which Metashape does not write. Export the cameras again.")
    try:
        # Safe: no document type means no entities to expand, and expat follows no external references.
        document = ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError) as error:
        raise FormatError(f"{file}: not valid XML ({error}). Export the cameras again, whole.") from error
    chunks = [chunk for chunk in document.findall("chunk") if chunk.find("cameras//camera") is not None]
    if document.tag != "document" or len(chunks) != 1:
        raise FormatError(
            f"{file}: expected the cameras of one Metashape chunk, got {len(chunks)} such. Export one chunk as XML."
        )
    return chunks[0], raw


def _listed(chunk: ElementTree.Element) -> list[tuple[str | None, ElementTree.Element]]:
    """(group's label, camera) in the file's order."""
    listed: list[tuple[str | None, ElementTree.Element]] = []
    for element in chunk.findall("cameras/*"):
        if element.tag == "camera":
            listed.append((None, element))
        elif element.tag == "group":
            listed += [(element.get("label"), camera) for camera in element.iter("camera")]
    return listed


def _read_sensor(sensor: ElementTree.Element, file: Path) -> _Sensor:
    where = f"{file}: sensor {_id(sensor)}"
    in_rig = None
    rotation = sensor.find("rotation")
    if sensor.get("master_id") is not None and rotation is not None:
        location = sensor.find("location")
        in_rig = torch.eye(4, dtype=torch.float64)
        in_rig[:3, :3] = _numbers(rotation, 9, where).view(3, 3)
        if location is not None:
            in_rig[:3, 3] = _numbers(location, 3, where)
    calibrations = sensor.findall("calibration")
    adjusted = [one for one in calibrations if one.get("class") == "adjusted"] or calibrations
    if not adjusted:
        return _Sensor(intrinsics=None, fault="its sensor has no calibration; align the photos", in_rig=in_rig)
    intrinsics, fault = _read_lens(adjusted[0], sensor, where)
    return _Sensor(intrinsics=intrinsics, fault=fault, in_rig=in_rig)


def _read_lens(
    calibration: ElementTree.Element, sensor: ElementTree.Element, where: str
) -> tuple[Intrinsics | None, str]:
    """The lens, or None and why it cannot be expressed."""
    kind = calibration.get("type") or sensor.get("type") or "frame"
    if kind not in _MODELS:
        return None, f"its lens is of type {kind!r}; undistort the photos in Metashape"
    resolution = calibration.find("resolution")
    resolution = sensor.find("resolution") if resolution is None else resolution
    sides = [(resolution.get(name) or "") if resolution is not None else "" for name in ("width", "height")]
    if not all(side.isascii() and side.isdigit() and 1 <= int(side[:9]) <= MOST_PIXELS_A_SIDE for side in sides):
        raise FormatError(f"{where}: expected a resolution of whole pixels, got {sides}. Export the cameras again.")
    width, height = int(sides[0]), int(sides[1])
    values = {name: _number(calibration, name, where) for name in ("f", "cx", "cy", "b1", "b2", "p1", "p2", *_UNUSED)}
    focal = values["f"]
    if not (focal > 0 and focal + values["b1"] > 0):
        raise FormatError(f"{where}: expected a focal length f above 0, got {focal:g}. Export the cameras again.")
    if abs(values["b2"]) * max(height - values["cy"], height + values["cy"]) / 2 / focal > MOST_SKEW_PIXELS:
        return None, f"its lens has a skew (b2 = {values['b2']:g}); fix b2 to 0 and optimise, or undistort the photos"
    unused = [name for name in _UNUSED if values[name] != 0]
    if unused:
        return None, f"its lens uses {unused[0]}; fix it to 0 and optimise, or undistort the photos"
    k1, k2, k3, k4 = (_number(calibration, name, where) for name in ("k1", "k2", "k3", "k4"))
    return (
        Intrinsics(
            size=(width, height),
            focal=(focal + values["b1"], focal),
            angle=(None, None),
            principal=(width / 2 + values["cx"], height / 2 + values["cy"]),
            distortion=(k1, k2, k3, k4, values["p2"], values["p1"]),
            model=_MODELS[kind],
        ),
        "",
    )


def _local_pose(
    camera: ElementTree.Element, own: dict[str | None, ElementTree.Element], sensor: _Sensor | None, where: str
) -> tuple[Tensor | None, str]:
    """(4, 4) camera to chunk, OpenCV axes; or None and why there is none."""
    master = own.get(camera.get("master_id"))
    if camera.get("master_id") is not None and master is not camera:
        if sensor is None or sensor.in_rig is None:
            return None, "its sensor has no place in the rig; optimise the alignment"
        transform = master.find("transform") if master is not None else None
        if transform is None:
            return None, "the master camera of its rig is not aligned"
        return _numbers(transform, 16, where).view(4, 4) @ sensor.in_rig, ""
    transform = camera.find("transform")
    if transform is None:
        return None, "it is not aligned"
    return _numbers(transform, 16, where).view(4, 4), ""


def _component_of(camera: ElementTree.Element, own: dict[str | None, ElementTree.Element]) -> str | None:
    """The component's id; a rig's other cameras may leave it to their master."""
    master = own.get(camera.get("master_id"))
    return camera.get("component_id") or (master.get("component_id") if master is not None else None)


def _read_placements(chunk: ElementTree.Element, file: Path) -> dict[str | None, SceneTransform]:
    """Similarities to the world by component id; None is the chunk's own."""
    elements = {_id(component): component.find("transform") for component in chunk.findall("components/component")}
    elements[None] = chunk.find("transform")
    placements = {}
    for name, element in elements.items():
        if element is None:
            continue
        where = f"{file}: the transform of " + ("the chunk" if name is None else f"component {name}")
        rotation, shift, scale = (element.find(part) for part in ("rotation", "translation", "scale"))
        try:
            placements[name] = SceneTransform.from_parts(
                torch.eye(3, dtype=torch.float64) if rotation is None else _numbers(rotation, 9, where).view(3, 3),
                1.0 if scale is None else float(_numbers(scale, 1, where)),
                torch.zeros(3, dtype=torch.float64) if shift is None else _numbers(shift, 3, where),
            )
        except InputError as error:
            raise FormatError(f"{where}: expected a rotation, a shift and a scale above 0. Export again.") from error
    return placements


def _place(local: Tensor, placement: SceneTransform | None, where: str) -> Pose:
    """Camera to chunk, OpenCV axes, as camera to world, OpenGL axes."""
    checked = torch.tensor(rigid_pose(from_opencv(local), where=where, name="its pose"), dtype=torch.float64)
    if placement is None:
        return tuple(tuple(row) for row in checked.tolist())
    return rigid_pose(placement.apply_poses(checked[None])[0], where=where, name="its pose in the world")


def _one_world(
    found: list[tuple[str | None, AlignedCamera]], placements: dict[str | None, SceneTransform], file: Path
) -> tuple[list[AlignedCamera], list[Skipped]]:
    """The cameras that share a world: components without a transform are unrelated, and only the largest stays."""
    sizes = Counter(component for component, _ in found)
    if len(sizes) < 2 or all(component in placements for component in sizes):
        return [camera for _, camera in found], []
    largest = sizes.most_common(1)[0][0]
    reason = f"is in component {{}}, which is not aligned with the larger component {largest}; align them in Metashape"
    apart = [
        Skipped(path=camera.label, reason=f"{file}: camera {camera.label!r} " + reason.format(component))
        for component, camera in found
        if component != largest
    ]
    return [camera for component, camera in found if component == largest], apart


def _id(element: ElementTree.Element) -> str | None:
    return element.get("id")


def _number(parent: ElementTree.Element, name: str, where: str) -> float:
    """The number in the child ``name``, 0 when there is none: Metashape leaves out what was not adjusted."""
    child = parent.find(name)
    return 0.0 if child is None else float(_numbers(child, 1, where))


def _numbers(element: ElementTree.Element, count: int, where: str) -> Tensor:
    """(count,) float64: the numbers in an element's text."""
    words = (element.text or "").split(maxsplit=count)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) and abs(number) < LARGEST_NUMBER for number in numbers):
        raise FormatError(
            f"{where}: expected {count} finite numbers in <{element.tag}>, got {(element.text or '')[:40]!r}. "
            "Export the cameras again."
        )
    return torch.tensor(numbers, dtype=torch.float64)
