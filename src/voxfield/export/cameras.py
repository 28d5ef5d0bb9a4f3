"""A run's cameras as nerfstudio's ``transforms.json``, without pictures: for programs that place what a run shows.

Poses are camera to world with OpenGL axes, in the run's world or in the capture's coordinates. ``applied_transform``
and ``applied_scale`` say how the file's coordinates came from the capture's: scale * transform @ (p, 1). The keys are
those of https://docs.nerf.studio/quickstart/data_conventions.html; ``file_path`` is what the capture calls the picture.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from voxfield.data.capture import Intrinsics
from voxfield.data.formats.transforms_json import lens_keys
from voxfield.data.posed_images import PosedImages
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.storage.atomic import write_json

Space = Literal["world", "capture"]
CameraSplit = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class CamerasExport:
    """What was written."""

    file: Path
    cameras: dict[str, int]
    """Cameras by split; val and test may be the same ones."""


def write_cameras(
    path: str | os.PathLike[str],
    splits: Mapping[str, PosedImages],
    *,
    space: Space = "world",
    refined: torch.Tensor | None = None,
) -> CamerasExport:
    """Write the cameras of ``splits``, each image once, at the resolution they are worked with.

    Args:
        path: the ``.json`` file.
        splits: names to splits of one capture, at least one.
        space: ``world`` or ``capture``.
        refined: (N, 3, 4): poses in the world that take the place of those of ``train``.

    Raises:
        InputError: another ending.
    """
    file = Path(path)
    if file.suffix.lower() != ".json":
        raise InputError(f"{path}: expected a file that ends in .json.")
    to_world = next(iter(splits.values())).transform
    applied = to_world if space == "world" else SceneTransform.identity()
    frames: dict[str, dict[str, Any]] = {}
    listed: dict[str, list[str]] = {}
    for split, captures in splits.items():
        cameras, names = captures.image_cameras, captures.names
        if captures.scales is not None:
            names = tuple(names[int(index)] for index in captures.scales.finest)
        poses = refined if refined is not None and split == "train" else cameras.camera_to_world
        poses = poses.double() if space == "world" else to_world.inverse().apply_poses(poses.double())
        for index, name in enumerate(names):
            # Splits that share pictures keep what is said of them first: the poses of training.
            frames.setdefault(name, {**_lens(cameras, index), "transform_matrix": _rows(poses[index])})
        listed[split] = list(names)
    lenses = [{key: value for key, value in frame.items() if key != "transform_matrix"} for frame in frames.values()]
    shared = all(lens == lenses[0] for lens in lenses)
    write_json(
        file,
        {
            **(lenses[0] if shared else {}),
            "applied_transform": (applied.matrix[:3] / applied.scale).tolist(),
            "applied_scale": applied.scale,
            **{f"{split}_filenames": names for split, names in listed.items()},
            "frames": [
                {"file_path": name, **({"transform_matrix": frame["transform_matrix"]} if shared else frame)}
                for name, frame in frames.items()
            ],
        },
    )
    return CamerasExport(file=file, cameras={split: len(names) for split, names in listed.items()})


def _lens(cameras: Cameras, i: int) -> dict[str, Any]:
    """The keys that state the lens of camera ``i``."""
    size = int(cameras.width[i]), int(cameras.height[i])
    (fx, fy), (cx, cy) = cameras.focal[i].tolist(), cameras.principal[i].tolist()
    distortion = [0.0] * 6 if cameras.distortion is None else cameras.distortion[i].tolist()
    intrinsics = Intrinsics(
        size=size,
        focal=(fx, fy),
        angle=(None, None),
        principal=(cx, cy),
        distortion=tuple(distortion),
        model=cameras.model,
    )
    return lens_keys(intrinsics, size)


def _rows(pose: torch.Tensor) -> list[list[float]]:
    """A pose (3, 4) as the four rows of a matrix."""
    return [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
