"""``pynerf-occupancy-grid``: a pyramid of resolutions sampled through an occupancy grid, the fast way on a CPU."""

from dataclasses import replace

from voxfield.fields.pyramid_field import PyramidConfig
from voxfield.models.grid_ngp_config import GridNgpConfig
from voxfield.recipes import grid_ngp
from voxfield.recipes.grid_ngp import build_model
from voxfield.recipes.pynerf import several_scales
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe of grid-ngp for a training of ``minutes``, with a pyramid of eight levels."""
    base = grid_ngp.experiment(minutes)
    model = replace(base.model, pyramid=PyramidConfig())
    return replace(base, recipe="pynerf-occupancy-grid", model=model, capture=several_scales(base.capture))


def smallest_model() -> GridNgpConfig:
    """Settings of a model that uses all kernels in next to no time."""
    return replace(grid_ngp.smallest_model(), pyramid=PyramidConfig(num_levels=4, trained_resolution=16))
