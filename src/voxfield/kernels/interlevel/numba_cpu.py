"""The interlevel loss on a CPU: fine and proposal intervals are walked side by side, S + P steps a ray.

The overlapped proposal weights are added up one by one, not taken as a difference of prefix sums: next to a sum of 1
the bound of a faint interval would keep no digits, and its gradient, a quotient of two faint numbers, be noise.
"""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split

_GRAIN = 64

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract"}, boundscheck=False, error_model="numpy")


@_jit
def _forward(start, stop, edges, weights, proposal_edges, proposal_weights, eps, loss, slopes):  # type: ignore[no-untyped-def]
    samples, last = weights.shape[1], proposal_weights.shape[1] - 1
    share, two = np.float32(1.0 / samples), np.float32(2.0)
    for ray in range(start, stop):
        total = np.float32(0.0)
        j = 0
        for i in range(samples):
            while j < last and proposal_edges[ray, j + 1] <= edges[ray, i]:
                j += 1
            bound = proposal_weights[ray, j]
            while j < last and proposal_edges[ray, j + 1] <= edges[ray, i + 1]:
                j += 1
                bound += proposal_weights[ray, j]
            weight = weights[ray, i]
            # Not max(): a NaN has to reach the loss.
            lack = np.float32(0.0) if weight <= bound else weight - bound
            quotient = lack / (weight + eps)
            total += lack * quotient
            slopes[ray, i] = -two * quotient * share
        loss[ray] = total * share


@_jit
def _backward(start, stop, edges, proposal_edges, slopes, grad_loss, grad_weights):  # type: ignore[no-untyped-def]
    samples, last = slopes.shape[1], grad_weights.shape[1] - 1
    for ray in range(start, stop):
        grad_weights[ray, :] = np.float32(0.0)
        j = 0
        for i in range(samples):
            slope = slopes[ray, i] * grad_loss[ray]
            while j < last and proposal_edges[ray, j + 1] <= edges[ray, i]:
                j += 1
            grad_weights[ray, j] += slope
            while j < last and proposal_edges[ray, j + 1] <= edges[ray, i + 1]:
                j += 1
                grad_weights[ray, j] += slope


class _InterlevelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, edges, weights, proposal_edges, proposal_weights, eps):  # type: ignore[no-untyped-def]
        edges, proposal_edges = edges.contiguous(), proposal_edges.contiguous()
        loss, slopes = torch.empty(len(weights)), torch.empty(weights.shape)
        run_split(
            _forward,
            len(weights),
            edges.numpy(),
            weights.contiguous().numpy(),
            proposal_edges.numpy(),
            proposal_weights.detach().contiguous().numpy(),
            np.float32(eps),
            loss.numpy(),
            slopes.numpy(),
            grain=_GRAIN,
        )
        ctx.save_for_backward(edges, proposal_edges, slopes)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):  # type: ignore[no-untyped-def]
        edges, proposal_edges, slopes = ctx.saved_tensors
        grad_weights = torch.empty(len(slopes), proposal_edges.shape[1] - 1)
        tensors = edges, proposal_edges, slopes, grad_loss.contiguous(), grad_weights
        run_split(_backward, len(slopes), *(tensor.numpy() for tensor in tensors), grain=_GRAIN)
        return None, None, None, grad_weights, None


def interlevel_loss(
    edges: torch.Tensor,
    weights: torch.Tensor,
    proposal_edges: torch.Tensor,
    proposal_weights: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """See ``api.interlevel_loss``. Returns (R,)."""
    return _InterlevelLoss.apply(edges, weights, proposal_edges, proposal_weights, eps)  # type: ignore[no-any-return, no-untyped-call]
