"""Filling by crossings on a CPU: slabs of four layers split between threads, so that no word has two writers."""

import math

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.scan_fill.votes import count_vote
from voxfield.kernels.threads import run_split
from voxfield.kernels.voxel_words import axis_tables, padded_side, word_count

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")


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
    # The layers and the rows of centres that each triangle reaches. Most of a fine mesh's reach none.
    reach = np.empty((len(corners), 4), np.int32)
    run_split(_reach, len(corners), corners, row, slab_axis, resolution, reach, grain=8192)
    starts, members = _bucket(reach, slabs)
    # Seen along the axis open rows are another: where, is marked there.
    ahead, apart = (np.zeros(word_count(resolution), np.int64) for _ in range(2))
    open_rows = np.zeros(slabs, np.int64)
    tables = axis_tables(padded_side(resolution))
    run_split(
        _fill,
        slabs,
        corners,
        starts,
        members,
        reach,
        resolution,
        axis,
        row,
        slab_axis,
        parity,
        *tables,
        ahead,
        apart,
        open_rows,
        grain=1,
    )
    return ahead, ahead ^ apart if open_rows.any() else ahead, not open_rows.any()


@_jit
def _reach(first, stop, corners, row, slab_axis, resolution, reach):
    """Of each triangle the first and last layer, then row, with centres between its ends; first behind last if none."""
    for triangle in range(first, stop):
        for place, axis in ((0, slab_axis), (2, row)):
            a, b, c = corners[triangle, 0, axis], corners[triangle, 1, axis], corners[triangle, 2, axis]
            # Clamped before the conversion: far outside the grid the number may exceed an integer.
            reach[triangle, place] = min(max(math.ceil(min(a, b, c) - 0.5), 0.0), np.float64(resolution))
            reach[triangle, place + 1] = min(max(math.floor(max(a, b, c) - 0.5), -1.0), resolution - 1.0)


@_jit
def _bucket(reach, slabs):
    """Which triangles reach centres in which slab of four layers, in their order: those of slab s are
    ``members[starts[s]:starts[s + 1]]``.
    """
    # Kept without a branch: which triangles reach a centre cannot be guessed.
    kept, count = np.empty(len(reach), np.int64), 0
    for triangle in range(len(reach)):
        kept[count] = triangle
        layers = reach[triangle, 0] <= reach[triangle, 1]
        count += np.int64(layers & (reach[triangle, 2] <= reach[triangle, 3]))
    starts = np.zeros(slabs + 1, np.int64)
    for triangle in kept[:count]:
        for slab in range(reach[triangle, 0] >> 2, (reach[triangle, 1] >> 2) + 1):
            starts[slab + 1] += 1
    starts = np.cumsum(starts)
    members, ends = np.empty(starts[slabs], np.int64), starts[:-1].copy()
    for triangle in kept[:count]:
        for slab in range(reach[triangle, 0] >> 2, (reach[triangle, 1] >> 2) + 1):
            members[ends[slab]] = triangle
            ends[slab] += 1
    return starts, members


@_jit
def _side(a_row, a_slab, b_row, b_slab, r, s):
    """Side of an edge a centre lies on (0: the edge has no length) and twice the signed area; see the reference.

    Without branches but for the rare tie: which way round an edge is cannot be guessed.
    """
    swapped = (b_row < a_row) | ((b_row == a_row) & (b_slab < a_slab))
    first_row, first_slab = b_row if swapped else a_row, b_slab if swapped else a_slab
    d_row, d_slab = abs(b_row - a_row), a_slab - b_slab if swapped else b_slab - a_slab
    area = d_row * (s - first_slab) - d_slab * (r - first_row)
    sign = np.int64(area > 0) - np.int64(area < 0)
    if area == 0:
        sign = np.int64(d_slab < 0) - np.int64(d_slab > 0) if d_slab != 0 else np.int64(d_row > 0)
    return -sign if swapped else sign, -area if swapped else area


