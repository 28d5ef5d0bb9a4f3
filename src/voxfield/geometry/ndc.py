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
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from voxfield.checks import check_range, check_shape
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays

_WIDEST_AXIS: Final = math.cos(math.radians(45))
"""Optical axes within 45 degrees of their mean: beyond it a picture's border would look backwards."""
_SIDEWAYS: Final = 1e-3
"""Rays whose cosine to the axis is below this never get far in front of the near plane."""
_MARGIN: Final = 0.02
"""Share by which the region of a frame exceeds what its pictures show: corrected poses may look a little past it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NdcFrame:
    """The camera in whose normalised device coordinates a forward-facing scene is described, and the scene's extent.

    Rays keep unit directions there: distances t' along them are lengths in the cube.
    """

    world_to_camera: Tensor
    """(3, 4) float64, rigid: the camera looks along -Z."""
    cotangents: tuple[float, float]
    """2 fx / W and 2 fy / H, above 0: what lies at that share of its depth from the axis goes to 1."""
    near: float
    """Distance of the near plane along the axis, world units, above 0."""
    bounds: Bounds
    """What the pictures show, in normalised device coordinates; z from -1 to 1."""

    @classmethod
    def around(cls, poses: Tensor, tangents: Tensor, near: float) -> "NdcFrame":
        """The frame amid N cameras.

        Args:
            poses: (N, 3, 4) camera-to-world, N >= 1.
            tangents: (N, 2), half the width and height of what each sees, at a distance of 1 along its axis, above 0.
            near: distance from each camera, along its own axis, of the nearest thing to be seen, above 0.

        Raises:
            InputError: cameras that do not all stand before what they see, or look in too different directions.
        """
        check_shape("poses", poses, ("N", 3, 4))
        check_shape("tangents", tangents, (len(poses), 2))
        check_range("near", near, above=0.0)
        poses, tangents = poses.double(), tangents.double()
        forward = torch.nn.functional.normalize(-poses[:, :, 2].mean(0), dim=0)
        right = torch.linalg.cross(forward, poses[:, :, 1].mean(0))
        if float(right.norm()) < _SIDEWAYS:
            raise _not_forward_facing()
        right = right / right.norm()
        axes = torch.stack([right, torch.linalg.cross(right, forward), -forward])
        to_camera = torch.cat([axes, -axes @ poses[:, :, 3].mean(0)[:, None]], dim=1)
        centres = poses[:, :, 3] @ axes.T + to_camera[:, 3]
        signs = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
        corners = torch.cat([tangents[:, None] * signs, -torch.ones(len(poses), 4, 1, dtype=torch.float64)], dim=-1)
        ways = torch.einsum("nij,nkj->nki", poses[:, :, :3], corners) @ axes.T
        plane = float(-(centres[:, None] + near * ways)[:, :, 2].max())
        if bool((ways[:, :, 2] > -_SIDEWAYS * ways.norm(dim=-1)).any()) or plane <= float((-centres[:, 2]).max()):
            raise _not_forward_facing()
        across = (1 / tangents.mean(0)).tolist()
        frame = cls(
            world_to_camera=to_camera, cotangents=(across[0], across[1]), near=plane, bounds=Bounds.from_cube(1.0)
        )
        # Straight lines stay straight: the corners of what pictures show are those of what they show in the cube.
        rays = frame._in_camera(centres.repeat_interleave(4, dim=0), ways.reshape(-1, 3))
        seen = torch.cat([rays[0], rays[0] + rays[1]])[:, :2]
        low, high = seen.amin(0), seen.amax(0)
        grown = _MARGIN * (high - low)
        (x0, y0), (x1, y1) = (low - grown).tolist(), (high + grown).tolist()
        return replace(frame, bounds=Bounds(minimum=(x0, y0, -1.0), maximum=(x1, y1, 1.0)))

    def rays(self, rays: Rays) -> tuple[Rays, Tensor]:
        """World rays in the cube.

        Args:
            rays: R rays in the world, of any cameras.

        Returns:
            R rays that start at the near plane, or where the ray does if that is beyond it, with unit directions; and
            (R,) bool: whether the ray leads away from the frame's camera at all. Where it does not, the ray means
            nothing. Differentiable.
        """
        origins, directions = self._to_camera(rays)
        ahead = directions[:, 2] < -_SIDEWAYS
        directions = torch.where(ahead[:, None], directions, directions.new_tensor([0.0, 0.0, -1.0]))
        there, along = self._in_camera(origins, directions)
        return replace(rays, origins=there, directions=torch.nn.functional.normalize(along, dim=1)), ahead

    def points(self, points: Tensor) -> Tensor:
        """(N, 3) world points before the frame's camera, in the cube. Differentiable."""
        axes = self.world_to_camera.to(points)
        camera = points @ axes[:, :3].T + axes[:, 3]
        return ndc_points(camera, focal=self.cotangents, size=(2, 2), near=self.near)

    def to_world(self, t: Tensor, inside: Rays, rays: Rays, *, farthest: float) -> Tensor:
        """Distances (R, K) along ``inside``, the rays of ``rays`` in the cube, as distances along the world's.

        Args:
            t: (R, K), at least 0.
            inside: what ``self.rays(rays)`` returned.
            rays: R world rays.
            farthest: what takes the place of infinity, along the axis, world units.

        Returns:
            (R, K), never falling where ``t`` does not. No gradient.
        """
        with torch.no_grad():
            origins, directions = self._to_camera(rays)
            z = inside.origins[:, 2:] + t * inside.directions[:, 2:]
            depth = 2 * self.near / (1 - z).clamp(min=2 * self.near / farthest)
            cosine = (-directions[:, 2:]).clamp(min=_SIDEWAYS)
            return ((depth + origins[:, 2:]) / cosine).clamp(min=0.0)

    def _to_camera(self, rays: Rays) -> tuple[Tensor, Tensor]:
        axes = self.world_to_camera.to(rays.origins)
        return rays.origins @ axes[:, :3].T + axes[:, 3], rays.directions @ axes[:, :3].T

    def _in_camera(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where rays relative to the camera start in the cube, and what is left from there to infinity."""
        forward = -(self.near + origins[:, 2:]) / directions[:, 2:]
        start = origins + forward.clamp(min=0.0) * directions
        there = ndc_points(start, focal=self.cotangents, size=(2, 2), near=self.near)
        ratio = -directions[:, :2] / directions[:, 2:] * directions.new_tensor(self.cotangents)
        return there, torch.cat([ratio, torch.ones_like(ratio[:, :1])], dim=1) - there


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


def _not_forward_facing() -> InputError:
    return InputError(
        "NdcFrame: expected cameras that look the same way from before everything they see. Use world coordinates."
    )


def _to_near_plane(origins: Tensor, directions: Tensor, near: float) -> Tensor:
    """(R,): distance from each origin to the plane z = -near, in lengths of ``directions``."""
    check_range("near", near, above=0.0)
    return -(near + origins[:, 2]) / directions[:, 2]


def _scales(focal: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    return 2 * focal[0] / size[0], 2 * focal[1] / size[1]
