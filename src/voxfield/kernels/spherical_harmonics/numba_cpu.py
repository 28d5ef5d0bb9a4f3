"""Spherical harmonics on the CPU: one pass over the directions, polynomials and derivatives written out."""

from typing import Any

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.spherical_harmonics.basis import Y
from voxfield.kernels.threads import run_split

# Globals are compiled in as constants. float32: a float64 factor would make the whole loop double precision.
(_A0,) = (np.float32(c) for c in Y[0])
_B0, _B1, _B2 = (np.float32(c) for c in Y[1])
_C0, _C1, _C2, _C3, _C4 = (np.float32(c) for c in Y[2])
_D0, _D1, _D2, _D3, _D4, _D5, _D6 = (np.float32(c) for c in Y[3])
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8 = (np.float32(c) for c in Y[4])
_1, _2, _3, _4, _6, _7, _8, _14, _21, _30, _35, _60, _140 = (
    np.float32(n) for n in (1, 2, 3, 4, 6, 7, 8, 14, 21, 30, 35, 60, 140)
)

_GRAIN = 8192
"""Directions a task takes at least: about 60 microseconds of work at degree 3."""


def spherical_harmonics(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """See ``api.spherical_harmonics``."""
    values: torch.Tensor = _SphericalHarmonics.apply(directions, degree)
    return values


class _SphericalHarmonics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, directions: torch.Tensor, degree: int) -> torch.Tensor:
        directions = directions.contiguous()
        values = torch.empty(len(directions), (degree + 1) ** 2)
        run_split(_forward, len(directions), directions.detach().numpy(), degree, values.numpy(), grain=_GRAIN)
        ctx.save_for_backward(directions)
        ctx.degree = degree
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (directions,) = ctx.saved_tensors
        grad_directions = torch.empty_like(directions)
        arrays = directions.detach().numpy(), ctx.degree, grad.contiguous().numpy(), grad_directions.numpy()
        run_split(_backward, len(directions), *arrays, grain=_GRAIN)
        return grad_directions, None


@njit(nogil=True, boundscheck=False, fastmath={"contract"})
def _forward(start, stop, directions, degree, values):
    for i in range(start, stop):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        xx, yy, zz = x * x, y * y, z * z
        values[i, 0] = _A0
        if degree >= 1:
            values[i, 1] = _B0 * y
            values[i, 2] = _B1 * z
            values[i, 3] = _B2 * x
        if degree >= 2:
            values[i, 4] = _C0 * x * y
            values[i, 5] = _C1 * y * z
            values[i, 6] = _C2 * (_2 * zz - xx - yy)
            values[i, 7] = _C3 * x * z
            values[i, 8] = _C4 * (xx - yy)
        if degree >= 3:
            values[i, 9] = _D0 * y * (_3 * xx - yy)
            values[i, 10] = _D1 * x * y * z
            values[i, 11] = _D2 * y * (_4 * zz - xx - yy)
            values[i, 12] = _D3 * z * (_2 * zz - _3 * xx - _3 * yy)
            values[i, 13] = _D4 * x * (_4 * zz - xx - yy)
            values[i, 14] = _D5 * z * (xx - yy)
            values[i, 15] = _D6 * x * (xx - _3 * yy)
        if degree >= 4:
            values[i, 16] = _E0 * x * y * (xx - yy)
            values[i, 17] = _E1 * y * z * (_3 * xx - yy)
            values[i, 18] = _E2 * x * y * (_7 * zz - _1)
            values[i, 19] = _E3 * y * z * (_7 * zz - _3)
            values[i, 20] = _E4 * (zz * (_35 * zz - _30) + _3)
            values[i, 21] = _E5 * x * z * (_7 * zz - _3)
            values[i, 22] = _E6 * (xx - yy) * (_7 * zz - _1)
            values[i, 23] = _E7 * x * z * (xx - _3 * yy)
            values[i, 24] = _E8 * (xx * (xx - _3 * yy) - yy * (_3 * xx - yy))


@njit(nogil=True, boundscheck=False, fastmath={"contract"})
def _backward(start, stop, directions, degree, grad, grad_directions):
    for i in range(start, stop):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        xx, yy, zz = x * x, y * y, z * z
        dx = dy = dz = np.float32(0)
        if degree >= 1:
            dx += _B2 * grad[i, 3]
            dy += _B0 * grad[i, 1]
            dz += _B1 * grad[i, 2]
        if degree >= 2:
            g4, g5, g6 = _C0 * grad[i, 4], _C1 * grad[i, 5], _C2 * grad[i, 6]
            g7, g8 = _C3 * grad[i, 7], _C4 * grad[i, 8]
            dx += g4 * y - _2 * g6 * x + g7 * z + _2 * g8 * x
            dy += g4 * x + g5 * z - _2 * g6 * y - _2 * g8 * y
            dz += g5 * y + _4 * g6 * z + g7 * x
        if degree >= 3:
            g9, g10, g11, g12 = _D0 * grad[i, 9], _D1 * grad[i, 10], _D2 * grad[i, 11], _D3 * grad[i, 12]
            g13, g14, g15 = _D4 * grad[i, 13], _D5 * grad[i, 14], _D6 * grad[i, 15]
            dx += _6 * g9 * x * y + g10 * y * z - _2 * g11 * x * y - _6 * g12 * x * z
            dx += g13 * (_4 * zz - _3 * xx - yy) + _2 * g14 * x * z + _3 * g15 * (xx - yy)
            dy += _3 * g9 * (xx - yy) + g10 * x * z + g11 * (_4 * zz - xx - _3 * yy) - _6 * g12 * y * z
            dy += -_2 * g13 * x * y - _2 * g14 * y * z - _6 * g15 * x * y
            dz += g10 * x * y + _8 * g11 * y * z + _3 * g12 * (_2 * zz - xx - yy) + _8 * g13 * x * z
            dz += g14 * (xx - yy)
        if degree >= 4:
            g16, g17, g18, g19 = _E0 * grad[i, 16], _E1 * grad[i, 17], _E2 * grad[i, 18], _E3 * grad[i, 19]
            g20, g21, g22 = _E4 * grad[i, 20], _E5 * grad[i, 21], _E6 * grad[i, 22]
            g23, g24 = _E7 * grad[i, 23], _E8 * grad[i, 24]
            dx += g16 * y * (_3 * xx - yy) + _6 * g17 * x * y * z + g18 * y * (_7 * zz - _1)
            dx += g21 * z * (_7 * zz - _3) + _2 * g22 * x * (_7 * zz - _1) + _3 * g23 * z * (xx - yy)
            dx += _4 * g24 * x * (xx - _3 * yy)
            dy += g16 * x * (xx - _3 * yy) + _3 * g17 * z * (xx - yy) + g18 * x * (_7 * zz - _1)
            dy += g19 * z * (_7 * zz - _3) - _2 * g22 * y * (_7 * zz - _1) - _6 * g23 * x * y * z
            dy += _4 * g24 * y * (yy - _3 * xx)
            dz += g17 * y * (_3 * xx - yy) + _14 * g18 * x * y * z + g19 * y * (_21 * zz - _3)
            dz += g20 * z * (_140 * zz - _60) + g21 * x * (_21 * zz - _3)
            dz += _14 * g22 * z * (xx - yy) + g23 * x * (xx - _3 * yy)
        grad_directions[i, 0] = dx
        grad_directions[i, 1] = dy
        grad_directions[i, 2] = dz
