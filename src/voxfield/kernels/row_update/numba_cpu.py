"""`row_update` on a CPU: runs of neighbouring touched rows are updated as one stretch of memory.

Indices are unsigned: signed ones might count from the end, which keeps the compiler from using vectors.
"""

from typing import Any

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.row_update.api import RowRule
from voxfield.kernels.threads import run_split

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")


@_jit
def _end_of_run(touched, row, stop):  # type: ignore[no-untyped-def]
    while row < stop and touched[row]:
        row += 1
    return row


@_jit
def _sgd(first, stop, width, parameter, gradient, touched, rate):  # type: ignore[no-untyped-def]
    row = first
    while row < stop:
        end = _end_of_run(touched, row, stop)
        for i in range(np.uint64(row * width), np.uint64(end * width)):
            parameter[i] -= rate * gradient[i]
            gradient[i] = np.float32(0.0)
        row = end + 1


@_jit
def _rmsprop(first, stop, width, parameter, gradient, second, touched, rate, beta2, epsilon):  # type: ignore[no-untyped-def]
    one = np.float32(1.0)
    row = first
    while row < stop:
        end = _end_of_run(touched, row, stop)
        for i in range(np.uint64(row * width), np.uint64(end * width)):
            g, v = gradient[i], second[i]
            square = g * g
            mixed = beta2 * v + (one - beta2) * square
            v = square if v == np.float32(0.0) else mixed
            second[i] = v
            parameter[i] -= rate * g / (np.sqrt(v) + epsilon)
            gradient[i] = np.float32(0.0)
        row = end + 1


@_jit
def _adam(  # type: ignore[no-untyped-def]
    first, stop, width, parameter, gradient, first_moment, second, touched, rate, root, beta1, beta2, epsilon
):
    one = np.float32(1.0)
    row = first
    while row < stop:
        end = _end_of_run(touched, row, stop)
        for i in range(np.uint64(row * width), np.uint64(end * width)):
            g = gradient[i]
            m = beta1 * first_moment[i] + (one - beta1) * g
            v = beta2 * second[i] + (one - beta2) * g * g
            first_moment[i], second[i] = m, v
            parameter[i] -= rate * m / (root * np.sqrt(v) + epsilon)
            gradient[i] = np.float32(0.0)
        row = end + 1


def row_update(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    touched: torch.Tensor,
    step: int,
    rule: RowRule,
) -> None:
    """See ``api.row_update``."""
    width = int(np.prod(parameter.shape[1:], dtype=np.int64))
    flat = [tensor.detach().view(-1).numpy() for tensor in (parameter, gradient, *moments)]
    rate, root = (np.float32(value) for value in rule.factors(step))
    beta1, beta2, epsilon = (np.float32(value) for value in (rule.beta1, rule.beta2, rule.epsilon))
    constants = {"sgd": (), "rmsprop": (beta2, epsilon), "adam": (root, beta1, beta2, epsilon)}[rule.kind]
    kernels: dict[str, Any] = {"sgd": _sgd, "rmsprop": _rmsprop, "adam": _adam}
    run_split(kernels[rule.kind], len(parameter), width, *flat, touched.numpy(), rate, *constants, grain=4096)
