"""The distortion loss in plain torch: the specification of ``api.distortion_loss``, in the tensors' own precision.

The double sum is twice its half with j < i. There, D_i = sum over j < i of w_j (m_i - m_j) grows from one sample to the
next by W_i (m_i - m_(i-1)), with W_i the sum of the weights before i: two prefix sums of terms of one sign.
"""

import torch


def distortion_loss(edges: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """See ``api.distortion_loss``. Returns (R,)."""
    midpoints, lengths = 0.5 * (edges[:, :-1] + edges[:, 1:]), edges.diff(dim=1)
    before = torch.nn.functional.pad(weights.cumsum(1), (1, 0))[:, 1:-1]  # (R, S - 1): W_i from i = 1 on
    apart = torch.nn.functional.pad((before * midpoints.diff(dim=1)).cumsum(1), (1, 0))  # (R, S)
    between = 2 * (weights * apart[:, : weights.shape[1]]).sum(1)
    return between + (weights.square() * lengths).sum(1) / 3
