"""Filling by crossings on a CPU: slabs of four layers split between threads, so that no word has two writers."""

import math

import numpy as np
import torch
from numba import njit

from voxfield.kernels.scan_fill.votes import count_vote
from voxfield.kernels.threads import run_split
from voxfield.kernels.triangle_box.numba_cpu import bucket_by_slab
from voxfield.kernels.voxel_words import axis_tables, padded_side, word_count

_jit = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


def scan_fill(triangles: torch.Tensor, resolution: int, inside: str) -> torch.Tensor:
    """See ``api.scan_fill``."""
    corners = triangles.detach().contiguous().numpy()
    parity = inside == "parity"
    ahead, back, closed = _scan(corners, resolution, 0, parity)
    if closed:
        return torch.from_numpy(ahead)
    ones, twos, fours = (np.zeros_like(ahead) for _ in range(3))
    count_vote(ahead, ones, twos, fours)
    count_vote(back, ones, twos, fours)
    for axis in (1, 2):
        ahead, back, _ = _scan(corners, resolution, axis, parity)
        count_vote(ahead, ones, twos, fours)
        count_vote(back, ones, twos, fours)
    return torch.from_numpy(fours)


def _scan(corners: np.ndarray, resolution: int, axis: int, parity: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Words inside as seen against and along an axis, and whether every row of centres ends as it began."""
    row, slab_axis = [other for other in range(3) if other != axis]
    slabs = -(-resolution // 4)
    starts, members = bucket_by_slab(corners, slab_axis, slabs)
    ahead, back = (np.zeros(word_count(resolution), np.int64) for _ in range(2))
    open_rows = np.zeros(slabs, np.int64)
    tables = axis_tables(padded_side(resolution))
    run_split(
        _fill,
        slabs,
        corners,
        starts,
        members,
        resolution,
        axis,
        row,
        slab_axis,
        parity,
        *tables,
        ahead,
        back,
        open_rows,
        grain=1,
    )
    return ahead, back, not open_rows.any()


@_jit
def _side(a_row, a_slab, b_row, b_slab, r, s):
    """Side of an edge a centre lies on (0: the edge has no length) and twice the signed area; see the reference."""
    swapped = b_row < a_row or (b_row == a_row and b_slab < a_slab)
    if swapped:
        a_row, a_slab, b_row, b_slab = b_row, b_slab, a_row, a_slab
    d_row, d_slab = b_row - a_row, b_slab - a_slab
    area = d_row * (s - a_slab) - d_slab * (r - a_row)
    if area > 0:
        sign = 1
    elif area < 0:
        sign = -1
    elif d_slab != 0:
        sign = -1 if d_slab > 0 else 1
    else:
        sign = 1 if d_row > 0 else 0
    if swapped:
        return -sign, -area
    return sign, area


@_jit
def _fill(
    first,
    stop,
    corners,
    starts,
    members,
    resolution,
    axis,
    row,
    slab_axis,
    parity,
    word_of,
    bit_of,
    ahead,
    back,
    open_rows,
):
    crossings = np.zeros((resolution, resolution + 1), np.int32)
    # Of each row the first crossing and the last; none where the first is behind.
    nearest, farthest = np.full(resolution, resolution + 1), np.full(resolution, -1)
    one = np.int64(1)
    for slab in range(first, stop):
        for plane in range(4 * slab, min(4 * slab + 4, resolution)):
            s = plane + 0.5
            for member in range(starts[slab], starts[slab + 1]):
                t = corners[members[member]]
                a, b, c = t[0], t[1], t[2]
                if (
                    min(a[slab_axis], b[slab_axis], c[slab_axis]) > s
                    or max(a[slab_axis], b[slab_axis], c[slab_axis]) < s
                ):
                    continue
                least = min(max(math.ceil(min(a[row], b[row], c[row]) - 0.5), 0.0), float(resolution))
                most = min(max(math.floor(max(a[row], b[row], c[row]) - 0.5), -1.0), resolution - 1.0)
                for r in range(int(least), int(most) + 1):
                    side_c, area_c = _side(a[row], a[slab_axis], b[row], b[slab_axis], r + 0.5, s)
                    side_a, area_a = _side(b[row], b[slab_axis], c[row], c[slab_axis], r + 0.5, s)
                    if side_c != side_a or side_c == 0:
                        continue
                    side_b, area_b = _side(c[row], c[slab_axis], a[row], a[slab_axis], r + 0.5, s)
                    if side_b != side_a:
                        continue
                    weighted = area_a * a[axis] + area_b * b[axis] + area_c * c[axis]
                    at = weighted / (area_c + area_a + area_b)
                    k = int(min(max(math.ceil(at - 0.5), 0.0), float(resolution)))
                    crossings[r, k] += side_a
                    nearest[r], farthest[r] = min(nearest[r], k), max(farthest[r], k)
            for r in range(resolution):
                if farthest[r] < 0:
                    continue
                begin, end = nearest[r], farthest[r]
                nearest[r], farthest[r] = resolution + 1, -1
                total = 0
                for k in range(begin, end + 1):
                    total += crossings[r, k]
                if (parity and total & 1) or (not parity and total != 0):
                    open_rows[slab] += 1
                    # Inside reaches beyond the crossings, on one side for each way.
                    begin, end = 0, resolution
                base = word_of[row, r] + word_of[slab_axis, plane]
                shift = bit_of[row, r] + bit_of[slab_axis, plane]
                count = 0
                for k in range(begin, min(end, resolution)):
                    count += crossings[r, k]
                    crossings[r, k] = 0
                    if (parity and count & 1) or (not parity and count != 0):
                        ahead[base + word_of[axis, k]] |= one << (shift + bit_of[axis, k])
                    if (parity and (count - total) & 1) or (not parity and count != total):
                        back[base + word_of[axis, k]] |= one << (shift + bit_of[axis, k])
                crossings[r, end] = 0
                crossings[r, resolution] = 0
