"""Activations whose gradients stay finite."""

from typing import Any

import torch

_EXPONENT_LIMIT = 15.0


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exponent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(exponent)
        return torch.exp(exponent)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (exponent,) = ctx.saved_tensors
        return gradient * torch.exp(exponent.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))


def truncated_exp(exponent: torch.Tensor) -> torch.Tensor:
    """``exp(x)``, whose gradient is ``exp(clamp(x, -15, 15))``: large densities do not blow up training.

    Source: instant-ngp (Mueller et al. 2022), density activation.
    """
    return _TruncatedExp.apply(exponent)  # type: ignore[no-any-return, no-untyped-call]
