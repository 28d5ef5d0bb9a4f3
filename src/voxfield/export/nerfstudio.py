"""Any capture as nerfstudio's ``transforms.json``: what other tools read, and one file to correct by hand.

Poses are the capture's own, camera to world with OpenGL axes; ``applied_transform`` (and ``applied_scale``) say how the
capture's file came from its reconstruction, the identity for most. Splits become ``train_filenames``,
``val_filenames`` and ``test_filenames``. Pictures inside the output folder are referenced where they are; others are
copied or hard-linked into ``images``, the reduced ones where the full are not there, with their masks reduced alike. A
crop (a fisheye's rim, a black border) becomes a mask; a fisheye's stated one is also kept as ``fisheye_crop_radius``.
Depth images and arrays go to ``depths``; their steps stay what they were in the units of the poses, which stay. Keys:
https://docs.nerf.studio/quickstart/data_conventions.html.

A subset is a smaller file beside it, ``transforms_300.json`` or ``transforms_half.json``: pictures evenly spread over
each split in order of their paths, in the same splits and with the same lens.

Not kept, as the format has no place for them: the nearest distance of a ray, PyNeRF's loss weights, and a region of
interest that is not a cube (its cube is written). COLMAP's points are not written.
"""

import errno
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from voxfield.checks import check_choice
from voxfield.data.capture import (
    SPLITS,
    Capture,
    CaptureOptions,
    Frame,
    Split,
    check_size,
    is_file,
    reduced_copy,
    spread,
)
from voxfield.data.capture_reading import open_capture
from voxfield.data.decode import Size, check_depth, read_header, read_mask
from voxfield.data.formats.nerfstudio import FILE_NAME
from voxfield.data.formats.transforms_json import lens_keys
from voxfield.data.image_store import Picture, crop_mask
from voxfield.data.posed_images import PosedImages
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.export.weights import Weights, write_weights
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform
from voxfield.storage.atomic import replacing, write_bytes, write_json
from voxfield.storage.skipped import Skipped

Placement = Literal["copy", "link"]
HALF: Final = "half"
MOST_PICTURES: Final = 10_000_000


WORLD_NAME: Final = "world.json"


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """What the export of a run wrote."""

    capture: "Conversion"
    """Cameras and pictures."""
    weights: Weights
    """The field."""
    world: Path
    """How the field's world lies to the cameras' coordinates."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion wrote."""

    file: Path
    """The ``transforms.json``."""
    format: str
    """The layout that was read."""
    pictures: dict[str, int]
    """Pictures by split; val and test may be the same ones."""
    frames: int
    """Different pictures."""
    left_out: tuple[Skipped, ...]
    """Pictures that could not be used, and pictures whose depth images could not, with reasons."""
    subsets: dict[Path, int]
    """Smaller files beside it, with their pictures."""
    before: SceneTransform
    """From the original reconstruction to the file's poses."""


def convert_capture(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: Placement = "copy",
    subsets: Sequence[str] = (),
    overwrite: bool = False,
    options: CaptureOptions | None = None,
) -> Conversion:
    """Write a capture as a nerfstudio capture.

    Args:
        data: a capture's folder, or the file that lists it.
        output: folder of the new capture, made if need be; may be the capture's own.
        images: what to do with pictures outside ``output``: ``copy`` them, or ``link`` them (hard links, which need
            the same file system and no space).
        subsets: smaller files to write beside ``transforms.json``: ``half``, or a number of pictures (>= 1), of which
            a capture with fewer has all.
        overwrite: replace such files that are there.
        options: how the capture is read: ``format``, ``eval_every`` and ``allow_outside`` are used.

    Returns:
        What was written.

    Raises:
        InputError: ``output`` holds such files already, a subset is none, or links cannot be made.
        MissingFileError, FormatError: as ``read_capture``; or no picture can be read.
    """
    check_choice("images", images, ("copy", "link"))
    folder = Path(output)
    file = folder / FILE_NAME
    smaller = {folder / f"{file.stem}_{name}{file.suffix}": name for name in map(_checked_subset, subsets)}
    there = next((path for path in (file, *smaller) if path.exists() and not overwrite), None)
    if there is not None:
        raise InputError(f"{there}: exists already. Name another folder, or remove it first.")
    # Nothing is turned: what the file holds is what was read.
    captures = _splits(Path(data), replace(options or CaptureOptions(), orientation="none"))
    writer = _Writer(folder=folder, images=images)
    frames, lists, left_out = _write_pictures(captures, writer)
    first = next(iter(captures.values()))
    if not frames:
        reason = left_out[0].reason if left_out else "no split has any"
        raise FormatError(f"{first.file}: none of its pictures can be read. The first: {reason}")
    write_json(file, _transforms(first, frames, lists))
    written = {path: _write_subset(path, name, first, frames, lists) for path, name in smaller.items()}
    return Conversion(
        file=file,
        format=first.format,
        pictures={split: len(listed) for split, listed in lists.items()},
        frames=len(frames),
        left_out=tuple(left_out),
        subsets=written,
        before=first.before,
    )


