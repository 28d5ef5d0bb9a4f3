"""The interlevel loss in plain torch: the specification of ``api.interlevel_loss``, in the tensors' own precision.

In float32 the difference of two prefix sums leaves faint bounds an error of about 1e-7; the other implementations add
up the overlapped weights themselves.
"""

import torch


def interlevel_loss(
    edges: torch.Tensor,
    weights: torch.Tensor,
    proposal_edges: torch.Tensor,
    proposal_weights: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """See ``api.interlevel_loss``. Returns (R,)."""
    last = proposal_weights.shape[1] - 1
    left, right = edges[:, :-1].contiguous(), edges[:, 1:].contiguous()
    inner = proposal_edges[:, 1:-1].contiguous()  # the outer two count as infinitely far
    first_overlapped = torch.searchsorted(inner, left, right=True)  # (R, S), 0 to last
    last_overlapped = torch.searchsorted(inner, right, right=True).clamp(max=last)
    cumulative = torch.nn.functional.pad(proposal_weights.cumsum(1), (1, 0))
    bound = cumulative.gather(1, last_overlapped + 1) - cumulative.gather(1, first_overlapped)
    return ((weights - bound).clamp(min=0).square() / (weights + eps)).mean(1)
