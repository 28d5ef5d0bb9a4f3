"""The interlevel loss on a GPU: one ray a program, every fine interval compared with every proposal interval.

S * P comparisons a ray, coalesced and uniform, and sums of the overlapped weights alone: no searches, no atomics, and
no differences of prefix sums, of which a faint interval's bound would keep no digits.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_CHUNK = 32


def interlevel_loss(
    edges: torch.Tensor,
    weights: torch.Tensor,
    proposal_edges: torch.Tensor,
    proposal_weights: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """See ``api.interlevel_loss``. Returns (R,)."""
    loss: torch.Tensor = _InterlevelLoss.apply(edges, weights, proposal_edges, proposal_weights, eps)
    return loss


class _InterlevelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        edges: torch.Tensor,
        weights: torch.Tensor,
        proposal_edges: torch.Tensor,
        proposal_weights: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        edges, proposal_edges = edges.contiguous(), proposal_edges.contiguous()
        rays, samples = weights.shape
        loss, slopes = weights.new_empty(rays), weights.new_empty(rays, samples)
        if rays:
            _forward[(rays,)](
                edges,
                weights.contiguous(),
                proposal_edges,
                proposal_weights.contiguous(),
                loss,
                slopes,
                float(eps),
                samples,
                proposal_weights.shape[1],
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        ctx.save_for_backward(edges, proposal_edges, slopes)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        edges, proposal_edges, slopes = ctx.saved_tensors
        rays, samples = slopes.shape
        proposals = proposal_edges.shape[1] - 1
        grad_weights = slopes.new_empty(rays, proposals)
        if rays:
            _backward[(rays,)](
                edges,
                proposal_edges,
                slopes,
                grad_loss.contiguous(),
                grad_weights,
                samples,
                proposals,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        return None, None, None, grad_weights, None


@triton.jit
def _forward(
    edges,
    weights,
    proposal_edges,
    proposal_weights,
    loss,
    slopes,
    eps,
    samples,
    proposals,
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64)
    edges += ray * (samples + 1)
    weights += ray * samples
    slopes += ray * samples
    proposal_edges += ray * (proposals + 1)
    proposal_weights += ray * proposals
    total = 0.0
    for first in range(0, samples, CHUNK):
        i = first + tl.arange(0, CHUNK)
        bound = tl.zeros((CHUNK,), tl.float32)
        for first_proposal in range(0, proposals, CHUNK):
            j = first_proposal + tl.arange(0, CHUNK)
            overlaps = _overlaps(edges, proposal_edges, i, j, samples, proposals)
            offered = tl.load(proposal_weights + j, mask=j < proposals, other=0.0)
            bound += tl.sum(tl.where(overlaps, offered[None, :], 0.0), 1)
        weight = tl.load(weights + i, mask=i < samples, other=0.0)
        lack = weight - bound
        lack = tl.where(lack <= 0.0, 0.0, lack)  # keeps NaN, as maximum() does not
        quotient = lack / (weight + eps)
        total += tl.sum(lack * quotient, 0)
        tl.store(slopes + i, -2.0 * quotient / samples, mask=i < samples)
    tl.store(loss + ray, total / samples)


@triton.jit
def _backward(edges, proposal_edges, slopes, grad_loss, grad_weights, samples, proposals, CHUNK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    edges += ray * (samples + 1)
    slopes += ray * samples
    proposal_edges += ray * (proposals + 1)
    grad_weights += ray * proposals
    gradient = tl.load(grad_loss + ray)
    for first_proposal in range(0, proposals, CHUNK):
        j = first_proposal + tl.arange(0, CHUNK)
        found = tl.zeros((CHUNK,), tl.float32)
        for first in range(0, samples, CHUNK):
            i = first + tl.arange(0, CHUNK)
            overlaps = _overlaps(edges, proposal_edges, i, j, samples, proposals)
            slope = tl.load(slopes + i, mask=i < samples, other=0.0)
            found += tl.sum(tl.where(overlaps, slope[:, None], 0.0), 0)
        tl.store(grad_weights + j, found * gradient, mask=j < proposals)


@triton.jit
def _overlaps(edges, proposal_edges, i, j, samples, proposals):
    """Whether fine interval i and proposal interval j overlap, for a chunk of each: (CHUNK, CHUNK)."""
    left = tl.load(edges + i, mask=i < samples, other=0.0)
    right = tl.load(edges + i + 1, mask=i < samples, other=0.0)
    low = tl.load(proposal_edges + j, mask=j < proposals, other=0.0)
    high = tl.load(proposal_edges + j + 1, mask=j < proposals, other=0.0)
    reaches = (high[None, :] > left[:, None]) | (j[None, :] == proposals - 1)
    starts = (low[None, :] <= right[:, None]) | (j[None, :] == 0)
    return reaches & starts & (i[:, None] < samples) & (j[None, :] < proposals)
