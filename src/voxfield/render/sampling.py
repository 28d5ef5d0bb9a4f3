"""Following packed samples along their rays in waves, so that those that no light reaches are never looked at."""

import math
from collections.abc import Callable

import torch

from voxfield.kernels.march_grid import PackedSamples
from voxfield.kernels.sample_runs import follow_runs, take_runs


def visible_samples(
    samples: PackedSamples,
    thickness_of: Callable[[PackedSamples], torch.Tensor],
    threshold: float,
    *,
    first: int = 6,
    longest: int = 64,
) -> PackedSamples:
    """The samples that light reaches: of each ray the first ones, those with transmittance T_i >= ``threshold``.

    Args:
        samples: packed samples of R rays.
        thickness_of: optical depth (N,), density times length and at least 0, of some of them.
        threshold: in (0, 1).
        first: samples of a ray in the first wave; waves double up to ``longest``.

    Returns:
        Packed samples of the same R rays.
    """
    limit = -math.log(threshold)
    cursor, ends = samples.ray_offsets[:-1].clone(), samples.ray_offsets[1:]
    counts = torch.zeros_like(cursor)
    alive = (cursor < ends).nonzero()[:, 0]
    passed = torch.zeros(len(alive), dtype=torch.float64, device=cursor.device)
    length = first
    while len(alive):
        wave = take_runs(samples, *next_runs(samples.ray_offsets, cursor, alive, length))
        counts[alive] += follow_runs(thickness_of(wave), wave.ray_offsets, passed, limit)
        going_on = (cursor[alive] < ends[alive]) & (passed <= limit)
        alive, passed = alive[going_on], passed[going_on]
        length = min(2 * length, longest)
    return take_runs(samples, samples.ray_offsets[:-1], counts)


def next_runs(
    ray_offsets: torch.Tensor, cursor: torch.Tensor, rays: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next samples along some rays, and move their cursors past them.

    Args:
        ray_offsets: (R + 1,) int64 of all rays' samples.
        cursor: (R,) int64, each ray's next sample; advanced in place.
        rays: (K,) int64, the rays to take from; each has samples left.
        length: most samples to take from a ray.

    Returns:
        begin (K,) int64 of each ray's run, and counts (K,) int64: how many samples it has.
    """
    begin = cursor[rays]
    counts = (ray_offsets[rays + 1] - begin).clamp(max=length)
    cursor[rays] = begin + counts
    return begin, counts
