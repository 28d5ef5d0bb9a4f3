"""Triangle-box overlap on a GPU: a triangle a program (a large one has several), a row of voxels along x a lane."""

import torch
import triton
import triton.language as tl

from voxfield.kernels.voxel_words import axis_tables, padded_side, word_count

_ROWS = 32
"""Rows that a program looks at together: most triangles of a fine mesh have fewer."""
_MOST_PROGRAMS = 256
"""Programs that the rows of a large triangle are dealt to."""


def triangle_box(triangles: torch.Tensor, resolution: int) -> torch.Tensor:
    """See ``api.triangle_box``. Waits for the device once, to learn how large the largest triangle is."""
    corners = triangles.detach().contiguous()
    words = torch.zeros(word_count(resolution), dtype=torch.int64, device=corners.device)
    if not len(corners):
        return words
    # Closed cubes: a corner exactly on a face between voxels belongs to both.
    low = (corners.amin(1).ceil() - 1).clamp(0, resolution).long()
    high = (corners.amax(1).floor() + 1).clamp(0, resolution).long()
    spans = torch.where((low < high).all(1, keepdim=True), high - low, 0)
    programs = triton.cdiv(int((spans[:, 1] * spans[:, 2]).max()), _ROWS)
    if programs:
        word_of, bit_of = (torch.from_numpy(table).to(corners.device) for table in axis_tables(padded_side(resolution)))
        _mark[(len(corners), min(programs, _MOST_PROGRAMS))](
            corners, low, spans, word_of, bit_of, words, padded_side(resolution), ROWS=_ROWS, num_warps=1,
            enable_fp_fusion=False,
        )  # fmt: skip
    return words


@triton.jit
def _mark(corners, low, spans, word_of, bit_of, words, side, ROWS: tl.constexpr):
    triangle = tl.program_id(0).to(tl.int64)
    at = corners + triangle * 9
    ax, ay, az = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    bx, by, bz = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    cx, cy, cz = tl.load(at + 6), tl.load(at + 7), tl.load(at + 8)
    low_x, low_y, low_z = tl.load(low + triangle * 3), tl.load(low + triangle * 3 + 1), tl.load(low + triangle * 3 + 2)
    span_x, span_y = tl.load(spans + triangle * 3), tl.load(spans + triangle * 3 + 1)
    rows = span_y * tl.load(spans + triangle * 3 + 2)
    nx = (by - ay) * (cz - bz) - (bz - az) * (cy - by)
    ny = (bz - az) * (cx - bx) - (bx - ax) * (cz - bz)
    nz = (bx - ax) * (cy - by) - (by - ay) * (cx - bx)
    far_x, far_y, far_z = (nx > 0).to(tl.float64), (ny > 0).to(tl.float64), (nz > 0).to(tl.float64)
    ahead = (nx * (far_x - ax) + ny * (far_y - ay)) + nz * (far_z - az)
    behind = (nx * ((1 - far_x) - ax) + ny * ((1 - far_y) - ay)) + nz * ((1 - far_z) - az)
    first = tl.program_id(1) * ROWS
    while first < rows:
        row = first + tl.arange(0, ROWS)
        y, z = low_y + row % span_y, low_z + row // span_y
        py, pz = y.to(tl.float64), z.to(tl.float64)
        inside = _inside(py, pz, nx, ay, az, by, bz) & _inside(py, pz, nx, by, bz, cy, cz)
        inside = inside & _inside(py, pz, nx, cy, cz, ay, az) & (row < rows)
        # Where the plane crosses the row, one voxel wider: the exact test follows.
        left, right = low_x + tl.zeros((ROWS,), tl.int64), low_x + span_x + tl.zeros((ROWS,), tl.int64)
        rest = ny * py + nz * pz
        one, other = _quotient(-(rest + ahead), nx), _quotient(-(rest + behind), nx)
        least, most = tl.floor(tl.minimum(one, other)) - 1.0, tl.ceil(tl.maximum(one, other)) + 2.0
        left = tl.where(nx != 0.0, tl.maximum(left, _bounded(least)), left)
        right = tl.where(nx != 0.0, tl.minimum(right, _bounded(most)), right)
        x = left
        while tl.max((inside & (x < right)).to(tl.int32), 0) > 0:
            px = x.to(tl.float64)
            base = (nx * px + ny * py) + nz * pz
            touched = inside & (x < right) & (base + ahead >= 0) & (base + behind <= 0)
            touched = touched & _inside(pz, px, ny, az, ax, bz, bx) & _inside(pz, px, ny, bz, bx, cz, cx)
            touched = touched & _inside(pz, px, ny, cz, cx, az, ax)
            touched = touched & _inside(px, py, nz, ax, ay, bx, by) & _inside(px, py, nz, bx, by, cx, cy)
            touched = touched & _inside(px, py, nz, cx, cy, ax, ay)
            word = tl.load(word_of + x, mask=touched, other=0) + tl.load(word_of + side + y, mask=touched, other=0)
            word += tl.load(word_of + 2 * side + z, mask=touched, other=0)
            bit = tl.load(bit_of + x, mask=touched, other=0) + tl.load(bit_of + side + y, mask=touched, other=0)
            bit += tl.load(bit_of + 2 * side + z, mask=touched, other=0)
            tl.atomic_or(words + word, tl.full((ROWS,), 1, tl.int64) << bit, mask=touched, sem="relaxed")
            x += 1
        first += tl.num_programs(1) * ROWS


@triton.jit
def _inside(u, v, normal, start_u, start_v, end_u, end_v):
    """Whether an edge, in one of the three projections, has not the whole square at ``u, v`` outside it."""
    turn = tl.where(normal >= 0, 1.0, -1.0).to(tl.float64)
    across, along = -(end_v - start_v) * turn, (end_u - start_u) * turn
    limit = (tl.maximum(across, 0.0) + tl.maximum(along, 0.0)) - (across * start_u + along * start_v)
    return (across * u + along * v) + limit >= 0


@triton.jit
def _quotient(dividend, divisor):
    """0 where the divisor is."""
    return dividend / tl.where(divisor == 0.0, 1.0, divisor)


@triton.jit
def _bounded(place):
    """A place as a voxel's number, were it far outside the grid."""
    return tl.minimum(tl.maximum(place, 0.0), 1e6).to(tl.int64)
