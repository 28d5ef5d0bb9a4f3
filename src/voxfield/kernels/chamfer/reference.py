"""Chamfer distances in plain torch: the specification of ``api.chamfer_distances``, in the tensors' own precision."""

import torch


def chamfer_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """See ``api.chamfer_distances``."""
    distances = first.new_zeros(len(first), len(second))
    for row, points in enumerate(first):
        for column, others in enumerate(second):
            # From differences: the expanded square loses the distances of near points to rounding.
            squared = (points[:, None] - others[None]).square().sum(2)
            distances[row, column] = squared.amin(1).mean() + squared.amin(0).mean()
    return distances
