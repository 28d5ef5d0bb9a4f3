"""Grid marching on a CPU: rays split between threads; empty blocks of 16 and 4 cells and empty cells are jumped over.

A jump goes to the last lattice point that certainly still lies in the empty block (and would choose the same cascade),
so what is kept does not depend on the jumps: every kept midpoint is tested against its own cell. Two passes over the
rays: the first notes which lattice points are kept, the second writes them where the counts before them say.
"""

import math

import numpy as np
import torch
from numba import njit

from voxfield.kernels.march_grid.occupancy import OccupancyBits
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule
from voxfield.kernels.threads import run_split

_jit = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


@_jit
def _to_steps(t, rule):  # type: ignore[no-untyped-def]
    """s(t); ``rule``: min_step, max_step, cone_angle, t1, t2, s1, s2, ln(1 + cone_angle) as float64."""
    if t <= rule[3]:
        return t / rule[0]
    if t <= rule[4]:
        return rule[5] + math.log(t / rule[3]) / rule[7]
    return rule[6] + (t - rule[4]) / rule[1]


@_jit
def _to_distance(s, rule):  # type: ignore[no-untyped-def]
    """t(s), the inverse of `_to_steps`."""
    if s <= rule[5]:
        return s * rule[0]
    if s <= rule[6]:
        return rule[3] * math.exp((s - rule[5]) * rule[7])
    return rule[4] + (s - rule[6]) * rule[1]


@_jit
def _clip(origin, direction, box, reach, near, far):  # type: ignore[no-untyped-def]
    """[t_enter, t_exit) of one ray in ``box`` scaled by ``reach`` about its centre, cut with [near, far)."""
    t_enter, t_exit = near, far
    for axis in range(3):
        if not (abs(origin[axis]) < np.inf and abs(direction[axis]) < np.inf):
            return 0.0, -1.0
        centre = 0.5 * (box[0, axis] + box[1, axis])
        half = 0.5 * (box[1, axis] - box[0, axis]) * reach
        if direction[axis] == 0.0:
            if abs(origin[axis] - centre) > half:
                return 0.0, -1.0
        else:
            a = (centre - half - origin[axis]) / direction[axis]
            b = (centre + half - origin[axis]) / direction[axis]
            t_enter = max(t_enter, min(a, b))
            t_exit = min(t_exit, max(a, b))
    return t_enter, t_exit


@_jit
def _is_set(bits, start, index):  # type: ignore[no-untyped-def]
    return (bits[start + (index >> 3)] >> (index & 7)) & 1


@_jit
def _mark(  # type: ignore[no-untyped-def]
    first,
    stop,
    origins,
    directions,
    bits,
    resolution,
    cascades,
    starts,
    sizes,
    box,
    rule,
    jitter,
    near,
    far,
    most,
    kept,
    counts,
    s0,
):
    """Note in ``kept`` (rows of ``most``) which lattice points of rays [first, stop) are samples."""
    origin, direction, p = np.empty(3), np.empty(3), np.empty(3)
    # The ray in units of cascade 0's half box, and how far along the ray one such unit is: no divisions on the way.
    start, along, per_unit = np.empty(3), np.empty(3), np.empty(3)
    centre, half = np.empty(3), np.empty(3)
    longest = 0.0
    for axis in range(3):
        centre[axis] = 0.5 * (box[0, axis] + box[1, axis])
        half[axis] = 0.5 * (box[1, axis] - box[0, axis])
        longest = max(longest, 2.0 * half[axis])
    cell_size = longest / resolution
    outermost = float(1 << (cascades - 1))
    for ray in range(first, stop):
        for axis in range(3):
            origin[axis], direction[axis] = origins[ray, axis], directions[ray, axis]
        count = 0
        t_enter, t_exit = _clip(origin, direction, box, outermost, near, far)
        if t_enter < t_exit:
            for axis in range(3):
                start[axis] = (origin[axis] - centre[axis]) / half[axis]
                along[axis] = direction[axis] / half[axis]
                per_unit[axis] = 1.0 / along[axis] if along[axis] != 0.0 else 0.0
            begin = _to_steps(t_enter, rule) + jitter[ray]
            s0[ray] = begin
            k = 0
            while count < most:
                t = _to_distance(begin + k + 0.5, rule)
                if not t < t_exit:
                    break
                reach = 0.0
                for axis in range(3):
                    p[axis] = start[axis] + along[axis] * t
                    reach = max(reach, abs(p[axis]))
                dt = min(max(t * rule[2], rule[0]), rule[1])
                cascade, scale = 0, 1.0
                while cascade < cascades - 1 and (reach > scale or cell_size * scale < 0.5 * dt):
                    cascade += 1
                    scale *= 2.0
                to_cells = 0.5 * resolution / scale
                x = min(max(int((p[0] + scale) * to_cells), 0), resolution - 1)
                y = min(max(int((p[1] + scale) * to_cells), 0), resolution - 1)
                z = min(max(int((p[2] + scale) * to_cells), 0), resolution - 1)
                # Largest empty block around the midpoint: 16 cells, 4 cells, 1 cell.
                shift = 4
                side = resolution >> 4
                index = (x >> 4) + ((y >> 4) + (z >> 4) * side) * side
                if _is_set(bits, starts[2] + cascade * sizes[2], index):
                    shift = 2
                    side = resolution >> 2
                    index = (x >> 2) + ((y >> 2) + (z >> 2) * side) * side
                    if _is_set(bits, starts[1] + cascade * sizes[1], index):
                        shift = 0
                        index = x + (y + z * resolution) * resolution
                        if _is_set(bits, starts[0] + cascade * sizes[0], index):
                            kept[ray, count] = k
                            count += 1
                            k += 1
                            continue
                # Leave the block, or what makes this cascade the right one, whichever is first.
                leave = t_exit
                to_units = 1.0 / to_cells
                for axis in range(3):
                    cell = x if axis == 0 else (y if axis == 1 else z)
                    low = ((cell >> shift) << shift) * to_units - scale
                    high = (((cell >> shift) + 1) << shift) * to_units - scale
                    inner = 0.5 * scale
                    if cascade > 0 and shift > 0:
                        # A block may straddle the next smaller cascade's box: stop at its faces too.
                        if p[axis] < -inner:
                            high = min(high, -inner)
                        elif p[axis] > inner:
                            low = max(low, inner)
                        else:
                            low, high = max(low, -inner), min(high, inner)
                    if direction[axis] > 0.0:
                        leave = min(leave, (high - start[axis]) * per_unit[axis])
                    elif direction[axis] < 0.0:
                        leave = min(leave, (low - start[axis]) * per_unit[axis])
                if rule[2] > 0.0 and cascade < cascades - 1:
                    # Beyond this distance the growing step asks for larger cells.
                    leave = min(leave, max(t, 2.0 * cell_size * scale / rule[2]))
                jump = int((_to_steps(leave, rule) - begin - 0.5) * (1.0 - 1e-12))
                k = max(k + 1, jump)
        counts[ray] = count


