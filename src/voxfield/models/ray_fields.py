"""Fields that know where along rays they want to be asked: what scenes of several fields are made of.

A `PointField` answers anywhere; where it is worth asking is known to its model (occupied cells, proposal networks,
stored voxels). Distances are along unit directions, in the units of the field's own world.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.kernels.march_grid import march_grid
from voxfield.kernels.ray_box import ray_box
from voxfield.kernels.sh_grid import MarchRule, march_sh_grid
from voxfield.models.base import Model
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.point_fields import PointField, grid_field, point_field
from voxfield.voxels.voxel_grid import VoxelGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """Half-open stretches [start, end) of rays, ray after ray, nearest first; those of a ray do not overlap."""

    start: torch.Tensor
    """(S,)."""
    end: torch.Tensor
    """(S,), above ``start``."""
    ray: torch.Tensor
    """(S,) int64, never falling: whose they are."""

    @classmethod
    def none(cls, device: torch.device) -> "Intervals":
        """No stretch of any ray."""
        nothing = torch.zeros(0, device=device)
        return cls(start=nothing, end=nothing, ray=nothing.long())

    @classmethod
    def of_edges(cls, edges: torch.Tensor) -> "Intervals":
        """Adjoining stretches between ``edges`` (R, S + 1), which never fall."""
        count = edges.shape[1] - 1
        ray = torch.arange(len(edges), device=edges.device).repeat_interleave(count)
        found = cls(start=edges[:, :-1].reshape(-1), end=edges[:, 1:].reshape(-1), ray=ray)
        return found.where(found.end > found.start)

    def where(self, kept: torch.Tensor) -> "Intervals":
        """Those that are ``kept`` (S,) bool."""
        return Intervals(start=self.start[kept], end=self.end[kept], ray=self.ray[kept])

    def within(self, near: torch.Tensor, far: torch.Tensor) -> "Intervals":
        """Their parts between the distances ``near`` and ``far`` (R,) of their rays."""
        start, end = torch.maximum(self.start, near[self.ray]), torch.minimum(self.end, far[self.ray])
        return Intervals(start=start, end=end, ray=self.ray).where(end > start)


IntervalsAlong = Callable[[Rays, torch.Tensor, torch.Tensor], Intervals]
"""Where to look along R rays between the distances ``near`` and ``far`` (R,), near < far, far may be infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RayField:
    """A field and where along rays it is asked. No gradients."""

    points: PointField
    """Density and colour; both are asked only within ``intervals``."""
    intervals: IntervalsAlong
    """Where matter may be."""
    bounds: Bounds
    """Where its matter is; of fields without bounds the region they are about."""
    needs_widths: bool = False
    """Whether ``points`` minds how wide pixels are, so that rays of orthographic cameras mean nothing to it."""


def ray_field(model: Model, bounds: Bounds) -> RayField:
    """A trained model as such a field.

    Args:
        model: a grid-ngp, nerfacto, PyNeRF or Plenoxels.
        bounds: its region of interest.

    Raises:
        InputError: a model of another kind, or one in normalised device coordinates.
    """
    points = point_field(model, max(bounds.size) / 512)
    if isinstance(model, GridNgp):
        return RayField(
            points=points,
            intervals=lambda rays, near, far: _occupied(model, rays, near, far),
            bounds=bounds,
            needs_widths=model.config.pyramid is not None,
        )
    if isinstance(model, Nerfacto):
        return RayField(
            points=points,
            intervals=lambda rays, near, far: _proposed(model, rays, near, far),
            bounds=bounds,
            needs_widths=model.config.pyramid is not None,
        )
    if isinstance(model, Plenoxels):
        return RayField(
            points=points,
            intervals=lambda rays, near, far: marched(
                model.grid,
                replace(rays, origins=model.in_grid(rays.origins), directions=rays.directions * model.scale),
                near.clamp(min=model.near / model.scale),
                far,
                rule=model.config.march,
            ),
            bounds=model.world_bounds,
        )
    raise InputError(f"A {type(model).__name__} has no rays that can be shared with other fields.")


def voxel_ray_field(grid: VoxelGrid) -> RayField:
    """A grid of voxels in world units, float32, as such a field."""
    return RayField(
        points=grid_field(grid),
        intervals=lambda rays, near, far: marched(grid, rays, near, far),
        bounds=grid.scene_bounds,
    )


