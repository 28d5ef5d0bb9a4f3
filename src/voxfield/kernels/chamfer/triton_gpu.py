"""Chamfer distances on a GPU: a program for each pair of sets, each way on its own."""

import torch
import triton
import triton.language as tl

_POINTS = 64


def chamfer_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """See ``api.chamfer_distances``."""
    first, second = first.contiguous(), second.contiguous()
    distances = first.new_zeros(len(first), len(second))
    if distances.numel():
        for points, others, by_row, by_column in (
            (first, second, len(second), 1),
            (second, first, 1, len(second)),
        ):
            _one_way[(len(points), len(others))](
                points,
                others,
                distances,
                points.shape[1],
                others.shape[1],
                by_row,
                by_column,
                BLOCK=_POINTS,
                enable_fp_fusion=True,
            )
    return distances


@triton.jit
def _one_way(points, others, distances, count, other_count, by_row, by_column, BLOCK: tl.constexpr):
    """Add to each pair's distance the mean over ``points`` of the squared distance to the nearest of ``others``."""
    # int64: a set's address overflows 32 bits from 2**31 / 3 points on.
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        point = start + lane
        valid = point < count
        at = points + (row * count + point) * 3
        px, py, pz = tl.load(at, valid, 0.0), tl.load(at + 1, valid, 0.0), tl.load(at + 2, valid, 0.0)
        nearest = tl.full((BLOCK,), float("inf"), tl.float32)
        for first in range(0, other_count, BLOCK):
            other = first + lane
            there = other < other_count
            to = others + (column * other_count + other) * 3
            ox, oy, oz = tl.load(to, there, 0.0), tl.load(to + 1, there, 0.0), tl.load(to + 2, there, 0.0)
            dx, dy, dz = px[:, None] - ox[None, :], py[:, None] - oy[None, :], pz[:, None] - oz[None, :]
            squared = tl.where(there[None, :], dx * dx + dy * dy + dz * dz, float("inf"))
            nearest = tl.minimum(nearest, tl.min(squared, 1))
        total += tl.where(valid, nearest, 0.0)
    pair = distances + row * by_row + column * by_column
    tl.store(pair, tl.load(pair) + tl.sum(total, 0) / count)
