"""Spherical harmonics on a GPU: one direction a lane. Stores of neighbouring lanes lie (degree + 1)**2 apart."""

from typing import Any

import torch
import triton
import triton.language as tl

from voxfield.kernels.spherical_harmonics.basis import Y

_BLOCK = 128

# One constant a factor: a Triton kernel may read a global only if it is a constexpr, and tuples of them are not.
# They stand right of each product because Triton's interpreter cannot multiply a constexpr by a tensor.
_A0 = tl.constexpr(Y[0][0])
_B0, _B1, _B2 = (tl.constexpr(c) for c in Y[1])
_C0, _C1, _C2, _C3, _C4 = (tl.constexpr(c) for c in Y[2])
_D0, _D1, _D2, _D3, _D4, _D5, _D6 = (tl.constexpr(c) for c in Y[3])
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8 = (tl.constexpr(c) for c in Y[4])


def spherical_harmonics(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """See ``api.spherical_harmonics``."""
    values: torch.Tensor = _SphericalHarmonics.apply(directions, degree)
    return values


class _SphericalHarmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, directions: torch.Tensor, degree: int) -> torch.Tensor:
        count = len(directions)
        values = directions.new_empty(count, (degree + 1) ** 2)
        if count:
            grid = (triton.cdiv(count, _BLOCK),)
            _forward[grid](
                directions, values, count, *directions.stride(), DEGREE=degree, BLOCK=_BLOCK, enable_fp_fusion=True
            )
        ctx.save_for_backward(directions)
        ctx.degree = degree
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (directions,) = ctx.saved_tensors
        count = len(directions)
        grad_directions = directions.new_empty(count, 3)
        if count:
            strides = *directions.stride(), *grad.stride()
            grid = (triton.cdiv(count, _BLOCK),)
            _backward[grid](
                directions,
                grad,
                grad_directions,
                count,
                *strides,
                DEGREE=ctx.degree,
                BLOCK=_BLOCK,
                enable_fp_fusion=True,
            )
        return grad_directions, None


