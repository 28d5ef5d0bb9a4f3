"""Hash encoding on a GPU: a block of points of one level a program.

Blocks of the same level run together (the level is the slower grid axis), so that its part of the table stays in cache.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from voxfield.kernels.hash_encode.grid import HASH_PRIMES, HashGrid

_BLOCK = 128

_PRIME_Y, _PRIME_Z = (tl.constexpr(prime) for prime in HASH_PRIMES[1:])  # the factor of x is 1


def hash_encode(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    table_grad: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``api.hash_encode``. Returns a transposed view of feature-major storage, which is written coalesced."""
    result: torch.Tensor = _HashEncode.apply(positions, table, grid, table_grad)
    return result


@lru_cache(maxsize=64)
def _level_table(grid: HashGrid, device: torch.device) -> torch.Tensor:
    """(L, 3) int64: resolution, first row and whether dense of each level. Kept on the device: made once a grid."""
    columns = grid.resolutions, grid.offsets[:-1], [int(dense) for dense in grid.dense]
    return torch.tensor(list(zip(*columns, strict=True)), dtype=torch.int64, device=device)


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        positions: torch.Tensor,
        table: torch.Tensor,
        grid: HashGrid,
        table_grad: torch.Tensor | None,
    ) -> torch.Tensor:
        table = table.contiguous()
        count = len(positions)
        ctx.save_for_backward(positions, table)
        ctx.grid, ctx.table_grad = grid, table_grad
        encoded = table.new_empty(grid.num_outputs, count)
        if count:
            _forward[(triton.cdiv(count, _BLOCK), grid.num_levels)](
                positions,
                table,
                _level_table(grid, table.device),
                encoded,
                count,
                *positions.stride(),
                HASH_MASK=grid.table_size - 1,
                FEATURES=grid.features,
                SMOOTHSTEP=grid.smoothstep,
                BLOCK=_BLOCK,
                enable_fp_fusion=True,
            )
        return encoded.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        positions, table = ctx.saved_tensors
        grid: HashGrid = ctx.grid
        count = len(positions)
        levels = _level_table(grid, table.device)
        strides = *positions.stride(), *grad.stride()
        constants = {
            "HASH_MASK": grid.table_size - 1,
            "FEATURES": grid.features,
            "SMOOTHSTEP": grid.smoothstep,
            "BLOCK": _BLOCK,
            "enable_fp_fusion": True,
        }
        grad_positions = grad_table = None
        if ctx.needs_input_grad[1]:
            target = torch.zeros_like(table) if ctx.table_grad is None else ctx.table_grad
            if count:
                _backward_table[(triton.cdiv(count, _BLOCK), grid.num_levels)](
                    positions, levels, grad, target, count, *strides, **constants
                )
            grad_table = target if ctx.table_grad is None else None
        if ctx.needs_input_grad[0]:
            grad_positions = positions.new_empty(count, 3)
            if count:
                _backward_positions[(triton.cdiv(count, _BLOCK),)](
                    positions, table, levels, grad, grad_positions, count, grid.num_levels, *strides, **constants
                )
        return grad_positions, grad_table, None, None


