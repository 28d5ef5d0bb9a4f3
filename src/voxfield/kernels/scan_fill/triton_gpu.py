"""Filling by crossings on a GPU: triangles add their crossings to counters, then a row of centres a lane is followed.

Counters are kept of as many planes of rows as fit in `_COUNTERS`, one chunk of planes after another.
"""

import torch
import triton
import triton.language as tl

from voxfield.kernels.scan_fill.votes import count_vote
from voxfield.kernels.voxel_words import axis_tables, padded_side, word_count

_ROWS = 32
"""Rows of centres that a program looks at together."""
_MOST_PROGRAMS = 256
"""Programs that the rows of a large triangle are dealt to."""
_COUNTERS = 1 << 26
"""Counters held at once, 4 bytes each."""


def scan_fill(triangles: torch.Tensor, resolution: int, inside: str) -> torch.Tensor:
    """See ``api.scan_fill``. Waits for the device, to learn whether the surface is closed."""
    corners = triangles.detach().contiguous()
    parity = inside == "parity"
    ahead, back, closed = _scan(corners, resolution, 0, parity)
    if closed:
        return ahead
    ones, twos, fours = (torch.zeros_like(ahead) for _ in range(3))
    for vote in (ahead, back):
        count_vote(vote, ones, twos, fours)
    for axis in (1, 2):
        for vote in _scan(corners, resolution, axis, parity)[:2]:
            count_vote(vote, ones, twos, fours)
    return fours


def _scan(corners: torch.Tensor, resolution: int, axis: int, parity: bool) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Words inside as seen against and along an axis, and whether every row of centres ends as it began."""
    row_axis, plane_axis = [other for other in range(3) if other != axis]
    ahead, back = (torch.zeros(word_count(resolution), dtype=torch.int64, device=corners.device) for _ in range(2))
    if not len(corners):
        return ahead, back, True
    word_of, bit_of = (torch.from_numpy(table).to(corners.device) for table in axis_tables(padded_side(resolution)))
    tables = [table[other] for other in (axis, row_axis, plane_axis) for table in (word_of, bit_of)]
    ordered = corners[:, :, [axis, row_axis, plane_axis]].contiguous()
    low = (ordered.amin(1) - 0.5).ceil().clamp(0, resolution).long()
    high = ((ordered.amax(1) - 0.5).floor() + 1).clamp(0, resolution).long()
    still_open = torch.zeros(1, dtype=torch.int32, device=corners.device)
    planes = max(1, _COUNTERS // (resolution * (resolution + 1)))
    for first in range(0, resolution, planes):
        count = min(planes, resolution - first)
        crossings = torch.zeros(count, resolution + 1, resolution, dtype=torch.int32, device=corners.device)
        begin, end = low[:, 1:].clone(), high[:, 1:].clone()
        begin[:, 1], end[:, 1] = low[:, 2].clamp(min=first), high[:, 2].clamp(max=first + count)
        spans = (end - begin).clamp(min=0)
        programs = triton.cdiv(int((spans[:, 0] * spans[:, 1]).max()), _ROWS)
        if not programs:
            continue
        _cross[(len(ordered), min(programs, _MOST_PROGRAMS))](
            ordered, begin, spans, crossings, first, resolution, ROWS=_ROWS, num_warps=1, enable_fp_fusion=False
        )
        _fill[(triton.cdiv(count * resolution, _ROWS),)](
            crossings, *tables, ahead, back, still_open, first, count * resolution, resolution, PARITY=parity,
            ROWS=_ROWS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    return ahead, back, not bool(still_open)


@triton.jit
def _cross(corners, begin, spans, crossings, first_plane, resolution, ROWS: tl.constexpr):
    """Add a triangle's crossings, with the sign of its orientation, to the counters (plane, place on the row, row)."""
    triangle = tl.program_id(0).to(tl.int64)
    at = corners + triangle * 9
    a, a_row, a_plane = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    b, b_row, b_plane = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    c, c_row, c_plane = tl.load(at + 6), tl.load(at + 7), tl.load(at + 8)
    low_row, low_plane = tl.load(begin + triangle * 2), tl.load(begin + triangle * 2 + 1)
    across = tl.load(spans + triangle * 2)
    rows = across * tl.load(spans + triangle * 2 + 1)
    first = tl.program_id(1) * ROWS
    while first < rows:
        number = first + tl.arange(0, ROWS)
        row, plane = low_row + number % across, low_plane + number // across
        r, s = row.to(tl.float64) + 0.5, plane.to(tl.float64) + 0.5
        side_c, area_c = _side(a_row, a_plane, b_row, b_plane, r, s)
        side_a, area_a = _side(b_row, b_plane, c_row, c_plane, r, s)
        side_b, area_b = _side(c_row, c_plane, a_row, a_plane, r, s)
        hit = (number < rows) & (side_c == side_a) & (side_a == side_b) & (side_c != 0)
        whole = area_c + area_a + area_b
        place = ((area_a * a + area_b * b) + area_c * c) / tl.where(hit, whole, 1.0)
        place = tl.ceil(place - 0.5)
        # Written so that NaN becomes 0 and never an address.
        place = tl.where(place > 0.0, tl.where(place < resolution, place, resolution), 0.0).to(tl.int64)
        slot = ((plane - first_plane) * (resolution + 1) + place) * resolution + row
        tl.atomic_add(crossings + slot, side_a, mask=hit, sem="relaxed")
        first += tl.num_programs(1) * ROWS


