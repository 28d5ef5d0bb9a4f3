"""The Adam update on a CPU: runs of RUN entries, skipped whole where no gradient came, else updated as vectors."""

import numpy as np
import torch
from numba import njit

from voxfield.kernels.adam.api import AdamRule
from voxfield.kernels.threads import run_split

RUN = 16
"""Entries a run: one cache line of float32."""

_jit = njit(cache=True, nogil=True, fastmath={"nsz", "contract", "arcp"}, boundscheck=False, error_model="numpy")


@_jit
def _update(run_start, run_stop, parameter, gradient, first, second, constants, skip_zero):  # type: ignore[no-untyped-def]
    """``constants``: corrected rate, beta1, beta2, 1 / sqrt(1 - beta2^step), epsilon."""
    rate, beta1, beta2, root, epsilon = constants[0], constants[1], constants[2], constants[3], constants[4]
    rest1, rest2 = np.float32(1.0) - beta1, np.float32(1.0) - beta2
    zero = np.float32(0.0)
    for run in range(run_start, run_stop):
        start = run * RUN
        stop = min(start + RUN, parameter.size)
        if skip_zero:
            largest = zero
            for i in range(start, stop):
                largest = max(largest, abs(gradient[i]))
            # Not "largest == 0": a NaN must reach the parameters, where it is noticed.
            if largest <= zero and not np.isnan(gradient[start]):
                continue
        for i in range(start, stop):
            g = gradient[i]
            m = beta1 * first[i] + rest1 * g
            v = beta2 * second[i] + rest2 * g * g
            touched = not skip_zero or g != zero
            first[i] = m if touched else first[i]
            second[i] = v if touched else second[i]
            change = rate * m / (np.sqrt(v) * root + epsilon)
            parameter[i] -= change if touched else zero
            gradient[i] = zero


def adam_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    step: int,
    rule: AdamRule,
) -> None:
    """See `voxfield.kernels.adam.api.adam_step`."""
    constants = np.array(
        [
            rule.learning_rate / (1 - rule.beta1**step),
            rule.beta1,
            rule.beta2,
            (1 - rule.beta2**step) ** -0.5,
            rule.epsilon,
        ],
        np.float32,
    )
    arrays = [t.detach().view(-1).numpy() for t in (parameter, gradient, first_moment, second_moment)]
    run_split(_update, -(-parameter.numel() // RUN), *arrays, constants, rule.skip_zero, grain=1024)
