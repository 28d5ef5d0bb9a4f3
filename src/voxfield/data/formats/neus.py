"""DTU and NeuS captures: ``cameras_sphere.npz`` beside folders ``image`` and ``mask``.

For picture i the archive holds ``world_mat_i``, the projection P = K [R | t] of the reconstruction's coordinates to
pixels, and ``scale_mat_i``, which takes the unit sphere around the subject to those coordinates: poses are read from
P * scale_mat_i, so the subject lies in the unit sphere and the region of interest is its box. Pixels are counted from
the centre of the first one (the converter writes cx = (w - 1) / 2), hence half a pixel is added to the principal
point. Source: https://github.com/Totoro97/NeuS (``models/dataset.py``, ``preprocess_custom_data``).

The world keeps its centre and scale; only its axes are turned, so that the cameras' mean up is +Z. Where there are
masks the subject alone counts, and nothing is looked for outside the sphere.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from voxfield.data.capture import (
    IMAGE_SUFFIXES,
    Capture,
    CaptureOptions,
    Frame,
    Intrinsics,
    Split,
    digest,
    resolve_inside,
)
from voxfield.data.formats.photo_capture import hold_out, mentions, present_frames
from voxfield.data.formats.poses import from_opencv, rigid_pose
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform, normalise
from voxfield.storage.npz import read_npz
from voxfield.storage.skipped import Skipped

FILE_NAMES: Final = ("cameras_sphere.npz", "cameras.npz")
NEAR: Final = 0.05
"""In radii of the subject's sphere; cameras stand outside it."""
MATRIX: Final = re.compile(r"(world|scale)_mat_\d+")
MOST_MATRIX_BYTES: Final = 4096
"""A 4x4 matrix of float64 with its header has 256: larger entries of an archive are not unpacked."""
MOST_SKEW: Final = 1e-3
"""Largest skew, as a share of the focal length, that is rounding of the projection."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with an archive of ``world_mat_<i>``, or such an archive."""
    file = _file_of(path)
    return file is not None and mentions(file, b"world_mat_")


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split: every n-th picture is held out.

    Raises:
        MissingFileError: no archive or no folder ``image``. FormatError: a damaged archive, matrices that are no
        projections, more or fewer pictures than matrices.
    """
    file = _file_of(path)
    if file is None:
        raise MissingFileError(f"{path / FILE_NAMES[0]}: no such file. Give the folder that holds it.")
    root = file.parent
    worlds, scales, raw = _load(file)
    to_sphere = _subject(file, scales)
    pictures, left_out = _pictures(file, root / "image", len(worlds))
    masks = _masks(root / "mask", pictures)
    cameras = {index: _decompose(file, index, worlds[index], scales[index]) for index in pictures}
    turned, turn = _upright([pose for _, pose in cameras.values()], options)
    frames = []
    for (index, name), pose in zip(pictures.items(), turned, strict=True):
        where = f"{file}: camera {index}"
        mask = masks.get(index)
        frames.append(
            Frame(
                name=name,
                path=resolve_inside(root, name, listed_in=where, allow_outside=options.allow_outside),
                mask_path=resolve_inside(root, mask, listed_in=where, allow_outside=options.allow_outside)
                if mask
                else None,
                pose=rigid_pose(pose, where=where, name="the pose"),
                intrinsics=cameras[index][0],
            )
        )
    present, missing = present_frames(frames)
    chosen, rule = hold_out(present, split, options)
    return Capture(
        format="neus",
        file=file,
        root=root,
        frames=tuple(frames),
        chosen=tuple(chosen),
        missing=(*missing, *left_out),
        normalised=False,
        before=turn.after(to_sphere),
        bounds=Bounds.from_cube(1.0),
        bounds_in_capture=False,
        unbounded=not masks,
        near=NEAR,
        source={"split_rule": rule, "json_hash": digest(raw)},
    )


def _file_of(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.name in FILE_NAMES else None
    return next((path / name for name in FILE_NAMES if (path / name).is_file()), None)


def _load(file: Path) -> tuple[list[Tensor], list[Tensor], bytes]:
    """world_mat_i and scale_mat_i, (4, 4) float64 each, for i = 0, 1, ...; and the bytes that tell the file apart."""
    arrays = read_npz(file, wanted=lambda name: MATRIX.fullmatch(name) is not None, most_bytes=MOST_MATRIX_BYTES)
    count = sum(name.startswith("world") for name in arrays)
    if not count:
        raise FormatError(f"{file}: no world_mat_0 in it. Convert the data set again.")
    matrices: dict[str, list[Tensor]] = {"world": [], "scale": []}
    for index in range(count):
        for kind, found in matrices.items():
            name = f"{kind}_mat_{index}"
            if name not in arrays:
                raise FormatError(f"{file}: no {name}, though it holds {count} cameras. Convert the data set again.")
            found.append(_matrix(file, name, arrays[name]))
    worlds, scales = matrices["world"], matrices["scale"]
    raw = b"".join(matrix.numpy().tobytes() for pair in zip(worlds, scales, strict=True) for matrix in pair)
    return worlds, scales, raw


def _matrix(file: Path, name: str, array: np.ndarray) -> Tensor:
    if array.shape not in ((3, 4), (4, 4)) or array.dtype.kind not in "fiu":
        raise FormatError(
            f"{file}: expected {name} to be a 4x4 matrix of numbers, got {array.dtype} {array.shape}. Convert again."
        )
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[: array.shape[0]] = torch.from_numpy(array.astype(np.float64))
    if not bool(matrix.isfinite().all()):
        raise FormatError(f"{file}: {name} holds NaN or infinite numbers. Convert the data set again.")
    return matrix


def _pictures(file: Path, folder: Path, count: int) -> tuple[dict[int, str], list[Skipped]]:
    """Camera number -> picture. As many pictures as cameras are matched in order of name, fewer by their number."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder. Put the pictures there, in the order of the cameras.")
    names = sorted(picture.name for picture in folder.iterdir() if picture.suffix in IMAGE_SUFFIXES)
    if len(names) == count:
        return {index: f"image/{name}" for index, name in enumerate(names)}, []
    stems = [Path(name).stem for name in names]
    numbers = {
        int(stem[:9]): name for stem, name in zip(stems, names, strict=True) if stem.isascii() and stem.isdigit()
    }
    if len(numbers) != len(names) or not names or max(numbers) >= count:
        raise FormatError(
            f"{file}: holds {count} cameras, but {folder} has {len(names)} pictures, and their names do not number the "
            "cameras from 0. Restore the pictures."
        )
    gone = [index for index in range(count) if index not in numbers]
    left_out = [Skipped(path=f"image/{index:03d}", reason=f"{folder}: no picture number {index}") for index in gone]
    return {index: f"image/{numbers[index]}" for index in sorted(numbers)}, left_out


