"""Scattering points in plain torch: the specification of ``api.scatter_points``, in float64 on the CPU."""

import itertools

import torch

from voxfield.kernels.scatter_points.gaussian import gaussian_weights

Triple = tuple[float, float, float]


def scatter_points(
    points: torch.Tensor,
    shape: tuple[int, int, int],
    low: Triple,
    high: Triple,
    method: str,
    sigma: Triple,
    compatible: bool,
    clamp: bool,
) -> tuple[torch.Tensor, int]:
    """See ``api.scatter_points``."""
    device = points.device
    # The CPU has float64, which not every device does.
    points = points.cpu().double()
    least, most = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    inside = ((points >= least) & (points <= most)).all(1)
    if not clamp:
        points = points[inside]
    sides = torch.tensor(shape[::-1], dtype=torch.float64)  # x, y, z
    span = sides - 1 if compatible else sides
    scaled = ((points - least) / (most - least) * span).clamp(min=torch.zeros(3, dtype=torch.float64), max=span)
    if method == "trilinear":
        grid = _splat(scaled, shape)
    else:
        cells = torch.minimum(scaled.floor(), sides - 1).long()
        flat = (cells[:, 2] * shape[1] + cells[:, 1]) * shape[2] + cells[:, 0]
        counts = torch.bincount(flat, minlength=shape[0] * shape[1] * shape[2]).view(shape)
        grid = (counts > 0).float() if method == "occupancy" else counts.float()
        for axis in range(3):
            grid = _blur(grid, axis, sigma[2 - axis])
    return grid.to(device), int((~inside).sum())


def _splat(scaled: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    grid = torch.zeros(shape[0] * shape[1] * shape[2], dtype=torch.float64)
    least = (scaled - 0.5).floor()
    share = scaled - 0.5 - least
    # All eight of a point before the next one: the order in which a voxel's shares are summed.
    flat, weights = [], []
    for corner in itertools.product((0, 1), repeat=3):  # z, y, x
        offset = torch.tensor(corner[::-1])
        sides = torch.tensor(shape[::-1])
        cell = torch.minimum((least.long() + offset).clamp(min=0), sides - 1)
        weight = torch.where(offset.bool(), share, 1 - share)
        flat.append((cell[:, 2] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 0])
        weights.append(weight[:, 2] * weight[:, 1] * weight[:, 0])
    grid.index_add_(0, torch.stack(flat, 1).flatten(), torch.stack(weights, 1).flatten())
    return grid.view(shape).float()


def _blur(grid: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    weights = gaussian_weights(sigma).tolist()
    side = grid.shape[axis]
    at = torch.arange(side)
    total = grid.double() * weights[0]
    for distance in range(len(weights) - 1, 0, -1):
        before, after = (grid.index_select(axis, _mirror(at + step, side)).double() for step in (-distance, distance))
        total += (before + after) * weights[distance]
    return total.float()


def _mirror(index: torch.Tensor, side: int) -> torch.Tensor:
    """Indices beyond the faces, mirrored about them: ... 1 0 | 0 1 2 | 2 1 ..."""
    turned = index % (2 * side)
    return torch.minimum(turned, 2 * side - 1 - turned)
