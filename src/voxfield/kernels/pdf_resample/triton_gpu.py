"""Inverse transform sampling on a GPU: one ray a program, every drawn number compared with every cumulative sum.

S * M comparisons a ray instead of M searches: they are coalesced and uniform, and there are only some ten thousand.
"""

import torch
import triton
import triton.language as tl

_CHUNK = 32


def pdf_resample(
    edges: torch.Tensor,
    weights: torch.Tensor,
    num_samples: int,
    jitter: torch.Tensor,
    padding: float,
    eps: float,
) -> torch.Tensor:
    """See ``api.pdf_resample``. Returns (R, num_samples + 1)."""
    rays, samples = weights.shape
    resampled = weights.new_empty(rays, num_samples + 1)
    if rays:
        _resample[(rays,)](
            edges.detach().contiguous(),
            weights.detach().contiguous(),
            jitter.detach().contiguous(),
            resampled,
            float(padding),
            float(eps),
            samples,
            num_samples + 1,
            jitter.shape[1],
            CHUNK=_CHUNK,
            num_warps=1,
            enable_fp_fusion=True,
        )
    return resampled


@triton.jit
def _resample(
    edges,
    weights,
    jitter,
    resampled,
    padding,
    eps,
    samples,
    count,
    jitters,
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64)
    edges += ray * (samples + 1)
    weights += ray * samples
    jitter += ray * jitters
    resampled += ray * count
    lane = tl.arange(0, CHUNK)
    total = 0.0
    for first in range(0, samples, CHUNK):
        valid = first + lane < samples
        total += tl.sum(tl.where(valid, tl.load(weights + first + lane, mask=valid, other=0.0) + padding, 0.0), 0)
    lift = tl.where(total < eps, (eps - total) / samples, 0.0) + padding
    total = tl.where(total < eps, eps, total)
    for first_new in range(0, count, CHUNK):
        slot = first_new + lane
        asked = slot < count
        shift = tl.load(jitter + tl.where(jitters > 1, slot, 0), mask=asked, other=0.0)
        drawn = (slot + shift) / count * total
        interval = tl.zeros((CHUNK,), tl.int32)
        below = tl.zeros((CHUNK,), tl.float32)
        above = tl.full((CHUNK,), float("inf"), tl.float32)
        before = 0.0
        for first in range(0, samples, CHUNK):
            valid = first + lane < samples
            padded = tl.where(valid, tl.load(weights + first + lane, mask=valid, other=0.0) + lift, 0.0)
            after = before + tl.cumsum(padded, 0)
            # Both neighbours come from the same list of sums, so that rounding leaves no gap between intervals.
            passed = valid[None, :] & (after[None, :] <= drawn[:, None])
            ahead = valid[None, :] & (after[None, :] > drawn[:, None])
            interval += tl.sum(passed.to(tl.int32), 1)
            below = tl.maximum(below, tl.max(tl.where(passed, after[None, :], 0.0), 1))
            above = tl.minimum(above, tl.min(tl.where(ahead, after[None, :], float("inf")), 1))
            before += tl.sum(padded, 0)
        # Past the whole sum, by rounding: the last interval's end.
        end = interval >= samples
        interval = tl.minimum(interval, samples - 1)
        fraction = (drawn - below) / (above - below)
        fraction = tl.where(end | (fraction > 1.0), 1.0, tl.where(fraction < 0.0, 0.0, fraction))
        left = tl.load(edges + interval, mask=asked, other=0.0)
        right = tl.load(edges + interval + 1, mask=asked, other=0.0)
        # A NaN drawn compares with nothing, so it is still in the fraction.
        tl.store(resampled + slot, left + fraction * (right - left), mask=asked)
