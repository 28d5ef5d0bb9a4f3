"""Choosing among packed samples: those that light reaches, or the next few along each ray."""

import torch

from voxfield.kernels.march_grid import PackedSamples


def transmittance_above(thickness: torch.Tensor, ray_offsets: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which samples (S,) bool are reached by more than ``threshold`` of the light: ``T_i >= threshold``.

    Args:
        thickness: (S,) optical depth of each sample, density times length.
        ray_offsets: (R + 1,) int64.
        threshold: in (0, 1). 0 reaches all.
    """
    if threshold <= 0.0 or not len(thickness):
        return torch.ones_like(thickness, dtype=torch.bool)
    # In float64: the difference of two sums over the whole batch keeps what one ray adds.
    total = torch.cat([thickness.new_zeros(1, dtype=torch.float64), thickness.double().cumsum(0)])
    before_ray = total[ray_offsets[:-1]].repeat_interleave(ray_offsets.diff())
    limit = -torch.log(torch.tensor(threshold, dtype=torch.float64))
    reached: torch.Tensor = total[:-1] - before_ray <= limit.to(total.device)
    return reached


def keep_samples(
    samples: PackedSamples, features: torch.Tensor, keep: torch.Tensor
) -> tuple[PackedSamples, torch.Tensor]:
    """The samples where ``keep`` (S,) is true, and their rows of ``features`` (S, C), stored feature by feature."""
    index = keep.nonzero()[:, 0]
    if len(index) == len(keep):
        return samples, features
    kept_before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    kept = PackedSamples(
        t_start=samples.t_start[index],
        t_end=samples.t_end[index],
        ray_index=samples.ray_index[index],
        ray_offsets=kept_before[samples.ray_offsets],
        positions=samples.positions.T.index_select(1, index).T,
    )
    return kept, features.T.index_select(1, index).T


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
