"""The distortion loss on a GPU: one ray a program, its samples in chunks joined by prefix sums.

Gradient: with D_i = sum over j < i of w_j (m_i - m_j), the sum over all j of w_j |m_i - m_j| is
2 D_i + sum over j of w_j (m_j - m_i), whose second part needs only two sums of the whole ray.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_CHUNK = 32
"""Samples a step: one a lane of the program's only warp."""


def distortion_loss(edges: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """See ``api.distortion_loss``. Returns (R,)."""
    loss: torch.Tensor = _DistortionLoss.apply(edges, weights)
    return loss


class _DistortionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        edges, weights = edges.contiguous(), weights.contiguous()
        rays, samples = weights.shape
        loss = weights.new_empty(rays)
        if rays:
            _forward[(rays,)](edges, weights, loss, samples, CHUNK=_CHUNK, num_warps=1, enable_fp_fusion=True)
        ctx.save_for_backward(edges, weights)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        edges, weights = ctx.saved_tensors
        rays, samples = weights.shape
        grad_weights = torch.empty_like(weights)
        if rays:
            _backward[(rays,)](
                edges,
                weights,
                grad_loss.contiguous(),
                grad_weights,
                samples,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        return None, grad_weights


@triton.jit
def _forward(edges, weights, loss, samples, CHUNK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    edges += ray * (samples + 1)
    weights += ray * samples
    total, before, apart_before = 0.0, 0.0, 0.0
    for first in range(0, samples, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        weight, length, growth = _chunk(edges, weights, sample, samples, before)
        apart = apart_before + tl.cumsum(growth, 0)
        total += tl.sum(weight * (2.0 * apart + weight * length / 3.0), 0)
        apart_before += tl.sum(growth, 0)
        before += tl.sum(weight, 0)
    tl.store(loss + ray, total)


@triton.jit
def _backward(edges, weights, grad_loss, grad_weights, samples, CHUNK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    edges += ray * (samples + 1)
    weights += ray * samples
    grad_weights += ray * samples
    gradient = tl.load(grad_loss + ray)
    # Distances from the ray's first edge, so that a constant added to the edges costs no digits.
    origin = tl.load(edges)
    whole, moment = 0.0, 0.0
    for first in range(0, samples, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        weight = tl.load(weights + sample, mask=sample < samples, other=0.0)
        whole += tl.sum(weight, 0)
        moment += tl.sum(weight * _midpoint(edges, sample, samples, origin), 0)
    before, apart_before = 0.0, 0.0
    for first in range(0, samples, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        weight, length, growth = _chunk(edges, weights, sample, samples, before)
        apart = apart_before + tl.cumsum(growth, 0)
        sum_of_distances = 2.0 * apart + moment - whole * _midpoint(edges, sample, samples, origin)
        found = gradient * (2.0 * sum_of_distances + 2.0 / 3.0 * weight * length)
        tl.store(grad_weights + sample, found, mask=sample < samples)
        apart_before += tl.sum(growth, 0)
        before += tl.sum(weight, 0)


@triton.jit
def _chunk(edges, weights, sample, samples, before):
    """Weights and lengths of a chunk, and by how much D_i grows at each of its samples."""
    valid = sample < samples
    weight = tl.load(weights + sample, mask=valid, other=0.0)
    left = tl.load(edges + sample, mask=valid, other=0.0)
    right = tl.load(edges + sample + 1, mask=valid, other=0.0)
    # Before the first sample nothing lies: its growth is 0 whatever is loaded here.
    previous = tl.load(edges + tl.maximum(sample - 1, 0), mask=valid, other=0.0)
    growth = (before + tl.cumsum(weight, 0) - weight) * 0.5 * (right - previous)
    return weight, right - left, growth


@triton.jit
def _midpoint(edges, sample, samples, origin):
    valid = sample < samples
    left = tl.load(edges + sample, mask=valid, other=0.0)
    right = tl.load(edges + sample + 1, mask=valid, other=0.0)
    return 0.5 * ((left - origin) + (right - origin))
