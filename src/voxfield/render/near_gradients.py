"""Gradients of what lies before the camera, made as small as those of what lies farther away.

A pixel's samples crowd in front of its camera: the volume that a cell shares with a frustum falls with the squared
distance, so that near cells are pushed as many times more often, and fill with floaters. Philip and Deschaintre 2023,
"Floaters No More: Radiance Field Gradient Scaling for Improved Near-Camera Training",
https://arxiv.org/abs/2305.02756, multiply the gradient of a sample at distance t by min(1, t^2).
"""

from typing import Any

import torch
from torch import Tensor

from voxfield.checks import check_shape


def scale_near_gradients(values: Tensor, distances: Tensor) -> Tensor:
    """``values`` themselves, whose gradient is multiplied by min(1, t^2) on the way back.

    Args:
        values: (R, S, ...), any floating dtype: what a field says of samples.
        distances: (R, S): how far from the camera they are, world units, at least 0. No gradient flows to them.
    """
    check_shape("distances", distances, (values.shape[0], values.shape[1]))
    factor = distances.detach().square().clamp(max=1.0).view(*distances.shape, *[1] * (values.ndim - 2))
    scaled: Tensor = _Scaled.apply(values, factor.to(values.dtype))  # type: ignore[no-untyped-call]
    return scaled


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None
