"""Baking: a field that is asked point by point becomes a voxel grid, which needs no network.

A voxel's opacity is that of the field over the voxel, the mean of some points in it, so that a voxel which a surface
cuts is as opaque as the share of it that lies inside. Its colour is asked at the most opaque of these points, as
training cameras see it from their sides, and harmonics are fitted to that by least squares: with Y (K, B) the basis of
K directions, c (K, 3) the colours and weights w (K,) ::

    a = argmin over a of sum over k of w_k |1/2 + Y_k a - c_k|^2 + r |a|^2

What lies beyond the grid goes to spheres: a texel gets the optical thickness of the field between its sphere and the
one before, as seen from the centre.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.sh_grid.grid import MAX_DEGREE, dilated
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.models.point_fields import PointField
from voxfield.voxels.sphere_layers import SphereLayers
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

MOST_THICKNESS: Final = 8.0
"""Optical thickness that a voxel gets at most: nothing passes, and gradients still do."""
HIDDEN_SIDE: Final = 0.02
"""Weight of colours seen from behind a surface, which training hardly taught the field."""
RIDGE: Final = 1e-3
"""r, as a share of the weights' sum: few views do not decide all bands."""
CONSTANT_HARMONIC: Final = 0.28209479177387814
"""Y_0, which the colours of spheres are in units of."""
POINTS_AT_ONCE: Final = 1 << 18
"""Points that the field is asked about together: bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class BakeConfig:
    """How a field is sampled."""

    resolution: int = 256
    """Voxels along the longest side of the region of interest, 8 to 1024; they are cubes."""
    sh_degree: int = 2
    """Highest band of the harmonics, 0 to 3."""
    points: int = 8
    """Points in a voxel at which its density is asked for, at least 1."""
    views: int = 24
    """Training cameras from whose sides a voxel's colour is asked for, at least 1."""
    least_opacity: float = 0.01
    """Voxels that stop less of the light are left out, 0 to 1."""

    def __post_init__(self) -> None:
        check_range("resolution", self.resolution, minimum=8, maximum=1024)
        check_choice("sh_degree", self.sh_degree, range(MAX_DEGREE + 1))
        check_range("points", self.points, minimum=1, maximum=1024)
        check_range("views", self.views, minimum=1, maximum=4096)
        check_range("least_opacity", self.least_opacity, minimum=0.0, maximum=1.0)

    def size(self, bounds: Bounds) -> Resolution:
        """Voxels along x, y, z of ``bounds``."""
        longest = max(bounds.size)
        return cast(Resolution, tuple(max(2, round(self.resolution * side / longest)) for side in bounds.size))


Advance = Callable[[int], None]
"""Told how many more of `bake_steps` were done."""


def bake_steps(config: BakeConfig, bounds: Bounds) -> int:
    """Layers of voxels that `bake_field` reports: each is looked into for matter, then for values."""
    return 2 * config.size(bounds)[2]


