"""Scattering points on a GPU: one point a lane, then one voxel a lane and axis.

Counts are integers and shares of weight are summed in float64, so the order in which points arrive hardly matters.
"""

import torch
import triton
import triton.language as tl

from voxfield.kernels.scatter_points.gaussian import gaussian_weights

_BLOCK = 256


def scatter_points(points, shape, low, high, method, sigma, compatible, clamp):
    """See ``api.scatter_points``."""
    trilinear = method == "trilinear"
    counts = torch.zeros(shape, dtype=torch.float64 if trilinear else torch.int32, device=points.device)
    missed = torch.zeros(1, dtype=torch.int32, device=points.device)
    box = torch.tensor([*low, *high], dtype=torch.float64, device=points.device)
    if len(points):
        _scatter[(triton.cdiv(len(points), _BLOCK),)](
            points,
            box,
            counts,
            missed,
            len(points),
            points.stride(0),
            points.stride(1),
            *shape,
            COMPATIBLE=compatible,
            CLAMP=clamp,
            TRILINEAR=trilinear,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    grid = (counts > 0).float() if method == "occupancy" else counts.float()
    if method == "gaussian":
        for axis in range(3):
            grid = _blur_axis(grid, axis, sigma[2 - axis])
    return grid, int(missed)


def _blur_axis(grid, axis, sigma):
    weights = torch.from_numpy(gaussian_weights(sigma)).to(grid.device)
    if len(weights) == 1:
        return grid
    blurred = torch.empty_like(grid)
    inner = grid.stride(axis)
    _blur[(triton.cdiv(grid.numel(), _BLOCK),)](
        grid,
        weights,
        blurred,
        grid.numel(),
        grid.shape[axis],
        inner,
        len(weights) - 1,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return blurred


@triton.jit
def _scatter(
    points,
    box,
    counts,
    missed,
    number,
    stride,
    axis_stride,
    depth,
    height,
    width,
    COMPATIBLE: tl.constexpr,
    CLAMP: tl.constexpr,
    TRILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # int64: a point's address overflows 32 bits from 2**31 / 3 points on.
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = point < number
    inside = valid
    index = tl.zeros((BLOCK,), tl.int64)
    x, y, z = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for step in tl.static_range(3):
        axis = 2 - step
        side = depth if axis == 2 else (height if axis == 1 else width)
        p = tl.load(points + point * stride + axis * axis_stride, mask=valid, other=0.0).to(tl.float64)
        low, high = tl.load(box + axis), tl.load(box + 3 + axis)
        inside = inside & (p >= low) & (p <= high)
        span = (side - 1 if COMPATIBLE else side) + tl.zeros((BLOCK,), tl.float64)
        scaled = tl.minimum(tl.maximum((p - low) / (high - low) * span, 0.0), span)
        cell = tl.minimum(scaled.to(tl.int64), side - 1)
        index = index * side + cell
        if axis == 2:
            z = scaled - 0.5
        elif axis == 1:
            y = scaled - 0.5
        else:
            x = scaled - 0.5
    tl.atomic_add(missed, tl.sum((valid & (inside == 0)).to(tl.int32)))
    kept = valid if CLAMP else inside
    if TRILINEAR:
        least_z, least_y, least_x = tl.floor(z), tl.floor(y), tl.floor(x)
        for corner in tl.static_range(8):
            dz, dy, dx = corner // 4, corner // 2 % 2, corner % 2
            cz = tl.minimum(tl.maximum(least_z.to(tl.int64) + dz, 0), depth - 1)
            cy = tl.minimum(tl.maximum(least_y.to(tl.int64) + dy, 0), height - 1)
            cx = tl.minimum(tl.maximum(least_x.to(tl.int64) + dx, 0), width - 1)
            wz = z - least_z if dz else 1 - (z - least_z)
            wy = y - least_y if dy else 1 - (y - least_y)
            wx = x - least_x if dx else 1 - (x - least_x)
            tl.atomic_add(counts + (cz * height + cy) * width + cx, wz * wy * wx, mask=kept)
    else:
        tl.atomic_add(counts + index, tl.full((BLOCK,), 1, tl.int32), mask=kept)


@triton.jit
def _blur(grid, weights, blurred, number, side, inner, radius, BLOCK: tl.constexpr):
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = voxel < number
    at = voxel // inner % side
    base = voxel - at * inner
    total = tl.load(grid + voxel, mask=valid, other=0.0).to(tl.float64) * tl.load(weights)
    # Enough whole periods of the mirrored row that no index is negative.
    period = 2 * side
    shift = (radius // period + 1) * period
    for step in range(radius):
        distance = radius - step
        before, after = (at - distance + shift) % period, (at + distance) % period
        before, after = tl.minimum(before, period - 1 - before), tl.minimum(after, period - 1 - after)
        left = tl.load(grid + base + before * inner, mask=valid, other=0.0).to(tl.float64)
        right = tl.load(grid + base + after * inner, mask=valid, other=0.0).to(tl.float64)
        total += (left + right) * tl.load(weights + distance)
    tl.store(blurred + voxel, total.to(tl.float32), mask=valid)
