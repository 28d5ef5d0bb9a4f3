"""Colours of a surface as training cameras see it: of those that face it most and have it in sight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.voxel_words import pack_voxels
from voxfield.models.base import Model
from voxfield.models.point_fields import PointField

MOST_CAMERAS: Final = 64
"""Cameras from whose sides points may be seen, evenly chosen among the training cameras."""
SIDES: Final = 4
"""Of these, how many that face a point most its colour comes from."""
CANDIDATES: Final = 12
"""Of how many it is looked up whether something stands between."""
MOST_CELLS: Final = 384
"""Cells along an axis of the grid in which obstacles are looked up."""
_POINTS_AT_ONCE: Final = 1 << 14
_RAYS_AT_ONCE: Final = 1 << 13

Advance = Callable[[int], None]
"""Told how much more was done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Obstacles:
    """Cells that a surface runs through: what may stand between it and a camera."""

    words: torch.Tensor
    """See `voxfield.kernels.voxel_words`."""
    resolution: int
    """Cells along each axis."""
    corner: torch.Tensor
    """(3,) world: where cell (0, 0, 0) starts."""
    side: float
    """Of a cell, world units."""

    @classmethod
    def of(cls, points: torch.Tensor, bounds: Bounds, spacing: float, device: torch.device) -> "Obstacles":
        """Those of a surface with ``points`` (N, 3), on the CPU, in ``bounds``, about ``spacing`` apart."""
        corner = torch.tensor(bounds.minimum) - 2 * spacing
        longest = max(bounds.size) + 4 * spacing
        # Wide enough that a surface's cells have no gaps.
        side = max(1.5 * spacing, longest / MOST_CELLS)
        resolution = max(1, int(longest / side) + 1)
        cell = ((points - corner) / side).long().clamp(0, resolution - 1)
        occupied = torch.zeros(resolution, resolution, resolution, dtype=torch.bool)
        occupied[cell[:, 2], cell[:, 1], cell[:, 0]] = True
        return cls(words=pack_voxels(occupied).to(device), resolution=resolution, corner=corner.to(device), side=side)

    def between(self, points: torch.Tensor, normals: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        """(N,) bool: whether a ray from ``points`` (N, 3) along ``towards`` (N, 3) meets another part of the surface.

        The first cells are passed over: they hold the surface that the point itself is on.
        """
        start = points + 1.5 * self.side * (normals + towards)
        origins = (start - self.corner) / self.side
        return traverse_voxels(origins, towards.contiguous(), self.words, self.resolution, first_hit_only=True).hit


@torch.no_grad()
def in_sight(
    points: torch.Tensor, normals: torch.Tensor, cameras: Cameras, *, obstacles: Obstacles, advance: Advance
) -> torch.Tensor:
    """(N,) bool, on the CPU: points of a surface that some camera sees; arguments as those of `seen_colours`."""
    chosen = _chosen(cameras)
    found = []
    for place, normal in zip(points.split(_POINTS_AT_ONCE), normals.split(_POINTS_AT_ONCE), strict=True):
        _, cosine = _facing(chosen, place.to(chosen.device), normal.to(chosen.device), obstacles)
        found.append((cosine[:, 0] > 0).cpu())
        advance(len(place))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def _chosen(cameras: Cameras) -> Cameras:
    """The cameras from whose sides points may be seen."""
    count = len(cameras)
    return cameras[torch.linspace(0, count - 1, min(MOST_CAMERAS, count)).round().long().to(cameras.device)]


@torch.no_grad()
def seen_colours(
    model: Model,
    field: PointField,
    points: torch.Tensor,
    normals: torch.Tensor,
    cameras: Cameras,
    *,
    obstacles: Obstacles,
    voxel: float,
    advance: Advance,
) -> torch.Tensor:
    """Colours (N, 3), on the CPU, in the space of the model's.

    Those that rays from cameras to the points bring, each counted by the cosine of the angle at which it meets the
    surface. Points that no camera sees have the colours that the field itself has there.

    Args:
        model, field: the same field, as renderer and as function of points.
        points: (N, 3), on the CPU, on the surface.
        normals: (N, 3), on the CPU, unit or 0.
        cameras: on the model's device; at least one.
        obstacles: of the surface.
        voxel: side of the voxels in which the surface was found, world units.
        advance: told of points done.
    """
    chosen = _chosen(cameras)
    found = []
    for place, normal in zip(points.split(_POINTS_AT_ONCE), normals.split(_POINTS_AT_ONCE), strict=True):
        place, normal = place.to(chosen.device), normal.to(chosen.device)
        which, cosine = _facing(chosen, place, normal, obstacles)
        colour, weight = _along_rays(model, chosen, place, which, cosine, 3 * voxel)
        dark = (weight <= 0).nonzero()[:, 0]
        colour /= weight.clamp(min=1e-6)[:, None]
        if len(dark):
            colour[dark] = _of_the_field(field, place[dark], normal[dark], voxel)
        found.append(colour.cpu())
        advance(len(place))
    return torch.cat(found) if found else torch.zeros(0, 3)


def _facing(
    cameras: Cameras, points: torch.Tensor, normals: torch.Tensor, obstacles: Obstacles
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``SIDES`` cameras (N, S) that face each point most and may see it, and cosines; 0 where there are less."""
    count, many = len(points), len(cameras)
    towards = torch.nn.functional.normalize(cameras.origins - points[:, None], dim=2)
    cosine = (towards * normals[:, None]).sum(2)
    index = torch.arange(many, device=points.device).repeat(count)
    pixels, depth = cameras.project(index, points.repeat_interleave(many, 0))
    x, y = pixels.unbind(1)
    # Rays that bend cannot say what lies behind them: wide lenses see what is beside them.
    ahead = torch.ones_like(x, dtype=torch.bool) if cameras.model in ("fisheye", "equirectangular") else depth > 0
    inside = ahead & (x >= 0) & (y >= 0) & (x < cameras.width[index]) & (y < cameras.height[index])
    cosine = torch.where(inside.view(count, many), cosine, -1.0)
    best, which = cosine.topk(min(CANDIDATES, many), dim=1)
    rows, columns = (best > 0).nonzero().unbind(1)
    blocked = obstacles.between(points[rows], normals[rows], towards[rows, which[rows, columns]])
    best[rows[blocked], columns[blocked]] = 0.0
    best, order = best.clamp(min=0.0).topk(min(SIDES, best.shape[1]), dim=1)
    return which.gather(1, order), best


def _along_rays(
    model: Model, cameras: Cameras, points: torch.Tensor, which: torch.Tensor, cosine: torch.Tensor, slack: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of colours (N, 3) and of weights (N,) that the rays from cameras ``which`` (N, S) to the points bring.

    Rays that end more than ``slack`` before their point meet something else first, and count for nothing.
    """
    colour, total = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    rows, columns = (cosine > 0).nonzero().unbind(1)
    if not len(rows):
        return colour, total
    black = torch.zeros(3, device=points.device)
    for row, column in zip(rows.split(_RAYS_AT_ONCE), columns.split(_RAYS_AT_ONCE), strict=True):
        camera = which[row, column]
        pixels, _ = cameras.project(camera, points[row])
        rays = cameras.rays(camera, pixels)
        seen = model.render_rays(rays, background=black)
        distance = (points[row] - rays.origins).norm(dim=1)
        meets = (seen["opacity"] > 0.5) & (seen["depth"] > distance - slack)
        weight = torch.where(meets, cosine[row, column], 0.0)
        # What shines through where rays are not stopped entirely is no part of the colour.
        mine = seen["rgb"] / seen["opacity"].clamp(min=0.5)[:, None]
        colour.index_add_(0, row, weight[:, None] * mine)
        total.index_add_(0, row, weight)
    return colour, total


def _of_the_field(field: PointField, points: torch.Tensor, normals: torch.Tensor, voxel: float) -> torch.Tensor:
    """Colours (N, 3) that are met on the way in, against the normals, from a voxel before the points to two behind.

    What is just outside the matter has hardly a say in renderings, so training taught it no colour.
    """
    half = voxel / 2
    up = torch.tensor([0.0, 0.0, 1.0], device=points.device)
    inwards = torch.where(normals.any(1, keepdim=True), -normals, -up)
    passing = torch.ones_like(points[:, :1])
    colour, total = torch.zeros_like(points), torch.zeros_like(passing)
    for step in range(-2, 5):
        at = points + step * half * inwards
        opacity = 1 - torch.exp(-field.density(at)[:, None] * half)
        # Where nothing is met at all, the point itself decides.
        weight = passing * opacity + (1e-6 if step == 0 else 0.0)
        colour += weight * field.colours(at, inwards)
        total += weight
        passing = passing * (1 - opacity)
    return colour / total
