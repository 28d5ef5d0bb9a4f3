"""Trained fields as volumes: a voxel grid as it is, any other field sampled on one."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.sh_grid.grid import MAX_DEGREE
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.models.base import Model, VolumetricModel
from voxfield.models.plenoxels import Plenoxels
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

POINTS_AT_ONCE: Final = 1 << 17
"""Voxels whose density is asked for together; colours are asked for at as many, all directions counted."""
VIEWS_PER_COEFFICIENT: Final = 4
"""Directions that colours are fitted to, for each harmonic."""


@dataclass(frozen=True, kw_only=True)
class VolumeExport:
    """What was written."""

    file: Path
    resolution: Resolution
    """Voxels along x, y, z."""
    voxels: int
    """Of these, how many are stored."""
    bytes: int
    """Size of the file."""


@torch.no_grad()
def bake(
    model: Model,
    bounds: Bounds,
    resolution: int | Resolution,
    *,
    sh_degree: int = 2,
    min_opacity: float = 0.01,
) -> VoxelGrid:
    """A model's field on a grid of voxels.

    A plenoxels model's own grid is resampled. Any other field is asked at the voxels' centres: density as it is, colour
    along directions spread evenly over the sphere, to which harmonics are fitted by least squares.

    Args:
        model: a model of the world's space.
        bounds: the box to fill, world units.
        resolution: voxels along x, y, z, or along the longest side of ``bounds``, whose voxels are then cubes.
        sh_degree: highest band of the harmonics, 0 to 3.
        min_opacity: voxels are stored through which less light than 1 less this passes, 0 to 1.

    Returns:
        A grid in world units, on the CPU.

    Raises:
        InputError: settings out of range, or a model whose field has no place in the world.
    """
    check_choice("sh_degree", sh_degree, range(MAX_DEGREE + 1))
    check_range("min_opacity", min_opacity, minimum=0.0, maximum=1.0)
    size = cubes(bounds, resolution) if isinstance(resolution, int) else resolution
    if isinstance(model, Plenoxels):
        return model.world_grid().cpu().resample(size)
    if not isinstance(model, VolumetricModel):
        raise InputError(f"{type(model).__name__} has no field that can be asked for anywhere.")
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else torch.device("cpu")
    directions = _directions(VIEWS_PER_COEFFICIENT * (sh_degree + 1) ** 2).to(device)
    fit = torch.linalg.pinv(spherical_harmonics(directions, sh_degree))
    edges = [side / count for side, count in zip(bounds.size, size, strict=True)]
    least = -math.log1p(-min(min_opacity, 1 - 1e-7)) / max(edges)
    stored = torch.zeros(math.prod(size), dtype=torch.bool)
    densities, coefficients = [], []
    views_at_once = max(1, POINTS_AT_ONCE // len(directions))
    for places, points in _centres(bounds, size):
        density, _ = model.sample_field(points.to(device), directions[:0], min(edges))
        kept = (density > least).cpu()
        stored[places[kept]] = True
        densities.append(density.cpu()[kept])
        for part in points[kept].split(views_at_once):
            _, colours = model.sample_field(part.to(device), directions, min(edges))
            coefficients.append(torch.einsum("bk,nkj->njb", fit, colours - 0.5).cpu())
    links = torch.where(stored, stored.cumsum(0, dtype=torch.int32) - 1, -1).int().reshape(size[::-1])
    sh = torch.cat([torch.zeros(0, 3, fit.shape[0]), *coefficients])
    return VoxelGrid.from_values(links, torch.cat(densities), sh, bounds)


def cubes(bounds: Bounds, longest: int) -> Resolution:
    """Voxels along x, y, z of ``bounds``, ``longest`` (at least 2) of them along its longest side, near to cubes."""
    check_range("resolution", longest, minimum=2, maximum=2048)
    sizes = [max(2, math.ceil(longest * side / max(bounds.size) - 1e-6)) for side in bounds.size]
    return sizes[0], sizes[1], sizes[2]


def volume_of(
    model: Model, bounds: Bounds, resolution: int | None, *, sh_degree: int = 2, min_opacity: float = 0.01
) -> VoxelGrid:
    """A model's grid, where it has one and no ``resolution`` is asked for; else `bake`, whose arguments these are.

    Raises:
        InputError: as `bake`, or no resolution for a model that has no grid.
    """
    if isinstance(model, Plenoxels) and resolution is None:
        return model.world_grid().cpu()
    if resolution is None:
        raise InputError("resolution: this field has no voxels of its own. Say how many along its longest side: 256.")
    return bake(model, bounds, resolution, sh_degree=sh_degree, min_opacity=min_opacity)


def exported(path: str | os.PathLike[str], grid: VoxelGrid) -> VolumeExport:
    """What to say of a ``grid`` that was written to ``path``."""
    file = Path(path)
    return VolumeExport(file=file, resolution=grid.resolution, voxels=grid.num_voxels, bytes=file.stat().st_size)


def _directions(count: int) -> torch.Tensor:
    """(count, 3) unit vectors, evenly spread: a spiral of the golden angle."""
    at = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * at / count
    angle = math.pi * (1 + 5**0.5) * at
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=1).float()


def _centres(bounds: Bounds, size: Resolution) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Places in (D, H, W) order and world centres (n, 3) of all voxels, some at a time."""
    width, height, _ = size
    low, extent = torch.tensor(bounds.minimum), torch.tensor(bounds.size)
    for first in range(0, math.prod(size), POINTS_AT_ONCE):
        place = torch.arange(first, min(first + POINTS_AT_ONCE, math.prod(size)))
        index = torch.stack([place % width, place // width % height, place // (width * height)], dim=1)
        yield place, low + (index + 0.5) / torch.tensor(size) * extent
