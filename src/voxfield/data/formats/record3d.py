"""Record3D captures: ``metadata.json`` beside a folder ``rgb`` of numbered pictures (iPhone and iPad, ARKit).

``w``, ``h`` are the pictures' size, ``K`` the 3x3 intrinsics column by column, ``perFrameIntrinsicCoeffs`` [fx, fy,
cx, cy] per picture where the app recorded them, ``poses`` one [qx, qy, qz, qw, tx, ty, tz] per picture: camera to
world, OpenGL axes, metres, +Y up. An unpacked ``.r3d`` archive has the same as ``metadata`` and ``rgbd/<number>.jpg``.
Depth and confidence maps beside the pictures are not read. Sources: https://record3d.app and
https://github.com/nerfstudio-project/nerfstudio/blob/main/nerfstudio/process_data/record3d_utils.py (which puts the
principal point in the middle; here it is where the file says).
"""

import math
from pathlib import Path
from typing import Final

import torch

from voxfield.data.capture import Capture, CaptureOptions, Frame, Intrinsics, Split, digest, resolve_inside
from voxfield.data.formats.photo_capture import mentions, photo_capture
from voxfield.data.formats.poses import rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE, Table, read_table
from voxfield.errors import FormatError
from voxfield.geometry.rotations import rotations_from_quaternions
from voxfield.storage.skipped import Skipped

FILE_NAMES: Final = ("metadata.json", "metadata")
FOLDERS: Final = ("rgb", "rgbd")
_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with Record3D's metadata and pictures, or that metadata file."""
    file = _file_of(path)
    return file is not None and _pictures_folder(file.parent) is not None and mentions(file, b'"poses"')


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split.

    Raises:
        MissingFileError: no metadata. FormatError: malformed metadata, poses or intrinsics, or no folder of pictures.
    """
    file = _file_of(path) or path / FILE_NAMES[0]
    root = file.parent
    table, raw = read_table(file)
    folder = _pictures_folder(root)
    if folder is None:
        raise FormatError(f"{root}: no folder {FOLDERS[0]} of pictures. Export the recording with its RGB pictures.")
    poses = table.values.get("poses")
    if not isinstance(poses, list) or not poses:
        raise FormatError(
            f"{file}: expected 'poses' to be a list of 7 numbers per picture. Export the recording again."
        )
    pictures, left_out = _match(file, folder, len(poses))
    coefficients = table.values.get("perFrameIntrinsicCoeffs") or None
    if coefficients is not None and not (isinstance(coefficients, list) and len(coefficients) == len(poses)):
        raise FormatError(
            f"{file}: expected 'perFrameIntrinsicCoeffs' to have an entry for each of the {len(poses)} poses. "
            "Export the recording again."
        )
    shared = _shared_lens(table)
    frames = []
    for index, name in pictures.items():
        entry = Table(f"{file}: pose {index}", {"poses": poses[index]})
        own = None if coefficients is None else coefficients[index]
        frames.append(
            Frame(
                name=name,
                path=resolve_inside(root, name, listed_in=entry.where, allow_outside=options.allow_outside),
                mask_path=None,
                pose=rigid_pose(_pose(entry), where=entry.where, name="the pose"),
                intrinsics=shared if own is None else _lens(table, Table(f"{file}: picture {index}", {"lens": own})),
            )
        )
    return photo_capture(
        format="record3d",
        file=file,
        root=root,
        frames=frames,
        left_out=left_out,
        split=split,
        options=options,
        source={"json_hash": digest(raw)},
    )


def _file_of(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.name in FILE_NAMES else None
    return next((path / name for name in FILE_NAMES if (path / name).is_file()), None)


def _pictures_folder(root: Path) -> Path | None:
    return next((root / name for name in FOLDERS if (root / name).is_dir()), None)


def _match(file: Path, folder: Path, count: int) -> tuple[dict[int, str], list[Skipped]]:
    """Pose number -> picture, and what is left out.

    Pictures are named by the number of their pose. Where numbers do not fit (the first frames were cut off), as many
    pictures as poses are matched in order; anything else cannot be told.
    """
    found: dict[int, str] = {}
    for picture in sorted(folder.iterdir()):
        if picture.stem.isascii() and picture.stem.isdigit() and picture.suffix.lower() in _SUFFIXES:
            found.setdefault(int(picture.stem[:9]), f"{folder.name}/{picture.name}")
    numbers = sorted(found)
    if not numbers:
        raise FormatError(f"{folder}: no picture 0.jpg, 1.jpg, ... in it. Export the recording with its RGB pictures.")
    if numbers[-1] >= count:
        if len(numbers) != count:
            raise FormatError(
                f"{file}: holds {count} poses, but {folder} has {len(numbers)} pictures, the last number "
                f"{numbers[-1]}. Export the recording again, whole."
            )
        return {index: found[number] for index, number in enumerate(numbers)}, []
    absent = [index for index in range(count) if index not in found]
    left_out = [
        Skipped(path=f"{folder.name}/{index}", reason=f"{folder / str(index)}: no such file. Restore it.")
        for index in absent
    ]
    return {number: found[number] for number in numbers}, left_out


def _pose(entry: Table) -> torch.Tensor:
    numbers = entry.numbers("poses", 7) or []
    values = torch.tensor(numbers, dtype=torch.float64)
    length = float(values[:4].norm()) if len(numbers) == 7 else 0.0
    # A unit quaternion to the precision of float32 in text: anything else is no rotation.
    if not math.isclose(length, 1.0, abs_tol=1e-2):
        raise FormatError(
            f"{entry.where}: expected a unit quaternion (x, y, z, w) and a position, got length {length:.4g}. "
            "Remove the picture or export again."
        )
    rotation = rotations_from_quaternions(values[[3, 0, 1, 2]][None])[0]
    return torch.cat([rotation, values[4:, None]], dim=1)


def _shared_lens(table: Table) -> Intrinsics:
    """The lens of ``K``, written column by column: fx 0 0, 0 fy 0, cx cy 1."""
    numbers = table.numbers("K", 9)
    if numbers is None:
        raise FormatError(f"{table.where}: no K. Export the recording again.")
    kept = [numbers[index] for index in (0, 4, 6, 7)]
    if any(numbers[index] != 0 for index in (1, 2, 3, 5)) or numbers[8] != 1:
        raise FormatError(f"{table.where}: expected K to be fx 0 0 0 fy 0 cx cy 1, got {numbers}. Export again.")
    return _lens(table, Table(table.where, {"lens": kept}))


def _lens(table: Table, entry: Table) -> Intrinsics:
    """A lens of fx, fy, cx, cy in pixels."""
    width = table.whole("w", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    height = table.whole("h", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    if width is None or height is None:
        raise FormatError(f"{table.where}: no picture size w and h. Export the recording again.")
    fx, fy, cx, cy = entry.numbers("lens", 4) or [math.nan] * 4
    if not (0 < fx < math.inf and 0 < fy < math.inf and 0 < cx < width and 0 < cy < height):
        raise FormatError(
            f"{entry.where}: expected focal lengths above 0 and a principal point inside the {width}x{height} picture, "
            f"got {fx:g} {fy:g} {cx:g} {cy:g}. Export the recording again."
        )
    return Intrinsics(
        size=(width, height),
        focal=(fx, fy),
        angle=(None, None),
        principal=(cx, cy),
        distortion=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        model="perspective",
    )
