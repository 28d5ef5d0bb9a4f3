"""Chamfer distances on the CPU: no distance is written down, and each way is a pass whose minima lie side by side.

A pass both ways at once would make every difference once, but needs minima across lanes, which stay scalar: measured,
it takes several times as long.
"""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split

_LARGEST = np.float32(np.finfo(np.float32).max)


def chamfer_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """See ``api.chamfer_distances``."""
    distances = torch.empty(len(first), len(second))
    # Coordinate by coordinate, so that neighbouring points lie in neighbouring lanes.
    lanes = [points.transpose(1, 2).contiguous().numpy() for points in (first, second)]
    grain = max(1, (1 << 20) // (first.shape[1] * second.shape[1]))
    run_split(_pairs, distances.numel(), *lanes, distances.numpy(), grain=grain)
    return distances


@njit(nogil=True, boundscheck=False, error_model="numpy")
def _pairs(start, stop, first, second, distances):
    nearest = np.empty(max(first.shape[2], second.shape[2]), np.float32)
    for pair in range(start, stop):
        row, column = pair // len(second), pair % len(second)
        forth = _mean_nearest(first[row], second[column], nearest)
        distances[row, column] = forth + _mean_nearest(second[column], first[row], nearest)


# Fast maths lets a minimum be one instruction; coordinates are finite, so no comparison is with NaN.
@njit(nogil=True, boundscheck=False, error_model="numpy", fastmath=True)
def _mean_nearest(points, others, nearest):
    """Mean over the points of the squared distance to the nearest of the others."""
    x, y, z = points[0], points[1], points[2]
    count, rest = points.shape[1], others.shape[1]
    nearest[:count] = _LARGEST
    for other in range(0, rest, 4):
        # Four at a time, so that a point is loaded once for all; where the last do not fill, the very last repeats.
        second, third, fourth = min(other + 1, rest - 1), min(other + 2, rest - 1), min(other + 3, rest - 1)
        x0, y0, z0 = others[0, other], others[1, other], others[2, other]
        x1, y1, z1 = others[0, second], others[1, second], others[2, second]
        x2, y2, z2 = others[0, third], others[1, third], others[2, third]
        x3, y3, z3 = others[0, fourth], others[1, fourth], others[2, fourth]
        for point in range(count):
            px, py, pz = x[point], y[point], z[point]
            d0 = (px - x0) * (px - x0) + (py - y0) * (py - y0) + (pz - z0) * (pz - z0)
            d1 = (px - x1) * (px - x1) + (py - y1) * (py - y1) + (pz - z1) * (pz - z1)
            d2 = (px - x2) * (px - x2) + (py - y2) * (py - y2) + (pz - z2) * (pz - z2)
            d3 = (px - x3) * (px - x3) + (py - y3) * (py - y3) + (pz - z3) * (pz - z3)
            nearest[point] = min(nearest[point], d0, d1, d2, d3)
    total = 0.0
    for point in range(count):
        total += nearest[point]
    return total / count
