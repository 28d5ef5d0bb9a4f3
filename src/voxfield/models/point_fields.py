"""Trained models as functions of space: density at points, and colour there as seen along directions.

What turns a field into something else (a voxel grid) asks it through these, whatever the model is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from voxfield.errors import InputError
from voxfield.fields.hash_field import HashField
from voxfield.fields.pyramid_field import PyramidField
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.models.base import Model
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.plenoxels import Plenoxels
from voxfield.voxels.voxel_grid import VoxelGrid


class PointField(Protocol):
    """Density and colour anywhere. No gradients.

    ``widths`` (N,) is how wide the pixel is that looks at each point, world units, above 0; None: as wide as those that
    the field was made for.
    """

    def density(self, points: torch.Tensor, widths: torch.Tensor | None = None) -> torch.Tensor:
        """(N,) per world unit, at least 0, at world ``points`` (N, 3)."""

    def colours(
        self, points: torch.Tensor, directions: torch.Tensor, widths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N, 3) at ``points`` (N, 3) seen along unit ``directions`` (N, 3), in the space of the model's colours."""


def point_field(model: Model, width: float) -> PointField:
    """What ``model`` says of points.

    Args:
        model: a trained grid-ngp, nerfacto, PyNeRF or Plenoxels.
        width: how wide the pixels are that look there, world units, above 0: pyramids of resolutions mind.

    Raises:
        InputError: a model of another kind, or one in normalised device coordinates.
    """
    if isinstance(model, GridNgp):
        return _NetworkField(
            field=model.field,
            in_cube=model.in_cube,
            scale=model.density_scale,
            width=width,
            # Where training placed no samples the networks answer at random.
            holds=model.occupancy.holds,
        )
    if isinstance(model, Nerfacto | Plenoxels) and model.ndc is not None:
        raise InputError("The run is in normalised device coordinates, which are no box in the world.")
    if isinstance(model, Nerfacto):
        return _NetworkField(
            field=model.field,
            in_cube=model.in_cube,
            scale=model.density_scale,
            width=width,
            appearance=model.unseen_appearance() if model.config.field.appearance else None,
            holds=None if model.unbounded else lambda points: _within(points, model.box),
        )
    if isinstance(model, Plenoxels):
        scale = model.scale
        return grid_field(model.grid, region=model.world_bounds, to_grid=model.in_grid, scale=scale)
    raise InputError(f"A {type(model).__name__} is no function of points in space.")


def grid_field(
    grid: VoxelGrid,
    *,
    region: Bounds | None = None,
    to_grid: Callable[[torch.Tensor], torch.Tensor] | None = None,
    scale: float = 1.0,
) -> PointField:
    """What a voxel grid says of points.

    Args:
        grid: float32.
        region: its box in the world; None: its own bounds.
        to_grid: world points (N, 3) to the grid's coordinates; None: they are the same.
        scale: density per world unit of one of the grid's.
    """
    return _VoxelField(
        grid=grid,
        to_grid=to_grid or torch.Tensor.contiguous,
        scale=scale,
        region=(region or grid.scene_bounds).tensor(grid.density.device),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _NetworkField:
    """A hash grid with networks."""

    field: HashField | PyramidField
    in_cube: Callable[[torch.Tensor], torch.Tensor]
    """World points to the unit cube the grids cover."""
    scale: float
    """Density per world unit of one of the field's."""
    width: float
    appearance: torch.Tensor | None = None
    """(A,) of the colours."""
    holds: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Where there may be matter, (N,) bool; None: anywhere."""

    @torch.no_grad()
    def density(self, points: torch.Tensor, widths: torch.Tensor | None = None) -> torch.Tensor:
        held = torch.ones_like(points[:, 0], dtype=torch.bool) if self.holds is None else self.holds(points)
        density = torch.zeros_like(points[:, 0])
        positions = self.in_cube(points[held])
        if len(positions):
            level = self._level(positions, None if widths is None else widths[held])
            density[held] = self.field.density(positions, level).float() * self.scale
        return density

    @torch.no_grad()
    def colours(
        self, points: torch.Tensor, directions: torch.Tensor, widths: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not len(points):
            return torch.zeros_like(points)
        positions = self.in_cube(points)
        asked = self.field.query(positions, self._level(positions, widths))
        each = torch.arange(len(points), dtype=torch.int32, device=points.device)
        appearance = None if self.appearance is None else self.appearance.expand(len(points), -1)
        return self.field.colour(asked.geometry, directions, each, appearance).float()

    def _level(self, positions: torch.Tensor, widths: torch.Tensor | None) -> torch.Tensor | None:
        """The level (N,) of a pyramid that is asked; None where there is but one."""
        if not isinstance(self.field, PyramidField):
            return None
        if widths is None:
            widths = positions.new_full((len(positions),), self.width)
        return self.field.trained_level(positions, self.field.levels.of_width(widths))


@dataclass(frozen=True, kw_only=True, eq=False)
class _VoxelField:
    """A voxel grid."""

    grid: VoxelGrid
    to_grid: Callable[[torch.Tensor], torch.Tensor]
    """World points to the grid's own coordinates."""
    scale: float
    """Density per world unit of one of the grid's."""
    region: torch.Tensor
    """(2, 3): the box of the grid, world units."""

    @torch.no_grad()
    def density(self, points: torch.Tensor, widths: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        found = self.grid.query(self.to_grid(points)).density.clamp(min=0) * self.scale
        return torch.where(_within(points, self.region), found, 0)

    @torch.no_grad()
    def colours(
        self,
        points: torch.Tensor,
        directions: torch.Tensor,
        widths: torch.Tensor | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        found = self.grid.query(self.to_grid(points))
        basis = spherical_harmonics(directions, self.grid.sh_degree)
        return (0.5 + torch.einsum("njb,nb->nj", found.sh, basis)).clamp(min=0)


def _within(points: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """(N,) bool: ``points`` (N, 3) that lie in the half-open ``box`` (2, 3)."""
    return ((points >= box[0]) & (points < box[1])).all(1)
