"""Normalised device coordinates: a forward-facing scene of any depth in the cube [-1, 1]^3.

The camera sits at the origin and looks along -Z. With focal lengths (fx, fy), a picture of W x H pixels and a near
plane at z = -n, a point (x, y, z) in front of the camera goes to

    (-2 fx/W x/z,  -2 fy/H y/z,  1 + 2n/z)

so that the near plane becomes z' = -1, infinity z' = 1, and straight lines stay straight. The distance t along a ray
from the near plane becomes t' = 1 - o_z / (o_z + t d_z), which runs from 0 to 1: equal steps in t' are equal steps in
disparity.

Source: Mildenhall et al. 2020 (https://arxiv.org/abs/2003.08934), appendix C, equations 25 and 26.
"""

import math
from typing import Final

import torch
from torch import Tensor

from voxfield.checks import check_range, check_shape
from voxfield.errors import InputError

_WIDEST_AXIS: Final = math.cos(math.radians(45))
"""Optical axes within 45 degrees of their mean: beyond it a picture's border would look backwards."""


def ndc_rays(
    origins: Tensor, directions: Tensor, *, focal: tuple[float, float], size: tuple[int, int], near: float
) -> tuple[Tensor, Tensor]:
    """Rays in normalised device coordinates: t' = 0 is the near plane, t' = 1 infinity.

    Args:
        origins: (R, 3), relative to the camera that looks along -Z.
        directions: (R, 3) of any length, with z < 0.
        focal: (fx, fy) in pixels.
        size: (width, height) in pixels.
        near: distance of the near plane, above 0.

    Returns:
        (origins (R, 3), directions (R, 3)): directions reach from the near plane to infinity and are not unit.
        Differentiable.

    Raises:
        InputError: wrong shapes, a ray that does not look along -Z, a near plane that is not in front.
    """
    check_shape("origins", origins, ("R", 3))
    check_shape("directions", directions, (origins.shape[0], 3))
    if not bool((directions[:, 2] < 0).all()):
        raise InputError("directions: expected z < 0 for all rays. Turn the scene so that all cameras look along -Z.")
    start = origins + _to_near_plane(origins, directions, near)[:, None] * directions
    there = ndc_points(start, focal=focal, size=size, near=near)
    (ox, oy, oz), (dx, dy, dz) = start.unbind(-1), directions.unbind(-1)
    across, down = _scales(focal, size)
    along = torch.stack(
        [-across * (dx / dz - ox / oz), -down * (dy / dz - oy / oz), torch.full_like(oz, -2 * near) / oz], dim=-1
    )
    return there, along


def ndc_points(points: Tensor, *, focal: tuple[float, float], size: tuple[int, int], near: float) -> Tensor:
    """(R, 3) points with z < 0, relative to the camera, in normalised device coordinates. Differentiable."""
    check_shape("points", points, ("R", 3))
    check_range("near", near, above=0.0)
    x, y, z = points.unbind(-1)
    across, down = _scales(focal, size)
    return torch.stack([-across * x / z, -down * y / z, 1 + 2 * near / z], dim=-1)


def ndc_distance(t: Tensor, origins: Tensor, directions: Tensor, *, near: float) -> Tensor:
    """Distances along rays, (R, S) in the lengths of ``directions``, as t' of ``ndc_rays``: 0 on the near plane,
    towards 1 at infinity. Differentiable.
    """
    check_shape("t", t, (origins.shape[0], "S"))
    start = origins[:, 2] + _to_near_plane(origins, directions, near) * directions[:, 2]
    depth = origins[:, 2, None] + t * directions[:, 2, None]
    return 1 - start[:, None] / depth


def is_forward_facing(poses: Tensor, near: float) -> bool:
    """Whether normalised device coordinates can hold the scene.

    All cameras look within 45 degrees of their mean axis, and all stand before the near plane across that axis.

    Args:
        poses: (N, 3, 4) camera-to-world, N >= 1.
        near: distance from each camera, along its axis, of the nearest thing to be seen, above 0.
    """
    check_shape("poses", poses, ("N", 3, 4))
    axes = -poses[:, :, 2].double()
    mean = axes.mean(0)
    if float(mean.norm()) < 1e-6:
        return False
    mean = mean / mean.norm()
    cosines, along = axes @ mean, poses[:, :, 3].double() @ mean
    # What a camera sees nearest lies at `near` along its own axis, less along the mean one.
    return bool(cosines.min() > _WIDEST_AXIS) and bool(along.max() < (along + near * cosines).min())


def _to_near_plane(origins: Tensor, directions: Tensor, near: float) -> Tensor:
    """(R,): distance from each origin to the plane z = -near, in lengths of ``directions``."""
    check_range("near", near, above=0.0)
    return -(near + origins[:, 2]) / directions[:, 2]


def _scales(focal: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    return 2 * focal[0] / size[0], 2 * focal[1] / size[1]
