"""The definition of `fused_mlp` in plain torch."""

from collections.abc import Sequence

import torch


def fused_mlp(inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """See `voxfield.kernels.fused_mlp.api.fused_mlp`."""
    hidden = inputs
    for layer, weight in enumerate(weights):
        if layer:
            hidden = hidden.relu()
        hidden = hidden @ weight.T
    return hidden