def export_run(
    captures: PosedImages,
    module: torch.nn.Module,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: Placement = "copy",
    options: CaptureOptions | None = None,
    about: Mapping[str, Any] | None = None,
) -> RunExport:
    """Write what nerfstudio can load of a run, its cameras and pictures, and the field's weights beside it.

    Args:
        captures: the run's training split.
        module: the trained model.
        data: its capture.
        output, images, options: as `convert_capture`.
        about: plain values for the list of weights, such as the recipe and its settings.

    Returns:
        What was written: `convert_capture`'s files, those of `voxfield.export.weights.write_weights`, and
        ``world.json`` with ``transform`` (3x4) and ``scale``: a point p of ``transforms.json`` is at
        scale * transform @ (p, 1) in the field's world, as in nerfstudio's ``dataparser_transforms.json``.

    Raises:
        InputError, MissingFileError, FormatError: as `convert_capture`.
    """
    capture = convert_capture(data, output, images=images, options=options)
    # What had been applied before the file was written is in its poses already.
    transform = captures.transform
    matrix = (transform.matrix @ torch.linalg.inv(capture.before.matrix.to(transform.matrix)))[:3]
    scale = float(torch.linalg.det(matrix[:, :3]).abs() ** (1 / 3))
    world = Path(output) / WORLD_NAME
    write_json(
        world,
        {
            "transform": (matrix / scale).tolist(),
            "scale": scale,
            "bounds": [list(captures.bounds.minimum), list(captures.bounds.maximum)],
            "unbounded": captures.unbounded,
        },
    )
    return RunExport(capture=capture, weights=write_weights(output, module, about=about), world=world)


def _write_pictures(
    captures: dict[Split, Capture], writer: "_Writer"
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]], list[Skipped]]:
    """Put every picture in place: entries by file_path, the file_paths of each split, and what was left out."""
    names: dict[Path, str] = {}
    frames: dict[str, dict[str, Any]] = {}
    missing: dict[str, Skipped] = {item.path: item for capture in captures.values() for item in capture.missing}
    # Apart: a frame that repeats another is missing under the name of the one that stays.
    broken: dict[str, Skipped] = {}
    lists: dict[str, list[str]] = {}
    for split, capture in captures.items():
        chosen = [capture.frames[index] for index in capture.chosen]
        for frame in chosen:
            if frame.path in names or frame.name in broken:
                continue
            try:
                name, values = writer.frame(frame, capture)
            except FormatError as error:
                broken[frame.name] = Skipped(path=frame.name, reason=str(error))
                continue
            names[frame.path], frames[name] = name, values
        lists[split] = [names[frame.path] for frame in chosen if frame.path in names]
    return frames, lists, [*missing.values(), *broken.values(), *writer.without_depth]


def _checked_subset(name: str) -> str:
    if name != HALF and not (name.isascii() and name.isdigit() and 0 < int(name) <= MOST_PICTURES):
        raise InputError(f"subsets: expected 'half' or a number of pictures from 1 to {MOST_PICTURES:,}, got {name!r}.")
    return name if name == HALF else str(int(name))


