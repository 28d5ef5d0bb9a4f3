"""PyNeRF ("multicam") captures: one ``metadata.json`` with every picture at several scales.

Mip-NeRF's converter and PyNeRF write, per split, lists of equal length: ``file_path``, ``cam2world`` (4x4, OpenGL
axes), ``width``, ``height``, ``focal`` (pixels; the principal point is the middle), ``lossmult`` (how much a pixel of
that scale counts: scale squared), ``near`` and ``far``; ``scene_bounds`` for the file. Sources:
https://github.com/google/mipnerf/blob/main/scripts/convert_blender_data.py and
https://github.com/hturki/pynerf/blob/main/pynerf/data/dataparsers/multicam_dataparser.py.

The world is Blender's and stays as it is. Pictures keep their own sizes and focal lengths, so that a pixel's width on
a coarse scale is what it was on the file's; where weights differ, pictures of the same pose are copies of one image. A
file that is listed twice is skipped and listed, or an error: where its cameras differ, or it is train's and held out.
``pose_scale_factor`` of the file is what lengths were divided by when it was made, as PyNeRF's own reader has it for
depths (https://github.com/hturki/pynerf/blob/main/pynerf/data/datasets/weighted_dataset.py): the reconstruction's are
that much longer. ``depth_path`` is not read. ``source`` records ``scales`` (sizes and weights) and ``far``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from voxfield.data.capture import (
    Capture,
    CaptureOptions,
    Frame,
    Intrinsics,
    Split,
    digest,
    resolve_inside,
)
from voxfield.data.formats.photo_capture import (
    STAND_INS,
    check_splits,
    mentions,
    plain_name,
    present_frames,
    without_repeats,
)
from voxfield.data.formats.poses import rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE, Table, read_table
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform

FILE_NAME: Final = "metadata.json"
HALF_SIZE: Final = 1.5
"""Half the edge of the region of interest where the file has no ``scene_bounds``: holds every NeRF-synthetic object."""
MUCH_FARTHER: Final = 2.0
"""A ``far`` of more than so many times what the region of interest reaches is remarked on: mip-NeRF's 6 is not."""

_LISTS: Final = ("file_path", "cam2world", "width", "height", "focal", "lossmult", "near", "far")


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``metadata.json`` of cameras to world, or such a file."""
    file = path / FILE_NAME if path.is_dir() else path
    return file.name == FILE_NAME and mentions(file, b'"cam2world"')


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split. Val and test stand in for each other where only one exists.

    Raises:
        MissingFileError: no such file, or no such split in it. FormatError: malformed JSON, lists, poses or paths.
    """
    file = path / FILE_NAME if path.is_dir() else path
    root = file.parent
    table, raw = read_table(file)
    found = [name for name in STAND_INS[split] if isinstance(table.values.get(name), dict)]
    if not found:
        raise MissingFileError(f"{file}: no {split!r} in it. Add the split to the file or use another split.")
    columns = _columns(file, found[0], table.values[found[0]])
    _check_names(table)
    rows = [
        Table(f"{file}: {found[0]} picture {index}", dict(zip(columns, values, strict=True)))
        for index, values in enumerate(zip(*columns.values(), strict=True))
    ]
    frames, repeated = without_repeats(
        (row.where, _frame(row, root, allow_outside=options.allow_outside)) for row in rows
    )
    present, missing = present_frames(frames)
    bounds = _bounds(table)
    far = max(_distances(file, "far", columns["far"]))
    return Capture(
        format="pynerf",
        file=file,
        root=root,
        frames=tuple(frames),
        chosen=tuple(present),
        missing=(*missing, *repeated),
        normalised=False,
        before=_divided(table),
        bounds=bounds,
        bounds_in_capture=False,
        unbounded=False,
        # What one capture of one distance can say without cutting anything off.
        near=min(_distances(file, "near", columns["near"])),
        source={
            "split_rule": found[0],
            "scales": _scales(columns),
            "far": far,
            "json_hash": digest(raw),
        },
        remarks=_cut_off(file, frames, far, bounds, options),
    )


