"""Activations whose gradients neither blow up nor die."""

from typing import Any

import torch
from torch.nn import functional as F

_EXPONENT_LIMIT = 15.0
_LEAST_SLOPE = 2e-3
"""The sigmoid's where it is half a step of 8 bits from its end."""


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


class _RecoveringSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        value = torch.sigmoid(raw)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (value,) = ctx.saved_tensors
        slope = torch.addcmul(value, value, value, value=-1.0)
        returning = gradient * (value - 0.5) > 0
        return torch.where(returning, slope.clamp(min=_LEAST_SLOPE), slope).mul_(gradient)


def recovering_sigmoid(raw: torch.Tensor) -> torch.Tensor:
    """``sigmoid(x)``, whose slope is at least 0.002 for gradients that lead back to its middle.

    Where most of what a field first learns is white (or black), momentum carries all of its colours to where float32
    knows only 1 (or 0) and the sigmoid's own slope is 0: what is not white would never be learnt.
    """
    return _RecoveringSigmoid.apply(raw)  # type: ignore[no-any-return, no-untyped-call]


class _RecoveringSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(raw)
        return F.softplus(raw)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (raw,) = ctx.saved_tensors
        slope = torch.sigmoid(raw)
        return torch.where(gradient < 0, slope.clamp(min=_LEAST_SLOPE), slope).mul_(gradient)


def recovering_softplus(raw: torch.Tensor) -> torch.Tensor:
    """``log(1 + exp(x))``, whose slope is at least 0.002 for gradients that lead away from 0."""
    return _RecoveringSoftplus.apply(raw)  # type: ignore[no-any-return, no-untyped-call]
