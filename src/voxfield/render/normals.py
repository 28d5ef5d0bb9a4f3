"""Which way surfaces face: what rays see of samples' normals, and the losses of learnt normals.

Normals are unit vectors in world axes that point out of matter; a zero vector stands for none. Source: Verbin et al.
2022, Ref-NeRF, https://arxiv.org/abs/2112.03907, section 4.
"""

import torch
from torch import Tensor

from voxfield.checks import check_shape


def composite_normals(weights: Tensor, normals: Tensor) -> Tensor:
    """What rays see: the direction of the weighted sum.

    Args:
        weights: (R, S), at least 0.
        normals: (R, S, 3).

    Returns:
        (R, 3): unit, or zero where nothing is seen. Differentiable.
    """
    _check(weights, normals)
    return torch.nn.functional.normalize((weights[..., None] * normals).sum(1), dim=1, eps=1e-10)


def orientation_loss(weights: Tensor, normals: Tensor, directions: Tensor) -> Tensor:
    """How much of what rays see faces away from them: ``sum over i of w_i max(0, n_i . d)^2``.

    Args:
        weights: (R, S).
        normals: (R, S, 3), unit or zero.
        directions: (R, 3), unit, away from the camera.

    Returns:
        (R,): each ray's own. Differentiable in all three.
    """
    _check(weights, normals)
    check_shape("directions", directions, (weights.shape[0], 3))
    away = (normals * directions[:, None]).sum(-1).clamp(min=0.0)
    return (weights * away.square()).sum(1)


def predicted_normal_loss(weights: Tensor, normals: Tensor, predicted: Tensor) -> Tensor:
    """How far learnt normals are from the density's: ``sum over i of w_i |n_i - p_i|^2``.

    Args:
        weights: (R, S).
        normals: (R, S, 3).
        predicted: (R, S, 3).

    Returns:
        (R,): each ray's own. Differentiable in all three.
    """
    _check(weights, normals)
    check_shape("predicted", predicted, tuple(normals.shape))
    return (weights * (normals - predicted).square().sum(-1)).sum(1)


def _check(weights: Tensor, normals: Tensor) -> None:
    check_shape("weights", weights, ("R", "S"))
    check_shape("normals", normals, (*weights.shape, 3))
