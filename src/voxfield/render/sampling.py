"""Choosing among packed samples: those that light reaches, or the next few along each ray."""

import math
from collections.abc import Callable

import torch

from voxfield.kernels.march_grid import PackedSamples


def visible_counts(
    samples: PackedSamples,
    thickness_of: Callable[[torch.Tensor], torch.Tensor],
    threshold: float,
    *,
    first: int = 6,
    longest: int = 64,
) -> torch.Tensor:
    """How many of each ray's first samples light reaches: those with transmittance T_i >= ``threshold``.

    Rays are followed in waves, so that samples far behind a surface are never looked at.

    Args:
        samples: packed samples of R rays.
        thickness_of: optical depth (N,), density times length and at least 0, of the samples with the given indices.
        threshold: in (0, 1).
        first: samples of a ray in the first wave; waves double up to ``longest``.

    Returns:
        (R,) int64.
    """
    limit = -math.log(threshold)
    ends = samples.ray_offsets[1:]
    cursor = samples.ray_offsets[:-1].clone()
    counts, passed = torch.zeros_like(cursor), torch.zeros(len(cursor), dtype=torch.float64, device=cursor.device)
    length = first
    while True:
        alive = ((cursor < ends) & (passed <= limit)).nonzero()[:, 0]
        if not len(alive):
            return counts
        index, offsets = take_wave(samples.ray_offsets, cursor, alive, length)
        # Clamped and in float64, so that one opaque ray does not drown its successors in the running sum.
        total = thickness_of(index).double().clamp_(max=2 * limit).cumsum(0)
        total = torch.cat([total.new_zeros(1), total])
        share = offsets.diff()
        before = total[:-1] + (passed[alive] - total[offsets[:-1]]).repeat_interleave(share)
        reached = torch.cat([offsets.new_zeros(1), (before <= limit).cumsum(0)])
        counts[alive] += reached[offsets[1:]] - reached[offsets[:-1]]
        passed[alive] += total[offsets[1:]] - total[offsets[:-1]]
        length = min(2 * length, longest)


def keep_first(samples: PackedSamples, counts: torch.Tensor) -> PackedSamples:
    """The first ``counts`` (R,) int64 samples of each ray."""
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = (samples.ray_offsets[:-1] - offsets[:-1]).repeat_interleave(counts)
    index = torch.arange(len(shift), device=shift.device) + shift
    return PackedSamples(
        t_start=samples.t_start[index],
        t_end=samples.t_end[index],
        ray_index=samples.ray_index[index],
        ray_offsets=offsets,
        positions=samples.positions.T.index_select(1, index).T,
        pixel_area=samples.pixel_area,
    )


def take_wave(
    ray_offsets: torch.Tensor, cursor: torch.Tensor, rays: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next samples along some rays, and move their cursors past them.

    Args:
        ray_offsets: (R + 1,) int64 of all rays' samples.
        cursor: (R,) int64, each ray's next sample; advanced in place.
        rays: (K,) int64, the rays to take from; each has samples left.
        length: most samples to take from a ray.

    Returns:
        index (N,) int64 of the samples, ray after ray, and offsets (K + 1,) int64 of each ray's share.
    """
    begin = cursor[rays]
    counts = (ray_offsets[rays + 1] - begin).clamp(max=length)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    index = torch.arange(int(offsets[-1]), device=begin.device) + (begin - offsets[:-1]).repeat_interleave(counts)
    cursor[rays] = begin + counts
    return index, offsets
