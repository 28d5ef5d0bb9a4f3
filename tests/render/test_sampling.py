import math

import pytest
import torch

from voxfield.kernels.march_grid import PackedSamples
from voxfield.kernels.sample_runs import take_runs
from voxfield.render.sampling import next_runs, visible_samples

LENGTHS = [0, 3, 40, 1, 0, 200, 17, 16, 0]


def packed(lengths: list[int]) -> PackedSamples:
    offsets = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    count = int(offsets[-1])
    start = torch.arange(count) * 0.1
    return PackedSamples(
        t_start=start,
        t_end=start + 0.1,
        ray_index=torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(
            torch.tensor(lengths, dtype=torch.int64)
        ),
        ray_offsets=offsets,
        positions=torch.rand(3, count, generator=torch.Generator().manual_seed(0)).T,
    )


def by_hand(lengths: list[int], thickness: torch.Tensor, threshold: float) -> list[int]:
    """Ray by ray, sample by sample, in float64."""
    counts, at = [], 0
    for length in lengths:
        passed, count = 0.0, 0
        while count < length and passed <= -math.log(threshold):
            passed += float(thickness[at + count])
            count += 1
        counts.append(count)
        at += length
    return counts


def numbers(samples: PackedSamples) -> torch.Tensor:
    """Which samples of `packed` these are."""
    return (samples.t_start * 10).round().long()


@pytest.mark.parametrize("scale", [0.0, 0.05, 0.5, 5.0, 1e6])
@pytest.mark.parametrize(("first", "longest"), [(1, 1), (3, 8), (16, 64), (1000, 1000)])
def test_counts_are_those_of_following_each_ray(scale: float, first: int, longest: int) -> None:
    samples = packed(LENGTHS)
    generator = torch.Generator().manual_seed(3)
    thickness = scale * torch.rand(len(samples.t_start), generator=generator, dtype=torch.float64) ** 2
    seen = visible_samples(samples, lambda some: thickness[numbers(some)], 1e-4, first=first, longest=longest)
    counts = by_hand(LENGTHS, thickness, 1e-4)
    assert seen.ray_offsets.diff().tolist() == counts
    wanted = take_runs(samples, samples.ray_offsets[:-1], torch.tensor(counts), implementation="reference")
    for name in ("t_start", "t_end", "ray_index", "positions"):
        assert torch.equal(getattr(seen, name), getattr(wanted, name)), name


def test_hidden_samples_are_never_looked_at() -> None:
    samples, seen = packed([500]), []

    def opaque(some: PackedSamples) -> torch.Tensor:
        seen.extend(numbers(some).tolist())
        return torch.full((len(some),), 100.0)

    assert len(visible_samples(samples, opaque, 1e-4, first=4, longest=8)) == 1
    assert seen == [0, 1, 2, 3]


def test_an_infinite_thickness_hides_no_other_ray() -> None:
    samples = packed([4, 4])
    thickness = torch.tensor([math.inf, 0, 0, 0, 0.1, 0.1, 0.1, 0.1])
    seen = visible_samples(samples, lambda some: thickness[numbers(some)], 1e-4)
    assert seen.ray_offsets.tolist() == [0, 1, 5]


def test_nothing_to_follow() -> None:
    assert len(visible_samples(packed([]), lambda some: torch.ones(len(some)), 1e-4)) == 0
    assert visible_samples(packed([0, 0]), lambda some: torch.ones(len(some)), 1e-4).ray_offsets.tolist() == [0, 0, 0]


@pytest.mark.parametrize("length", [1, 7, 64, 500])
def test_waves_cover_every_sample_once_and_in_order(length: int) -> None:
    samples = packed(LENGTHS)
    cursor, met = samples.ray_offsets[:-1].clone(), []
    while len(alive := (cursor < samples.ray_offsets[1:]).nonzero()[:, 0]):
        begin, counts = next_runs(samples.ray_offsets, cursor, alive, length)
        assert bool((counts >= 1).all() & (counts <= length).all())
        wave = take_runs(samples, begin, counts)
        assert torch.equal(wave.ray_index.long(), alive.repeat_interleave(counts))
        met += numbers(wave).tolist()
    assert sorted(met) == list(range(len(samples.t_start)))
    assert torch.equal(cursor, samples.ray_offsets[1:])
