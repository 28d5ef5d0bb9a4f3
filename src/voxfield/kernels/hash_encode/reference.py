"""Hash encoding in plain torch: the specification of ``api.hash_encode``, in the tensors' own precision."""

import itertools
from typing import Any

import torch

from voxfield.kernels.hash_encode.grid import HASH_PRIMES, HashGrid


class _AddGradient(torch.autograd.Function):
    """Identity whose backward adds the gradient into a buffer and stops it there."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        ctx.buffer = buffer
        return table.view_as(table)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        ctx.buffer += gradient
        return None, None


def hash_encode(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    table_grad: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``api.hash_encode``. Memory: 8 * (3 + features) numbers a point, one level at a time."""
    if table_grad is not None:
        table = _AddGradient.apply(table, table_grad)
    # where() rather than clamp(): its gradient passes on the closed interval [0, 1], the contract's rule.
    inside = (positions >= 0) & (positions <= 1)
    unit = torch.where(inside, positions, positions.detach().clamp(0, 1))
    return torch.cat([_encode_level(unit, table, grid, level) for level in range(grid.num_levels)], dim=1)


def vertex_rows(vertices: torch.Tensor, grid: HashGrid, level: int) -> torch.Tensor:
    """Rows of the table that hold ``vertices``, (..., 3) int64 in [0, resolution], of one level: (...) int64."""
    x, y, z = vertices.unbind(-1)
    if grid.dense[level]:
        stride = grid.resolutions[level] + 1
        index = x + y * stride + z * stride * stride
    else:
        # The low bits of the int64 product are those of the uint32 product, and only those survive the mask.
        prime_x, prime_y, prime_z = HASH_PRIMES
        index = (x * prime_x ^ y * prime_y ^ z * prime_z) & (grid.table_size - 1)
    return index + grid.offsets[level]


def _encode_level(unit: torch.Tensor, table: torch.Tensor, grid: HashGrid, level: int) -> torch.Tensor:
    resolution = grid.resolutions[level]
    scaled = unit * resolution
    # nan_to_num: a NaN must not become an index. It still reaches the weights, so the features are NaN.
    cell = scaled.detach().floor().nan_to_num().long().clamp(max=resolution - 1)
    weight = scaled - cell
    if grid.smoothstep:
        weight = weight * weight * (3 - 2 * weight)
    features = torch.zeros(len(unit), grid.features, dtype=table.dtype, device=table.device)
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner, device=unit.device)
        corner_weight = torch.where(offset.bool(), weight, 1 - weight).prod(dim=1, keepdim=True)
        features = features + corner_weight * table[vertex_rows(cell + offset, grid, level)]
    return features