@_jit
def _write(
    first, stop, origins, directions, corner, extent, rule, kept, s0, offsets, t_start, t_end, ray_index, positions
):  # type: ignore[no-untyped-def]
    """Samples of rays [first, stop) from the lattice points in ``kept``; positions in the unit cube of the outermost
    box.
    """
    for ray in range(first, stop):
        at = offsets[ray]
        for n in range(offsets[ray + 1] - at):
            s = s0[ray] + kept[ray, n]
            t_start[at + n] = _to_distance(s, rule)
            t_end[at + n] = _to_distance(s + 1.0, rule)
            t = _to_distance(s + 0.5, rule)
            ray_index[at + n] = ray
            for axis in range(3):
                positions[axis, at + n] = (origins[ray, axis] + directions[ray, axis] * t - corner[axis]) / extent[axis]


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
    """See `voxfield.kernels.march_grid.api.march_grid`. Distances are computed in float64, kept in float32."""
    rays = len(origins)
    rule = np.array([step.min_step, step.max_step, step.cone_angle, *step.breaks, *step.break_steps, step.log_growth])
    start, along = origins.contiguous().numpy(), directions.contiguous().numpy()
    corners = box.double().numpy()
    shift = np.zeros(rays, np.float32) if jitter is None else jitter.contiguous().numpy()
    # Only pages that are written to become real memory, so the generous bound costs nothing.
    kept = np.empty((rays, max_samples), np.int32)
    counts, s0 = np.zeros(rays, np.int64), np.zeros(rays)
    run_split(
        _mark,
        rays,
        start,
        along,
        occupancy.bits.numpy(),
        occupancy.resolution,
        occupancy.num_cascades,
        np.array(occupancy.level_starts),
        np.array(occupancy.cascade_bytes),
        corners,
        rule,
        shift,
        near,
        far,
        max_samples,
        kept,
        counts,
        s0,
        grain=64,
    )
    offsets = np.concatenate([[0], counts.cumsum()])
    total = int(offsets[-1])
    t_start, t_end, ray_index = torch.empty(total), torch.empty(total), torch.empty(total, dtype=torch.int32)
    positions = torch.empty(3, total)
    half = 0.5 * (corners[1] - corners[0]) * 2.0 ** (occupancy.num_cascades - 1)
    corner = 0.5 * (corners[0] + corners[1]) - half
    results = (t_start.numpy(), t_end.numpy(), ray_index.numpy(), positions.numpy())
    run_split(_write, rays, start, along, corner, 2.0 * half, rule, kept, s0, offsets, *results, grain=64)
    return PackedSamples(
        t_start=t_start,
        t_end=t_end,
        ray_index=ray_index,
        ray_offsets=torch.from_numpy(offsets),
        positions=positions.T,
    )
