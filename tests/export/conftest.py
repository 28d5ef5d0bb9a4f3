"""A small grid that pages are made of."""

from collections.abc import Callable

import pytest
import torch

from voxfield.geometry.bounds import Bounds
from voxfield.voxels.voxel_grid import VoxelGrid

BOX = Bounds(minimum=(-1.0, -0.7, -0.5), maximum=(1.0, 0.8, 0.6))


def ball(degree: int = 2, resolution: tuple[int, int, int] = (23, 17, 14)) -> VoxelGrid:
    """A ball of radius 0.4 whose colours change with place and view, stored a little beyond its surface, where
    densities are below 0; its middle is missing. No axis is like another, and none is a multiple of a brick.
    """
    width, height, depth = resolution
    axes = [
        low + (torch.arange(count) + 0.5) / count * (high - low)
        for low, high, count in zip(BOX.minimum, BOX.maximum, resolution, strict=True)
    ]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    radius = (x * x + y * y + z * z).sqrt()
    generator = torch.Generator().manual_seed(3)
    sh = 0.15 * torch.randn(depth, height, width, 3, (degree + 1) ** 2, generator=generator)
    sh[..., 0] = 1.7 * torch.stack([x, 1.4 * y, 1.8 * z], dim=-1)
    grid = VoxelGrid.from_dense(60 * (0.4 - radius), sh, BOX, stored=(radius < 0.6) & (radius > 0.12))
    return grid.requires_grad_(False)


@pytest.fixture(scope="session")
def make_ball() -> Callable[..., VoxelGrid]:
    return ball