@triton.jit
def _forward(
    positions,
    table,
    levels,
    encoded,
    count,
    p_row,
    p_axis,
    HASH_MASK: tl.constexpr,
    FEATURES: tl.constexpr,
    SMOOTHSTEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < count
    feature = tl.arange(0, FEATURES)
    resolution, first_row, dense = _level(levels, level)
    x, y, z, u, v, w, _, _, _ = _cells(positions, row, p_row, p_axis, valid, resolution, SMOOTHSTEP)
    total = tl.zeros((BLOCK, FEATURES), tl.float32)
    for corner in tl.static_range(8):
        index = _vertex_row(x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution, dense, HASH_MASK)
        weight = _side(u, corner & 1) * _side(v, corner >> 1 & 1) * _side(w, corner >> 2)
        entry = table + (first_row + index)[:, None] * FEATURES + feature[None, :]
        total += weight[:, None] * tl.load(entry, mask=valid[:, None], other=0.0)
    out = encoded + (level * FEATURES + feature).to(tl.int64)[None, :] * count + row[:, None]
    tl.store(out, total, mask=valid[:, None])


@triton.jit
def _backward_table(
    positions,
    levels,
    grad,
    grad_table,
    count,
    p_row,
    p_axis,
    g_row,
    g_column,
    HASH_MASK: tl.constexpr,
    FEATURES: tl.constexpr,
    SMOOTHSTEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < count
    feature = tl.arange(0, FEATURES)
    resolution, first_row, dense = _level(levels, level)
    x, y, z, u, v, w, _, _, _ = _cells(positions, row, p_row, p_axis, valid, resolution, SMOOTHSTEP)
    column = (level * FEATURES + feature).to(tl.int64)
    g = tl.load(grad + row[:, None] * g_row + column[None, :] * g_column, mask=valid[:, None], other=0.0)
    for corner in tl.static_range(8):
        index = _vertex_row(x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution, dense, HASH_MASK)
        weight = _side(u, corner & 1) * _side(v, corner >> 1 & 1) * _side(w, corner >> 2)
        entry = grad_table + (first_row + index)[:, None] * FEATURES + feature[None, :]
        # Relaxed: sums only have to be complete when the kernel ends. Their order, so the last bits, may vary.
        tl.atomic_add(entry, weight[:, None] * g, mask=valid[:, None], sem="relaxed")


@triton.jit
def _backward_positions(
    positions,
    table,
    levels,
    grad,
    grad_positions,
    count,
    num_levels,
    p_row,
    p_axis,
    g_row,
    g_column,
    HASH_MASK: tl.constexpr,
    FEATURES: tl.constexpr,
    SMOOTHSTEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A program walks through the levels itself: their sum then needs no atomics and is the same every time.
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < count
    feature = tl.arange(0, FEATURES)
    dx = tl.zeros((BLOCK,), tl.float32)
    dy = tl.zeros((BLOCK,), tl.float32)
    dz = tl.zeros((BLOCK,), tl.float32)
    for level in range(num_levels):
        resolution, first_row, dense = _level(levels, level)
        x, y, z, u, v, w, du, dv, dw = _cells(positions, row, p_row, p_axis, valid, resolution, SMOOTHSTEP)
        column = (level * FEATURES + feature).to(tl.int64)
        g = tl.load(grad + row[:, None] * g_row + column[None, :] * g_column, mask=valid[:, None], other=0.0)
        for corner in tl.static_range(8):
            index = _vertex_row(
                x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution, dense, HASH_MASK
            )
            entry = table + (first_row + index)[:, None] * FEATURES + feature[None, :]
            value = tl.sum(g * tl.load(entry, mask=valid[:, None], other=0.0), 1)
            a, b, c = _side(u, corner & 1), _side(v, corner >> 1 & 1), _side(w, corner >> 2)
            dx += value * b * c * (2 * (corner & 1) - 1) * du
            dy += value * a * c * (2 * (corner >> 1 & 1) - 1) * dv
            dz += value * a * b * (2 * (corner >> 2) - 1) * dw
    tl.store(grad_positions + row * 3, dx, mask=valid)
    tl.store(grad_positions + row * 3 + 1, dy, mask=valid)
    tl.store(grad_positions + row * 3 + 2, dz, mask=valid)


@triton.jit
def _level(levels, level):
    """A level's cells along an axis, its first row in the table, and whether its vertices have rows of their own."""
    resolution = tl.load(levels + 3 * level).to(tl.int32)
    # int64 from here on: a table of 2**31 bytes and an output of 2**31 numbers are within reach of a GPU.
    return resolution, tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2) != 0


@triton.jit
def _cells(positions, row, p_row, p_axis, valid, resolution, SMOOTHSTEP: tl.constexpr):
    """Along x, y and z: the cells' indices, the weights of their far sides, and those weights' derivatives."""
    x, u, du = _cell(positions + row * p_row, valid, resolution, SMOOTHSTEP)
    y, v, dv = _cell(positions + row * p_row + p_axis, valid, resolution, SMOOTHSTEP)
    z, w, dw = _cell(positions + row * p_row + 2 * p_axis, valid, resolution, SMOOTHSTEP)
    return x, y, z, u, v, w, du, dv, dw


@triton.jit
def _cell(address, valid, resolution, SMOOTHSTEP: tl.constexpr):
    """Along one axis: the cell's index, the weight of its far side, and the weight's derivative to the position."""
    position = tl.load(address, mask=valid, other=0.0)
    # Written so that NaN becomes 0 and never an address.
    unit = tl.where(position > 0.0, tl.where(position < 1.0, position, 1.0), 0.0)
    scale = resolution.to(tl.float32)
    scaled = unit * scale
    cell = tl.minimum(scaled.to(tl.int32), resolution - 1)
    weight = scaled - cell.to(tl.float32)
    slope = tl.where((position >= 0.0) & (position <= 1.0), scale, 0.0)
    if SMOOTHSTEP:
        slope *= 6.0 * weight * (1.0 - weight)
        weight = weight * weight * (3.0 - 2.0 * weight)
    return cell, weight, slope


@triton.jit
def _side(weight, FAR: tl.constexpr):
    """The weight of the far or the near side of a cell."""
    if FAR:
        return weight
    else:  # noqa: RET505 - Triton compiles both returns only as the arms of one if
        return 1.0 - weight


@triton.jit
def _vertex_row(x, y, z, resolution, dense, HASH_MASK: tl.constexpr):
    """Row of a vertex within its level, int64."""
    stride = (resolution + 1).to(tl.int64)
    in_order = x + y * stride + z * stride * stride
    # uint32: the hash is defined by products that wrap.
    hashed = (x.to(tl.uint32) ^ (y.to(tl.uint32) * _PRIME_Y) ^ (z.to(tl.uint32) * _PRIME_Z)) & HASH_MASK
    return tl.where(dense, in_order, hashed.to(tl.int64))
