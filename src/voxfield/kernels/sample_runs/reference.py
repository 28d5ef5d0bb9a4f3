"""Runs of packed samples in plain torch: the specification of ``api.take_runs`` and ``api.follow_runs``."""

import torch

from voxfield.kernels.march_grid import PackedSamples


def run_indices(begin: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The elements of runs: ``counts`` (K,) int64 of them from ``begin`` (K,) int64 on.

    Returns:
        index (N,) int64, run after run, and offsets (K + 1,) int64 of each run's share.
    """
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shift = (begin - offsets[:-1]).repeat_interleave(counts)
    return torch.arange(len(shift), device=begin.device) + shift, offsets


def take_runs(samples: PackedSamples, begin: torch.Tensor, counts: torch.Tensor) -> PackedSamples:
    """See ``api.take_runs``."""
    index, offsets = run_indices(begin, counts)
    return PackedSamples(
        t_start=samples.t_start[index],
        t_end=samples.t_end[index],
        ray_index=samples.ray_index[index],
        ray_offsets=offsets,
        positions=samples.positions.T.index_select(1, index).T,
        pixel_area=samples.pixel_area,
    )


def follow_runs(thickness: torch.Tensor, run_offsets: torch.Tensor, passed: torch.Tensor, limit: float) -> torch.Tensor:
    """See ``api.follow_runs``."""
    # Clamped and in float64, so that one opaque run does not drown its successors in the running sum.
    total = thickness.double().clamp(max=2 * limit).cumsum(0)
    total = torch.cat([total.new_zeros(1), total])
    before = total[:-1] + (passed - total[run_offsets[:-1]]).repeat_interleave(run_offsets.diff())
    reached = torch.cat([run_offsets.new_zeros(1), (before <= limit).cumsum(0)])
    passed += total[run_offsets[1:]] - total[run_offsets[:-1]]
    return reached[run_offsets[1:]] - reached[run_offsets[:-1]]
