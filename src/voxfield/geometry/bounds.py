"""Axis-aligned boxes in world space."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from voxfield.errors import InputError

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A box [minimum, maximum) in world units: the part of the world a field spends its resolution on."""

    minimum: Vector
    """Lowest x, y, z."""
    maximum: Vector
    """Highest x, y, z; above ``minimum`` on every axis."""

    def __post_init__(self) -> None:
        fits = (len(self.minimum), len(self.maximum)) == (3, 3)
        fits = fits and all(math.isfinite(value) for value in (*self.minimum, *self.maximum))
        if not (fits and all(low < high for low, high in zip(self.minimum, self.maximum, strict=True))):
            raise InputError(f"Bounds: expected minimum < maximum on 3 axes, got {self.minimum} and {self.maximum}.")

    @classmethod
    def from_cube(cls, half_size: float, centre: Vector = (0.0, 0.0, 0.0)) -> "Bounds":
        """The cube that reaches ``half_size`` from ``centre`` along every axis."""
        return cls(
            minimum=cast(Vector, tuple(value - half_size for value in centre)),
            maximum=cast(Vector, tuple(value + half_size for value in centre)),
        )

    @classmethod
    def from_numbers(cls, numbers: tuple[float, float, float, float, float, float]) -> "Bounds":
        """The box of ``numbers`` x0, y0, z0, x1, y1, z1."""
        x0, y0, z0, x1, y1, z1 = numbers
        return cls(minimum=(x0, y0, z0), maximum=(x1, y1, z1))

    @classmethod
    def from_points(cls, points: Tensor, margin: float = 0.0) -> "Bounds":
        """The smallest box around ``points`` (P, 3), grown by ``margin`` on all sides.

        Raises:
            InputError: no points, or points that span no volume while ``margin`` is 0.
        """
        if points.ndim != 2 or points.shape[1] != 3 or points.shape[0] == 0:
            raise InputError(f"points: expected shape (P, 3) with P >= 1, got {tuple(points.shape)}.")
        low = (points.amin(0) - margin).tolist()
        high = (points.amax(0) + margin).tolist()
        return cls(minimum=(low[0], low[1], low[2]), maximum=(high[0], high[1], high[2]))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Bounds":
        """Inverse of ``to_dict``."""
        low, high = (tuple(float(value) for value in values[key]) for key in ("minimum", "maximum"))
        return cls(minimum=cast(Vector, low), maximum=cast(Vector, high))

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for JSON."""
        return {"minimum": list(self.minimum), "maximum": list(self.maximum)}

    @property
    def centre(self) -> Vector:
        """The middle of the box."""
        return cast(Vector, tuple((low + high) / 2 for low, high in zip(self.minimum, self.maximum, strict=True)))

    @property
    def size(self) -> Vector:
        """Edge lengths along x, y, z."""
        return cast(Vector, tuple(high - low for low, high in zip(self.minimum, self.maximum, strict=True)))

    def tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """(2, 3) float32: minimum and maximum, as kernels take a box."""
        return torch.tensor([self.minimum, self.maximum], dtype=torch.float32, device=device)

    def scaled(self, factor: float) -> "Bounds":
        """The box grown by ``factor`` about its centre."""
        centre, size = self.centre, self.size
        return Bounds(
            minimum=cast(Vector, tuple(c - s * factor / 2 for c, s in zip(centre, size, strict=True))),
            maximum=cast(Vector, tuple(c + s * factor / 2 for c, s in zip(centre, size, strict=True))),
        )

    def corners(self) -> Tensor:
        """(8, 3) float64: the box's corners, x changing fastest."""
        box = torch.tensor([self.minimum, self.maximum], dtype=torch.float64)
        pick = torch.tensor([[(corner >> axis) & 1 for axis in range(3)] for corner in range(8)])
        return box.gather(0, pick)

    def contains(self, points: Tensor) -> Tensor:
        """(..., 3) points -> (...) bool: inside the half-open box."""
        low, high = self.tensor(points.device).to(points.dtype)
        return ((points >= low) & (points < high)).all(dim=-1)
