"""Grid marching on a GPU: one ray a lane, a warp a program; one pass counts, the next writes.

A lane tests the three pyramid levels at its midpoint and leaves the largest empty block in one stride, onto the lattice
point behind it; see ``reference.py`` for where such a stride must end.
"""

import math

import torch
import triton
import triton.language as tl

from voxfield.kernels.march_grid.occupancy import OccupancyBits, cascade_box
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule
from voxfield.kernels.ray_box.triton_gpu import ray_box

_BLOCK = 32
"""Rays a program: one warp, so that the loop's "any ray left?" is a vote and needs no shared memory."""


def march_grid(
    origins: torch.Tensor,
    directions: torch.Tensor,
    occupancy: OccupancyBits,
    box: torch.Tensor,
    step: StepRule,
    jitter: torch.Tensor | None,
    near: float,
    far: float,
    max_samples: int,
) -> PackedSamples:
    """See ``api.march_grid``. Waits for the device once, to learn the number of samples."""
    origins, directions = origins.contiguous(), directions.contiguous()
    rays = len(origins)
    outermost = cascade_box(box, occupancy.num_cascades - 1)
    t_enter, t_exit = ray_box(origins, directions, outermost)
    t_enter, t_exit = t_enter.clamp(min=near), t_exit.clamp(max=far)
    hit = t_enter < t_exit
    t_exit = torch.where(hit, t_exit, 0)
    first = step.to_steps(torch.where(hit, t_enter, 0))
    if jitter is not None:
        first = first + jitter

    (t1, t2), (s1, s2) = step.breaks, step.break_steps
    inputs = origins, directions, first, t_exit, occupancy.bits, box.contiguous()
    scalars = rays, max_samples, step.min_step, step.cone_angle, step.max_step, step.log_growth, t1, t2, s1, s2
    constants = {
        "RESOLUTION": occupancy.resolution,
        "CASCADES": occupancy.num_cascades,
        "COARSE_START": occupancy.level_starts[1],
        "COARSEST_START": occupancy.level_starts[2],
        "GROWS": math.isfinite(t1),
        "CAPPED": math.isfinite(t2),
        "BLOCK": _BLOCK,
        "num_warps": 1,
        # Fused multiply-adds could be chosen differently in the two passes, which have to keep the same samples.
        "enable_fp_fusion": False,
    }
    counts = torch.zeros(rays, dtype=torch.int64, device=origins.device)
    programs = (triton.cdiv(rays, _BLOCK),)
    if rays:
        # The unused outputs of the counting pass are given any tensor: it never touches them.
        _march[programs](*inputs, counts, counts, first, first, counts, first, 0, *scalars, WRITE=False, **constants)
    ray_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(ray_offsets[-1])
    t_start, t_end = origins.new_empty(total), origins.new_empty(total)
    ray_index = torch.empty(total, dtype=torch.int32, device=origins.device)
    positions = origins.new_empty(3, total)
    if total:
        outputs = t_start, t_end, ray_index, positions
        _march[programs](*inputs, counts, ray_offsets, *outputs, total, *scalars, WRITE=True, **constants)
    return PackedSamples(
        t_start=t_start, t_end=t_end, ray_index=ray_index, ray_offsets=ray_offsets, positions=positions.T
    )


