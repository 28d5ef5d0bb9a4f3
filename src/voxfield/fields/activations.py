"""Activations whose gradients stay finite."""

from typing import Any

import torch

_EXPONENT_LIMIT = 15.0


def _slope(exponent: torch.Tensor) -> torch.Tensor:
    """What `truncated_exp` takes for its derivative."""
    return torch.exp(exponent.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exponent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(exponent)
        return torch.exp(exponent)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (exponent,) = ctx.saved_tensors
        return gradient * _slope(exponent)


def truncated_exp(exponent: torch.Tensor) -> torch.Tensor:
    """``exp(x)``, whose gradient is ``exp(clamp(x, -15, 15))``: large densities do not blow up training.

    Source: instant-ngp (Mueller et al. 2022), density activation.
    """
    return _TruncatedExp.apply(exponent)  # type: ignore[no-any-return, no-untyped-call]


class _DensityAndFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        ctx.save_for_backward(outputs)
        ctx.set_materialize_grads(False)
        return torch.exp(outputs[:, 0]), outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, of_density: torch.Tensor | None, of_features: torch.Tensor | None) -> torch.Tensor | None:  # type: ignore[override]
        (outputs,) = ctx.saved_tensors
        if of_density is None:
            return of_features
        # Feature by feature, as the networks' kernel wants it.
        gradient = outputs.new_empty(outputs.shape[::-1]).T
        if of_features is None:
            gradient.zero_()
        else:
            gradient.copy_(of_features)
        gradient[:, 0] += of_density * _slope(outputs[:, 0])
        return gradient


def density_and_features(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``truncated_exp`` of the first column of ``outputs`` (N, C), and ``outputs``: the same values and gradients as by
    themselves, but what flows back is added up in one pass.
    """
    density, features = _DensityAndFeatures.apply(outputs)  # type: ignore[no-untyped-call]
    return density, features