@triton.jit
def _forward(directions, values, count, d_row, d_axis, DEGREE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < count
    x = tl.load(directions + row * d_row, mask=valid, other=0.0)
    y = tl.load(directions + row * d_row + d_axis, mask=valid, other=0.0)
    z = tl.load(directions + row * d_row + 2 * d_axis, mask=valid, other=0.0)
    xx, yy, zz = x * x, y * y, z * z
    out = values + row * ((DEGREE + 1) * (DEGREE + 1))
    tl.store(out, tl.zeros((BLOCK,), tl.float32) + _A0, mask=valid)
    if DEGREE >= 1:
        tl.store(out + 1, y * _B0, mask=valid)
        tl.store(out + 2, z * _B1, mask=valid)
        tl.store(out + 3, x * _B2, mask=valid)
    if DEGREE >= 2:
        tl.store(out + 4, (x * y) * _C0, mask=valid)
        tl.store(out + 5, (y * z) * _C1, mask=valid)
        tl.store(out + 6, (2 * zz - xx - yy) * _C2, mask=valid)
        tl.store(out + 7, (x * z) * _C3, mask=valid)
        tl.store(out + 8, (xx - yy) * _C4, mask=valid)
    if DEGREE >= 3:
        tl.store(out + 9, (y * (3 * xx - yy)) * _D0, mask=valid)
        tl.store(out + 10, (x * y * z) * _D1, mask=valid)
        tl.store(out + 11, (y * (4 * zz - xx - yy)) * _D2, mask=valid)
        tl.store(out + 12, (z * (2 * zz - 3 * xx - 3 * yy)) * _D3, mask=valid)
        tl.store(out + 13, (x * (4 * zz - xx - yy)) * _D4, mask=valid)
        tl.store(out + 14, (z * (xx - yy)) * _D5, mask=valid)
        tl.store(out + 15, (x * (xx - 3 * yy)) * _D6, mask=valid)
    if DEGREE >= 4:
        tl.store(out + 16, (x * y * (xx - yy)) * _E0, mask=valid)
        tl.store(out + 17, (y * z * (3 * xx - yy)) * _E1, mask=valid)
        tl.store(out + 18, (x * y * (7 * zz - 1)) * _E2, mask=valid)
        tl.store(out + 19, (y * z * (7 * zz - 3)) * _E3, mask=valid)
        tl.store(out + 20, (zz * (35 * zz - 30) + 3) * _E4, mask=valid)
        tl.store(out + 21, (x * z * (7 * zz - 3)) * _E5, mask=valid)
        tl.store(out + 22, ((xx - yy) * (7 * zz - 1)) * _E6, mask=valid)
        tl.store(out + 23, (x * z * (xx - 3 * yy)) * _E7, mask=valid)
        tl.store(out + 24, (xx * (xx - 3 * yy) - yy * (3 * xx - yy)) * _E8, mask=valid)


@triton.jit
def _backward(
    directions, grad, grad_directions, count, d_row, d_axis, g_row, g_column, DEGREE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < count
    x = tl.load(directions + row * d_row, mask=valid, other=0.0)
    y = tl.load(directions + row * d_row + d_axis, mask=valid, other=0.0)
    z = tl.load(directions + row * d_row + 2 * d_axis, mask=valid, other=0.0)
    xx, yy, zz = x * x, y * y, z * z
    g = grad + row * g_row
    dx = tl.zeros((BLOCK,), tl.float32)
    dy = tl.zeros((BLOCK,), tl.float32)
    dz = tl.zeros((BLOCK,), tl.float32)
    if DEGREE >= 1:
        dy += tl.load(g + g_column, mask=valid, other=0.0) * _B0
        dz += tl.load(g + 2 * g_column, mask=valid, other=0.0) * _B1
        dx += tl.load(g + 3 * g_column, mask=valid, other=0.0) * _B2
    if DEGREE >= 2:
        g4 = tl.load(g + 4 * g_column, mask=valid, other=0.0) * _C0
        g5 = tl.load(g + 5 * g_column, mask=valid, other=0.0) * _C1
        g6 = tl.load(g + 6 * g_column, mask=valid, other=0.0) * _C2
        g7 = tl.load(g + 7 * g_column, mask=valid, other=0.0) * _C3
        g8 = tl.load(g + 8 * g_column, mask=valid, other=0.0) * _C4
        dx += g4 * y - 2 * g6 * x + g7 * z + 2 * g8 * x
        dy += g4 * x + g5 * z - 2 * g6 * y - 2 * g8 * y
        dz += g5 * y + 4 * g6 * z + g7 * x
    if DEGREE >= 3:
        g9 = tl.load(g + 9 * g_column, mask=valid, other=0.0) * _D0
        g10 = tl.load(g + 10 * g_column, mask=valid, other=0.0) * _D1
        g11 = tl.load(g + 11 * g_column, mask=valid, other=0.0) * _D2
        g12 = tl.load(g + 12 * g_column, mask=valid, other=0.0) * _D3
        g13 = tl.load(g + 13 * g_column, mask=valid, other=0.0) * _D4
        g14 = tl.load(g + 14 * g_column, mask=valid, other=0.0) * _D5
        g15 = tl.load(g + 15 * g_column, mask=valid, other=0.0) * _D6
        dx += 6 * g9 * x * y + g10 * y * z - 2 * g11 * x * y - 6 * g12 * x * z
        dx += g13 * (4 * zz - 3 * xx - yy) + 2 * g14 * x * z + 3 * g15 * (xx - yy)
        dy += 3 * g9 * (xx - yy) + g10 * x * z + g11 * (4 * zz - xx - 3 * yy) - 6 * g12 * y * z
        dy += -2 * g13 * x * y - 2 * g14 * y * z - 6 * g15 * x * y
        dz += g10 * x * y + 8 * g11 * y * z + 3 * g12 * (2 * zz - xx - yy) + 8 * g13 * x * z
        dz += g14 * (xx - yy)
    if DEGREE >= 4:
        g16 = tl.load(g + 16 * g_column, mask=valid, other=0.0) * _E0
        g17 = tl.load(g + 17 * g_column, mask=valid, other=0.0) * _E1
        g18 = tl.load(g + 18 * g_column, mask=valid, other=0.0) * _E2
        g19 = tl.load(g + 19 * g_column, mask=valid, other=0.0) * _E3
        g20 = tl.load(g + 20 * g_column, mask=valid, other=0.0) * _E4
        g21 = tl.load(g + 21 * g_column, mask=valid, other=0.0) * _E5
        g22 = tl.load(g + 22 * g_column, mask=valid, other=0.0) * _E6
        g23 = tl.load(g + 23 * g_column, mask=valid, other=0.0) * _E7
        g24 = tl.load(g + 24 * g_column, mask=valid, other=0.0) * _E8
        dx += g16 * y * (3 * xx - yy) + 6 * g17 * x * y * z + g18 * y * (7 * zz - 1)
        dx += g21 * z * (7 * zz - 3) + 2 * g22 * x * (7 * zz - 1) + 3 * g23 * z * (xx - yy)
        dx += 4 * g24 * x * (xx - 3 * yy)
        dy += g16 * x * (xx - 3 * yy) + 3 * g17 * z * (xx - yy) + g18 * x * (7 * zz - 1)
        dy += g19 * z * (7 * zz - 3) - 2 * g22 * y * (7 * zz - 1) - 6 * g23 * x * y * z
        dy += 4 * g24 * y * (yy - 3 * xx)
        dz += g17 * y * (3 * xx - yy) + 14 * g18 * x * y * z + g19 * y * (21 * zz - 3)
        dz += g20 * z * (140 * zz - 60) + g21 * x * (21 * zz - 3)
        dz += 14 * g22 * z * (xx - yy) + g23 * x * (xx - 3 * yy)
    out = grad_directions + row * 3
    tl.store(out, dx, mask=valid)
    tl.store(out + 1, dy, mask=valid)
    tl.store(out + 2, dz, mask=valid)
