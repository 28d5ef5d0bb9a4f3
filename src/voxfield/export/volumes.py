"""Trained fields as volumes: a voxel grid as it is, any other field sampled on one."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.models.baking import BakeConfig, bake_field
from voxfield.models.base import Model
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.point_fields import point_field
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid


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
    left_out: str | None = None
    """What the model has besides, which no volume holds."""


def volume_of(
    model: Model,
    bounds: Bounds,
    origins: torch.Tensor,
    resolution: int | None,
    *,
    sh_degree: int = 2,
    min_opacity: float = 0.01,
) -> VoxelGrid:
    """A model's field on a grid of voxels, in world units, on the CPU.

    A plenoxels model has one; it is resampled where a ``resolution`` is asked for. Any other field is sampled, see
    `voxfield.models.baking`.

    Args:
        model: a trained model of the world's space.
        bounds: the box to fill, world units.
        origins: (C, 3): where training cameras stand, world units, on the model's device.
        resolution: voxels along the longest side of ``bounds``, 8 to 1024; None: those of a plenoxels model's grid.
        sh_degree: of a field that is sampled, highest band of the harmonics, 0 to 3.
        min_opacity: of a field that is sampled, voxels that stop less of the light are left out, 0 to 1.

    Raises:
        InputError: settings out of range, no resolution for a model without a grid, a field that has no place in the
            world, or no matter.
    """
    if resolution is None:
        if not isinstance(model, Plenoxels):
            raise InputError(
                "resolution: this field has no voxels of its own. Say how many along its longest side: 256."
            )
        return model.world_grid().cpu()
    config = BakeConfig(resolution=resolution, sh_degree=sh_degree, least_opacity=min_opacity)
    if isinstance(model, Plenoxels):
        return model.world_grid().cpu().resample(config.size(bounds))
    field = point_field(model, max(bounds.size) / resolution)
    return bake_field(field, bounds, origins, config=config, generator=torch.Generator().manual_seed(0)).cpu()


def exported(path: str | os.PathLike[str], grid: VoxelGrid, model: Model) -> VolumeExport:
    """What to say of a ``grid`` that was written to ``path``, as which a ``model`` was exported."""
    file = Path(path)
    return VolumeExport(
        file=file,
        resolution=grid.resolution,
        voxels=grid.num_voxels,
        bytes=file.stat().st_size,
        left_out=beyond_the_grid(model),
    )


def beyond_the_grid(model: Model) -> str | None:
    """What a ``model`` has besides its voxels, which no volume holds; None: nothing."""
    return "the background spheres" if isinstance(model, Plenoxels) and model.spheres is not None else None