@_jit
def _fill(
    first, stop, corners, starts, members, reach, resolution, axis, row, slab_axis, parity, word_of, bit_of, ahead,
    apart, open_rows,
):  # fmt: skip
    # Of the four layers: crossings of each row, and of which the first and the last are; none where that is behind.
    crossings = np.zeros((4, resolution, (resolution | 3) + 5), np.int32)
    nearest, farthest = np.full((4, resolution), resolution + 1), np.full((4, resolution), -1)
    for slab in range(first, stop):
        for member in range(starts[slab], starts[slab + 1]):
            triangle = members[member]
            for plane in range(max(reach[triangle, 0], 4 * slab), min(reach[triangle, 1], 4 * slab + 3) + 1):
                layer = plane - 4 * slab
                for r in range(reach[triangle, 2], reach[triangle, 3] + 1):
                    side, at = _crossing(corners[triangle], axis, row, slab_axis, r + 0.5, plane + 0.5)
                    if side != 0:
                        k = int(min(max(math.ceil(at - 0.5), 0.0), float(resolution)))
                        crossings[layer, r, k] += side
                        nearest[layer, r], farthest[layer, r] = min(nearest[layer, r], k), max(farthest[layer, r], k)
        for plane in range(4 * slab, min(4 * slab + 4, resolution)):
            layer = plane - 4 * slab
            for r in range(resolution):
                begin, end = nearest[layer, r], farthest[layer, r]
                if end < 0:
                    continue
                nearest[layer, r], farthest[layer, r] = resolution + 1, -1
                base = word_of[row, r] + word_of[slab_axis, plane]
                shift = bit_of[row, r] + bit_of[slab_axis, plane]
                open_rows[slab] += _fill_row(
                    crossings[layer, r],
                    begin,
                    end,
                    parity,
                    resolution,
                    base,
                    shift,
                    word_of[axis],
                    bit_of[axis],
                    ahead,
                    apart,
                )


@_jit
def _crossing(t, axis, row, slab_axis, r, s):
    """The side from which a row of centres crosses a triangle (0: it does not), and where."""
    a, b, c = t[0], t[1], t[2]
    side_c, area_c = _side(a[row], a[slab_axis], b[row], b[slab_axis], r, s)
    side_a, area_a = _side(b[row], b[slab_axis], c[row], c[slab_axis], r, s)
    side_b, area_b = _side(c[row], c[slab_axis], a[row], a[slab_axis], r, s)
    if (side_c != side_a) | (side_b != side_a) | (side_a == 0):
        return 0, 0.0
    weighted = area_a * a[axis] + area_b * b[axis] + area_c * c[axis]
    return side_a, weighted / (area_c + area_a + area_b)


@_jit
def _fill_row(crossings, begin, end, parity, resolution, base, shift, word_of, bit_of, ahead, apart):
    """Set what is inside of a row whose crossings lie from ``begin`` to ``end``, and clear those; 1 if it is open."""
    total = 0
    for k in range(begin, end + 1):
        total += crossings[k]
    is_open = (parity and total & 1) or (not parity and total != 0)
    if is_open:
        # Inside reaches beyond the crossings, on one side for each way.
        begin, end = 0, resolution
    count = 0
    for group in range(begin >> 2, (end >> 2) + 1):
        bits = other = np.int64(0)
        for place in range(4):
            k = 4 * group + place
            count += crossings[k]
            crossings[k] = 0
            inside = count & 1 if parity else np.int64(count != 0)
            # Back along the axis the count is what is left of the total.
            behind = (count - total) & 1 if parity else np.int64(count != total)
            exists = np.int64(k < resolution)
            bits |= (inside & exists) << bit_of[place]
            other |= (behind & exists) << bit_of[place]
        if bits | other:
            at = base + word_of[4 * group]
            ahead[at] |= bits << shift
            if is_open:
                apart[at] |= (bits ^ other) << shift
    return 1 if is_open else 0
