"""Runs of packed samples on a CPU: copied stretch by stretch, where torch gathers sample by sample."""

import torch

from voxfield.kernels import workspace
from voxfield.kernels.jit import njit
from voxfield.kernels.march_grid import PackedSamples
from voxfield.kernels.threads import run_split

_jit = njit(nogil=True, boundscheck=False, error_model="numpy")
_GRAIN = 512
"""Runs worth a task: a few thousand samples."""


def take_runs(samples: PackedSamples, begin: torch.Tensor, counts: torch.Tensor) -> PackedSamples:
    """See ``api.take_runs``."""
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    total = int(offsets[-1])
    # Recycled memory: that from the system would be mapped page by page.
    t_start, t_end, ray_index = (torch.from_numpy(workspace.empty(total)) for _ in range(3))
    ray_index = ray_index.view(torch.int32)
    positions = workspace.empty_feature_major(total, 3)
    source = (tensor.detach().contiguous().numpy() for tensor in (samples.t_start, samples.t_end, samples.ray_index))
    target = (t_start.numpy(), t_end.numpy(), ray_index.numpy(), positions.T.numpy())
    where = (begin.contiguous().numpy(), offsets.numpy())
    run_split(_copy, len(counts), *where, *source, workspace.feature_major(samples.positions), *target, grain=_GRAIN)
    return PackedSamples(
        t_start=t_start,
        t_end=t_end,
        ray_index=ray_index,
        ray_offsets=offsets,
        positions=positions,
        pixel_area=samples.pixel_area,
    )


def follow_runs(thickness: torch.Tensor, run_offsets: torch.Tensor, passed: torch.Tensor, limit: float) -> torch.Tensor:
    """See ``api.follow_runs``."""
    counts = torch.empty(len(passed), dtype=torch.int64)
    through = passed.contiguous()
    arrays = (thickness.contiguous().numpy(), run_offsets.contiguous().numpy(), through.numpy(), counts.numpy())
    run_split(_follow, len(passed), *arrays, limit, grain=_GRAIN)
    if through is not passed:
        passed.copy_(through)
    return counts


@_jit
def _copy(start, stop, begin, offsets, starts, ends, rays, places, t_start, t_end, ray_index, positions):  # type: ignore[no-untyped-def]
    for run in range(start, stop):
        source = begin[run]
        for to in range(offsets[run], offsets[run + 1]):
            t_start[to], t_end[to], ray_index[to] = starts[source], ends[source], rays[source]
            for axis in range(3):
                positions[axis, to] = places[axis, source]
            source += 1


@_jit
def _follow(start, stop, thickness, offsets, passed, counts, limit):  # type: ignore[no-untyped-def]
    for run in range(start, stop):
        through, first, last = passed[run], offsets[run], offsets[run + 1]
        n = first
        while n < last and through <= limit:
            through += thickness[n]
            n += 1
        passed[run], counts[run] = through, n - first
