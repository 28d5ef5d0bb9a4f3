"""Inverse transform sampling on a CPU: drawn numbers and cumulative sum rise together, so one walk serves a ray."""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split


def pdf_resample(
    edges: torch.Tensor,
    weights: torch.Tensor,
    num_samples: int,
    jitter: torch.Tensor,
    padding: float,
    eps: float,
) -> torch.Tensor:
    """See ``api.pdf_resample``. Returns (R, num_samples + 1)."""
    resampled = torch.empty(len(weights), num_samples + 1)
    arrays = [tensor.detach().contiguous().numpy() for tensor in (edges, weights, jitter)]
    run_split(_walk, len(weights), *arrays, np.float32(padding), np.float32(eps), resampled.numpy(), grain=64)
    return resampled


@njit(nogil=True, fastmath={"nsz", "contract"}, boundscheck=False, error_model="numpy")
def _walk(start, stop, edges, weights, jitter, padding, eps, resampled):
    samples, count = weights.shape[1], resampled.shape[1]
    zero, one = np.float32(0.0), np.float32(1.0)
    jitter_step = 1 if jitter.shape[1] > 1 else 0
    for ray in range(start, stop):
        total = zero
        for i in range(samples):
            total += weights[ray, i] + padding
        lift = zero
        if total < eps:
            lift = (eps - total) / np.float32(samples)
            total = eps
        scale = total / np.float32(count)
        interval, below, width = 0, zero, weights[ray, 0] + padding + lift
        for k in range(count):
            drawn = (np.float32(k) + jitter[ray, k * jitter_step]) * scale
            while drawn >= below + width and interval < samples - 1:
                below += width
                interval += 1
                width = weights[ray, interval] + padding + lift
            # Explicit comparisons: a NaN passes through them.
            fraction = one if width == zero else (drawn - below) / width
            if fraction > one:
                fraction = one
            elif fraction < zero:
                fraction = zero
            left = edges[ray, interval]
            resampled[ray, k] = left + fraction * (edges[ray, interval + 1] - left)