@triton.jit
def _march(
    origins,
    directions,
    first,
    t_exit,
    bits,
    box,
    counts,
    ray_offsets,
    t_start,
    t_end,
    ray_index,
    positions,
    total,
    rays,
    max_samples,
    min_step,
    cone_angle,
    max_step,
    log_growth,
    t1,
    t2,
    s1,
    s2,
    RESOLUTION: tl.constexpr,
    CASCADES: tl.constexpr,
    COARSE_START: tl.constexpr,
    COARSEST_START: tl.constexpr,
    GROWS: tl.constexpr,
    CAPPED: tl.constexpr,
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = ray < rays
    ox = tl.load(origins + ray * 3, mask=valid, other=0.0)
    oy = tl.load(origins + ray * 3 + 1, mask=valid, other=0.0)
    oz = tl.load(origins + ray * 3 + 2, mask=valid, other=0.0)
    dx = tl.load(directions + ray * 3, mask=valid, other=0.0)
    dy = tl.load(directions + ray * 3 + 1, mask=valid, other=0.0)
    dz = tl.load(directions + ray * 3 + 2, mask=valid, other=0.0)
    s_first = tl.load(first + ray, mask=valid, other=0.0)
    t_stop = tl.load(t_exit + ray, mask=valid, other=0.0)
    low_x, low_y, low_z = tl.load(box), tl.load(box + 1), tl.load(box + 2)
    high_x, high_y, high_z = tl.load(box + 3), tl.load(box + 4), tl.load(box + 5)
    cx, cy, cz = (low_x + high_x) / 2, (low_y + high_y) / 2, (low_z + high_z) / 2
    side_x, side_y, side_z = high_x - low_x, high_y - low_y, high_z - low_z
    cell_size = tl.maximum(tl.maximum(side_x, side_y), side_z) / RESOLUTION
    limit = tl.zeros((BLOCK,), tl.int64) + max_samples
    base = tl.zeros((BLOCK,), tl.int64)
    if WRITE:
        limit = tl.load(counts + ray, mask=valid, other=0)
        base = tl.load(ray_offsets + ray, mask=valid, other=0)
    outer_scale: tl.constexpr = 2 ** (CASCADES - 1)

    k = tl.zeros((BLOCK,), tl.int32)
    kept = tl.zeros((BLOCK,), tl.int64)
    active = valid & (kept < limit)
    while tl.max(active.to(tl.int32), 0) > 0:
        t = _to_distance(s_first + k + 0.5, min_step, max_step, log_growth, t1, t2, s1, s2, GROWS, CAPPED)
        active = active & (t < t_stop)
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t

        reach = tl.maximum(tl.abs(x - cx) / (side_x / 2), tl.abs(y - cy) / (side_y / 2))
        reach = tl.maximum(reach, tl.abs(z - cz) / (side_z / 2))
        half_step = tl.minimum(tl.maximum(t * cone_angle, min_step), max_step) / 2
        cascade = tl.zeros((BLOCK,), tl.int32)
        scale = tl.full((BLOCK,), 1.0, tl.float32)
        for c in tl.static_range(CASCADES - 1):
            too_small = (reach > 2**c) | (cell_size * 2**c < half_step)
            cascade = tl.where(too_small, c + 1, cascade)
            scale = tl.where(too_small, 2.0 ** (c + 1), scale)

        i = _cell((x - cx) / (side_x * scale) + 0.5, RESOLUTION)
        j = _cell((y - cy) / (side_y * scale) + 0.5, RESOLUTION)
        h = _cell((z - cz) / (side_z * scale) + 0.5, RESOLUTION)
        coarsest = _bit(bits + COARSEST_START, cascade, i // 16, j // 16, h // 16, active, RESOLUTION // 16)
        coarse = _bit(bits + COARSE_START, cascade, i // 4, j // 4, h // 4, active & coarsest, RESOLUTION // 4)
        keep = _bit(bits, cascade, i, j, h, active & coarse, RESOLUTION)

        if WRITE:
            slot = base + kept
            start = _to_distance(s_first + k, min_step, max_step, log_growth, t1, t2, s1, s2, GROWS, CAPPED)
            end = _to_distance(s_first + k + 1, min_step, max_step, log_growth, t1, t2, s1, s2, GROWS, CAPPED)
            tl.store(t_start + slot, start, mask=keep)
            tl.store(t_end + slot, end, mask=keep)
            tl.store(ray_index + slot, ray.to(tl.int32), mask=keep)
            tl.store(positions + slot, (x - cx) / (side_x * outer_scale) + 0.5, mask=keep)
            tl.store(positions + total + slot, (y - cy) / (side_y * outer_scale) + 0.5, mask=keep)
            tl.store(positions + total + total + slot, (z - cz) / (side_z * outer_scale) + 0.5, mask=keep)
        kept += keep.to(tl.int64)

        # Leave the largest empty block (a single cell at worst), but stay where this cascade keeps deciding.
        block = tl.where(coarsest, tl.where(coarse, 1, 4), 16)
        t_next = tl.minimum(t_stop, _leave(i, block, ox, dx, cx, side_x * scale, RESOLUTION))
        t_next = tl.minimum(t_next, _leave(j, block, oy, dy, cy, side_y * scale, RESOLUTION))
        t_next = tl.minimum(t_next, _leave(h, block, oz, dz, cz, side_z * scale, RESOLUTION))
        if CASCADES > 1:
            inner = tl.maximum(_enter(ox, dx, cx, side_x * scale / 4), _enter(oy, dy, cy, side_y * scale / 4))
            inner = tl.maximum(inner, _enter(oz, dz, cz, side_z * scale / 4))
            t_next = tl.where((cascade > 0) & (inner > t), tl.minimum(t_next, inner), t_next)
            if GROWS:
                grown = 2 * cell_size * scale / cone_angle
                t_next = tl.where(grown > t, tl.minimum(t_next, grown), t_next)
        s_next = _to_steps(tl.maximum(t_next, 0.0), min_step, max_step, log_growth, t1, t2, s1, s2, GROWS, CAPPED)
        # 0.001 step early: rounding may cost a second test of a cell, never a sample behind it.
        stride = tl.ceil(s_next - s_first - 0.501).to(tl.int32)
        k = tl.where(keep, k + 1, tl.maximum(k + 1, stride))
        active = active & (kept < limit)

    if WRITE:
        # Should a compiler round the two passes differently all the same, the slots left are empty intervals.
        while tl.max((kept < limit).to(tl.int32), 0) > 0:
            missing = kept < limit
            slot = base + kept
            tl.store(t_start + slot, t_stop, mask=missing)
            tl.store(t_end + slot, t_stop, mask=missing)
            tl.store(ray_index + slot, ray.to(tl.int32), mask=missing)
            x, y, z = ox + dx * t_stop, oy + dy * t_stop, oz + dz * t_stop
            tl.store(positions + slot, (x - cx) / (side_x * outer_scale) + 0.5, mask=missing)
            tl.store(positions + total + slot, (y - cy) / (side_y * outer_scale) + 0.5, mask=missing)
            tl.store(positions + total + total + slot, (z - cz) / (side_z * outer_scale) + 0.5, mask=missing)
            kept += missing.to(tl.int64)
    else:
        tl.store(counts + ray, kept, mask=valid)


@triton.jit
def _to_steps(
    t, min_step, max_step, log_growth, t1, t2, s1, s2, GROWS: tl.constexpr, CAPPED: tl.constexpr
):  # fmt: skip
    """``StepRule.to_steps``."""
    steps = t / min_step
    if GROWS:
        steps = tl.where(t > t1, s1 + tl.log(tl.maximum(t, t1) / t1) / log_growth, steps)
    if CAPPED:
        steps = tl.where(t > t2, s2 + (t - t2) / max_step, steps)
    return steps


@triton.jit
def _to_distance(
    steps, min_step, max_step, log_growth, t1, t2, s1, s2, GROWS: tl.constexpr, CAPPED: tl.constexpr
):  # fmt: skip
    """``StepRule.to_distance``."""
    distance = steps * min_step
    if GROWS:
        grown = t1 * tl.exp((tl.minimum(tl.maximum(steps, s1), s2) - s1) * log_growth)
        distance = tl.where(steps > s1, grown, distance)
    if CAPPED:
        distance = tl.where(steps > s2, t2 + (steps - s2) * max_step, distance)
    return distance


@triton.jit
def _cell(unit, RESOLUTION: tl.constexpr):
    """Index of a cell along one axis, from [0, 1]. The bounds come first: NaN then becomes 0 and never an address."""
    scaled = unit * RESOLUTION
    bounded = tl.where(scaled > 0.0, tl.where(scaled < RESOLUTION - 1, scaled, RESOLUTION - 1.0), 0.0)
    return bounded.to(tl.int32)


@triton.jit
def _bit(level, cascade, x, y, z, mask, BLOCKS: tl.constexpr):
    """Whether block (x, y, z) of a pyramid level is occupied; false where masked."""
    index = x + y * BLOCKS + z * (BLOCKS * BLOCKS)
    # int64: 16 cascades of 1024**3 bits are 2**31 bytes.
    byte = cascade.to(tl.int64) * ((BLOCKS * BLOCKS * BLOCKS + 7) // 8) + (index >> 3)
    return ((tl.load(level + byte, mask=mask, other=0).to(tl.int32) >> (index & 7)) & 1) != 0


@triton.jit
def _leave(cell, block, origin, direction, centre, side, RESOLUTION: tl.constexpr):
    """Distance at which a ray crosses the far face, along one axis, of the block that holds ``cell``."""
    face = (cell // block) * block + tl.where(direction > 0.0, block, 0)
    plane = centre + (face.to(tl.float32) / RESOLUTION - 0.5) * side
    divisor = tl.where(direction == 0.0, 1.0, direction)
    return tl.where(direction == 0.0, float("inf"), (plane - origin) / divisor)


@triton.jit
def _enter(origin, direction, centre, half):
    """Distance at which a ray crosses the near face, along one axis, of a slab; -inf if it runs along it."""
    plane = centre - tl.where(direction > 0.0, half, -half)
    divisor = tl.where(direction == 0.0, 1.0, direction)
    return tl.where(direction == 0.0, float("-inf"), (plane - origin) / divisor)
