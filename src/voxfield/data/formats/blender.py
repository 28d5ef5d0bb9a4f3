"""NeRF-synthetic ("Blender") captures: ``transforms_{train,val,test}.json`` beside folders of RGBA pictures.

The layout is that of the data set of Mildenhall et al. 2020 (https://arxiv.org/abs/2003.08934): per split one JSON
with ``camera_angle_x`` and frames of ``file_path`` (without extension) and ``transform_matrix``. The world is
Blender's, +Z up, and stays as it is: objects lie within 1.5 units of the origin, cameras about 4 away. Only files the
JSON names are read: depth and normal maps lie beside the test pictures. A picture that is in train's file and in val's
or test's is an error; a frame that repeats an earlier one is skipped and listed.
"""

from pathlib import Path
from typing import Final

from voxfield.data.capture import Capture, CaptureOptions, Split, digest
from voxfield.data.formats.photo_capture import STAND_INS, check_splits, plain_name, present_frames
from voxfield.data.formats.transforms_json import read_depth_unit, read_frames, read_table
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.bounds import Bounds

HALF_SIZE: Final = 1.5
"""Half the edge of the region of interest, as the data set's own code and its successors use it."""
NEAR: Final = 0.05
"""Cameras stand well outside the bounds: this only keeps samples off the lens."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``transforms_<split>.json``, or such a file."""
    if path.is_dir():
        return any((path / f"transforms_{split}.json").is_file() for split in STAND_INS)
    return path.name in {f"transforms_{split}.json" for split in STAND_INS}


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split. Val and test stand in for each other where only one exists.

    Raises:
        MissingFileError: no JSON for the split. FormatError: malformed JSON, poses or paths, pictures of two splits.
    """
    root = path if path.is_dir() else path.parent
    found = [name for name in STAND_INS[split] if (root / f"transforms_{name}.json").is_file()]
    if not found:
        raise MissingFileError(
            f"{root / f'transforms_{split}.json'}: no such file, so the capture has no {split} split. "
            "Add it or use another split."
        )
    file = root / f"transforms_{found[0]}.json"
    table, raw = read_table(file)
    frames, repeated = read_frames(table, file, root, allow_outside=options.allow_outside)
    files = {name: root / f"transforms_{name}.json" for name in STAND_INS}
    check_splits({name: _names(listed) for name, listed in files.items()}, {**files})
    present, missing = present_frames(frames)
    return Capture(
        format="blender",
        file=file,
        root=root,
        frames=tuple(frames),
        chosen=tuple(present),
        missing=(*missing, *repeated),
        normalised=False,
        bounds=Bounds.from_cube(HALF_SIZE),
        bounds_in_capture=False,
        unbounded=False,
        near=NEAR,
        depth_unit=read_depth_unit(table),
        source={"split_rule": f"transforms_{found[0]}.json", "json_hash": digest(raw)},
    )


def _names(file: Path) -> list[str]:
    """The pictures that a split's file lists, none where it is missing or malformed: its own reading says so."""
    try:
        table, _ = read_table(file)
    except (FormatError, MissingFileError):
        return []
    frames = table.values.get("frames")
    entries = frames if isinstance(frames, list) else []
    paths = [entry.get("file_path") for entry in entries if isinstance(entry, dict)]
    return [plain_name(path) for path in paths if isinstance(path, str)]
