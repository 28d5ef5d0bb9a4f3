"""Scattering points on a CPU: threads own layers of the grid, so that no voxel has two writers and results never vary.

The blur goes layer by layer through all three axes: what lies between them stays in the cache, and memory sees the
counts read and the grid written once. Rows of voxels without points near them are skipped.
"""

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.scatter_points.gaussian import gaussian_weights
from voxfield.kernels.threads import run_split

# No fast maths: contracted products would differ from the reference in the last bit.
_jit = njit(nogil=True, boundscheck=False, error_model="numpy")

_GRAIN = 16384
"""Points a task takes at least."""


def scatter_points(points, shape, low, high, method, sigma, compatible, clamp):
    """See ``api.scatter_points``."""
    array = points.numpy()
    least, extent = np.array(low), np.array(high) - np.array(low)
    sides = np.array(shape[::-1], np.int64)
    grid = np.empty(shape, np.float32)
    flat = workspace.empty(len(array)).view(np.int32)
    missed = np.zeros(len(array) // _GRAIN + 1, np.int64)
    box = (least, np.array(high), extent, sides)
    run_split(_find_cells, len(array), array, *box, compatible, clamp, flat, missed, grain=_GRAIN)
    if method == "trilinear":
        sums = np.empty(shape, np.float64)
        owned = {"grain": 1, "chunks_per_thread": 1}
        run_split(_splat, shape[0], array, least, extent, sides, flat, sums, grid, **owned)
    else:
        counts = workspace.empty(*shape).view(np.int32)
        used = np.empty(shape[:2], np.bool_)
        # One task a thread: each looks at every point.
        run_split(_count, shape[0], flat, counts.reshape(-1), counts, used, grain=1, chunks_per_thread=1)
        if method == "gaussian":
            weights = [gaussian_weights(one) for one in reversed(sigma)]
            run_split(_blur, shape[0], counts, used, *weights, grid, grain=1)
        else:
            run_split(_convert, shape[0], counts, method == "occupancy", grid, grain=1)
    return torch.from_numpy(grid), int(missed.sum())


@_jit
def _find_cells(start, stop, points, least, top, extent, sides, compatible, clamp, flat, missed):
    """The flat index of each point's voxel, -1 for those that are dropped, and how many are outside."""
    beyond = 0
    for i in range(start, stop):
        index = np.int64(0)
        inside = True
        for axis in (2, 1, 0):
            p = np.float64(points[i, axis])
            inside &= (p >= least[axis]) & (p <= top[axis])
            span = np.float64(sides[axis] - 1 if compatible else sides[axis])
            scaled = min(max((p - least[axis]) / extent[axis] * span, 0.0), span)
            cell = min(np.int64(scaled), sides[axis] - 1)
            index = index * sides[axis] + cell
        flat[i] = index if inside or clamp else -1
        beyond += not inside
    # A task takes _GRAIN points or more, so no other one counts here.
    missed[start // _GRAIN] = beyond


@_jit
def _count(first, stop, flat, counts, layers, used):
    plane = layers.shape[1] * layers.shape[2]
    low, high = first * plane, stop * plane
    counts[low:high] = 0
    for i in range(flat.size):
        cell = flat[i]
        if low <= cell < high:
            counts[cell] += 1
    for z in range(first, stop):
        for y in range(layers.shape[1]):
            row = layers[z, y]
            any_point = np.int32(0)
            for x in range(row.size):
                any_point |= row[x]
            used[z, y] = any_point != 0


@_jit
def _convert(first, stop, counts, occupancy, grid):
    for z in range(first, stop):
        for y in range(grid.shape[1]):
            for x in range(grid.shape[2]):
                count = counts[z, y, x]
                grid[z, y, x] = np.float32(min(count, 1)) if occupancy else np.float32(count)


@_jit
def _splat(first, stop, points, least, extent, sides, flat, sums, grid):
    sums[first:stop] = 0.0
    for i in range(flat.size):
        if flat[i] < 0:
            continue
        depth = np.float64(sides[2])
        z = min(max((np.float64(points[i, 2]) - least[2]) / extent[2] * depth, 0.0), depth) - 0.5
        iz = np.int64(np.floor(z))
        if iz + 1 < first or iz >= stop:
            continue
        height, width = np.float64(sides[1]), np.float64(sides[0])
        y = min(max((np.float64(points[i, 1]) - least[1]) / extent[1] * height, 0.0), height) - 0.5
        x = min(max((np.float64(points[i, 0]) - least[0]) / extent[0] * width, 0.0), width) - 0.5
        iy, ix = np.int64(np.floor(y)), np.int64(np.floor(x))
        for dz in range(2):
            cz = min(max(iz + dz, 0), sides[2] - 1)
            if cz < first or cz >= stop:
                continue
            wz = z - iz if dz else 1 - (z - iz)
            for dy in range(2):
                cy = min(max(iy + dy, 0), sides[1] - 1)
                wy = y - iy if dy else 1 - (y - iy)
                for dx in range(2):
                    cx = min(max(ix + dx, 0), sides[0] - 1)
                    wx = x - ix if dx else 1 - (x - ix)
                    sums[cz, cy, cx] += wz * wy * wx
    for layer in range(first, stop):
        for row in range(grid.shape[1]):
            for column in range(grid.shape[2]):
                grid[layer, row, column] = sums[layer, row, column]


@_jit
def _mirror(index, side):
    turned = index % (2 * side)
    return min(turned, 2 * side - 1 - turned)


@_jit
def _start(row, weight, total):
    for x in range(row.size):
        total[x] = np.float64(np.float32(row[x])) * weight


@_jit
def _add_pair(before, after, weight, total):
    for x in range(before.size):
        total[x] += (np.float64(np.float32(before[x])) + np.float64(np.float32(after[x]))) * weight


@_jit
def _store(total, row):
    for x in range(row.size):
        row[x] = np.float32(total[x])


@_jit
def _blur(first, stop, counts, used, weights_z, weights_y, weights_x, grid):
    depth, height, width = grid.shape
    along_z = np.empty((height, width), np.float32)
    along_y = np.empty(width, np.float32)
    reached = np.empty(height, np.bool_)
    total = np.empty(width)
    radius = weights_x.size - 1
    line = np.empty(width + 2 * radius, np.float32)
    for z in range(first, stop):
        for y in range(height):
            reached[y] = used[z, y]
            for k in range(1, weights_z.size):
                reached[y] |= used[_mirror(z - k, depth), y] | used[_mirror(z + k, depth), y]
            if not reached[y]:
                along_z[y] = np.float32(0)
                continue
            _start(counts[z, y], weights_z[0], total)
            for k in range(weights_z.size - 1, 0, -1):
                before, after = _mirror(z - k, depth), _mirror(z + k, depth)
                if used[before, y] or used[after, y]:
                    _add_pair(counts[before, y], counts[after, y], weights_z[k], total)
            _store(total, along_z[y])
        for y in range(height):
            near = reached[y]
            for k in range(1, weights_y.size):
                near |= reached[_mirror(y - k, height)] | reached[_mirror(y + k, height)]
            if not near:
                grid[z, y] = np.float32(0)
                continue
            _start(along_z[y], weights_y[0], total)
            for k in range(weights_y.size - 1, 0, -1):
                before, after = _mirror(y - k, height), _mirror(y + k, height)
                if reached[before] or reached[after]:
                    _add_pair(along_z[before], along_z[after], weights_y[k], total)
            _store(total, along_y)
            for x in range(width):
                line[radius + x] = along_y[x]
            for k in range(1, radius + 1):
                line[radius - k] = along_y[_mirror(-k, width)]
                line[radius + width - 1 + k] = along_y[_mirror(width - 1 + k, width)]
            _start(along_y, weights_x[0], total)
            for k in range(radius, 0, -1):
                # Slices, because an index that may be negative keeps the loop from being vectorised.
                _add_pair(line[radius - k : radius - k + width], line[radius + k :], weights_x[k], total)
            _store(total, grid[z, y])
