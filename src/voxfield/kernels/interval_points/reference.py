"""The intervals' midpoints in plain torch: the specification of ``api.interval_points``, in the tensors' precision."""

import torch


def interval_points(
    origins: torch.Tensor, directions: torch.Tensor, edges: torch.Tensor, box: torch.Tensor, contracted: bool
) -> torch.Tensor:
    """See ``api.interval_points``."""
    centre, half = box.mean(0), 0.5 * (box[1] - box[0])
    if contracted:
        half = half.max().expand(3)
    # In units of the box before they are multiplied out: R values to change instead of R * S.
    starts, ways = (origins - centre) / half, directions / half
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    points = (starts.T[:, :, None] + ways.T[:, :, None] * middles).reshape(3, -1)
    if not contracted:
        return (points * 0.5 + 0.5).T
    return (contract_linf(points) * 0.25 + 0.5).T


def contract_linf(points: torch.Tensor) -> torch.Tensor:
    """``points`` (3, N) drawn into [-2, 2]^3."""
    # Clamped, the one formula holds inside the unit cube too: at 1 it multiplies by 1.
    inverse = points.abs().amax(0).clamp(min=1.0).reciprocal()
    return points * ((2.0 - inverse) * inverse)
