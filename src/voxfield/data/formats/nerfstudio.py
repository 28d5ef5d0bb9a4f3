"""nerfstudio and instant-ngp captures: one ``transforms.json`` beside the pictures.

Keys read, for the whole file or per frame: ``fl_x fl_y cx cy w h``, ``camera_angle_x/_y``, ``k1 k2 k3 k4 p1 p2``,
``camera_model``; per frame ``file_path transform_matrix mask_path depth_file_path`` and Voxfield's own
``exposure_stops`` of EXR pictures; for the file ``train_filenames val_filenames test_filenames``, ``applied_transform
applied_scale``, instant-ngp's ``aabb_scale scale offset``. Sources:
https://docs.nerf.studio/quickstart/data_conventions.html and
https://github.com/NVlabs/instant-ngp/blob/master/docs/nerf_dataset_tips.md.

Frames are taken in order of their path. Frames whose picture does not exist and repeated frames are skipped and listed;
one picture with two poses, or both in train's list and in a held-out one, is an error. Without lists in the file, every
8th of the pictures **that exist** is held out, starting with the first (``CaptureOptions.eval_every``).
"""

import math
from pathlib import Path
from typing import Final

import torch

from voxfield.data.capture import SPLITS, Capture, CaptureOptions, Frame, Split, digest
from voxfield.data.formats.photo_capture import NEAR, STAND_INS, check_splits, hold_out, plain_name, present_frames
from voxfield.data.formats.transforms_json import Table, read_depth_unit, read_frames, read_table
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform

FILE_NAME: Final = "transforms.json"
OTHER_JSON: Final = (
    *(f"transforms_{split}.json" for split in SPLITS),
    *("metadata.json", "cameras.json", "splits.json", "mesh_info.json"),
)
"""JSON files of other captures: NeRF-synthetic's, PyNeRF's and Record3D's, EyefulTower's, Polycam's."""
NGP_SCALE: Final = 0.33
NGP_OFFSET: Final = (0.5, 0.5, 0.5)
"""instant-ngp maps capture coordinates p to scale * p + offset and bounds the scene by the unit cube times
aabb_scale."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``transforms.json``, or a JSON file that no other format names so."""
    if path.is_dir():
        return (path / FILE_NAME).is_file()
    return path.suffix.lower() == ".json" and path.name not in OTHER_JSON


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split.

    Raises:
        MissingFileError: no such file. FormatError: malformed JSON, poses, paths or lists.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise MissingFileError(f"{file}: no such file. Give a capture's folder or its transforms JSON.")
    root = file.parent
    table, raw = read_table(file)
    # instant-ngp's stereo and split files are out of scope; the order by path makes splits independent of the exporter.
    frames, repeated = read_frames(table, file, root, allow_outside=options.allow_outside)
    frames.sort(key=lambda frame: frame.name)
    present, missing = present_frames(frames)
    chosen, rule = _choose(table, frames, present, split, options)
    bounds, in_capture, unbounded, aabb_scale = _region(table)
    source: dict[str, object] = {"split_rule": rule, "json_hash": digest(raw)}
    if aabb_scale is not None:
        source["aabb_scale"] = aabb_scale
    return Capture(
        format="nerfstudio",
        file=file,
        root=root,
        frames=tuple(frames),
        chosen=tuple(chosen),
        missing=(*missing, *repeated),
        normalised=True,
        before=_applied(table),
        bounds=bounds,
        bounds_in_capture=in_capture,
        unbounded=unbounded,
        near=NEAR,
        depth_unit=read_depth_unit(table),
        source=source,
    )


def _choose(
    table: Table, frames: list[Frame], present: list[int], split: Split, options: CaptureOptions
) -> tuple[list[int], str]:
    """The split's frames among those present, and the rule that chose them."""
    lists: dict[Split, list[str] | None] = {name: table.texts(f"{name}_filenames") for name in STAND_INS}
    if not any(lists.values()):
        return hold_out(present, split, options)
    known = {plain_name(frame.name): index for index, frame in enumerate(frames)}
    for name, listed in lists.items():
        for item in listed or []:
            if plain_name(item) not in known:
                raise FormatError(
                    f"{table.where}: {name}_filenames lists {item!r}, which is not among the frames. Correct the list."
                )
    plain = {name: [plain_name(item) for item in listed or []] for name, listed in lists.items()}
    check_splits(plain, {name: f"{table.where}: {name}_filenames" for name in lists})
    for name in STAND_INS[split]:
        if plain[name]:
            wanted = {known[item] for item in plain[name]}
            return [index for index in present if index in wanted], f"{name}_filenames"
    # The lists leave this split out: it gets the frames that no list claims.
    taken = {known[item] for listed in plain.values() for item in listed}
    return [index for index in present if index not in taken], "not listed"


def _applied(table: Table) -> SceneTransform:
    """What the exporter already applied to the reconstruction: ``applied_scale * applied_transform``."""
    matrix = table.matrix("applied_transform")
    scale = table.number("applied_scale", above=0.0)
    if matrix is None and scale is None:
        return SceneTransform.identity()
    matrix = torch.eye(4, dtype=torch.float64) if matrix is None else matrix
    matrix[:3] *= 1.0 if scale is None else scale
    try:
        return SceneTransform(matrix=matrix)
    except InputError as error:
        raise FormatError(
            f"{table.where}: expected applied_transform to be a rotation and shift. Correct or remove it."
        ) from error


def _region(table: Table) -> tuple[Bounds, bool, bool, int | None]:
    """(bounds, whether they are in capture coordinates, unbounded, aabb_scale).

    ``aabb_scale`` 1 says that all there is lies in instant-ngp's unit cube, whose place ``scale`` and ``offset``
    state in the file's coordinates. Otherwise the region of interest is the cube around the cameras, and the world
    goes on beyond it.
    """
    aabb_scale = table.whole("aabb_scale", minimum=1, maximum=128)
    if aabb_scale != 1:
        return Bounds.from_cube(1.0), False, True, aabb_scale
    scale = table.number("scale", above=0.0) or NGP_SCALE
    offset = table.values.get("offset", list(NGP_OFFSET))
    if not (isinstance(offset, list) and len(offset) == 3 and all(_is_number(value) for value in offset)):
        raise FormatError(f"{table.where}: expected offset to be 3 numbers. Correct the file.")
    low = [-float(value) / scale for value in offset]
    high = [(1 - float(value)) / scale for value in offset]
    return Bounds(minimum=(low[0], low[1], low[2]), maximum=(high[0], high[1], high[2])), True, False, aabb_scale


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
