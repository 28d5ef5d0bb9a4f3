"""Sparse voxel grids with spherical harmonics: rendering, sampling, greatest weights. The contract is in ``api.py``."""

from voxfield.kernels.sh_grid.api import (
    RenderedGrid,
    SampledGrid,
    greatest_weights,
    march_sh_grid,
    render_sh_grid,
    sample_sh_grid,
)
from voxfield.kernels.sh_grid.grid import GridGradients, GridLinks, MarchRule, ShGrid, link_grid, without_empty

__all__ = [
    "GridGradients",
    "GridLinks",
    "MarchRule",
    "RenderedGrid",
    "SampledGrid",
    "ShGrid",
    "greatest_weights",
    "link_grid",
    "march_sh_grid",
    "render_sh_grid",
    "sample_sh_grid",
    "without_empty",
]