@triton.jit
def _side(a_row, a_plane, b_row, b_plane, r, s):
    """Side of an edge a centre lies on (0: the edge has no length) and twice the signed area; see the reference."""
    # One order for both triangles that share the edge: their results are then exactly opposite.
    swapped = (b_row < a_row) | ((b_row == a_row) & (b_plane < a_plane))
    from_row, from_plane = tl.where(swapped, b_row, a_row), tl.where(swapped, b_plane, a_plane)
    d_row = tl.where(swapped, a_row, b_row) - from_row
    d_plane = tl.where(swapped, a_plane, b_plane) - from_plane
    area = d_row * (s - from_plane) - d_plane * (r - from_row)
    tie = tl.where(d_plane != 0.0, tl.where(d_plane > 0.0, -1, 1), tl.where(d_row > 0.0, 1, 0))
    sign = tl.where(area > 0.0, 1, tl.where(area < 0.0, -1, tie))
    turn = tl.where(swapped, -1, 1)
    return sign * turn, area * turn


@triton.jit
def _fill(
    crossings,
    word_along,
    bit_along,
    word_row,
    bit_row,
    word_plane,
    bit_plane,
    ahead,
    back,
    still_open,
    first_plane,
    rows,
    resolution,
    PARITY: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Follow a row of centres a lane; rows that do not end as they began set ``still_open``."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    valid = number < rows
    row, plane = number % resolution, number // resolution
    begin = crossings + plane * (resolution + 1) * resolution + row
    total, counters = tl.zeros((ROWS,), tl.int32), begin
    for _ in range(resolution + 1):
        total += tl.load(counters, mask=valid, other=0)
        counters += resolution
    unclosed = _decide(total, PARITY)
    tl.store(still_open + tl.zeros((ROWS,), tl.int32), tl.full((ROWS,), 1, tl.int32), mask=unclosed)
    place = first_plane + plane
    base = tl.load(word_row + row, mask=valid, other=0) + tl.load(word_plane + place, mask=valid, other=0)
    shift = tl.load(bit_row + row, mask=valid, other=0) + tl.load(bit_plane + place, mask=valid, other=0)
    count, counters = tl.zeros((ROWS,), tl.int32), begin
    for block in range((resolution + 3) // 4):
        seen_ahead, seen_back = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int64)
        for step in tl.static_range(4):
            k = tl.zeros((ROWS,), tl.int32) + (block * 4 + step)
            within = valid & (k < resolution)
            count += tl.load(counters, mask=within, other=0)
            counters += resolution
            bit = shift + tl.load(bit_along + k, mask=within, other=0)
            seen_ahead |= (within & _decide(count, PARITY)).to(tl.int64) << bit
            seen_back |= (within & _decide(count - total, PARITY)).to(tl.int64) << bit
        word = base + tl.load(word_along + block * 4)
        # Rows of four planes by four share a word.
        tl.atomic_or(ahead + word, seen_ahead, mask=seen_ahead != 0, sem="relaxed")
        tl.atomic_or(back + word, seen_back, mask=seen_back != 0, sem="relaxed")


@triton.jit
def _decide(count, PARITY: tl.constexpr):
    """Whether so many crossings mean inside."""
    if PARITY:
        return (count & 1) != 0
    else:  # noqa: RET505 - Triton compiles both returns only as the arms of one if
        return count != 0
