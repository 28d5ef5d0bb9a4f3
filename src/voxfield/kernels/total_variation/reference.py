"""Total variation in plain torch: the specification of ``api.total_variation``, in the tensor's own precision."""

import math

import torch

from voxfield.kernels.sh_grid.grid import GridLinks
from voxfield.kernels.total_variation.api import REFERENCE_SIZE, SMOOTHING, CellRange


def total_variation(
    values: torch.Tensor,
    links: GridLinks,
    cells: CellRange,
    gradient: torch.Tensor | None,
    touched: torch.Tensor | None,
) -> torch.Tensor:
    """See ``api.total_variation``."""
    if gradient is not None and touched is not None and values.requires_grad and torch.is_grad_enabled():
        values = _GradientInto.apply(values, gradient, touched)
    depth, height, width = links.links.shape
    flat = links.links.reshape(-1)
    index = (cells.start + torch.arange(cells.count, device=flat.device)) % flat.numel()
    x, y, z = index % width, index // width % height, index // (width * height)
    here = _at(values, flat[index])
    squares = torch.zeros_like(here)
    for place, size, stride in ((x, width, 1), (y, height, width), (z, depth, width * height)):
        inside = place + 1 < size
        there = _at(values, flat[torch.where(inside, index + stride, index)])
        change = (there - here) * (size / REFERENCE_SIZE)
        squares = squares + torch.where(inside[:, None], change * change, 0)
    return (squares + SMOOTHING).sqrt().sum() / cells.count


def _at(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(K, C): the values of ``rows``, 0 for row -1."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    if not len(flat):
        return flat.new_zeros(len(rows), flat.shape[1]) + flat.sum()
    return torch.where((rows >= 0)[:, None], flat[rows.clamp(min=0).long()], 0)


class _GradientInto(torch.autograd.Function):
    """The values as they are; their gradient goes to a buffer."""

    @staticmethod
    def forward(ctx, values, gradient, touched):  # type: ignore[no-untyped-def]
        ctx.buffers = gradient, touched
        return values.view_as(values)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        gradient, touched = ctx.buffers
        gradient.add_(grad)
        touched.logical_or_((grad != 0).flatten(1).any(1) if grad.ndim > 1 else grad != 0)
        return None, None, None
