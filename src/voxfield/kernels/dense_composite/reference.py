"""Dense compositing in plain torch: the specification of ``api.py``, in the tensors' own precision."""

import torch


def dense_composite(
    density: torch.Tensor, colour: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.dense_composite``. Returns rgb (R, C), opacity (R,), depth (R,), weights (R, S)."""
    weights = dense_weights(density, edges)
    midpoints = 0.5 * (edges[:, :-1] + edges[:, 1:])
    return (weights[..., None] * colour).sum(1), weights.sum(1), (weights * midpoints).sum(1), weights


def dense_weights(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """See ``api.dense_weights``. Returns (R, S)."""
    optical = density * edges.diff(dim=1)
    alpha = -torch.expm1(-optical)  # 1 - exp(-optical), exact for thin samples too
    before = torch.nn.functional.pad(optical.cumsum(1), (1, 0))[:, :-1]
    return alpha * torch.exp(-before)  # T_i: the product of (1 - alpha_j) over j < i
