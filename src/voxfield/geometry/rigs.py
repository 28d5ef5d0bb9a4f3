"""Rigs: the cameras that make one frame of a fly-through, and how their pictures lie in it.

- ``perspective``: one camera, the path's own.
- ``fisheye``: one equidistant fisheye whose circle of 180 degrees touches the frame's nearer edges.
- ``equirectangular``: one panorama of 360 by 180 degrees.
- ``vr180``: two half panoramas of 180 by 180 degrees, the left eye's on the left; the eyes are fixed beside each other.
- ``ods``: two panoramas of 360 by 180 degrees, the left eye's on top; the eyes turn with the direction (omnidirectional
  stereo, Ishiguro, Yamamoto and Tsuji 1992, https://doi.org/10.1109/34.121792), so that depth shows all around.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from voxfield.axes import WORLD_UP
from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras

RigKind = Literal["perspective", "fisheye", "equirectangular", "vr180", "ods"]
RIG_KINDS: Final = get_args(RigKind)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rig:
    """The cameras of every frame of a path."""

    kind: RigKind
    """What they are."""
    eyes: tuple[Cameras, ...]
    """One camera a frame each; the left eye first."""

    def __len__(self) -> int:
        return len(self.eyes[0])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        width, height = int(self.eyes[0].width[0]), int(self.eyes[0].height[0])
        return {"vr180": (2 * width, height), "ods": (width, 2 * height)}.get(self.kind, (width, height))

    def frame(self, pictures: list[Tensor]) -> Tensor:
        """A frame, (H, W, ...), of the eyes' pictures: beside each other for ``vr180``, stacked for ``ods``."""
        return torch.cat(pictures, dim=1 if self.kind == "vr180" else 0) if len(pictures) > 1 else pictures[0]


def make_rig(
    kind: RigKind,
    path: Cameras,
    *,
    width: int,
    height: int,
    eye_distance: float | None = None,
    target: Tensor | None = None,
    level: bool = True,
) -> Rig:
    """The rig of a kind along a path.

    Args:
        kind: one of ``RIG_KINDS``.
        path: perspective cameras of ``width`` by ``height`` pixels, one a frame.
        width, height: of the frames, at least 2 where two pictures share them; halved between two eyes.
        eye_distance: of stereo rigs, world units, above 0; None: a thirtieth of the way to ``target``, which is
            comfortable to look at.
        target: (3,) what the path looks at; None: the origin.
        level: turn panoramas upright, so that the horizon is level: a tilted one makes whoever wears it sick.

    Raises:
        InputError: an unknown kind, a size that cannot be halved, or an ``eye_distance`` that is not above 0.
    """
    check_choice("camera", kind, RIG_KINDS)
    if kind == "perspective":
        return Rig(kind=kind, eyes=(path,))
    if kind == "fisheye":
        return Rig(kind=kind, eyes=(_seen_by(path, "fisheye", width, height, min(width, height) / math.pi),))
    path = replace(path, camera_to_world=upright(path.camera_to_world)) if level else path
    if kind == "equirectangular":
        return Rig(kind=kind, eyes=(_panorama(path, width, height, 2 * math.pi),))
    halved = {"vr180": ("width", width), "ods": ("height", height)}[kind]
    if halved[1] % 2:
        raise InputError(f"{halved[0]}: expected an even number of pixels for two eyes, got {halved[1]}.")
    if eye_distance is None:
        centre = path.origins.new_zeros(3) if target is None else target.to(path.origins)
        eye_distance = max(float((path.origins - centre).norm(dim=1).median()), 1e-6) / 30.0
    check_range("eye_distance", eye_distance, above=0.0, maximum=1e6)
    half = 0.5 * eye_distance
    if kind == "ods":
        whole = _panorama(path, width, height // 2, 2 * math.pi)
        return Rig(kind=kind, eyes=(replace(whole, eye_offset=-half), replace(whole, eye_offset=half)))
    front = _panorama(path, width // 2, height, math.pi)
    right = front.camera_to_world[:, :, 0]
    sides = [
        torch.cat([front.camera_to_world[:, :, :3], (front.origins + shift * right)[:, :, None]], dim=2)
        for shift in (-half, half)
    ]
    return Rig(kind=kind, eyes=tuple(replace(front, camera_to_world=pose) for pose in sides))


def upright(poses: Tensor) -> Tensor:
    """(N, 3, 4) poses turned about their own horizontal axis until up is the world's, keeping where they head.

    A camera that looks straight up or down has no heading: it takes that of its own up or down.
    """
    up = poses.new_tensor(WORLD_UP)
    back = poses[:, :, 2]
    across = back - (back @ up)[:, None] * up
    # Looking down, the picture's top is ahead; looking up, its bottom is.
    top = poses[:, :, 1] * torch.sign(-(back @ up))[:, None]
    instead = top - (top @ up)[:, None] * up
    steep = across.norm(dim=1, keepdim=True) < 1e-4
    back = torch.nn.functional.normalize(torch.where(steep, instead, across), dim=1)
    right = torch.linalg.cross(up.expand_as(back), back)
    return torch.stack([right, up.expand_as(back), back, poses[:, :, 3]], dim=2)


def _panorama(path: Cameras, width: int, height: int, turn: float) -> Cameras:
    """Panoramas ``turn`` radians wide and half a turn high."""
    seen = _seen_by(path, "equirectangular", width, height, 1.0)
    focal = torch.tensor([width / turn, height / math.pi], device=path.device)
    return replace(seen, focal=focal.repeat(len(path), 1))


def _seen_by(
    path: Cameras, model: Literal["fisheye", "equirectangular"], width: int, height: int, focal: float
) -> Cameras:
    count, device = len(path), path.device
    return Cameras(
        camera_to_world=path.camera_to_world,
        focal=torch.full((count, 2), focal, device=device),
        principal=torch.tensor([[width / 2, height / 2]], device=device).repeat(count, 1),
        width=torch.full((count,), width, dtype=torch.int64, device=device),
        height=torch.full((count,), height, dtype=torch.int64, device=device),
        model=model,
    )