def _write_subset(
    file: Path, name: str, capture: Capture, frames: dict[str, dict[str, Any]], lists: dict[str, list[str]]
) -> int:
    """Write a subset; returns its pictures.

    They are spread over the frames in order of their splits and then of their paths, so that every split keeps its
    share and no picture changes its split.
    """
    members = [frozenset(listed) for listed in lists.values()]
    ordered = sorted(frames, key=lambda one: ([one not in listed for listed in members], one))
    count = max(len(ordered) // 2, 1) if name == HALF else int(name)
    chosen = {ordered[index]: frames[ordered[index]] for index in spread(len(ordered), count)}
    kept = {split: [one for one in listed if one in chosen] for split, listed in lists.items()}
    write_json(file, _transforms(capture, chosen, kept))
    return len(chosen)


def _splits(data: Path, options: CaptureOptions) -> dict[Split, Capture]:
    """The capture of every split there is."""
    captures: dict[Split, Capture] = {}
    absent: MissingFileError | None = None
    for split in SPLITS:
        try:
            captures[split] = open_capture(data, split=split, options=options)
        except MissingFileError as error:
            absent = absent or error
    if not captures:
        raise absent or MissingFileError(f"{data}: no such capture.")
    return captures


def _as_found(frame: Frame, reduced_only: tuple[int, ...]) -> Frame:
    """The frame of the largest picture that is there, where the full ones are not; the frame itself if none fits."""
    for factor in reduced_only:
        path, stated = reduced_copy(frame.path, factor), frame.intrinsics.size
        if path is None or stated is None:
            continue
        try:
            size = read_header(path).size
            check_size(path, size, stated, factor)
        except FormatError:
            continue
        return replace(frame, path=path, intrinsics=frame.intrinsics.at_size(size))
    return frame


def _transforms(capture: Capture, frames: dict[str, dict[str, Any]], lists: dict[str, list[str]]) -> dict[str, Any]:
    """The file's content: a lens that all frames share is stated once."""
    ordered = [frames[name] for name in sorted(frames)]
    lens = ordered[0]["lens"]
    shared = all(frame["lens"] == lens for frame in ordered)
    listed = [
        {
            "file_path": frame["file_path"],
            **({"mask_path": frame["mask_path"]} if frame["mask_path"] else {}),
            **({"depth_file_path": frame["depth_file_path"]} if frame["depth_file_path"] else {}),
            **({"exposure_stops": frame["stops"]} if frame["stops"] else {}),
            **({} if shared else frame["lens"]),
            "transform_matrix": frame["transform_matrix"],
        }
        for frame in ordered
    ]
    before = capture.before
    applied = before.matrix[:3].clone()
    applied /= before.scale
    return {
        **(lens if shared else {}),
        **_region(capture),
        **({"depth_unit_scale_factor": capture.depth_unit} if capture.depth_unit is not None else {}),
        "applied_transform": applied.tolist(),
        **({"applied_scale": before.scale} if abs(before.scale - 1) > 1e-12 else {}),
        **{f"{split}_filenames": names for split, names in lists.items()},
        "frames": listed,
    }


def _region(capture: Capture) -> dict[str, Any]:
    """instant-ngp's statement that all there is lies in one cube of the file's coordinates, where that is known."""
    if capture.unbounded or (capture.normalised and not capture.bounds_in_capture):
        return {}
    low, edge = _cube(capture.bounds)
    return {"aabb_scale": 1, "scale": 1 / edge, "offset": [-value / edge for value in low]}


def _cube(bounds: Bounds) -> tuple[list[float], float]:
    """Low corner and edge of the smallest cube with the same centre that holds ``bounds``."""
    edge = max(high - low for low, high in zip(bounds.minimum, bounds.maximum, strict=True))
    centre = [(low + high) / 2 for low, high in zip(bounds.minimum, bounds.maximum, strict=True)]
    return [value - edge / 2 for value in centre], edge


@dataclass(kw_only=True)
class _Writer:
    """Puts pictures, masks and depth images in place and describes frames."""

    folder: Path
    images: Placement
    without_depth: list[Skipped] = field(default_factory=list)
    """Pictures whose depth images cannot be read."""
    _taken: dict[Path, Path] = field(default_factory=dict)
    """File in the output folder -> the file it was made from."""
    _crops: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def frame(self, frame: Frame, capture: Capture) -> tuple[str, dict[str, Any]]:
        """(file_path, entry) of a frame of ``capture`` whose picture, the largest there is, is now in place.

        Raises:
            FormatError: the picture or its mask cannot be read, or is not of the size the frame states, or its lens is
            impossible.
        """
        full, root = frame.intrinsics.size, capture.root
        frame = _as_found(frame, capture.reduced_only)
        size = read_header(frame.path).size
        stated = frame.intrinsics.size
        if stated is not None:
            check_size(frame.path, size, stated, 1)
        fault = frame.intrinsics.fault(size)
        if fault is not None:
            raise FormatError(f"{frame.path}: {fault}")
        mask = self._mask(frame, root, size, full or size)
        name = self._place(frame.path, root, "images")
        pose = [*(list(row) for row in frame.pose), [0.0, 0.0, 0.0, 1.0]]
        return name, {
            "file_path": name,
            "mask_path": mask,
            "depth_file_path": self._depth(frame, root),
            "stops": frame.stops,
            "lens": lens_keys(frame.intrinsics, size),
            "transform_matrix": pose,
        }

    def _depth(self, frame: Frame, root: Path) -> str | None:
        """Path of the frame's depth image in the output, if it has one that can be read."""
        if frame.depth_path is None:
            return None
        try:
            check_depth(frame.depth_path)
        except FormatError as error:
            # The picture is as good without.
            self.without_depth.append(Skipped(path=frame.name, reason=str(error)))
            return None
        return self._place(frame.depth_path, root, "depths")

    def _mask(self, frame: Frame, root: Path, size: Size, full: Size) -> str | None:
        """Path of the frame's mask in the output: its own, or one made where the frame is cropped or its picture is
        reduced from ``full`` to ``size``.
        """
        as_it_is = True
        if frame.mask_path is not None:
            mask_size = read_header(frame.mask_path).size
            as_it_is = mask_size == size
            if mask_size not in (size, full):
                raise FormatError(
                    f"{frame.mask_path}: is {mask_size[0]}x{mask_size[1]} pixels, but its picture is "
                    f"{size[0]}x{size[1]}. Make the mask again."
                )
        lens = frame.intrinsics
        picture = Picture(
            name=frame.name,
            path=frame.path,
            mask_path=frame.mask_path,
            size=size,
            full_size=size,
            circle=lens.circle(size),
            crop_border=lens.crop_border,
        )
        if as_it_is and not picture.cropped:
            return None if frame.mask_path is None else self._place(frame.mask_path, root, "masks")
        key = (size, picture.circle, picture.crop_border, frame.mask_path)
        if key not in self._crops:
            kept = crop_mask(picture)
            if frame.mask_path is not None:
                kept = kept & read_mask(frame.mask_path, size=size, full_size=full)
            own = self._target(frame.mask_path or Path("crop"), root, "masks")
            target, content = own.with_name(f"{own.stem}_{size[0]}x{size[1]}.png"), _png(kept)
            if not (is_file(target) and target.read_bytes() == content):
                target = self._free(target, frame.path)
                write_bytes(target, content)
            self._crops[key] = target.relative_to(self.folder).as_posix()
        return self._crops[key]

    def _place(self, source: Path, root: Path, kind: str) -> str:
        """Path of ``source`` relative to the output folder, into which it is copied or linked if it lies outside."""
        inside = self.folder.resolve()
        if source.is_relative_to(inside):
            return source.relative_to(inside).as_posix()
        target = self._free(self._target(source, root, kind), source)
        if not is_file(target):
            self._transfer(source, target)
        return target.relative_to(self.folder).as_posix()

    def _target(self, source: Path, root: Path, kind: str) -> Path:
        """Where ``source`` belongs in the output folder ``kind``: as deep as it lies below ``root``."""
        relative = source.relative_to(root.resolve()) if source.is_relative_to(root.resolve()) else Path(source.name)
        parts = relative.parts[1:] if len(relative.parts) > 1 and relative.parts[0] == kind else relative.parts
        return self.folder.joinpath(kind, *parts)

    def _free(self, target: Path, source: Path) -> Path:
        """``target``, or with a number before its ending where another file took the name or one lies there."""
        candidate, number = target, 1
        while self._taken.get(candidate, source) != source or (candidate not in self._taken and candidate.exists()):
            candidate = target.with_name(f"{target.stem}_{number}{target.suffix}")
            number += 1
        self._taken[candidate] = source
        return candidate

    def _transfer(self, source: Path, target: Path) -> None:
        if self.images == "copy":
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError as error:
            why = "it is on another file system" if error.errno == errno.EXDEV else str(error.strerror)
            raise InputError(f"{target}: cannot be a link to {source} ({why}). Copy the pictures instead.") from error


def _png(kept: torch.Tensor) -> bytes:
    """A mask as a PNG of 0 and 255."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray((kept.to(torch.uint8) * 255).numpy()).save(content, format="PNG")
    return content.getvalue()
