"""From a capture on disk to posed photographs.

``read_capture`` recognises a capture's layout, opens its pictures' headers, leaves out (and lists) those that are
missing or broken, settles the working resolution, and places the cameras in the world.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Final, cast, get_args

import torch

from voxfield.checks import check_choice
from voxfield.colour import ToneCurve, automatic_exposure
from voxfield.data.capture import (
    SPLITS,
    Capture,
    CaptureOptions,
    Frame,
    Split,
    check_size,
    digest,
    reduced_copy,
    spread,
)
from voxfield.data.decode import Size, read_header
from voxfield.data.formats import (
    blender,
    colmap,
    eyefultower,
    llff,
    metashape,
    nerfstudio,
    neus,
    polycam,
    pynerf,
    record3d,
)
from voxfield.data.image_store import ImageStore, Picture
from voxfield.data.posed_images import DepthImages, PosedImages
from voxfield.data.scales import Scales
from voxfield.data.sparse_points import ObservedPoints
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import CameraModel, Cameras
from voxfield.geometry.distortion import Coefficients, undistort
from voxfield.geometry.lenses import COEFFICIENTS
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.pose import SceneTransform, focus, normalise
from voxfield.storage.skipped import Skipped

FEWEST_POINTS: Final = 100
"""Fewer sparse points than these do not set the region of interest by themselves."""
NEARER: Final = 0.9
"""Normalised device coordinates begin at this share of the distance of the nearest points."""
PICTURES_EXPOSED: Final = 8
"""Pictures whose light sets a linear capture's exposure."""
PIXELS_EXPOSED: Final = 1 << 16
"""Pixels looked at in each."""
LONGEST_SIDE: Final = 1600
"""``downscale="auto"`` halves pictures until their longest side has at most this many pixels."""

# In the order they are tried. No two recognise the same export; a folder that holds two exports is read as the first.
_FORMATS: Final[dict[str, ModuleType]] = {
    "blender": blender,
    "nerfstudio": nerfstudio,
    "colmap": colmap,
    "llff": llff,
    "pynerf": pynerf,
    "record3d": record3d,
    "polycam": polycam,
    "neus": neus,
    "eyefultower": eyefultower,
    "metashape": metashape,
}
MILLIMETRES: Final = 1e-3
"""What a step of a depth image is worth where nobody says: metres, as in nerfstudio."""


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A frame whose picture's header has been read."""

    frame: Frame
    picture: Picture
    alpha: bool
    dtype: torch.dtype
    observed: ObservedPoints | None = None


def read_capture(path: str | Path, *, split: Split = "train", options: CaptureOptions | None = None) -> PosedImages:
    """Read one split of a capture.

    Args:
        path: a capture's folder, or the file that lists its pictures.
        split: which pictures; ``val`` and ``test`` stand in for each other where a capture has only one of them.
        options: see ``CaptureOptions``.

    Returns:
        The split. Pictures are checked by their headers and decoded later. Missing and broken pictures are left out
        and listed.

    Raises:
        MissingFileError: ``path`` or the split's file does not exist.
        FormatError: no known layout, malformed files, an empty split, or no picture that can be read.
    """
    options = options or CaptureOptions()
    check_choice("split", split, SPLITS)
    capture = open_capture(path, split=split, options=options)
    if not capture.chosen and len(capture.missing) < len(capture.frames):
        raise FormatError(f"{capture.file}: the {split} split is empty. Add pictures to it or use another split.")
    factor = _downscale(capture, options)
    opened, skipped = _open_all(capture, factor)
    if not opened:
        raise FormatError(
            f"{capture.file}: none of the {len(skipped)} pictures of the {split} split can be read. The first: "
            + skipped[0].reason
        )
    opened = _evenly(opened, options.max_images)
    transform = _world(capture, options)
    bounds = _bounds(capture, options, transform)
    alpha = any(one.alpha for one in opened)
    images = ImageStore(
        [one.picture for one in opened],
        channels=4 if alpha else 3,
        cache_bytes=options.cache_bytes,
        dtype=_dtype(opened, capture),
    )
    captures = PosedImages(
        cameras=_cameras(opened, transform, capture),
        images=images,
        names=tuple(one.frame.name for one in opened),
        split=split,
        bounds=bounds,
        unbounded=capture.unbounded,
        near=_near(capture, options, transform),
        transform=transform.after(capture.before),
        remarks=capture.remarks,
        skipped=skipped,
        source=_source(Path(path), capture, factor, opened),
        has_alpha=alpha,
        has_masks=images.has_masks,
        observed=None if capture.observed is None else tuple(_observed(one, transform) for one in opened),
        depth_images=_depth_images(opened, options, transform, capture),
        ndc=_ndc(capture, options, transform) if options.space == "ndc" else None,
        tone=_tone(images, options, capture),
        scales=_stated_scales(opened),
    )
    stated = (1,) if captures.scales is None else captures.scales.values
    if options.scales in ((1,), stated):
        return captures
    return captures.at_scales(options.scales, uneven=options.uneven_scales)


