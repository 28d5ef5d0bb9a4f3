"""Rays: where they start, where they go, how wide a pixel they stand for."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from voxfield.checks import check_shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Rays:
    """R rays in world space. A point on a ray is ``origin + t * direction`` with t in world units."""

    origins: Tensor
    """(R, 3) float32: where the rays start."""
    directions: Tensor
    """(R, 3) float32: unit vectors."""
    pixel_area: Tensor
    """(R,) float32: the area one pixel covers at t = 1: the product of how far the direction moves from one pixel to
    the next in x and in y. A pixel's width at distance t is about ``t * sqrt(pixel_area)``; rays of
    orthographic cameras stay ``sqrt(pixel_area)`` wide."""
    camera_index: Tensor
    """(R,) int64: the camera each ray came from."""

    def __post_init__(self) -> None:
        check_shape("origins", self.origins, ("R", 3))
        count = self.origins.shape[0]
        check_shape("directions", self.directions, (count, 3))
        check_shape("pixel_area", self.pixel_area, (count,))
        check_shape("camera_index", self.camera_index, (count,))

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "Rays":
        """The rays at a slice, a boolean mask (R,) or an index tensor (K,)."""
        return Rays(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Rays":
        """These rays on ``device``; tensors already there are shared."""
        return Rays(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})
