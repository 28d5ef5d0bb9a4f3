"""Total variation on a GPU: a block of cells with all channels of their four voxels a program."""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from voxfield.kernels.sh_grid.grid import GridLinks
from voxfield.kernels.total_variation.api import REFERENCE_SIZE, SMOOTHING, CellRange

_TILE = 1024
"""Values of one voxel in four that a program looks at: cells times channels, rounded up to a power of two."""


def total_variation(
    values: torch.Tensor,
    links: GridLinks,
    cells: CellRange,
    gradient: torch.Tensor | None,
    touched: torch.Tensor | None,
) -> torch.Tensor:
    """See ``api.total_variation``."""
    found: torch.Tensor = _TotalVariation.apply(values, links, cells, gradient, touched)
    return found


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        links: GridLinks,
        cells: CellRange,
        gradient: torch.Tensor | None,
        touched: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(values)
        ctx.links, ctx.cells, ctx.buffers = links, cells, (gradient, touched)
        channels, padded, block = _tile(values)
        # One sum a program, added up by torch: the same number every time, which atomics would not give.
        sums = values.new_zeros(triton.cdiv(cells.count, block))
        if channels:
            _forward[(len(sums),)](
                values,
                links.links,
                sums,
                *_place(links, cells),
                channels,
                *_constants(),
                PADDED=padded,
                BLOCK=block,
                enable_fp_fusion=True,
            )
        return sums.sum() / cells.count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        gradient, touched = ctx.buffers
        passed = None
        if gradient is None:
            gradient = passed = torch.zeros_like(values)
            touched = torch.zeros(len(values), dtype=torch.uint8, device=values.device)
        channels, padded, block = _tile(values)
        cells: CellRange = ctx.cells
        if channels:
            _backward[(triton.cdiv(cells.count, block),)](
                values, ctx.links.links, grad.contiguous(), gradient, touched, *_place(ctx.links, cells), channels,
                *_constants(), PADDED=padded, BLOCK=block, enable_fp_fusion=True,
            )  # fmt: skip
        return passed, None, None, None, None


def _tile(values: torch.Tensor) -> tuple[int, int, int]:
    """Channels, those rounded up to a power of two, and cells of a program."""
    channels = math.prod(values.shape[1:])
    padded = triton.next_power_of_2(max(channels, 1))
    return channels, padded, max(1, _TILE // padded)


def _place(links: GridLinks, cells: CellRange) -> tuple[int, ...]:
    return *links.size, links.links.numel(), cells.start, cells.count


def _constants() -> tuple[float, float]:
    return REFERENCE_SIZE, SMOOTHING


@triton.jit
def _forward(
    values,
    links,
    sums,
    size_x,
    size_y,
    size_z,
    voxels,
    start,
    count,
    channels,
    reference_size,
    smoothing,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, PADDED)
    used = (cell < count)[:, None] & (channel < channels)[None, :]
    here, right, above, behind = _rows(links, start, cell, count, size_x, size_y, size_z, voxels)
    middle = _values(values, here, channel, channels)
    dx = (_values(values, right, channel, channels) - middle) * (size_x / reference_size)
    dy = (_values(values, above, channel, channels) - middle) * (size_y / reference_size)
    dz = (_values(values, behind, channel, channels) - middle) * (size_z / reference_size)
    root = tl.sqrt(smoothing + dx * dx + dy * dy + dz * dz)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(tl.where(used, root, 0.0), 1), 0))


@triton.jit
def _backward(
    values,
    links,
    grad,
    gradient,
    touched,
    size_x,
    size_y,
    size_z,
    voxels,
    start,
    count,
    channels,
    reference_size,
    smoothing,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, PADDED)
    here, right, above, behind = _rows(links, start, cell, count, size_x, size_y, size_z, voxels)
    middle = _values(values, here, channel, channels)
    scale_x, scale_y, scale_z = size_x / reference_size, size_y / reference_size, size_z / reference_size
    dx = (_values(values, right, channel, channels) - middle) * scale_x
    dy = (_values(values, above, channel, channels) - middle) * scale_y
    dz = (_values(values, behind, channel, channels) - middle) * scale_z
    slope = tl.load(grad) / count / tl.sqrt(smoothing + dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx * slope * scale_x, dy * slope * scale_y, dz * slope * scale_z
    _add(gradient, touched, here, channel, channels, -(dx + dy + dz))
    _add(gradient, touched, right, channel, channels, dx)
    _add(gradient, touched, above, channel, channels, dy)
    _add(gradient, touched, behind, channel, channels, dz)


@triton.jit
def _rows(links, start, cell, count, size_x, size_y, size_z, voxels):
    """Rows of the voxel and of the next along x, y, z; a neighbour beyond the border is the voxel itself."""
    valid = cell < count
    index = (cell.to(tl.int64) + start) % voxels
    x, y, z = index % size_x, index // size_x % size_y, index // (size_x * size_y)
    here = tl.load(links + index, mask=valid, other=-1)
    right = tl.load(links + index + 1, mask=valid & (x + 1 < size_x), other=-1)
    above = tl.load(links + index + size_x, mask=valid & (y + 1 < size_y), other=-1)
    behind = tl.load(links + index + size_x * size_y, mask=valid & (z + 1 < size_z), other=-1)
    right = tl.where(x + 1 < size_x, right, here)
    above = tl.where(y + 1 < size_y, above, here)
    behind = tl.where(z + 1 < size_z, behind, here)
    return here, right, above, behind


@triton.jit
def _values(values, row, channel, channels):
    """All channels of rows; 0 for row -1."""
    stored = (row >= 0)[:, None] & (channel < channels)[None, :]
    return tl.load(values + row.to(tl.int64)[:, None] * channels + channel[None, :], mask=stored, other=0.0)


@triton.jit
def _add(gradient, touched, row, channel, channels, amount):
    """Add to all channels of the rows that are stored, and mark them."""
    stored = (row >= 0)[:, None] & (channel < channels)[None, :]
    # Relaxed: sums only have to be complete when the kernel ends. Their order, so the last bits, may vary.
    tl.atomic_add(
        gradient + row.to(tl.int64)[:, None] * channels + channel[None, :], amount, mask=stored, sem="relaxed"
    )
    tl.store(touched + row, tl.full(row.shape, 1, tl.uint8), mask=row >= 0)