def open_capture(path: str | Path, *, split: Split, options: CaptureOptions | None = None) -> Capture:
    """What a capture's files say of its frames, in the capture's own coordinates; no picture is opened.

    Raises:
        MissingFileError, FormatError: as ``read_capture``.
    """
    options = options or CaptureOptions()
    return cast(Capture, _reader(Path(path), options).read(Path(path), split, options))


def _reader(path: Path, options: CaptureOptions) -> ModuleType:
    if not os.path.exists(path):  # noqa: PTH110  (names that the system refuses count as absent)
        raise MissingFileError(f"{path}: no such file or folder. Give a capture's folder or the file that lists it.")
    if options.format != "auto":
        return _FORMATS[options.format]
    for reader in _FORMATS.values():
        if reader.recognises(path):
            return reader
    raise FormatError(
        f"{path}: no capture found. Expected transforms_train.json (NeRF-synthetic), transforms.json (nerfstudio, "
        "instant-ngp), sparse/0 beside images (COLMAP), poses_bounds.npy (LLFF), or the files of "
        + ", ".join(list(_FORMATS)[4:])
        + (" in the folder." if path.is_dir() else ".")
    )


def _downscale(capture: Capture, options: CaptureOptions) -> int:
    """The whole factor pictures are reduced by; ``auto`` looks at all frames' stated sizes, or at the first
    picture's.
    """
    reduced = capture.reduced_only
    if options.downscale != "auto":
        if reduced and options.downscale not in reduced:
            raise FormatError(
                f"{capture.root}: the pictures are there only reduced by {' or '.join(map(str, reduced))}, not by "
                f"{options.downscale}. Set capture.downscale to that, or add the full pictures."
            )
        return int(options.downscale)
    sizes = [frame.intrinsics.size for frame in capture.frames if frame.intrinsics.size is not None]
    if not sizes:
        for frame in capture.frames:
            try:
                sizes = [read_header(frame.path).size]
            except FormatError:
                continue
            break
    factor = 1
    while sizes and max(max(size) for size in sizes) / factor > LONGEST_SIDE:
        factor *= 2
    # Of reduced pictures the largest that are small enough, else the smallest.
    return next((step for step in reduced if step >= factor), reduced[-1]) if reduced else factor


def _open_all(capture: Capture, factor: int) -> tuple[list[_Opened], tuple[Skipped, ...]]:
    """Read the headers of the split's pictures; broken ones and odd sizes are left out."""
    opened: list[_Opened] = []
    skipped = list(capture.missing)
    for index in capture.chosen:
        frame = capture.frames[index]
        try:
            observed = None if capture.observed is None else capture.observed[index]
            opened.append(replace(_open(frame, factor), observed=observed))
        except FormatError as error:
            skipped.append(Skipped(path=frame.name, reason=str(error)))
    if capture.format == "blender" and opened:
        opened, odd = _common_size(opened)
        skipped += odd
    return opened, tuple(skipped)


def _open(frame: Frame, factor: int) -> _Opened:
    reduced = reduced_copy(frame.path, factor)
    header = read_header(reduced or frame.path)
    full = frame.intrinsics.size
    if full is None:
        full = read_header(frame.path).size if reduced else header.size
    size = header.size if reduced else (max(1, round(full[0] / factor)), max(1, round(full[1] / factor)))
    check_size(reduced or frame.path, header.size, full, factor if reduced else 1)
    mask_path = frame.mask_path
    if mask_path is not None:
        mask_path = reduced_copy(mask_path, factor) or mask_path
        mask_size = read_header(mask_path).size
        if mask_size not in (full, size):
            raise FormatError(
                f"{mask_path}: is {mask_size[0]}x{mask_size[1]} pixels, but its picture is {full[0]}x{full[1]}. "
                "Make the mask again."
            )
    fault = frame.intrinsics.fault(full)
    if fault is not None:
        raise FormatError(f"{frame.name}: {fault}")
    picture = Picture(
        name=frame.name,
        path=reduced or frame.path,
        mask_path=mask_path,
        size=size,
        full_size=full,
        circle=frame.intrinsics.circle(full),
        crop_border=frame.intrinsics.crop_border,
        gain=2.0**-frame.stops,
        reduced_copy=reduced is not None,
    )
    return _Opened(frame=frame, picture=picture, alpha=header.alpha, dtype=header.dtype)


