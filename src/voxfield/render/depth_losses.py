"""Losses that compare where a ray's light comes from with how far away things were observed to be.

A ray has S adjoining intervals with edges t_0 ... t_S (distances in world units), middles m_i, lengths d_i and weights
w_i (`voxfield.kernels.dense_composite`). D is the observed distance, 0 where nothing is known: such rays lose nothing.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_dtype, check_range, check_shape

DepthLoss = Literal["ds_nerf", "urf"]

_EPSILON: Final = 1e-7
"""Added to weights under a logarithm."""
_URF_DEVIATIONS: Final = 3.0
"""Standard deviations of the URF loss's target within ``sigma``."""


@dataclass(frozen=True, kw_only=True)
class DepthSupervisionConfig:
    """How a model learns from observed distances. Defaults: nerfstudio's depth-nerfacto with its falling sigma."""

    loss: Literal["off", "ds_nerf", "urf"] = "off"
    """``ds_nerf``: all light should end close to the observed distance; ``urf``: and none before it, exactly there."""
    weight: float = 1e-3
    """Weight of the loss, at least 0."""
    initial_sigma: float = 0.2
    """How far off observed distances are taken to be at step 0, world units, above 0."""
    sigma: float = 0.01
    """The least that falls to, above 0. Set ``initial_sigma`` to the same for a constant one."""
    sigma_decay: float = 0.99985
    """Factor on it a step, above 0 to 1."""

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, ("off", "ds_nerf", "urf"))
        check_range("weight", self.weight, minimum=0.0)
        check_range("sigma", self.sigma, above=0.0, maximum=1e6)
        check_range("initial_sigma", self.initial_sigma, above=0.0, maximum=1e6)
        check_range("sigma_decay", self.sigma_decay, above=0.0, maximum=1.0)

    def sigma_at(self, step: int) -> float:
        """The sigma of step ``step`` (from 0), world units."""
        return max(self.sigma, self.initial_sigma * self.sigma_decay**step)


def depth_loss(kind: DepthLoss, weights: Tensor, edges: Tensor, distances: Tensor, sigma: float) -> Tensor:
    """``ds_nerf_loss`` or ``urf_loss`` by name."""
    check_choice("kind", kind, ("ds_nerf", "urf"))
    return (ds_nerf_loss if kind == "ds_nerf" else urf_loss)(weights, edges, distances, sigma)


def ds_nerf_loss(weights: Tensor, edges: Tensor, distances: Tensor, sigma: float) -> Tensor:
    """Up to a constant, the Kullback-Leibler divergence of a normal distribution about D from the weights. ::

        loss = - sum over i of log(w_i + 1e-7) exp(-(m_i - D)^2 / (2 sigma^2)) d_i

    Source: Deng et al. 2022, Depth-supervised NeRF, https://arxiv.org/abs/2107.02791. nerfstudio divides by 2 sigma in
    place of 2 sigma^2: its 0.01 is a sigma of 0.1 here.

    Args:
        weights: (R, S), any floating dtype, at least 0.
        edges: (R, S + 1), never falling, same dtype. No gradient.
        distances: (R,), same dtype; 0 where nothing is known.
        sigma: standard deviation of D, world units, above 0.

    Returns:
        (R,): each ray's own, 0 where nothing is known.

    Gradients:
        To ``weights``, twice differentiable.

    Raises:
        InputError: wrong shapes or dtypes, or sigma out of range.
    """
    apart, lengths = _checked(weights, edges, distances, sigma)
    target = torch.exp(-apart.square() / (2 * sigma**2)) * lengths
    return _known(-(torch.log(weights + _EPSILON) * target).sum(1), distances)


def urf_loss(weights: Tensor, edges: Tensor, distances: Tensor, sigma: float) -> Tensor:
    """Expected distance, emptiness before D, and a peak about it. ::

        loss = (sum of w_i m_i / sum of w_i - D)^2
             + sum over D - sigma <= m_i <= D + sigma of (w_i - N(m_i - D; sigma / 3))^2
             + sum over m_i < D - sigma of w_i^2

    with N the density of the normal distribution of that standard deviation. Source: Rematas et al. 2022, Urban
    Radiance Fields, https://arxiv.org/abs/2111.14643, in the sums over samples of nerfstudio. Arguments, result,
    gradients and errors are those of ``ds_nerf_loss``.
    """
    apart, _ = _checked(weights, edges, distances, sigma)
    middles = apart + distances[:, None]
    expected = (weights * middles).sum(1) / weights.sum(1).clamp(min=1e-10)
    deviation = sigma / _URF_DEVIATIONS
    peak = torch.exp(-apart.square() / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))
    near, before = apart.abs() <= sigma, apart < -sigma
    sight = torch.where(near, (weights - peak).square(), torch.where(before, weights.square(), 0.0)).sum(1)
    return _known((expected - distances).square() + sight, distances)


def _checked(weights: Tensor, edges: Tensor, distances: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """(m_i - D, d_i), (R, S) each."""
    check_shape("weights", weights, ("R", "S"))
    check_shape("edges", edges, (weights.shape[0], weights.shape[1] + 1))
    check_shape("distances", distances, (weights.shape[0],))
    for name, tensor in (("edges", edges), ("distances", distances)):
        check_dtype(name, tensor, (weights.dtype,))
    check_range("sigma", sigma, above=0.0)
    edges, distances = edges.detach(), distances.detach()
    return 0.5 * (edges[:, 1:] + edges[:, :-1]) - distances[:, None], edges.diff(dim=1)


def _known(loss: Tensor, distances: Tensor) -> Tensor:
    return torch.where(distances > 0, loss, 0.0)
