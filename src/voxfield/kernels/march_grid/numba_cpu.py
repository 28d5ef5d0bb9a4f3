"""Grid marching on a CPU: rays split between threads; empty blocks of 16 and 4 cells and empty cells are jumped over.

A jump goes to the first lattice point that does not certainly lie in the empty block (and would choose the same
cascade), so what is kept does not depend on the jumps: every kept midpoint is tested against its own cell. Two passes
over the rays: the first notes which lattice points are kept, the second writes them where the counts before them say.
"""

import math

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.march_grid.occupancy import OccupancyBits
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule
from voxfield.kernels.march_grid.side_by_side import ROWS, advance, enter_lane, looked_at
from voxfield.kernels.simd import LANES, lowest_bit
from voxfield.kernels.threads import run_split

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")


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
def _leave(position, cell, shift, to_units, scale, straddles, start, along, per_unit):  # type: ignore[no-untyped-def]
    """Distance at which a ray leaves, along one axis, the block of 2**shift cells around ``cell``."""
    if along == 0.0:
        return np.inf
    low = ((cell >> shift) << shift) * to_units - scale
    high = (((cell >> shift) + 1) << shift) * to_units - scale
    if straddles:
        # The block may straddle the next smaller cascade's box: stop at its faces too.
        inner = 0.5 * scale
        if position < -inner:
            high = min(high, -inner)
        elif position > inner:
            low = max(low, inner)
        else:
            low, high = max(low, -inner), min(high, inner)
    return ((high if along > 0.0 else low) - start) * per_unit


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
    begins,
    counts,
    s0,
):
    """Note in ``kept``, from element ``begins[ray]``, which lattice points of rays [first, stop) are samples.

    ``kept`` has ``most`` elements a ray; rays [first, stop) fill theirs without gaps.
    """
    origin, direction = np.empty(3), np.empty(3)
    centre, half = np.empty(3), np.empty(3)
    longest = 0.0
    for axis in range(3):
        centre[axis] = 0.5 * (box[0, axis] + box[1, axis])
        half[axis] = 0.5 * (box[1, axis] - box[0, axis])
        longest = max(longest, 2.0 * half[axis])
    cell_size = longest / resolution
    outermost = float(1 << (cascades - 1))
    # Scalars, not arrays, in the inner loop: the compiler need not fear that writing ``kept`` changes them.
    least, most_step, cone = rule[0], rule[1], rule[2]
    per_step, constant = 1.0 / rule[0], rule[2] == 0.0
    start0, start1, start2 = starts[0], starts[1], starts[2]
    size0, size1, size2 = sizes[0], sizes[1], sizes[2]
    at = first * most
    for ray in range(first, stop):
        for axis in range(3):
            origin[axis], direction[axis] = origins[ray, axis], directions[ray, axis]
        count, begins[ray] = 0, at
        t_enter, t_exit = _clip(origin, direction, box, outermost, near, far)
        if t_enter < t_exit:
            # The ray in units of cascade 0's half box, and how far along the ray one such unit is: no divisions below.
            ox, oy, oz = (
                (origin[0] - centre[0]) / half[0],
                (origin[1] - centre[1]) / half[1],
                (origin[2] - centre[2]) / half[2],
            )
            dx, dy, dz = direction[0] / half[0], direction[1] / half[1], direction[2] / half[2]
            ix = 1.0 / dx if dx != 0.0 else 0.0
            iy = 1.0 / dy if dy != 0.0 else 0.0
            iz = 1.0 / dz if dz != 0.0 else 0.0
            begin = _to_steps(t_enter, rule) + jitter[ray]
            s0[ray] = begin
            k = 0
            while count < most:
                t = (begin + k + 0.5) * least if constant else _to_distance(begin + k + 0.5, rule)
                if not t < t_exit:
                    break
                px, py, pz = ox + dx * t, oy + dy * t, oz + dz * t
                cascade, scale = 0, 1.0
                if cascades > 1:
                    reach = max(abs(px), abs(py), abs(pz))
                    half_step = 0.5 * min(max(t * cone, least), most_step)
                    while cascade < cascades - 1 and (reach > scale or cell_size * scale < half_step):
                        cascade += 1
                        scale *= 2.0
                to_cells = 0.5 * resolution / scale
                x = min(max(int((px + scale) * to_cells), 0), resolution - 1)
                y = min(max(int((py + scale) * to_cells), 0), resolution - 1)
                z = min(max(int((pz + scale) * to_cells), 0), resolution - 1)
                # Largest empty block around the midpoint: 16 cells, 4 cells, 1 cell.
                shift = 4
                side = resolution >> 4
                index = (x >> 4) + ((y >> 4) + (z >> 4) * side) * side
                if _is_set(bits, start2 + cascade * size2, index):
                    shift = 2
                    side = resolution >> 2
                    index = (x >> 2) + ((y >> 2) + (z >> 2) * side) * side
                    if _is_set(bits, start1 + cascade * size1, index):
                        shift = 0
                        index = x + (y + z * resolution) * resolution
                        if _is_set(bits, start0 + cascade * size0, index):
                            kept[at + count] = k
                            count += 1
                            k += 1
                            continue
                # Leave the block, or what makes this cascade the right one, whichever is first.
                to_units = 1.0 / to_cells
                straddles = cascade > 0 and shift > 0
                leave = min(t_exit, _leave(px, x, shift, to_units, scale, straddles, ox, dx, ix))
                leave = min(leave, _leave(py, y, shift, to_units, scale, straddles, oy, dy, iy))
                leave = min(leave, _leave(pz, z, shift, to_units, scale, straddles, oz, dz, iz))
                if cone > 0.0 and cascade < cascades - 1:
                    # Beyond this distance the growing step asks for larger cells.
                    leave = min(leave, max(t, 2.0 * cell_size * scale / cone))
                if leave == np.inf:  # a ray that goes nowhere never leaves
                    break
                steps = leave * per_step if constant else _to_steps(leave, rule)
                # To the first lattice point that is not certainly in here: rounding is far below the margin.
                k = max(k + 1, int(steps * (1.0 - 1e-12) - begin - 0.5 - 1e-9) + 1)
        counts[ray] = count
        at += count