def _common_size(opened: list[_Opened]) -> tuple[list[_Opened], list[Skipped]]:
    """Keep the pictures of the most frequent size: one field of view is stated for all, so others were altered."""
    sizes: list[Size] = [one.picture.full_size for one in opened]
    common = max(dict.fromkeys(sizes), key=sizes.count)
    kept = [one for one in opened if one.picture.full_size == common]
    odd = [
        Skipped(
            path=one.frame.name,
            reason=f"{one.picture.path}: is {one.picture.full_size[0]}x{one.picture.full_size[1]} pixels, "
            f"the others are {common[0]}x{common[1]}. Restore the picture.",
        )
        for one in opened
        if one.picture.full_size != common
    ]
    return kept, odd


def _evenly(opened: list[_Opened], most: int | None) -> list[_Opened]:
    """At most ``most`` images, each with all of its copies."""
    if most is None:
        return opened
    scales = _stated_scales(opened)
    if scales is None:
        return [opened[index] for index in spread(len(opened), most)]
    return [opened[index] for index in scales.copies_of(spread(scales.num_images, most))]


def _stated_scales(opened: list[_Opened]) -> Scales | None:
    """The scales that the capture's file states by different weights, if it does."""
    weights = [one.frame.weight for one in opened]
    if len(set(weights)) == 1:
        return None
    return Scales.of_pictures([one.frame.pose for one in opened], weights)


def _world(capture: Capture, options: CaptureOptions) -> SceneTransform:
    """File coordinates to world, from all frames the file lists: the same for every split, whatever files are
    missing.
    """
    if not capture.normalised:
        return SceneTransform.identity()
    return normalise(
        capture.poses(), orientation=options.orientation, centre=options.centre, auto_scale=options.auto_scale
    )


def _bounds(capture: Capture, options: CaptureOptions, transform: SceneTransform) -> Bounds:
    if options.scene_bounds is not None:
        return Bounds.from_numbers(options.scene_bounds)
    use_points = options.region == "points"
    if options.region == "auto" and capture.points is not None and len(capture.points) >= FEWEST_POINTS:
        use_points = capture.normalised and not focus(capture.poses()).inward
    if use_points:
        if capture.points is None:
            raise FormatError(f"{capture.file}: no sparse points. Set capture.region=format or give scene_bounds.")
        return capture.points.bounds(transform)
    if capture.bounds_in_capture:
        return Bounds.from_points(transform.apply_points(capture.bounds.corners()))
    return capture.bounds


def _near(capture: Capture, options: CaptureOptions, transform: SceneTransform) -> float:
    if options.near is not None:
        return options.near
    return capture.near * transform.scale if capture.near_in_capture else capture.near


def _observed(one: _Opened, transform: SceneTransform) -> ObservedPoints:
    assert one.observed is not None, "a capture states observations for all frames or none"
    size, full = one.picture.size, one.picture.full_size
    return one.observed.rescaled(size[0] / full[0], size[1] / full[1], transform.scale)


def _ndc(capture: Capture, options: CaptureOptions, transform: SceneTransform) -> NdcFrame:
    refusal = (
        f"{capture.file}: normalised device coordinates need perspective cameras that look the same way from before "
        "everything they see, as LLFF's do. Leave capture.space at world."
    )
    if not capture.forward_facing or any(frame.intrinsics.model != "perspective" for frame in capture.frames):
        raise FormatError(refusal)
    tangents = torch.tensor([_tangents(frame) for frame in capture.frames], dtype=torch.float64)
    try:
        return NdcFrame.around(transform.apply_poses(capture.poses()), tangents, _nearest(capture, options, transform))
    except InputError as error:
        raise FormatError(refusal) from error