def _masks(folder: Path, pictures: dict[int, str]) -> dict[int, str]:
    """Camera number -> mask: of the picture's name, else as many as pictures in order of name."""
    if not folder.is_dir():
        return {}
    names = sorted(mask.name for mask in folder.iterdir() if mask.suffix in IMAGE_SUFFIXES)
    by_stem = {Path(name).stem: name for name in names}
    same = {index: by_stem.get(Path(name).stem) for index, name in pictures.items()}
    if all(same.values()):
        return {index: f"mask/{name}" for index, name in same.items()}
    if len(names) != len(pictures):
        raise FormatError(
            f"{folder}: has {len(names)} masks for {len(pictures)} pictures, and their names differ. "
            "Restore the masks, or remove the folder to do without."
        )
    return {index: f"mask/{name}" for index, name in zip(pictures, names, strict=True)}


def _decompose(file: Path, index: int, world: Tensor, scale: Tensor) -> tuple[Intrinsics, Tensor]:
    """Lens and camera-to-world (3, 4), OpenGL axes, of P = world * scale by RQ decomposition (Hartley and Zisserman
    2004, section 6.2.4).
    """
    where = f"{file}: camera {index}"
    projection = (world @ scale)[:3]
    left = projection[:, :3]
    size = float(left.abs().max())
    determinant = float(torch.linalg.det(left / size)) if size > 0 else 0.0
    if abs(determinant) < 1e-12:
        raise FormatError(f"{where}: world_mat_{index} is no projection (its 3x3 part is singular). Convert again.")
    if determinant < 0:
        # P and -P are one projection; of the two, this one puts what lies before the camera at positive depth.
        projection, left = -projection, -left
        if float(projection[2, 3]) <= 0:
            raise FormatError(f"{where}: world_mat_{index} mirrors. Convert with K of positive focal lengths.")
    # RQ of A is the QR of A's transpose with rows and columns in reverse.
    q, r = torch.linalg.qr(left.flip(0).T)
    upper, rotation = r.T.flip(0, 1), q.T.flip(0)
    signs = upper.diagonal().sign()
    upper, rotation = upper * signs, signs[:, None] * rotation
    lens = upper / upper[2, 2]
    if abs(float(lens[0, 1])) > MOST_SKEW * float(lens[0, 0]):
        raise FormatError(f"{where}: world_mat_{index} has a skew of {float(lens[0, 1]):.3g} pixels. Convert without.")
    centre = -torch.linalg.solve(left, projection[:, 3])
    return (
        Intrinsics(
            size=None,
            focal=(float(lens[0, 0]), float(lens[1, 1])),
            angle=(None, None),
            principal=(float(lens[0, 2]) + 0.5, float(lens[1, 2]) + 0.5),
            distortion=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            model="perspective",
        ),
        from_opencv(torch.cat([rotation.T, centre[:, None]], dim=1)),
    )


def _upright(poses: list[Tensor], options: CaptureOptions) -> tuple[Tensor, SceneTransform]:
    """Poses turned about the sphere's centre so that their mean up is +Z, and the turn."""
    stacked = torch.stack(poses)
    turn = normalise(stacked, orientation=options.orientation, centre="none", auto_scale=False)
    return turn.apply_poses(stacked), turn


def _subject(file: Path, scales: list[Tensor]) -> SceneTransform:
    """From the reconstruction's coordinates to the unit sphere's: the inverse of the one scale_mat."""
    for index, scale in enumerate(scales):
        if not torch.allclose(scale, scales[0], rtol=1e-4, atol=1e-6):
            raise FormatError(
                f"{file}: scale_mat_{index} differs from scale_mat_0, so the cameras share no world. Convert again."
            )
    try:
        return SceneTransform(matrix=scales[0]).inverse()
    except InputError as error:
        raise FormatError(
            f"{file}: expected scale_mat_0 to be a scale and a shift. Convert the data set again."
        ) from error
