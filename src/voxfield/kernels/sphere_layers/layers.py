"""What the kernels over concentric spheres share: where the spheres are, and where their texels lie.

There are L spheres about the origin, all outside the unit ball; sphere k has the radius r_k = L / (L - k - 1/2), so
that they are evenly spaced in 1/r and the last one is 2 L away. Each is an equirectangular picture of (H, W) texels:
row 0 at +z, the rows H polar angles from 0 to pi, the columns W longitudes from -pi to pi, both at texel centres.
Columns go round. A point is interpolated bilinearly on its sphere; a texel that is not stored counts as density 0 and
colour 0.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerValues:
    """The spheres' values. Texel v of ``links`` has density ``density[links[v]]`` and colour ``rgb[links[v]]``."""

    links: torch.Tensor
    """(L, H, W) int32: rows, -1 where nothing is stored; H and W at least 2."""
    density: torch.Tensor
    """(N,) per unit of length; what lies below 0 is empty, after interpolation."""
    rgb: torch.Tensor
    """(N, 3), in units of the constant harmonic: see `api.render_spheres`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerGradients:
    """Buffers that a backward adds to, and which of their rows it has."""

    density: torch.Tensor
    """(N,), contiguous."""
    rgb: torch.Tensor
    """(N, 3), contiguous."""
    touched: torch.Tensor
    """(N,) uint8, contiguous: set to 1 for rows that something was added to."""


def sphere_radii(layers: int) -> torch.Tensor:
    """(L,) float64: the radii, nearest first, from just above 1 to 2 L."""
    return layers / (layers - torch.arange(layers, dtype=torch.float64) - 0.5)


def leave(
    radii: torch.Tensor | float, middle: torch.Tensor, squared: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rays leave spheres, or pass them nearest, and which meet them, of shapes that broadcast.

    ``squared`` (R,) is the square of the least distance of rays from the origin, at ``middle`` (R,).
    """
    inside = radii * radii - squared
    met = inside > 0
    return middle + torch.where(met, inside, 1).sqrt() * met, met


def texel_place(points: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Column, -1/2 to ``width`` - 1/2, and line, 0 to ``height`` - 1, of ``points`` (..., 3) of the unit sphere."""
    column = (torch.atan2(points[..., 1], points[..., 0]) / (2 * math.pi) + 0.5) * width - 0.5
    # The angle from +z by both sides of the triangle: an arc cosine has no digits left near the poles.
    level = points[..., :2].square().sum(-1).clamp(min=1e-30).sqrt()
    return column, (torch.atan2(level, points[..., 2]) / math.pi * height - 0.5).clamp(0, height - 1)
