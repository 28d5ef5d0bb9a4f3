"""The weights of the blur, the same for every implementation."""

import math

import numpy as np


def gaussian_weights(sigma: float) -> np.ndarray:
    """(radius + 1,) float64 weights of the voxels at distances 0, 1, ... radius; with the mirrored ones they sum to 1.

    Cut at four standard deviations, in scipy's own operations and order, so that not one bit differs.
    """
    radius = math.floor(4.0 * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    at = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * at**2)
    weights = weights / weights.sum()
    return np.ascontiguousarray(weights[radius:])
