"""Sparse voxel grids in plain torch: the specification of ``api.py``, in the tensors' own precision.

Every sample of every ray is visited, one k after another; nothing is skipped.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from voxfield.kernels.ray_box.reference import ray_box
from voxfield.kernels.sh_grid.grid import GridGradients, MarchRule, ShGrid


class _Lattice(NamedTuple):
    """Samples of R rays: t_k = start + k * dt below end."""

    start: torch.Tensor
    end: torch.Tensor
    dt: torch.Tensor
    delta: torch.Tensor
    steps: int


class _Corners(NamedTuple):
    """The eight voxels around N points."""

    rows: torch.Tensor
    """(N, 8) int64; 0 where no voxel is stored."""
    weights: torch.Tensor
    """(N, 8), 0 where no voxel is stored."""


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    basis: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    gradients: GridGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_sh_grid``. Returns rgb (R, 3), opacity (R,), depth (R,), sparsity (R,), samples (R,)."""
    density, sh = grid.density, grid.sh
    if gradients is not None and torch.is_grad_enabled() and (density.requires_grad or sh.requires_grad):
        density, sh = _GradientsInto.apply(density, sh, gradients)
    transparent, samples = torch.ones_like(jitter), torch.zeros_like(jitter, dtype=torch.int64)
    # Connected to the values, so that where rays meet nothing their gradient is zero rather than missing.
    nothing = jitter * 0 + density[:0].sum() + sh[:0].sum()
    rgb, opacity, depth, sparsity = nothing[:, None].expand(-1, 3), nothing, nothing, nothing
    for t, corners, live, sigma, delta in _samples(origins, directions, grid, density, rule, jitter, near):
        seen = live & ~(transparent < rule.early_stop)
        samples = samples + seen
        sigma = torch.where(seen, sigma, 0)
        alpha = -torch.expm1(-delta * sigma)
        weight = alpha * transparent
        transparent = transparent * (1 - alpha)
        coefficients = torch.einsum("nc,ncjb->njb", corners.weights, _rows(sh, corners.rows))
        colour = (0.5 + torch.einsum("njb,nb->nj", coefficients, basis)).clamp(min=0)
        rgb = rgb + weight[:, None] * colour
        opacity, depth = opacity + weight, depth + weight * t
        sparsity = sparsity + torch.log1p(2 * sigma * sigma)
    return rgb, opacity, depth, sparsity, samples


