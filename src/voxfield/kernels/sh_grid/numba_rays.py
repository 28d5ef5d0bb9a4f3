"""Rays through a voxel grid on a CPU: where they enter it, which cells they pass, what they share with its voxels.

Positions and distances are float64, which costs next to nothing beside the memory traffic.
"""

import math

import numpy as np

from voxfield.kernels.jit import njit

compiled = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")
"""In loops over samples such functions are given numbers only: an array that is passed on has its owners counted, by
an instruction that keeps the processor waiting."""

START, DT, DELTA, END, ORIGIN, ALONG = 0, 1, 2, 3, 4, 7
"""Columns of a ray's trace: first distance, step, length of an interval, exit; voxel position at 0, per distance."""
TRACE = 10
"""Columns of a trace in all."""
ODD_X, ODD_Y, ODD_Z = 0b10101010, 0b11001100, 0b11110000
"""Slots of the eight voxels around a point whose coordinates are odd; see `slots_kept`."""


@compiled
def lower_voxel(position, size):  # type: ignore[no-untyped-def]
    """The lower of the two voxels of an axis that a position lies between, of the nearest two outside the grid."""
    return min(int(clamp(position, size)), size - 2)


@compiled
def set_out(origin, direction, box, size, step, jitter, near, trace):  # type: ignore[no-untyped-def]
    """Fill a ray's ``trace``; False for one that misses the box, has no length or holds a NaN."""
    enter, leave, squared, squared_voxels = near, np.inf, 0.0, 0.0
    for axis in range(3):
        start, along = float(origin[axis]), float(direction[axis])
        if not (abs(start) < np.inf and abs(along) < np.inf):
            return False
        low, high = float(box[0, axis]), float(box[1, axis])
        if along == 0.0:
            if not low <= start <= high:
                return False
        else:
            first, second = (low - start) / along, (high - start) / along
            enter = max(enter, min(first, second))
            leave = min(leave, max(first, second))
        per_unit = size[axis] / (high - low)
        trace[ORIGIN + axis] = (start - low) * per_unit - 0.5
        trace[ALONG + axis] = along * per_unit
        squared += along * along
        squared_voxels += along * per_unit * along * per_unit
    if not (enter < leave and squared_voxels > 0.0):
        return False
    dt = step / math.sqrt(squared_voxels)
    trace[START], trace[DT] = enter + jitter * dt, dt
    trace[DELTA], trace[END] = dt * math.sqrt(squared), leave
    return True


@compiled
def clamp(position, size):  # type: ignore[no-untyped-def]
    """A voxel position on the grid."""
    return min(max(position, 0.0), size - 1.0)


@compiled
def leave_cells(origin, along, low, high, size):  # type: ignore[no-untyped-def]
    """Distance at which a ray leaves the cells [low, high) of an axis; those at the border reach to infinity."""
    if along > 0.0 and high < size - 1:
        return (high - origin) / along
    if along < 0.0 and low > 0:
        return (low - origin) / along
    return np.inf


@compiled
def corner_weights(x, y, z, weights):  # type: ignore[no-untyped-def]
    """Shares of the eight voxels around a point ``x, y, z`` (0 to 1) within its cell; x changes fastest."""
    one = np.float32(1.0)
    for corner in range(8):
        wx = x if corner & 1 else one - x
        wy = y if corner & 2 else one - y
        wz = z if corner & 4 else one - z
        weights[corner] = wx * wy * wz


@compiled
def slots_kept(now, before, odd):  # type: ignore[no-untyped-def]
    """Slots of a cell that hold the same voxel, as far as one axis goes, as those of the cell before: a bit each.

    A voxel's slot is told by its coordinates being odd or even (x the lowest bit), so that it stays in its slot while
    it is a corner of the cells a ray is in. ``odd``: the slots whose coordinate along this axis is odd.
    """
    if now == before:
        return 255
    if now - before != 1 and now - before != -1:
        return 0
    return odd if max(now, before) & 1 else odd ^ 255


@compiled
def slot_coordinate(cell, slot):  # type: ignore[no-untyped-def]
    """Coordinate of a slot's voxel: of ``cell`` and ``cell + 1`` the odd one if bit 0 of ``slot`` is set."""
    return cell + ((cell ^ slot) & 1)
