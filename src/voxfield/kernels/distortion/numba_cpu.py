"""The distortion loss on a CPU: one pass along a ray, and for the gradient one back.

dL/dw_i = 2 (sum over j of w_j |m_i - m_j|) + 2/3 w_i d_i: the part with j < i is summed on the way forth, that with
j > i on the way back.
"""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split

_GRAIN = 256

_jit = njit(nogil=True, fastmath={"nsz", "contract"}, boundscheck=False, error_model="numpy")


@_jit
def _forward(start, stop, edges, weights, loss):  # type: ignore[no-untyped-def]
    half, two, third = np.float32(0.5), np.float32(2.0), np.float32(1.0 / 3.0)
    for ray in range(start, stop):
        total, before, apart = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        previous = edges[ray, 0]
        for i in range(weights.shape[1]):
            # Half the way from the edge before the last to the next is the way between two midpoints.
            apart += before * half * (edges[ray, i + 1] - previous)
            previous = edges[ray, i]
            weight = weights[ray, i]
            total += weight * (two * apart + third * weight * (edges[ray, i + 1] - edges[ray, i]))
            before += weight
        loss[ray] = total


@_jit
def _backward(start, stop, edges, weights, grad_loss, grad_weights):  # type: ignore[no-untyped-def]
    half, two, two_thirds = np.float32(0.5), np.float32(2.0), np.float32(2.0 / 3.0)
    samples = weights.shape[1]
    for ray in range(start, stop):
        before, apart = np.float32(0.0), np.float32(0.0)
        previous = edges[ray, 0]
        for i in range(samples):
            apart += before * half * (edges[ray, i + 1] - previous)
            previous = edges[ray, i]
            own = two_thirds * weights[ray, i] * (edges[ray, i + 1] - edges[ray, i])
            grad_weights[ray, i] = grad_loss[ray] * (two * apart + own)
            before += weights[ray, i]
        behind, apart = np.float32(0.0), np.float32(0.0)
        following = edges[ray, samples]
        for i in range(samples - 1, -1, -1):
            apart += behind * half * (following - edges[ray, i])
            following = edges[ray, i + 1]
            grad_weights[ray, i] += grad_loss[ray] * two * apart
            behind += weights[ray, i]


class _DistortionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, edges, weights):  # type: ignore[no-untyped-def]
        edges, weights = edges.contiguous(), weights.contiguous()
        loss = torch.empty(len(weights))
        run_split(_forward, len(weights), edges.numpy(), weights.detach().numpy(), loss.numpy(), grain=_GRAIN)
        ctx.save_for_backward(edges, weights)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):  # type: ignore[no-untyped-def]
        edges, weights = ctx.saved_tensors
        grad_weights = torch.empty(weights.shape)
        arrays = (tensor.detach().numpy() for tensor in (edges, weights, grad_loss.contiguous(), grad_weights))
        run_split(_backward, len(weights), *arrays, grain=_GRAIN)
        return None, grad_weights


def distortion_loss(edges: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """See ``api.distortion_loss``. Returns (R,)."""
    return _DistortionLoss.apply(edges, weights)  # type: ignore[no-any-return, no-untyped-call]