def march(
    origins: torch.Tensor, directions: torch.Tensor, grid: ShGrid, rule: MarchRule, jitter: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.march_sh_grid``. Returns t (S,), ray_offsets (R + 1,)."""
    transparent = torch.ones_like(jitter)
    count = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    distances, rays = [origins.new_zeros(0)], [count[:0]]
    for t, _, live, sigma, delta in _samples(origins, directions, grid, grid.density, rule, jitter, near):
        seen = live & ~(transparent < rule.early_stop)
        transparent = torch.where(seen, transparent * torch.exp(-delta * sigma), transparent)
        count += seen
        rays.append(seen.nonzero()[:, 0])
        distances.append(t[seen])
    order = torch.cat(rays).sort(stable=True).indices
    return torch.cat(distances)[order], torch.cat([count.new_zeros(1), count.cumsum(0)])


def sample(points: torch.Tensor, grid: ShGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.sample_sh_grid``. Returns density (N,), sh (N, 3, B)."""
    corners = _corners(points, grid)
    density = (corners.weights * _rows(grid.density, corners.rows)).sum(1)
    return density, torch.einsum("nc,ncjb->njb", corners.weights, _rows(grid.sh, corners.rows))


def greatest_weights(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    greatest: torch.Tensor,
) -> None:
    """See ``api.greatest_weights``."""
    transparent = torch.ones_like(jitter)
    for _, corners, live, sigma, delta in _samples(origins, directions, grid, grid.density, rule, jitter, near):
        seen = live & ~(transparent < rule.early_stop)
        alpha = torch.where(seen, -torch.expm1(-delta * sigma), 0)
        weight = (alpha * transparent)[:, None].expand_as(corners.weights)
        transparent = transparent * (1 - alpha)
        shared = corners.weights > 0
        greatest.scatter_reduce_(0, corners.rows[shared], weight[shared], "amax")


class _GradientsInto(torch.autograd.Function):
    """The values as they are; their gradients go to buffers."""

    @staticmethod
    def forward(ctx, density, sh, gradients):  # type: ignore[no-untyped-def]
        ctx.gradients = gradients
        return density.view_as(density), sh.view_as(sh)

    @staticmethod
    def backward(ctx, density, sh):  # type: ignore[no-untyped-def]
        buffers: GridGradients = ctx.gradients
        buffers.density.add_(density)
        buffers.sh.add_(sh)
        buffers.touched.logical_or_((density != 0) | (sh != 0).flatten(1).any(1))
        return None, None, None


def _samples(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    density: torch.Tensor,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
) -> Iterator[tuple[torch.Tensor, _Corners, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each k: distance (R,), corners, whether there is matter (R,), density (R,), length (R,) of the interval."""
    lattice = _lattice(origins, directions, grid, rule, jitter, near)
    for k in range(lattice.steps):
        t = lattice.start + k * lattice.dt
        corners = _corners(origins + t[:, None] * directions, grid)
        sigma = (corners.weights * _rows(density, corners.rows)).sum(1)
        yield t, corners, (t < lattice.end) & ~(sigma <= rule.density_threshold), sigma, lattice.delta


def _lattice(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
) -> _Lattice:
    size = torch.tensor(grid.links.size, dtype=grid.box.dtype, device=grid.box.device)
    enter, leave = ray_box(origins, directions, grid.box)
    enter = enter.clamp(min=near)
    per_voxel = (directions / (grid.box[1] - grid.box[0]) * size).norm(dim=1)
    hit = (enter < leave) & (per_voxel > 0) & per_voxel.isfinite() & (origins + directions).isfinite().all(1)
    # A miss has infinite ends, which arithmetic would turn into NaN.
    enter, leave = torch.where(hit, enter, 0), torch.where(hit, leave, 0)
    dt = rule.step / torch.where(hit, per_voxel, 1)
    steps = int(((leave - enter) / dt).ceil().max()) + 1 if len(origins) else 0
    delta = dt * torch.where(hit, directions.norm(dim=1), 0)
    return _Lattice(enter + jitter * dt, leave, dt, delta, steps)


def _corners(points: torch.Tensor, grid: ShGrid) -> _Corners:
    depth, height, width = grid.links.links.shape
    size = torch.tensor([width, height, depth], dtype=points.dtype, device=points.device)
    position = (points - grid.box[0]) / (grid.box[1] - grid.box[0]) * size - 0.5
    position = torch.minimum(position.nan_to_num().clamp(min=0), size - 1)
    cell = torch.minimum(position.detach().floor(), size - 2)
    share = position - cell
    x, y, z = cell.long().unbind(1)
    links, weights = [], []
    for corner in range(8):
        dx, dy, dz = corner & 1, corner >> 1 & 1, corner >> 2
        links.append(grid.links.links[z + dz, y + dy, x + dx])
        picked = [share[:, axis] if step else 1 - share[:, axis] for axis, step in enumerate((dx, dy, dz))]
        weights.append(picked[0] * picked[1] * picked[2])
    rows = torch.stack(links, dim=1)
    stored = rows >= 0
    return _Corners(rows.clamp(min=0).long(), torch.where(stored, torch.stack(weights, dim=1), 0))


def _rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]``; zeros of a grid that stores nothing."""
    if not len(values):
        return values.new_zeros(*rows.shape, *values.shape[1:])
    return values[rows]
