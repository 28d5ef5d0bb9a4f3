"""Triangle-box overlap on a CPU: slabs of four layers of voxels split between threads, so that no word has two writers.

A triangle's candidates in a row of voxels are those the plane passes near, not the whole bounding box: a triangle over
the whole grid costs its area, not its volume.
"""

import math

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split
from voxfield.kernels.voxel_words import axis_tables, padded_side, word_count

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")


def triangle_box(triangles: torch.Tensor, resolution: int) -> torch.Tensor:
    """See ``api.triangle_box``."""
    corners = triangles.detach().contiguous().numpy()
    words = np.zeros(word_count(resolution), np.int64)
    tables = axis_tables(padded_side(resolution))
    slabs = -(-resolution // 4)
    starts, members = bucket_by_slab(corners, 2, slabs)
    run_split(_mark, slabs, corners, starts, members, resolution, *tables, words, grain=1)
    return torch.from_numpy(words)


def bucket_by_slab(corners: np.ndarray, axis: int, slabs: int) -> tuple[np.ndarray, np.ndarray]:
    """Which triangles meet which slab of four layers: those of slab s are ``members[starts[s]:starts[s + 1]]``."""
    first, last = np.empty(len(corners), np.int64), np.empty(len(corners), np.int64)
    starts = np.zeros(slabs + 1, np.int64)
    _count_by_slab(corners, axis, slabs, first, last, starts)
    members = np.empty(int(starts.sum()), np.int64)
    np.cumsum(starts, out=starts)
    _sort_by_slab(first, last, starts[:-1].copy(), members)
    return starts, members


@_jit
def _count_by_slab(corners, axis, slabs, first, last, counts):
    """The first and last slab of every triangle, and behind each slab's place how many triangles it has."""
    for triangle in range(len(corners)):
        a, b, c = corners[triangle, 0, axis], corners[triangle, 1, axis], corners[triangle, 2, axis]
        # Clamped before the conversion: far outside the grid the slab's number may exceed an integer.
        least = min(max(math.ceil(min(a, b, c)) - 1.0, 0.0), 4.0 * slabs)
        most = min(max(math.floor(max(a, b, c)), -1.0), 4.0 * slabs - 1.0)
        first[triangle], last[triangle] = np.int64(least) >> 2, np.int64(most) >> 2
        for slab in range(first[triangle], last[triangle] + 1):
            counts[slab + 1] += 1


@_jit
def _sort_by_slab(first, last, ends, members):
    """Number the triangles of each slab, in their order, from where ``ends`` says."""
    for triangle in range(len(first)):
        for slab in range(first[triangle], last[triangle] + 1):
            members[ends[slab]] = triangle
            ends[slab] += 1


@_jit
def _mark(first, stop, corners, starts, members, resolution, word_of, bit_of, words):
    e, across, along, limit = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    low, high, n = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3)
    one = np.int64(1)
    for slab in range(first, stop):
        for member in range(starts[slab], starts[slab + 1]):
            t = corners[members[member]]
            inside = True
            for axis in range(3):
                least = min(t[0, axis], t[1, axis], t[2, axis])
                most = max(t[0, axis], t[1, axis], t[2, axis])
                low[axis] = int(min(max(math.ceil(least) - 1.0, 0.0), float(resolution)))
                high[axis] = int(min(max(math.floor(most) + 1.0, 0.0), float(resolution)))
                inside &= low[axis] < high[axis]
            if not inside:
                continue
            for i in range(3):
                for axis in range(3):
                    e[i, axis] = t[(i + 1) % 3, axis] - t[i, axis]
            for axis in range(3):
                u, v = (axis + 1) % 3, (axis + 2) % 3
                n[axis] = e[0, u] * e[1, v] - e[0, v] * e[1, u]
            f0, f1, f2 = 1.0 if n[0] > 0 else 0.0, 1.0 if n[1] > 0 else 0.0, 1.0 if n[2] > 0 else 0.0
            ahead = n[0] * (f0 - t[0, 0]) + n[1] * (f1 - t[0, 1]) + n[2] * (f2 - t[0, 2])
            behind = n[0] * ((1 - f0) - t[0, 0]) + n[1] * ((1 - f1) - t[0, 1]) + n[2] * ((1 - f2) - t[0, 2])
            for w in range(3):
                u, v = (w + 1) % 3, (w + 2) % 3
                turn = 1.0 if n[w] >= 0 else -1.0
                for i in range(3):
                    across[w, i], along[w, i] = -e[i, v] * turn, e[i, u] * turn
                    limit[w, i] = (max(across[w, i], 0.0) + max(along[w, i], 0.0)) - (
                        across[w, i] * t[i, u] + along[w, i] * t[i, v]
                    )
            for z in range(max(low[2], 4 * slab), min(high[2], 4 * slab + 4)):
                for y in range(low[1], high[1]):
                    row = True
                    for i in range(3):
                        row &= (across[0, i] * y + along[0, i] * z) + limit[0, i] >= 0
                    if not row:
                        continue
                    left, right = low[0], high[0]
                    if n[0] != 0:
                        # Where the plane crosses the row, one voxel wider: the exact test follows.
                        rest = n[1] * y + n[2] * z
                        a, b = -(rest + ahead) / n[0], -(rest + behind) / n[0]
                        left = max(left, int(min(max(math.floor(min(a, b)) - 1.0, 0.0), 1e6)))
                        right = min(right, int(min(max(math.ceil(max(a, b)) + 2.0, 0.0), 1e6)))
                    for x in range(left, right):
                        base = n[0] * x + n[1] * y + n[2] * z
                        if base + ahead < 0 or base + behind > 0:
                            continue
                        touched = True
                        for i in range(3):
                            touched &= (across[1, i] * z + along[1, i] * x) + limit[1, i] >= 0
                            touched &= (across[2, i] * x + along[2, i] * y) + limit[2, i] >= 0
                        if touched:
                            at = word_of[0, x] + word_of[1, y] + word_of[2, z]
                            words[at] |= one << (bit_of[0, x] + bit_of[1, y] + bit_of[2, z])