@_jit
def _mark_side_by_side(  # type: ignore[no-untyped-def]
    first, stop, origins, directions, bits, resolution, starts, box, step, jitter, near, far, most, kept, begins,
    counts, s0,
):  # fmt: skip
    """`_mark` of one cascade at constant steps, LANES rays at a time (see `side_by_side`)."""
    centre, half, origin, along = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for axis in range(3):
        centre[axis] = 0.5 * (box[0, axis] + box[1, axis])
        half[axis] = 0.5 * (box[1, axis] - box[0, axis])
    first_bits = np.array([8 * starts[0], 8 * starts[1], 8 * starts[2]])
    state, ray_of = np.zeros(ROWS * LANES), np.empty(LANES, np.int64)
    # Each lane has a stretch of ``kept`` for every LANES-th ray.
    upcoming, free = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    at = first * most
    for lane in range(LANES):
        upcoming[lane], free[lane] = first + lane, at
        at += max(0, (stop - first - lane + LANES - 1) // LANES) * most
    following, waiting = 0, (1 << LANES) - 1
    while True:
        while waiting != 0:
            lane = lowest_bit(waiting)
            ray, entered = upcoming[lane], False
            while ray < stop and not entered:
                for axis in range(3):
                    origin[axis], along[axis] = origins[ray, axis], directions[ray, axis]
                begins[ray], counts[ray] = free[lane], 0
                t_enter, t_exit = _clip(origin, along, box, 1.0, near, far)
                if t_enter < t_exit:
                    entered = True
                    s0[ray] = t_enter / step + jitter[ray]
                    for axis in range(3):
                        origin[axis], along[axis] = (origin[axis] - centre[axis]) / half[axis], along[axis] / half[axis]
                    enter_lane(state, lane, origin, along, s0[ray], t_exit)
                    ray_of[lane] = ray
                    following |= 1 << lane
                ray += LANES
            upcoming[lane] = ray
            waiting &= waiting - 1
        if following == 0:
            break
        over = 0
        while over == 0:
            events = advance(state, bits, bits.size - 4, first_bits, resolution, step, 1.0 / step)
            over = (events >> LANES) & following
            hits = events & following & ~over
            while hits != 0:
                lane = lowest_bit(hits)
                hits &= hits - 1
                ray = ray_of[lane]
                kept[free[lane]] = looked_at(state, lane)
                free[lane] += 1
                counts[ray] += 1
                if counts[ray] == most:
                    over |= 1 << lane
        following &= ~over
        waiting = over


@_jit
def _write(
    first,
    stop,
    origins,
    directions,
    corner,
    extent,
    rule,
    kept,
    begins,
    s0,
    offsets,
    t_start,
    t_end,
    ray_index,
    positions,
):  # type: ignore[no-untyped-def]
    """Samples of rays [first, stop) from the lattice points in ``kept``; positions in the unit cube of the outermost
    box.
    """
    for ray in range(first, stop):
        at, begin = offsets[ray], begins[ray]
        for n in range(offsets[ray + 1] - at):
            s = s0[ray] + kept[begin + n]
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
    # Only pages that are written to become real memory, so the generous bound costs nothing; recycled, because a first
    # touch costs as much as marching the ray.
    kept = workspace.empty(rays * max_samples).view(np.int32)
    begins, counts, s0 = np.zeros(rays, np.int64), np.zeros(rays, np.int64), np.zeros(rays)
    bits, starts = occupancy.bits.numpy(), np.array(occupancy.level_starts)
    places, results = (shift, near, far, max_samples), (kept, begins, counts, s0)
    if occupancy.num_cascades == 1 and step.cone_angle == 0.0:
        one_grid = (bits, occupancy.resolution, starts, corners)
        run_split(_mark_side_by_side, rays, start, along, *one_grid, step.min_step, *places, *results, grain=256)
    else:
        sizes = np.array(occupancy.cascade_bytes)
        grids = (bits, occupancy.resolution, occupancy.num_cascades, starts, sizes, corners)
        run_split(_mark, rays, start, along, *grids, rule, *places, *results, grain=64)
    offsets = np.concatenate([[0], counts.cumsum()])
    total = int(offsets[-1])
    t_start, t_end, ray_index = torch.empty(total), torch.empty(total), torch.empty(total, dtype=torch.int32)
    positions = torch.empty(3, total)
    half = 0.5 * (corners[1] - corners[0]) * 2.0 ** (occupancy.num_cascades - 1)
    corner = 0.5 * (corners[0] + corners[1]) - half
    samples = (t_start.numpy(), t_end.numpy(), ray_index.numpy(), positions.numpy())
    run_split(_write, rays, start, along, corner, 2.0 * half, rule, kept, begins, s0, offsets, *samples, grain=64)
    return PackedSamples(
        t_start=t_start,
        t_end=t_end,
        ray_index=ray_index,
        ray_offsets=torch.from_numpy(offsets),
        positions=positions.T,
    )
