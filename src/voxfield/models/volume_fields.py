"""Volumes of other programs as fields: a fog of density, in one colour or with a grid of colours.

Voxels hold density and density times colour, and both are interpolated: between a voxel and an empty one the colour
stays, and two volumes added voxel by voxel are the mixture of both.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.rays import Rays
from voxfield.models.ray_fields import Intervals, RayField, marched
from voxfield.storage.vdb import VdbGrid
from voxfield.storage.voxel_vdb import EMPTIEST, SMALL
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.voxel_grid import VoxelGrid

_PAD: Final = 1
"""Empty voxels around the active ones: there values fall to 0 as OpenVDB interpolates them."""


def volume_ray_field(
    density: VdbGrid, colour: VdbGrid | Vector, *, device: torch.device | str = "cpu", source: str = "volume"
) -> RayField:
    """A fog volume as a field, interpolated between its active voxels.

    Args:
        density: floating-point values per unit of the file's world, of which those below 0 count as 0.
        colour: three values a voxel, at least 0, wherever it has them in the world; or one colour for all.
        device: where it lives.
        source: names the volume in messages.

    Raises:
        InputError: grids of other kinds, values that are not finite, nothing active, or far more places than voxels.
    """
    volume = density.volume
    if volume.channels or volume.values.dtype.kind != "f" or density.grid_class == "level set":
        kind = "level set" if density.grid_class == "level set" else f"{volume.values.dtype} {volume.channels or ''}"
        raise InputError(f"{source}: grid {density.name!r} is no density but of kind {kind.strip()}.")
    bounds = volume.active_bounds
    if bounds is None:
        raise InputError(f"{source}: grid {density.name!r} has no active voxels.")
    low, high = bounds
    size = high - low + 2 * _PAD
    if math.prod(size.tolist()) > max(SMALL, EMPTIEST * volume.active_count):
        raise InputError(
            f"{source}: grid {density.name!r} spans {'×'.join(map(str, (high - low).tolist()))} voxels, too many for "
            f"the {volume.active_count:,} that are active. Crop it: voxfield vdb crop."
        )
    coordinates, values = _active(volume, low, high, source)
    colours = _colours(coordinates, density, colour)
    if not (np.isfinite(values).all() and np.isfinite(colours).all()):
        raise InputError(f"{source}: expected finite values of density and colour, got NaN or infinity.")
    values = np.maximum(values, 0.0).astype(np.float32)
    premultiplied = values[:, None] * np.maximum(colours, 0.0).astype(np.float32)
    width, height, depth = (int(side) for side in size)
    grid = VoxelGrid.from_voxels(
        torch.from_numpy(coordinates - (low - _PAD)),
        torch.from_numpy(values),
        torch.from_numpy(premultiplied)[:, :, None],
        (width, height, depth),
        (0.0, 0.0, 0.0, float(width), float(height), float(depth)),
    ).to(device)
    to_grid = np.linalg.inv(density.index_to_world)[:3]
    # Whole index coordinates are the middles of voxels.
    to_grid[:, 3] += 0.5 - (low - _PAD)
    points = _FogField(grid=grid, to_grid=torch.from_numpy(to_grid).float().to(device))
    return RayField(points=points, intervals=points.intervals, bounds=_box(low, high, density.index_to_world))


@dataclass(frozen=True, kw_only=True, eq=False)
class _FogField:
    """A grid of densities and densities times colour."""

    grid: VoxelGrid
    """In voxels, from the lowest; of its harmonics there is but the first, which holds density times colour."""
    to_grid: torch.Tensor
    """(3, 4): the file's world to the grid's voxels."""

    @torch.no_grad()
    def density(self, points: torch.Tensor, widths: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        return self.grid.query(self._inside(points)).density.clamp(min=0)

    @torch.no_grad()
    def colours(
        self,
        points: torch.Tensor,
        directions: torch.Tensor,  # noqa: ARG002
        widths: torch.Tensor | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        found = self.grid.query(self._inside(points))
        return found.sh[:, :, 0] / found.density.clamp(min=torch.finfo(torch.float32).tiny)[:, None]

    @torch.no_grad()
    def intervals(self, rays: Rays, near: torch.Tensor, far: torch.Tensor) -> Intervals:
        """Steps through the active voxels and those around them."""
        directions = rays.directions @ self.to_grid[:, :3].T
        return marched(self.grid, replace(rays, origins=self._inside(rays.origins), directions=directions), near, far)

    def _inside(self, points: torch.Tensor) -> torch.Tensor:
        return points @ self.to_grid[:, :3].T + self.to_grid[:, 3]


def _active(volume: SparseVolume, low: np.ndarray, high: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 3) and values (N,) of all active voxels, those of constant tiles too."""
    if not volume.tiles.active.any():
        return volume.active_voxels()
    if math.prod((high - low).tolist()) > SMALL:
        raise InputError(f"{source}: tiles in a box of more than {SMALL:,} voxels are not read. Crop it.")
    z, y, x = np.nonzero(volume.to_dense_mask(tuple(low.tolist()), tuple(high.tolist()), most_voxels=SMALL))
    coordinates = np.stack([x, y, z], axis=1) + low
    return coordinates, volume.values_at(coordinates)[0]


def _colours(coordinates: np.ndarray, density: VdbGrid, colour: VdbGrid | Vector) -> np.ndarray:
    """(N, 3) at the voxels ``coordinates`` of ``density``."""
    if not isinstance(colour, VdbGrid):
        return np.broadcast_to(np.array(colour, np.float32), (len(coordinates), 3))
    if colour.volume.channels != (3,) or colour.volume.values.dtype.kind != "f":
        raise InputError(f"grid {colour.name!r}: expected colours, three numbers a voxel.")
    if np.allclose(colour.index_to_world, density.index_to_world, rtol=1e-9, atol=0.0):
        return colour.volume.values_at(coordinates)[0]
    between = np.linalg.inv(colour.index_to_world) @ density.index_to_world
    return colour.volume.interpolate(coordinates @ between[:3, :3].T + between[:3, 3])


def _box(low: np.ndarray, high: np.ndarray, index_to_world: np.ndarray) -> Bounds:
    """The box in the file's world around the voxels [low, high)."""
    ends = np.stack([low, high]) - 0.5
    corners = np.array([[x, y, z] for x in ends[:, 0] for y in ends[:, 1] for z in ends[:, 2]])
    return Bounds.from_points(torch.from_numpy(corners @ index_to_world[:3, :3].T + index_to_world[:3, 3]))
