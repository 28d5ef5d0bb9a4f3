"""The slab test on the CPU: one pass over the rays."""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split

_INFINITY = np.float32(np.inf)

_GRAIN = 16384
"""Rays a task takes at least: about 100 microseconds of work."""


def ray_box(origins: torch.Tensor, directions: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.ray_box``."""
    t_near, t_far = torch.empty(len(origins)), torch.empty(len(origins))
    arrays = [tensor.detach().contiguous().numpy() for tensor in (origins, directions, box)]
    run_split(_slabs, len(origins), *arrays, t_near.numpy(), t_far.numpy(), grain=_GRAIN)
    return t_near, t_far


# No fast maths: the test relies on infinities and on comparisons with NaN being false.
@njit(nogil=True, boundscheck=False, error_model="numpy")
def _slabs(start, stop, origins, directions, box, t_near, t_far):
    for ray in range(start, stop):
        near, far = np.float32(0), _INFINITY
        hit = True
        for axis in range(3):
            origin, direction = origins[ray, axis], directions[ray, axis]
            if direction == 0:
                hit &= (box[0, axis] <= origin) & (origin <= box[1, axis])
            else:
                # Division, not multiplication by 1 / direction, which is infinite for a tiny direction.
                first, second = (box[0, axis] - origin) / direction, (box[1, axis] - origin) / direction
                if first > second:
                    first, second = second, first
                hit &= (first <= far) & (second >= near)
                near, far = max(near, first), min(far, second)
        hit &= near <= far
        t_near[ray] = near if hit else _INFINITY
        t_far[ray] = far if hit else -_INFINITY
