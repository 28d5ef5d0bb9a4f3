"""The contract of ``chamfer_distances``."""

import torch

from voxfield.checks import check_dtype, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def chamfer_distances(
    first: torch.Tensor, second: torch.Tensor, *, implementation: Implementation | None = None
) -> torch.Tensor:
    """Chamfer distance of every set of points to every other: the mean squared distance from each point to the nearest
    of the other set, both ways summed.

    ``d(A, B) = mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2`` (Fan, Su and Guibas 2017,
    https://arxiv.org/abs/1612.00603, section 4.2, with means for sums).

    Args:
        first: (N, P, 3), N sets of P points, at least one; float32 (float64: reference only), finite.
        second: (M, Q, 3), same dtype and device, finite.
        implementation: None chooses by device.

    Returns:
        (N, M), of the points' dtype, in squared units.

    Gradients:
        None.

    Raises:
        InputError: wrong shape, dtype or device, no points in a set, or a coordinate that is not finite.
        UnavailableError: the implementation asked for cannot run.
    """
    for name, points in (("first", first), ("second", second)):
        check_shape(name, points, ("N", "P", 3))
        check_dtype(name, points, (torch.float32, torch.float64))
        if not points.shape[1]:
            raise InputError(f"{name}: expected at least one point in a set, got shape {tuple(points.shape)}.")
        if not torch.isfinite(points).all():
            raise InputError(f"{name}: some coordinates are NaN or infinite. Leave those sets out.")
    check_dtype("second", second, (first.dtype,))
    device = check_same_device(first=first, second=second)
    chosen = resolve(implementation, device, "chamfer", dtype=first.dtype)
    with torch.no_grad():
        distances: torch.Tensor = load_backend("chamfer", chosen).chamfer_distances(first, second)
    return distances
