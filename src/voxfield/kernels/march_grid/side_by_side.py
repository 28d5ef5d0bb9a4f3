"""Rays side by side through one grid of cells at constant steps, in vectors: the inner loop of ``numba_cpu``.

Where a ray looks next depends on what it has just met, some 130 clock cycles of waiting: LANES rays wait together. Each
lane follows every LANES-th ray, so that neighbours in an image, which take equally long, are shared out. All is
computed as ray by ray, operation by operation, so the samples are the same.
"""

from typing import Final

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from voxfield.kernels.jit import njit
from voxfield.kernels.simd import (
    F64,
    I32,
    I64,
    LANES,
    VECTOR_F64,
    VECTOR_I32,
    LaneRows,
    array_pointer,
    constant,
    gather_bits,
    splat,
)

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")

# Rows of the rays' state, LANES float64 each. Those of three have one for each axis; lengths are in half boxes.
_ORIGIN: Final = 0
_DIRECTION: Final = 3
_FROM: Final = 6
"""Where planes are measured from: the origin, or infinitely far along an axis to which the ray is perpendicular."""
_INVERSE: Final = 9
"""1 / direction; 1 along such an axis."""
_BEGIN: Final = 12
"""First lattice point, in steps."""
_END: Final = 13
"""Distance at which the ray ends."""
_NEXT: Final = 14
"""Lattice point to look at next, counted from the first."""
_LOOKED: Final = 15
"""The one looked at last."""
ROWS: Final = 16


@intrinsic
def advance(typingctx, state, bits, last, starts, resolution, step, per_step):  # type: ignore[no-untyped-def]
    """Look at every ray's next lattice point, and find the one after.

    Args:
        state: rows of the rays; idle lanes are taken along.
        bits: bytes of `OccupancyBits` with one cascade; ``last``: their number less 4.
        starts: first bit of each of the three pyramid levels, int64.
        resolution: cells along each axis.
        step, per_step: distance between lattice points, and 1 / step.

    Returns:
        A bit for each lane whose point is a sample, and shifted by LANES one for each that had reached its end.
    """
    signature = types.int64(state, bits, last, starts, resolution, step, per_step)

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows, table, levels = (array_pointer(context, builder, signature.args[i], args[i]) for i in (0, 1, 3))
        firsts = [builder.trunc(builder.load(builder.gep(levels, [I64(i)])), I32) for i in range(3)]
        look = _Look(builder, rows)
        return look.emit(table, builder.trunc(args[2], I32), firsts, builder.trunc(args[4], I32), args[5], args[6])

    return signature, codegen


class _Look(LaneRows):
    """Writes the program of `advance`."""

    def emit(self, table, last, firsts, resolution, step, per_step):  # type: ignore[no-untyped-def]
        """The look; the lanes' bits."""
        b, one, half = self.builder, constant(1.0, F64), constant(0.5, F64)
        begin, end, k = self.load(_BEGIN), self.load(_END), self.load(_NEXT)
        self.store(_LOOKED, k)
        t = b.fmul(b.fadd(b.fadd(begin, k), half), splat(b, step))
        over = b.not_(b.fcmp_ordered("<", t, end))
        side = b.sitofp(resolution, F64)
        to_cells = splat(b, b.fmul(side, F64(0.5)))
        most = splat(b, b.fsub(side, F64(1.0)))
        cell = []
        for axis in range(3):
            place = b.fadd(self.load(_ORIGIN + axis), b.fmul(self.load(_DIRECTION + axis), t))
            at = b.fmul(b.fadd(place, one), to_cells)
            at = self.least(self.greatest(at, constant(0.0, F64)), most)
            cell.append(b.fptosi(at, VECTOR_I32))
        none = constant(0, I32)
        met = []
        for first, shift in zip(firsts, (0, 2, 4), strict=True):
            across = splat(b, b.lshr(resolution, I32(shift)))
            x, y, z = (b.lshr(one_axis, constant(shift, I32)) for one_axis in cell)
            number = b.add(x, b.mul(b.add(y, b.mul(z, across)), across))
            found = gather_bits(b, table, b.add(number, splat(b, first)), last)
            met.append(b.icmp_signed("!=", found, none))
        # Largest empty block around the point: 16 cells, 4 cells, 1 cell.
        shift = b.select(met[2], b.select(met[1], none, constant(2, I32)), constant(4, I32))
        hit = b.and_(met[0], b.and_(met[1], met[2]))
        to_units = b.fdiv(one, to_cells)
        leave = end
        for axis in range(3):
            inverse = self.load(_INVERSE + axis)
            ahead = b.zext(b.fcmp_ordered(">", inverse, constant(0.0, F64)), VECTOR_I32)
            face = b.shl(b.add(b.lshr(cell[axis], shift), ahead), shift)
            plane = b.fsub(b.fmul(b.sitofp(face, VECTOR_F64), to_units), one)
            leave = self.least(b.fmul(b.fsub(plane, self.load(_FROM + axis)), inverse), leave)
        steps = b.fmul(b.fmul(leave, splat(b, per_step)), constant(1.0 - 1e-12, F64))
        # To the first lattice point that is not certainly in there: rounding is far below the margin.
        beyond = b.fsub(b.fsub(b.fsub(steps, begin), half), constant(1e-9, F64))
        following = b.fadd(k, one)
        jump = self.greatest(following, b.fadd(self.call("trunc", beyond), one))
        self.store(_NEXT, b.select(hit, following, jump))
        return b.or_(self.bits(hit), b.shl(self.bits(over), I64(LANES)))


@_jit
def enter_lane(state, lane, origin, along, begin, end):  # type: ignore[no-untyped-def]
    """Put a ray into a lane: ``origin`` and ``along`` (3,) in half boxes, its first lattice point and its end."""
    for axis in range(3):
        parallel = along[axis] == 0.0
        state[(_ORIGIN + axis) * LANES + lane] = origin[axis]
        state[(_DIRECTION + axis) * LANES + lane] = along[axis]
        state[(_FROM + axis) * LANES + lane] = -np.inf if parallel else origin[axis]
        state[(_INVERSE + axis) * LANES + lane] = 1.0 if parallel else 1.0 / along[axis]
    state[_BEGIN * LANES + lane], state[_END * LANES + lane], state[_NEXT * LANES + lane] = begin, end, 0.0


@_jit
def looked_at(state, lane):  # type: ignore[no-untyped-def]
    """The lattice point that a ray has looked at last."""
    return np.int32(state[_LOOKED * LANES + lane])
