"""Shapes made by rule, for a first training without data and for tests: eight families of random proportions.

A shape lies in the cube [-1, 1]^3, z up. It is given by its signed distance (negative inside; of unions a lower bound),
from which a voxel gets the share of it that is inside, to within what a plane through it would have.
"""

from collections.abc import Callable
from typing import Final

import torch

from voxfield.checks import check_range

FAMILIES: Final = ("ellipsoid", "box", "cylinder", "cone", "torus", "table", "chair", "lamp")
"""Shape i is of family i modulo their number; a label is the place in this list."""


def procedural_shape(index: int, resolution: int, *, seed: int = 0) -> torch.Tensor:
    """Shape ``index`` of an endless list.

    Args:
        index: which one, at least 0.
        resolution: voxels along each side, 4 to 512.
        seed: of another list.

    Returns:
        (R, R, R) float32, axes z, y, x: the share of every voxel that is inside, 0 to 1.
    """
    check_range("index", index, minimum=0)
    check_range("resolution", resolution, minimum=4, maximum=512)
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + index) % 2**63)
    centres = (torch.arange(resolution) + 0.5) / resolution * 2.0 - 1.0
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    sizes = torch.rand(6, generator=generator).tolist()
    distance = _DISTANCES[index % len(FAMILIES)](x, y, z, sizes)
    return (0.5 - distance * resolution / 2.0).clamp(0.0, 1.0)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _box(
    x: torch.Tensor,
    y: torch.Tensor,
    z: torch.Tensor,
    half: tuple[float, float, float],
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Distance to a box with its sides along the axes; half its sides, and its centre, along x, y, z."""
    beyond = torch.stack([(at - c).abs() - h for at, c, h in zip((x, y, z), centre, half, strict=True)])
    return beyond.clamp(min=0.0).norm(dim=0) + beyond.amax(0).clamp(max=0.0)


def _upright_cylinder(
    x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, radius: float, low: float, high: float
) -> torch.Tensor:
    """Distance to a cylinder about the z axis."""
    round_, flat = torch.hypot(x, y) - radius, (z - (low + high) / 2).abs() - (high - low) / 2
    outside = torch.hypot(round_.clamp(min=0.0), flat.clamp(min=0.0))
    return outside + torch.maximum(round_, flat).clamp(max=0.0)


def _ellipsoid(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    radii = [_between(0.35, 0.9, one) for one in sizes[:3]]
    scaled = torch.stack([x / radii[0], y / radii[1], z / radii[2]]).norm(dim=0)
    slope = torch.stack([x / radii[0] ** 2, y / radii[1] ** 2, z / radii[2] ** 2]).norm(dim=0)
    return scaled * (scaled - 1.0) / slope.clamp(min=1e-6)


def _cuboid(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    half = tuple(_between(0.3, 0.85, one) for one in sizes[:3])
    return _box(x, y, z, (half[0], half[1], half[2]))


def _cylinder(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    half = _between(0.3, 0.85, sizes[1])
    return _upright_cylinder(x, y, z, _between(0.25, 0.8, sizes[0]), -half, half)


def _cone(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    radius, half = _between(0.4, 0.85, sizes[0]), _between(0.5, 0.9, sizes[1])
    slant = (radius**2 + 4.0 * half**2) ** 0.5
    side = (2.0 * half * torch.hypot(x, y) + radius * (z - half)) / slant
    return torch.maximum(side, -half - z)


def _torus(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    thick = _between(0.14, 0.28, sizes[1])
    ring = _between(0.45, 0.9 - thick, sizes[0])
    return torch.hypot(torch.hypot(x, y) - ring, z) - thick


def _legs(
    x: torch.Tensor,
    y: torch.Tensor,
    z: torch.Tensor,
    half: tuple[float, float],
    thick: float,
    low: float,
    high: float,
) -> torch.Tensor:
    """Four legs under the corners of a plate; the four are one after mirroring."""
    where = (half[0] - thick, half[1] - thick, (low + high) / 2)
    return _box(x.abs(), y.abs(), z, (thick, thick, (high - low) / 2), where)


def _table(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    half = (_between(0.5, 0.9, sizes[0]), _between(0.45, 0.8, sizes[1]))
    top, plate, thick = _between(0.2, 0.7, sizes[2]), _between(0.07, 0.13, sizes[3]), _between(0.07, 0.13, sizes[4])
    board = _box(x, y, z, (*half, plate), (0.0, 0.0, top))
    return torch.minimum(board, _legs(x, y, z, half, thick, -0.85, top))


def _chair(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    half = (_between(0.4, 0.65, sizes[0]), _between(0.4, 0.65, sizes[1]))
    seat, back, thick = _between(-0.25, 0.1, sizes[2]), _between(0.6, 0.9, sizes[3]), _between(0.07, 0.12, sizes[4])
    board = _box(x, y, z, (*half, 0.1), (0.0, 0.0, seat))
    rest = _box(x, y, z, (half[0], 0.09, (back - seat) / 2), (0.0, half[1] - 0.09, (back + seat) / 2))
    return torch.minimum(torch.minimum(board, rest), _legs(x, y, z, half, thick, -0.88, seat))


def _lamp(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, sizes: list[float]) -> torch.Tensor:
    foot, shade = _between(0.35, 0.6, sizes[0]), _between(0.4, 0.75, sizes[1])
    below = _between(0.0, 0.35, sizes[2])
    pole = _upright_cylinder(x, y, z, _between(0.08, 0.13, sizes[3]), -0.8, below)
    base = _upright_cylinder(x, y, z, foot, -0.88, -0.7)
    hood = _upright_cylinder(x, y, z, shade, below, 0.85)
    return torch.minimum(torch.minimum(pole, base), hood)


_Distance = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[float]], torch.Tensor]
_DISTANCES: Final[tuple[_Distance, ...]] = (
    _ellipsoid,
    _cuboid,
    _cylinder,
    _cone,
    _torus,
    _table,
    _chair,
    _lamp,
)