@torch.no_grad()
def bake_field(
    field: PointField,
    bounds: Bounds,
    origins: torch.Tensor,
    *,
    config: BakeConfig,
    generator: torch.Generator,
    advance: Advance | None = None,
) -> VoxelGrid:
    """Sample ``field`` on a sparse grid.

    Args:
        field: what is asked.
        bounds: the box that the grid fills, world units.
        origins: (C, 3): where training cameras stand, world units, on the device to work on; at least one.
        config: how.
        generator: of the places of points in a voxel, on the CPU.
        advance: told of the progress, see `bake_steps`.

    Returns:
        The grid, densities per world unit.

    Raises:
        InputError: there is no matter in the box.
    """
    size, device = config.size(bounds), origins.device
    told = advance or (lambda _: None)
    stored = _occupied(field, bounds, size, config, device, told)
    if not bool(stored.any()):
        raise InputError(
            "The field has no matter in its region of interest: there is nothing to bake. Train it longer."
        )
    grid = VoxelGrid(size, bounds, config.sh_degree, stored=stored)
    chosen = origins[torch.linspace(0, len(origins) - 1, min(config.views, len(origins))).round().long()]
    voxel = torch.tensor(bounds.size, device=device) / torch.tensor(size, device=device)
    done = 0
    for rows, centres in _pieces(grid, max(1, POINTS_AT_ONCE // config.points)):
        density, places, normals = _densities(field, centres, voxel, config.points, generator)
        grid.density[rows] = density
        opaque = 1 - torch.exp(-density * voxel.min()) >= config.least_opacity
        grid.sh[rows[opaque]] = _harmonics(field, places[opaque], normals[opaque], chosen, config.sh_degree)
        before, done = done, done + len(rows)
        told(done * size[2] // grid.num_voxels - before * size[2] // grid.num_voxels)
    thickness = -math.log1p(-min(config.least_opacity, 1 - 1e-6))
    return grid.prune(min_density=thickness / float(voxel.min()))


@torch.no_grad()
def bake_spheres(
    field: PointField,
    spheres: SphereLayers,
    bounds: Bounds,
    *,
    config: BakeConfig,
    generator: torch.Generator,
) -> SphereLayers:
    """Sample ``field`` on spheres.

    Args:
        field: what is asked.
        spheres: which texels; their values do not matter.
        bounds: the cube around the unit ball that the spheres surround, world units.
        config: of its settings, points and the least opacity.
        generator: of the places of points between spheres, on the CPU.

    Returns:
        Those texels that stop some light.
    """
    radii, device = spheres.radii(), spheres.links.device
    before = torch.cat([torch.ones_like(radii[:1]), radii[:-1]])
    radius, centre = max(bounds.size) / 2, torch.tensor(bounds.centre, device=device)
    kept = torch.zeros(spheres.num_texels, dtype=torch.bool, device=device)
    most = max(1, POINTS_AT_ONCE // config.points)
    for all_rows, all_towards, all_layers in spheres.directions():
        pieces = (all_rows.split(most), all_towards.split(most), all_layers.split(most))
        for rows, towards, layer in zip(*pieces, strict=True):
            far, near = 1 / radii[layer, None], 1 / before[layer, None]
            share = torch.rand(len(rows), config.points, generator=generator).to(device)
            at = 1 / (far + share * (near - far))
            points = centre + radius * at[..., None] * towards[:, None]
            density = field.density(points.reshape(-1, 3)).view_as(at) * radius
            # Points are even in 1/r, whose element is dr / r^2.
            matter = density * at.square()
            thickness = (matter.mean(1) * (near - far)[:, 0]).clamp(max=MOST_THICKNESS)
            spheres.density[rows] = thickness / (radii - before)[layer]
            kept[rows] = 1 - torch.exp(-thickness) >= config.least_opacity
            some = kept[rows]
            densest = points[torch.arange(len(rows), device=device), matter.argmax(1)]
            spheres.rgb[rows[some]] = (field.colours(densest[some], towards[some]) - 0.5) / CONSTANT_HARMONIC
    return spheres.prune(kept, dilate=1)


def _occupied(
    field: PointField, bounds: Bounds, size: Resolution, config: BakeConfig, device: torch.device, told: Advance
) -> torch.Tensor:
    """(D, H, W) bool: voxels in or next to whose middle the field has some density."""
    width, height, depth = size
    low, high = bounds.tensor(device)
    x, y, z = ((torch.arange(count, device=device) + 0.5) / count for count in size)
    # A tenth: matter beside the middle counts, and the neighbours of what is found are looked into as well.
    least = 0.1 * config.least_opacity / (max(bounds.size) / max(size))
    stored = torch.zeros(depth, height, width, dtype=torch.bool, device=device)
    rows_at_once = max(1, POINTS_AT_ONCE // width)
    for layer in range(depth):
        for first in range(0, height, rows_at_once):
            some = y[first : first + rows_at_once]
            unit = torch.stack(
                [x.repeat(len(some)), some.repeat_interleave(width), z[layer].expand(width * len(some))], dim=1
            )
            found = field.density(low + unit * (high - low))
            stored[layer, first : first + rows_at_once] = (found >= least).view(len(some), width)
        told(1)
    return dilated(stored)


def _pieces(grid: VoxelGrid, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows and centres of the stored voxels, at most ``most`` at a time."""
    for rows, centres in grid.centres():
        yield from zip(rows.split(most), centres.split(most), strict=True)


def _densities(
    field: PointField, centres: torch.Tensor, voxel: torch.Tensor, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of voxels around ``centres`` (N, 3), of side ``voxel`` (3,): density (N,), the most opaque place (N, 3) and which
    way the surface faces (N, 3), 0 where that cannot be told.
    """
    within = torch.rand(len(centres), count, 3, generator=generator).to(centres) - 0.5
    points = centres[:, None] + within * voxel
    asked = field.density(points.reshape(-1, 3)).view(len(centres), count)
    side = voxel.min()
    opacity = 1 - torch.exp(-asked * side)
    density = -torch.log1p(-opacity.mean(1).clamp(max=1 - math.exp(-MOST_THICKNESS))) / side
    densest = points[torch.arange(len(points), device=points.device), asked.argmax(1)]
    slope = ((opacity - opacity.mean(1, keepdim=True))[..., None] * within).sum(1)
    # Points drawn at random show a slope where there is none: it must be a good part of what a flat surface has.
    steep = slope.norm(dim=1, keepdim=True)
    return density, densest, torch.where(steep > 0.02 * count, -slope / steep.clamp(min=1e-12), 0)


def _harmonics(
    field: PointField, points: torch.Tensor, normals: torch.Tensor, origins: torch.Tensor, degree: int
) -> torch.Tensor:
    """Coefficients (N, 3, B) of the colours of ``points`` (N, 3) as seen from ``origins`` (K, 3)."""
    bands = (degree + 1) ** 2
    normal_matrix = torch.zeros(len(points), bands, bands, device=points.device)
    right_side = torch.zeros(len(points), bands, 3, device=points.device)
    total = torch.zeros(len(points), device=points.device)
    for origin in origins:
        away = torch.nn.functional.normalize(points - origin, dim=1)
        facing = -(normals * away).sum(1)
        weight = torch.where(normals.any(1), facing.clamp(min=HIDDEN_SIDE), 1.0)
        basis = spherical_harmonics(away, degree)
        weighted = weight[:, None] * basis
        normal_matrix += weighted[:, :, None] * basis[:, None, :]
        right_side += weighted[:, :, None] * (field.colours(points, away) - 0.5)[:, None, :]
        total += weight
    # The constant band is what all views agree on: it is not drawn towards grey.
    ridge = torch.full((bands,), RIDGE, device=points.device)
    ridge[0] = 1e-6
    normal_matrix += torch.diag_embed(total[:, None] * ridge)
    return torch.linalg.solve(normal_matrix, right_side).transpose(1, 2)
