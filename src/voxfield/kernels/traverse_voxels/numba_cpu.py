"""Rays through voxels on a CPU: aligned blocks of 4 to 64 voxels across that are empty, and full ones behind the first
hit, are crossed in one step.

A step from block to block needs the result of the one before it, some 60 clock cycles of waiting: so `LANES` rays are
followed side by side, in vectors. Only within words of 64 voxels, that are neither empty nor full, is a ray followed on
its own. One that has ended makes room for the next. Distances to planes are computed from the ray's origin, never added
up, so a long way costs no accuracy.
"""

from typing import Final

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from voxfield.kernels.jit import njit
from voxfield.kernels.simd import F64, I32, I64, LANES, VECTOR_F64, LaneRows, array_pointer, constant, lowest_bit
from voxfield.kernels.threads import run_split
from voxfield.kernels.traverse_voxels.reference import SHORTEST
from voxfield.kernels.voxel_words import axis_tables, padded_side

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")


def traverse_voxels(
    origins: torch.Tensor, directions: torch.Tensor, words: torch.Tensor, resolution: int, first_hit_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.traverse_voxels``."""
    rays, bits = len(origins), words.contiguous().numpy()
    chord, distance = torch.empty(rays), torch.empty(rays)
    normal, voxel = torch.empty(rays, 3, dtype=torch.int8), torch.empty(rays, dtype=torch.int64)
    word_of = axis_tables(padded_side(resolution))[0]
    sizes, masks = _block_sizes(bits)
    bounds = np.empty((2, 3), np.int64)
    _enclose(masks, resolution, bounds)
    run_split(
        _follow,
        rays,
        origins.contiguous().numpy(),
        directions.contiguous().numpy(),
        bits,
        sizes,
        bounds,
        word_of,
        resolution,
        first_hit_only,
        chord.numpy(),
        distance.numpy(),
        normal.numpy(),
        voxel.numpy(),
        grain=256,
    )
    return chord, distance, normal, voxel


# ------------------------------------------------------------------------------------------------- what blocks hold
def _block_sizes(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far one step may go: for each word (W,) int8 the voxels across the largest aligned block around it, up to 64,
    that is empty, or, below zero, that is full; 0 where the word is neither. And masks of non-empty words, by 64.
    """
    sizes = np.empty(len(words), np.int8)
    masks = np.empty(-(-len(words) // 64), np.int64)
    run_split(_look, len(masks), words, sizes, masks, grain=1024)
    for across in (32, 64):
        _join(sizes, across)
    return sizes, masks


@_jit
def _look(first, stop, words, sizes, masks):
    """Sizes up to 16, of which a block is 64 words."""
    for block in range(first, stop):
        begin, end = 64 * block, min(64 * block + 64, len(words))
        anything, everything = np.int64(0), np.int64(-1)
        for at in range(begin, end):
            anything |= words[at]
            everything &= words[at]
        # As large as the grid, where that is smaller.
        across = 4 if end - begin == 1 else 8 if end - begin == 8 else 16
        masks[block] = 0 if anything == 0 else -1
        if anything == 0 or everything == -1:
            sizes[begin:end] = across if anything == 0 else -across
            continue
        mask = np.int64(0)
        for at in range(begin, end):
            word = words[at]
            sizes[at] = 4 if word == 0 else -4 if word == -1 else 0
            mask |= np.int64(word != 0) << (at - begin)
        masks[block] = mask
        for at in range(begin, end - 7, 8):
            _double(sizes, at, at + 8, 1, 8)


@_jit
def _join(sizes, across):
    """As `_look`, of blocks of eight blocks of half their size."""
    part = (across // 8) ** 3
    for begin in range(0, len(sizes) - 8 * part + 1, 8 * part):
        _double(sizes, begin, begin + 8 * part, part, across)


@_jit
def _double(sizes, begin, end, part, across):
    """If all parts of a block, ``part`` words each, are of one kind and no part of them is smaller, so is the block."""
    kind = sizes[begin]
    if abs(kind) != across // 2:
        return
    for at in range(begin, end, part):
        if sizes[at] != kind:
            return
    for at in range(begin, end):
        sizes[at] = 2 * kind


@_jit
def _enclose(masks, resolution, bounds):
    """The least box of whole words around those that hold anything, or the grid's end; low above high if none does."""
    bounds[0], bounds[1] = resolution, 0
    for block in range(len(masks)):
        if masks[block] == 0 or _inside(64 * block, 16, bounds):
            continue
        for at in range(64):
            if (masks[block] >> at) & 1 and not _inside(64 * block + at, 4, bounds):
                for axis in range(3):
                    low = _lower_corner(64 * block + at, axis)
                    bounds[0, axis] = min(bounds[0, axis], low)
                    bounds[1, axis] = max(bounds[1, axis], min(low + 4, resolution))


@_jit
def _inside(number, size, bounds):
    """Whether a block, of which this is the first word, is within the bounds."""
    within = True
    for axis in range(3):
        low = _lower_corner(number, axis)
        within &= bounds[0, axis] <= low and low + size <= bounds[1, axis]
    return within


@_jit
def _lower_corner(number, axis):
    """One coordinate of a word's first voxel: every third bit of its number."""
    low = 0
    for digit in range(8):
        low |= ((number >> (3 * digit + axis)) & 1) << (2 + digit)
    return low


# ------------------------------------------------------------------------------------------------- rays side by side
# Rows of the rays' state, LANES float64 each. Those of three have one for each axis x, y, z.
_ORIGIN: Final = 0
_DIRECTION: Final = 3
_FROM: Final = 6
"""Where planes are measured from: the origin, or infinitely far along an axis to which the ray is perpendicular."""
_INVERSE: Final = 9
"""1 / direction; 1 along such an axis."""
_UPWARD: Final = 12
"""1 where the ray leaves blocks through their upper planes, else 0."""
_DOWNWARD: Final = 15
"""The other way round."""
_PLACE: Final = 18
"""In the voxel that the ray is in at the distance in `_TIME`."""
_TIME: Final = 21
_END: Final = 22
"""Distance at which the ray leaves all that is occupied."""
_FOUND: Final = 23
"""1 behind the first hit, else 0."""
_CHORD: Final = 24
_BEFORE: Final = 25
"""`_PLACE` and `_TIME` before the last step, 4 rows."""
_LEAVE: Final = 29
"""Distance at which that step left its block."""
_ROWS: Final = 30

_EXPONENTS: Final = 2046 << 52
"""Less the bits of a power of two: those of its inverse."""


@intrinsic
def _advance(typingctx, state, sizes, last):  # type: ignore[no-untyped-def]
    """Take every ray to the next block; ``last`` is the number of the last word.

    Returns a bit for each lane that has met a word which has to be looked into, and shifted by LANES one for each that
    has reached its end.
    """
    signature = types.int64(state, sizes, last)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows, table = (array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 1))
        return _Step(builder, rows, table, builder.trunc(args[2], I32)).emit()

    return signature, codegen


class _Step(LaneRows):
    """Writes the program of `_advance`."""

    def __init__(self, builder: ir.IRBuilder, rows: ir.Value, table: ir.Value, last: ir.Value):
        super().__init__(builder, rows)
        self.table, self.last = table, last

    def emit(self) -> ir.Value:
        """The step; the lanes' bits."""
        b = self.builder
        place = [self.load(_PLACE + axis) for axis in range(3)]
        time, end = self.load(_TIME), self.load(_END)
        for row, value in zip(range(_BEFORE, _LEAVE), (*place, time), strict=True):
            self.store(row, value)
        kind = self.look_up(place)
        none = ir.Constant(kind.type, [0] * LANES)
        behind = b.fcmp_ordered(">", self.load(_FOUND), constant(0.0, F64))
        full = b.and_(b.icmp_signed("<", kind, none), behind)
        dive = b.and_(b.icmp_signed("<=", kind, none), b.not_(full))
        size = b.select(dive, constant(4.0, F64), self.call("fabs", b.sitofp(kind, VECTOR_F64)))
        integers = ir.VectorType(I64, LANES)
        share = b.bitcast(b.sub(constant(_EXPONENTS, I64), b.bitcast(size, integers)), VECTOR_F64)
        low = [b.fmul(self.call("floor", b.fmul(at, share)), size) for at in place]
        faces = [b.fadd(low[axis], b.fmul(size, self.load(_UPWARD + axis))) for axis in range(3)]
        # The distances at which the rays leave their blocks along each axis.
        planes = [b.fmul(b.fsub(faces[axis], self.load(_FROM + axis)), self.load(_INVERSE + axis)) for axis in range(3)]
        leave = self.least(planes[0], self.least(planes[1], planes[2]))
        self.store(_LEAVE, leave)
        length = b.fsub(self.least(leave, end), time)
        counts = b.and_(full, b.fcmp_ordered(">", length, constant(SHORTEST, F64)))
        self.store(_CHORD, b.fadd(self.load(_CHORD), b.select(counts, length, constant(0.0, F64))))
        time = self.greatest(leave, time)
        self.store(_TIME, time)
        within = b.fsub(size, constant(1.0, F64))
        for axis in range(3):
            # Where a plane is crossed the voxel behind it; else that of the place, which rounding may put beside its
            # block.
            at = b.fadd(self.load(_ORIGIN + axis), b.fmul(self.load(_DIRECTION + axis), time))
            at = self.least(self.greatest(at, low[axis]), b.fadd(low[axis], within))
            beyond = b.fsub(faces[axis], self.load(_DOWNWARD + axis))
            crossed = b.fcmp_ordered("<=", planes[axis], leave)
            self.store(_PLACE + axis, b.select(crossed, beyond, at))
        over = b.fcmp_ordered(">=", leave, end)
        return b.or_(self.bits(dive), b.shl(self.bits(over), I64(LANES)))

    def look_up(self, place: list[ir.Value]) -> ir.Value:
        """What `_block_sizes` says of the words that the places are in."""
        b, number = self.builder, None
        for axis in range(3):
            digits = b.lshr(b.fptosi(place[axis], ir.VectorType(I32, LANES)), constant(2, I32))
            # Morton order: spread eight bits, two free ones after each.
            for shift, kept in ((8, 0x00F00F), (4, 0x0C30C3), (2, 0x249249)):
                digits = b.and_(b.or_(digits, b.shl(digits, constant(shift, I32))), constant(kept, I32))
            digits = b.shl(digits, constant(axis, I32))
            number = digits if number is None else b.or_(number, digits)
        kinds = ir.Constant(ir.VectorType(ir.IntType(8), LANES), ir.Undefined)
        for lane in range(LANES):
            # Rays that have ended are taken along, out of the grid: what is read for them does not matter.
            at = b.zext(b.and_(b.extract_element(number, I32(lane)), self.last), I64)
            kinds = b.insert_element(kinds, b.load(b.gep(self.table, [at])), I32(lane))
        return kinds


@_jit
def _slab(start, along, low, high):
    """Where a ray enters and leaves [low, high] of an axis, what its planes are measured from, and the inverse."""
    inverse = 1.0 / along
    if abs(inverse) == np.inf:
        return (-np.inf if low <= start < high else np.inf), np.inf, -np.inf, 1.0
    one, other = (low - start) * inverse, (high - start) * inverse
    return min(one, other), max(one, other), start, inverse


@_jit
def _put(state, row, lane, x, y, z):
    """Three rows of a ray."""
    state[row * LANES + lane] = x
    state[(row + 1) * LANES + lane] = y
    state[(row + 2) * LANES + lane] = z


@_jit
def _follow(
    first, stop, origins, directions, words, sizes, ends, word_of, resolution, first_hit_only, chord, distance,
    normal, voxel,
):  # fmt: skip
    # Many rays only pass the box: they are clipped here, by a function of numbers. An array that is passed on has its
    # owners counted, which takes longer than clipping.
    low_x, low_y, low_z = np.float64(ends[0, 0]), np.float64(ends[0, 1]), np.float64(ends[0, 2])
    high_x, high_y, high_z = np.float64(ends[1, 0]), np.float64(ends[1, 1]), np.float64(ends[1, 2])
    state, ray_of = np.zeros(_ROWS * LANES), np.empty(LANES, np.int64)
    chord[first:stop] = np.nan if first_hit_only else 0.0
    distance[first:stop] = np.inf
    voxel[first:stop] = -1
    normal[first:stop] = 0
    if low_x > high_x:
        return
    following, upcoming, waiting = 0, first, (1 << LANES) - 1
    while True:
        while waiting != 0 and upcoming < stop:
            ray = upcoming
            upcoming += 1
            ox, oy, oz = np.float64(origins[ray, 0]), np.float64(origins[ray, 1]), np.float64(origins[ray, 2])
            dx, dy, dz = np.float64(directions[ray, 0]), np.float64(directions[ray, 1]), np.float64(directions[ray, 2])
            near_x, far_x, px, ix = _slab(ox, dx, low_x, high_x)
            near_y, far_y, py, iy = _slab(oy, dy, low_y, high_y)
            near_z, far_z, pz, iz = _slab(oz, dz, low_z, high_z)
            t, t_end = max(near_x, near_y, near_z, 0.0), min(far_x, far_y, far_z)
            # Infinite or not a number where the ray is: comparisons are then false.
            whole = abs(ox) + abs(oy) + abs(oz) + abs(dx) + abs(dy) + abs(dz)
            if not (t < t_end < np.inf and whole < np.inf):
                continue
            lane = lowest_bit(waiting)
            waiting &= waiting - 1
            following |= 1 << lane
            ray_of[lane] = ray
            ux, uy, uz = np.float64(dx > 0.0), np.float64(dy > 0.0), np.float64(dz > 0.0)
            _put(state, _ORIGIN, lane, ox, oy, oz)
            _put(state, _DIRECTION, lane, dx, dy, dz)
            _put(state, _FROM, lane, px, py, pz)
            _put(state, _INVERSE, lane, ix, iy, iz)
            _put(state, _UPWARD, lane, ux, uy, uz)
            _put(state, _DOWNWARD, lane, 1.0 - ux, 1.0 - uy, 1.0 - uz)
            # Where it enters the box.
            _put(
                state, _PLACE, lane, min(max(ox + dx * t, low_x), high_x - 1.0),
                min(max(oy + dy * t, low_y), high_y - 1.0), min(max(oz + dz * t, low_z), high_z - 1.0),
            )  # fmt: skip
            state[_TIME * LANES + lane], state[_END * LANES + lane] = t, t_end
            state[_FOUND * LANES + lane], state[_CHORD * LANES + lane] = 0.0, 0.0
        if following == 0:
            break
        dives = over = 0
        while (dives | over) == 0:
            events = _advance(state, sizes, len(words) - 1)
            dives, over = events & following, (events >> LANES) & following
        while dives != 0:
            lane = lowest_bit(dives)
            dives &= dives - 1
            ended = _look_into(
                lane, ray_of[lane], words, word_of, resolution, state, distance, normal, voxel, first_hit_only
            )
            over |= np.int64(ended) << lane
        following &= ~over
        waiting |= over
        if not first_hit_only:
            while over != 0:
                lane = lowest_bit(over)
                over &= over - 1
                chord[ray_of[lane]] = _row(state, _CHORD, lane)


@_jit
def _row(state, row, lane):
    """One number of a ray."""
    return state[row * LANES + lane]


@_jit
def _look_into(lane, ray, words, word_of, resolution, state, distance, normal, voxel, first_hit_only):
    """Follow a ray from voxel to voxel within a word; whether that was all."""
    x = np.int64(_row(state, _BEFORE, lane))
    y = np.int64(_row(state, _BEFORE + 1, lane))
    z = np.int64(_row(state, _BEFORE + 2, lane))
    begin, leave = _row(state, _BEFORE + 3, lane), _row(state, _LEAVE, lane)
    px, py, pz = _row(state, _FROM, lane), _row(state, _FROM + 1, lane), _row(state, _FROM + 2, lane)
    ix, iy, iz = _row(state, _INVERSE, lane), _row(state, _INVERSE + 1, lane), _row(state, _INVERSE + 2, lane)
    ux, uy, uz = _row(state, _UPWARD, lane), _row(state, _UPWARD + 1, lane), _row(state, _UPWARD + 2, lane)
    word = words[word_of[0, x] + word_of[1, y] + word_of[2, z]]
    bit = (x & 3) + ((y & 3) << 2) + ((z & 3) << 4)
    # What a step along each axis adds to the plane and to the bit.
    sx, sy, sz = 2.0 * ux - 1.0, 2.0 * uy - 1.0, 2.0 * uz - 1.0
    bx, by, bz = np.int64(sx), 4 * np.int64(sy), 16 * np.int64(sz)
    ex, ey, ez = x + ux, y + uy, z + uz
    found, total = _row(state, _FOUND, lane) > 0.0, 0.0
    while True:
        tx, ty, tz = (ex - px) * ix, (ey - py) * iy, (ez - pz) * iz
        end = min(tx, ty, tz)
        counts = ((word >> bit) & 1 != 0) & (end - begin > SHORTEST)
        if counts and not found:
            found = True
            distance[ray] = begin
            x, y, z = (x & -4) + (bit & 3), (y & -4) + ((bit >> 2) & 3), (z & -4) + (bit >> 4)
            voxel[ray] = x + resolution * (y + resolution * z)
            _enter(lane, x, y, z, resolution, state, normal[ray])
            if first_hit_only:
                return True
        total += end - begin if counts else 0.0
        if end >= leave:
            break
        bit += (bx if tx <= end else 0) + (by if ty <= end else 0) + (bz if tz <= end else 0)
        ex += sx if tx <= end else 0.0
        ey += sy if ty <= end else 0.0
        ez += sz if tz <= end else 0.0
        begin = max(begin, end)
    state[_FOUND * LANES + lane] = np.float64(found)
    state[_CHORD * LANES + lane] += total
    return False


@_jit
def _enter(lane, x, y, z, resolution, state, normal):
    """The outward normal of the face through which a ray has come into a voxel: that whose plane it crossed last."""
    latest, through = -np.inf, -1
    for axis in range(3):
        upward = _row(state, _UPWARD + axis, lane)
        plane = (x if axis == 0 else y if axis == 1 else z) + 1.0 - upward
        crossed = (plane - _row(state, _FROM + axis, lane)) * _row(state, _INVERSE + axis, lane)
        # At 0 only on the grid's face: a ray that starts there enters through it.
        ahead = crossed > 0.0 or (crossed == 0.0 and plane in (0.0, np.float64(resolution)))
        if ahead and latest < crossed < np.inf:
            latest, through = crossed, axis
    if through >= 0:
        normal[through] = -1 if _row(state, _UPWARD + through, lane) > 0.0 else 1
