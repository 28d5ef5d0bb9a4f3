"""Polycam raw exports ("developer mode"): ``keyframes/`` with a JSON of the camera for every picture.

``corrected_images`` and ``corrected_cameras`` (after Polycam's own adjustment) are taken where both are there, else
``images`` and ``cameras``. A camera has ``fx fy cx cy width height`` in pixels and ``t_00`` ... ``t_23``, the rows of
camera to world with OpenGL axes, in metres, +Y up. Depth, confidence and mesh are not read. Source:
https://github.com/nerfstudio-project/nerfstudio/blob/main/nerfstudio/process_data/polycam_utils.py.

Corrected pictures have a black rim where the correction moved pixels: as nerfstudio crops ``BORDER`` pixels from every
side, so many are ignored here.
"""

from pathlib import Path
from typing import Final

import torch

from voxfield.data.capture import (
    IMAGE_SUFFIXES,
    Capture,
    CaptureOptions,
    Frame,
    Intrinsics,
    Split,
    digest,
    is_file,
    resolve_inside,
)
from voxfield.data.formats.photo_capture import photo_capture
from voxfield.data.formats.poses import rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE, Table, read_table
from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.skipped import Skipped

KEYFRAMES: Final = "keyframes"
PAIRS: Final = (("corrected_images", "corrected_cameras"), ("images", "cameras"))
BORDER: Final = 15
"""Pixels ignored along every side of a corrected picture."""

_LENS: Final = ("fx", "fy", "cx", "cy")


def recognises(path: Path) -> bool:
    """Whether ``path`` is an export's folder, or its ``keyframes``."""
    return path.is_dir() and _pair(_keyframes(path)) is not None


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split. Pictures are taken in order of their name.

    Raises:
        MissingFileError: no ``keyframes`` with pictures and cameras. FormatError: malformed cameras.
    """
    folder = _keyframes(path)
    pair = _pair(folder)
    if pair is None:
        raise MissingFileError(
            f"{folder}: no folders images and cameras. Export the raw data from Polycam with developer mode on."
        )
    images, cameras = folder / pair[0], folder / pair[1]
    files = sorted(cameras.glob("*.json"))
    frames, left_out, hashes = [], [], []
    for file in files:
        table, raw = read_table(file)
        hashes += [file.name.encode(), raw]
        frames.append(_frame(table, path, images, file.stem, corrected=pair == PAIRS[0], options=options))
    known = {file.stem for file in files}
    for picture in sorted(images.iterdir()):
        if picture.suffix in IMAGE_SUFFIXES and picture.stem not in known:
            name = str(picture.relative_to(path))
            left_out.append(
                Skipped(path=name, reason=f"{cameras / picture.stem}.json: no such file, so no pose. Export it again.")
            )
    return photo_capture(
        format="polycam",
        file=cameras,
        root=path,
        frames=frames,
        left_out=left_out,
        split=split,
        options=options,
        source={"json_hash": digest(*hashes)},
    )


def _keyframes(path: Path) -> Path:
    return path if path.name == KEYFRAMES else path / KEYFRAMES


def _pair(folder: Path) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if all((folder / name).is_dir() for name in pair)), None)


def _frame(table: Table, root: Path, images: Path, stem: str, *, corrected: bool, options: CaptureOptions) -> Frame:
    entries = [table.number(f"t_{row}{column}") for row in range(3) for column in range(4)]
    lens = [table.number(key, above=0.0) for key in _LENS]
    width = table.whole("width", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    height = table.whole("height", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    if width is None or height is None or None in entries or None in lens:
        absent = [f"t_{index // 4}{index % 4}" for index, entry in enumerate(entries) if entry is None]
        absent += [key for key, value in zip(_LENS, lens, strict=True) if value is None]
        absent += [key for key, value in (("width", width), ("height", height)) if value is None]
        raise FormatError(f"{table.where}: no {', '.join(absent)}. Export the raw data again.")
    fx, fy, cx, cy = (float(value or 0) for value in lens)
    pose = torch.tensor([entry or 0.0 for entry in entries], dtype=torch.float64).view(3, 4)
    found = next((image for suffix in IMAGE_SUFFIXES if is_file(image := images / f"{stem}{suffix}")), None)
    name = str((found or images / f"{stem}.jpg").relative_to(root).as_posix())
    return Frame(
        name=name,
        path=resolve_inside(root, name, listed_in=table.where, allow_outside=options.allow_outside),
        mask_path=None,
        pose=rigid_pose(pose, where=table.where, name="the pose t_00 to t_23"),
        intrinsics=Intrinsics(
            size=(width, height),
            focal=(fx, fy),
            angle=(None, None),
            principal=(cx, cy),
            distortion=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            model="perspective",
            crop_border=BORDER if corrected else 0,
        ),
    )