def _columns(file: Path, split: str, values: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of one split, checked to be there and of one length."""
    count = len(values["file_path"]) if isinstance(values.get("file_path"), list) else 0
    if not count:
        raise FormatError(f"{file}: {split} lists no pictures in file_path. Convert the data set again.")
    for name in _LISTS:
        column = values.get(name)
        if not isinstance(column, list) or len(column) != count:
            came = f"{len(column)} entries" if isinstance(column, list) else "no list"
            raise FormatError(
                f"{file}: expected {split} to have {count} entries in {name!r}, as in file_path, got {came}. "
                "Convert the data set again."
            )
    return {name: values[name] for name in _LISTS}


def _check_names(table: Table) -> None:
    """Raise FormatError where train lists a file that is held out too."""
    listed: dict[Split, list[str]] = {}
    for split in STAND_INS:
        values = table.values.get(split)
        column = values.get("file_path") if isinstance(values, dict) else None
        names = column if isinstance(column, list) else []
        listed[split] = [plain_name(name) for name in names if isinstance(name, str)]
    check_splits(listed, {split: f"{table.where}: {split}" for split in STAND_INS})


def _frame(row: Table, root: Path, *, allow_outside: bool) -> Frame:
    name = row.text("file_path")
    if not name:
        raise FormatError(f"{row.where}: no file_path. Convert the data set again.")
    pose = row.matrix("cam2world")
    width = row.whole("width", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    height = row.whole("height", minimum=1, maximum=MOST_PIXELS_A_SIDE)
    focal = row.number("focal", above=0.0)
    weight = row.number("lossmult", above=0.0)
    if pose is None or width is None or height is None or focal is None or weight is None:
        raise FormatError(
            f"{row.where}: cam2world, width, height, focal or lossmult is null. Convert the data set again."
        )
    return Frame(
        name=name,
        path=resolve_inside(root, name, listed_in=row.where, allow_outside=allow_outside),
        mask_path=None,
        pose=rigid_pose(pose, where=row.where, name="cam2world"),
        intrinsics=Intrinsics(
            size=(width, height),
            focal=(focal, focal),
            angle=(None, None),
            principal=(None, None),
            distortion=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            model="perspective",
        ),
        weight=weight,
    )


def _distances(file: Path, key: str, column: list[Any]) -> list[float]:
    """The distances of one list, each a number of at least 0."""
    found = []
    for index, entry in enumerate(column):
        value = Table(f"{file}: picture {index}", {key: entry}).number(key)
        if value is None or value < 0:
            raise FormatError(
                f"{file}: picture {index}: expected {key} to be at least 0, got {value}. Correct the file."
            )
        found.append(value)
    return found


def _divided(table: Table) -> SceneTransform:
    """From the reconstruction's lengths to the file's."""
    factor = table.number("pose_scale_factor", above=0.0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] /= 1.0 if factor is None else factor
    return SceneTransform(matrix=matrix)


def _cut_off(
    file: Path, frames: Sequence[Frame], far: float, stated: Bounds, options: CaptureOptions
) -> tuple[str, ...]:
    """A warning where the file speaks of much that lies outside the region of interest."""
    bounds = stated if options.scene_bounds is None else Bounds.from_numbers(options.scene_bounds)
    origins = torch.tensor([[row[3] for row in frame.pose] for frame in frames], dtype=torch.float64)
    reach = float(torch.cdist(origins, bounds.corners().double()).max())
    if far <= MUCH_FARTHER * reach:
        return ()
    remark = (
        f"{file}: states far {far:g}, but the region of interest ends {reach:.3g} from the cameras: what lies outside "
        "is cut off. If that is too little, set capture.scene_bounds, or scene_bounds in the file."
    )
    return (remark,)


def _bounds(table: Table) -> Bounds:
    stated = table.values.get("scene_bounds")
    if stated is None:
        return Bounds.from_cube(HALF_SIZE)
    rows = stated if isinstance(stated, list) and len(stated) == 2 else [None, None]
    corners = [Table(table.where, {"scene_bounds": row}).numbers("scene_bounds", 3) for row in rows]
    low, high = corners[0] or [], corners[1] or []
    limits = torch.tensor([low, high], dtype=torch.float64) if low and high else torch.zeros(2, 3)
    if not bool(limits.isfinite().all()) or not bool((limits[0] < limits[1]).all()):
        raise FormatError(f"{table.where}: expected scene_bounds to be a low and a high corner. Correct the file.")
    return Bounds(minimum=(low[0], low[1], low[2]), maximum=(high[0], high[1], high[2]))


def _scales(columns: dict[str, list[Any]]) -> list[dict[str, object]]:
    """Every picture size of the split with its loss weight, finest first."""
    sizes = zip(columns["width"], columns["height"], columns["lossmult"], strict=True)
    counts: dict[tuple[int, int, float], int] = {}
    for width, height, weight in sizes:
        key = (int(width), int(height), float(weight))
        counts[key] = counts.get(key, 0) + 1
    return [
        {"width": width, "height": height, "weight": weight, "pictures": count}
        for (width, height, weight), count in sorted(counts.items(), reverse=True)
    ]
