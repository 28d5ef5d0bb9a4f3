"""LLFF captures: ``poses_bounds.npy`` beside a folder of photographs.

Row i of the N x 17 array belongs to the i-th picture by name. Its first 15 numbers are a 3 x 5 matrix, row by row:
three columns of axes in the order down, right, backwards, the camera's centre, and (height, width, focal length) in
pixels of the full pictures. The last two are the distances of the nearest and the farthest thing the picture shows,
along its axis. The principal point is the middle and there is no distortion. Source:
https://github.com/Fyusion/LLFF#using-your-own-poses-without-running-colmap.

Pictures are looked for in ``images``, or in ``images_2``, ``images_4``, ... where only reduced ones are there. Every
8th is held out, starting with the first (``CaptureOptions.eval_every``), as in the papers on these scenes.
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from voxfield.data.capture import (
    IMAGE_SUFFIXES,
    Capture,
    CaptureOptions,
    Frame,
    Intrinsics,
    Split,
    digest,
    is_file,
    reduced_only,
    resolve_inside,
)
from voxfield.data.formats.photo_capture import photo_capture
from voxfield.data.formats.poses import LARGEST_NUMBER, Pose, rigid_pose
from voxfield.data.formats.transforms_json import MOST_PIXELS_A_SIDE
from voxfield.errors import FormatError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.ndc import is_forward_facing
from voxfield.storage.npz import read_npy_header

FILE_NAME: Final = "poses_bounds.npy"
NEARER: Final = 0.9
"""Sampling starts at this share of the nearest bound, which leaves out a thousandth of the points."""
_LARGEST_FILE: Final = 1 << 28
"""Bytes: 256 MiB are two million pictures."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a ``poses_bounds.npy``, or that file."""
    return (path / FILE_NAME).is_file() if path.is_dir() else path.name == FILE_NAME


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split.

    Raises:
        MissingFileError: no such file or no pictures. FormatError: not an N x 17 array of finite numbers, poses that
        are not rigid, another number of pictures than of poses.
    """
    file = path / FILE_NAME if path.is_dir() else path
    root = file.parent
    table, raw = _read_table(file)
    factors = reduced_only(root)
    folder = root / (f"images_{factors[0]}" if factors else "images")
    names = _pictures(folder)
    if len(names) != len(table):
        raise FormatError(
            f"{file}: holds {len(table)} poses, but {folder} holds {len(names)} pictures. "
            "Restore the pictures the poses were made from, or make the poses again."
        )
    poses, lenses = _poses(file, names, table), _lenses(file, names, table)
    bounds = table[:, 15:]
    frames = [
        Frame(
            name=name,
            path=resolve_inside(root, f"images/{name}", listed_in=str(file), allow_outside=options.allow_outside),
            mask_path=None,
            pose=pose,
            intrinsics=lens,
        )
        for name, pose, lens in zip(names, poses, lenses, strict=True)
    ]
    capture = photo_capture(
        format="llff",
        file=file,
        root=root,
        frames=frames,
        left_out=(),
        split=split,
        options=options,
        source={"json_hash": digest(raw)},
        reduced_only=factors,
    )
    nearest = float(bounds[:, 0].min())
    capture = replace(capture, near=NEARER * nearest, near_in_capture=True)
    if not is_forward_facing(capture.poses(), nearest):
        return capture
    region = _frusta(capture.poses(), lenses, bounds)
    return replace(capture, forward_facing=True, bounds=region, bounds_in_capture=True)


def _read_table(file: Path) -> tuple[NDArray[np.float64], bytes]:
    """(N, 17) finite numbers, N >= 1, and the file's bytes."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise FormatError(f"{file}: expected at most {_LARGEST_FILE} bytes. Make the poses again.")
        raw = file.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: no such file. Give the folder of an LLFF capture.") from error
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror}). Check the file and its permissions.") from error
    # numpy's own reader allocates what the header asks for before it looks at how much follows.
    stream = io.BytesIO(raw)
    try:
        shape, by_columns, dtype = read_npy_header(stream)
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{file}: not a .npy file of numbers. Copy or make the file again.") from error
    if len(shape) != 2 or shape[1] != 17 or dtype.kind not in "fiu":
        raise FormatError(f"{file}: expected an N x 17 array of numbers, got {shape} of {dtype}. Make the poses again.")
    count, left = shape[0] * shape[1], len(raw) - stream.tell()
    if shape[0] < 1 or count * dtype.itemsize > left:
        raise FormatError(
            f"{file}: says that {shape[0]} poses follow, but holds {left} bytes. Copy or make the file again."
        )
    table = np.frombuffer(raw, dtype=dtype, count=count, offset=stream.tell())
    return table.reshape(shape, order="F" if by_columns else "C").astype(np.float64), raw


def _pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder, sorted as LLFF sorts them."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder. Put the photographs of the poses there.")
    suffixes = {suffix.lower() for suffix in IMAGE_SUFFIXES}
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes and is_file(path))
    except OSError as error:
        raise FormatError(f"{folder}: cannot be read ({error.strerror}). Check the folder's permissions.") from error


def _poses(file: Path, names: list[str], table: NDArray[np.float64]) -> list[Pose]:
    """Camera-to-world, OpenGL axes."""
    for name, row in zip(names, table, strict=True):
        # NaN compares false.
        if not (np.abs(row) <= LARGEST_NUMBER).all():
            raise FormatError(f"{file}: the row of {name} holds NaN, infinite or huge numbers. Make the poses again.")
        if not 0 < row[15] < row[16]:
            raise FormatError(
                f"{file}: expected bounds 0 < near < far for {name}, got {row[15]:g} and {row[16]:g}. "
                "Make the poses again."
            )
    stored = torch.from_numpy(table[:, :15].copy()).view(-1, 3, 5)
    down, right, back, centre = stored[:, :, :4].unbind(-1)
    poses = torch.stack([right, -down, back, centre], dim=-1)
    return [
        rigid_pose(pose, where=f"{file}: {name}", name="the pose (axes down, right, backwards)")
        for name, pose in zip(names, poses, strict=True)
    ]


def _lenses(file: Path, names: list[str], table: NDArray[np.float64]) -> list[Intrinsics]:
    lenses = []
    for name, (height, width, focal) in zip(names, table[:, [4, 9, 14]].tolist(), strict=True):
        if not (1 <= width <= MOST_PIXELS_A_SIDE and 1 <= height <= MOST_PIXELS_A_SIDE and focal > 0):
            raise FormatError(
                f"{file}: expected height, width and focal length in pixels for {name}, got {height:g}, {width:g} and "
                f"{focal:g}. Make the poses again."
            )
        lenses.append(
            Intrinsics(
                size=(round(width), round(height)),
                focal=(focal, focal),
                angle=(None, None),
                principal=(None, None),
                distortion=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
                model="perspective",
            )
        )
    return lenses


def _frusta(poses: torch.Tensor, lenses: list[Intrinsics], bounds: NDArray[np.float64]) -> Bounds:
    """The box around what the pictures show between their bounds, in capture coordinates."""
    sizes = torch.tensor([lens.size for lens in lenses], dtype=torch.float64)
    half = sizes / 2 / torch.tensor([lens.focal for lens in lenses], dtype=torch.float64)
    signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    corners = torch.cat([half[:, None] * signs, -torch.ones(len(half), 4, 1, dtype=torch.float64)], dim=-1)
    local = corners[:, None] * torch.from_numpy(bounds)[:, :, None, None]
    world = torch.einsum("nij,nbkj->nbki", poses[:, :, :3], local) + poses[:, None, None, :, 3]
    return Bounds.from_points(world.reshape(-1, 3))