def _nearest(capture: Capture, options: CaptureOptions, transform: SceneTransform) -> float:
    """Distance along the cameras' axes of the nearest thing they see, world units: as the capture says, or by its
    points, of which a hundredth may be mistakes.
    """
    if options.near is not None or capture.near_in_capture:
        return _near(capture, options, transform)
    depth = torch.cat([seen.depth for seen in capture.observed or ()]).sort().values
    return NEARER * float(depth[len(depth) // 100]) * transform.scale


def _tangents(frame: Frame) -> tuple[float, float]:
    """Half the width and height of what a perspective picture shows at a distance of 1 along its axis."""
    size = frame.intrinsics.size
    assert size is not None, "a forward-facing capture states the sizes of its pictures"
    focal, principal = frame.intrinsics.resolve(size)
    edge = [
        torch.tensor([-middle, side / 2 - middle, side - middle]) for middle, side in zip(principal, size, strict=True)
    ]
    x, y = (grid.reshape(-1).double() for grid in torch.meshgrid(edge[0] / focal[0], edge[1] / focal[1], indexing="ij"))
    lens = Coefficients(*torch.tensor(frame.intrinsics.distortion, dtype=torch.float64)[:, None])
    x, y = undistort(x, y, lens)
    return float(x.abs().max()), float(y.abs().max())


def _depth_images(
    opened: list[_Opened], options: CaptureOptions, transform: SceneTransform, capture: Capture
) -> DepthImages | None:
    paths = tuple(one.frame.depth_path for one in opened)
    unit = options.depth.unit or capture.depth_unit or MILLIMETRES
    # The file's poses are in the units of its depths: what was applied before the file was written is in both.
    return DepthImages(paths=paths, unit=unit * transform.scale) if any(paths) else None


def _cameras(opened: list[_Opened], transform: SceneTransform, capture: Capture) -> Cameras:
    models = {one.frame.intrinsics.model for one in opened}
    if len(models) != 1:
        named = " and ".join(model for model in get_args(CameraModel) if model in models)
        raise FormatError(
            f"{capture.file}: {named} pictures in one capture are not supported. Split the file by camera model."
        )
    model = models.pop()
    # Orthographic focal lengths are pixels per unit: the world's units, not the capture's, from here on.
    unit = transform.scale if model == "orthographic" else 1.0
    focal, principal = [], []
    for one in opened:
        full, size = one.picture.full_size, one.picture.size
        lens_focal, lens_principal = one.frame.intrinsics.resolve(full)
        scale = (size[0] / full[0], size[1] / full[1])
        focal.append([lens_focal[0] * scale[0] / unit, lens_focal[1] * scale[1] / unit])
        principal.append([lens_principal[0] * scale[0], lens_principal[1] * scale[1]])
    poses = torch.tensor([one.frame.pose for one in opened], dtype=torch.float64)
    rows = [one.frame.intrinsics.distortion for one in opened]
    most = max(map(len, rows))
    distortion = torch.tensor([(*row, *[0.0] * (most - len(row))) for row in rows], dtype=torch.float32)
    return Cameras(
        camera_to_world=transform.apply_poses(poses).float(),
        focal=torch.tensor(focal, dtype=torch.float32),
        principal=torch.tensor(principal, dtype=torch.float32),
        width=torch.tensor([one.picture.size[0] for one in opened], dtype=torch.int64),
        height=torch.tensor([one.picture.size[1] for one in opened], dtype=torch.int64),
        distortion=distortion if model in COEFFICIENTS or bool(distortion.any()) else None,
        model=model,
    )


def _dtype(opened: list[_Opened], capture: Capture) -> torch.dtype:
    """What the store keeps: the most exact of the files' own."""
    found = {one.dtype for one in opened}
    if torch.uint8 in found and len(found) > 1:
        linear = next(one.frame.name for one in opened if one.dtype != torch.uint8)
        raise FormatError(
            f"{capture.file}: linear pictures ({linear}) and sRGB ones in one capture are not supported. Keep one kind."
        )
    return max(found, key=lambda dtype: dtype.itemsize)


def _tone(images: ImageStore, options: CaptureOptions, capture: Capture) -> ToneCurve | None:
    """The tone curve of linear pictures, exposed as the options say or by the first that can be read of a few spread
    evenly.
    """
    if not images.linear:
        if options.exposure != "auto":
            raise FormatError(f"{capture.file}: capture.exposure is for linear pictures (EXR); these are sRGB.")
        return None
    exposure = options.exposure
    if exposure == "auto":
        count = len(images)
        spread = [index * count // PICTURES_EXPOSED for index in range(PICTURES_EXPOSED)]
        samples: list[torch.Tensor] = []
        for index in dict.fromkeys([*spread, *range(count)]):
            try:
                image, mask = images.decode(index)
            except FormatError:
                # The store lists it.
                continue
            samples.append(_thinned(image, mask))
            if len(samples) == PICTURES_EXPOSED:
                break
        exposure = automatic_exposure(samples)
    return ToneCurve(exposure=exposure, mu=options.tone_mu)


def _thinned(image: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Some (N, 3) colours of a picture, evenly spread, without those that are masked or transparent."""
    step = max(1, round((image.shape[0] * image.shape[1] / PIXELS_EXPOSED) ** 0.5))
    image = image[::step, ::step]
    kept = torch.ones(image.shape[:2], dtype=torch.bool) if mask is None else mask[::step, ::step]
    if image.shape[-1] == 4:
        kept = kept & (image[..., 3] > 0)
    return image[kept][:, :3]


def _source(path: Path, capture: Capture, factor: int, opened: list[_Opened]) -> dict[str, object]:
    """The record of where the pictures came from; the hash covers the JSON and the pictures' names and sizes in
    bytes.
    """
    facts = dict(capture.source)
    json_hash = str(facts.pop("json_hash"))
    files = [f"{one.frame.name}:{one.picture.path.stat().st_size}".encode() for one in opened]
    return {
        "format": capture.format,
        "path": str(path),
        "file": capture.file.name,
        "downscale": factor,
        **facts,
        "hash": digest(json_hash.encode(), *files),
    }