def marched(
    grid: VoxelGrid, rays: Rays, near: torch.Tensor, far: torch.Tensor, *, rule: MarchRule | None = None
) -> Intervals:
    """Steps through the stored voxels of a grid.

    Args:
        grid: float32.
        rays: in the grid's coordinates; directions may have any length, which distances are multiples of.
        near, far: (R,) such distances.
        rule: how long steps are, in voxels.
    """
    # What is cropped away must hide nothing, so no ray ends early.
    rule = replace(rule or MarchRule(), early_stop=0.0)
    middle, offsets = march_sh_grid(rays.origins, rays.directions, grid.values, rule=rule)
    ray = torch.arange(len(rays), device=middle.device).repeat_interleave(offsets.diff())
    size = middle.new_tensor(grid.resolution) / (grid.box[1] - grid.box[0])
    half = 0.5 * rule.step / (rays.directions * size).norm(dim=1)[ray]
    return Intervals(start=(middle - half).clamp(min=0), end=middle + half, ray=ray).within(near, far)


def _occupied(model: GridNgp, rays: Rays, near: torch.Tensor, far: torch.Tensor) -> Intervals:
    """The steps of `GridNgp.render_rays`: through occupied cells."""
    samples = march_grid(
        rays.origins,
        rays.directions,
        model.occupancy.bits,
        model.box,
        step=model.step_rule,
        near=model.near,
        max_samples=model.config.max_samples_per_ray,
    )
    found = Intervals(start=samples.t_start, end=samples.t_end, ray=samples.ray_index.long())
    return found.within(near, far)


def _proposed(model: Nerfacto, rays: Rays, near: torch.Tensor, far: torch.Tensor) -> Intervals:
    """The intervals of `Nerfacto.render_rays`: where proposal networks expect matter between ``near`` and ``far``."""
    near, far = near.clamp(min=model.near), far.clamp(max=model.config.far)
    if not model.unbounded:
        enter, leave = ray_box(rays.origins, rays.directions, model.box)
        near, far = torch.maximum(near, enter), torch.minimum(far, leave)
    meets = near < far
    if not bool(meets.any()):
        return Intervals.none(near.device)
    found = Intervals.of_edges(model.edges(rays[meets], near[meets], far[meets]))
    return replace(found, ray=meets.nonzero()[:, 0][found.ray])


def merged(parts: Sequence[Intervals]) -> tuple[Intervals, torch.Tensor]:
    """The stretches between all edges of several fields' intervals along the same rays.

    Args:
        parts: K of them, at least one.

    Returns:
        The stretches that at least one of ``parts`` covers, and which ones cover each, (K, S) bool.
    """
    if len(parts) == 1:
        return parts[0], torch.ones(1, len(parts[0].ray), dtype=torch.bool, device=parts[0].ray.device)
    device = parts[0].start.device
    edges = torch.cat([edge for part in parts for edge in (part.start, part.end)])
    ray = torch.cat([part.ray for part in parts for _ in range(2)])
    count = torch.tensor([len(part.ray) for part in parts], device=device)
    part = torch.arange(len(parts), device=device).repeat_interleave(2 * count)
    steps = torch.tensor([1, -1], dtype=torch.int32, device=device).repeat(len(parts))
    steps = steps.repeat_interleave(count.repeat_interleave(2))
    order = edges.argsort()
    order = order[ray[order].argsort(stable=True)]
    edges, ray, part, steps = edges[order], ray[order], part[order], steps[order]
    opened = torch.zeros(len(parts), len(edges), dtype=torch.int32, device=device)
    opened[part, torch.arange(len(edges), device=device)] = steps
    covers = opened.cumsum(1)[:, :-1] > 0
    found = Intervals(start=edges[:-1], end=edges[1:], ray=ray[:-1])
    # Adjoining intervals of one field differ by rounding where they touch: what lies between is none.
    kept = covers.any(0) & (found.end - found.start > 4 * torch.finfo(edges.dtype).eps * found.end)
    return found.where(kept & (ray[1:] == ray[:-1])), covers[:, kept & (ray[1:] == ray[:-1])]


def unlimited(rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
    """``near`` and ``far`` (R,) of rays that nothing bounds."""
    near = torch.zeros_like(rays.pixel_area)
    return near, torch.full_like(near, math.inf)
