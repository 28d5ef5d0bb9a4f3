import math
from dataclasses import replace

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.march_grid import PackedSamples
from voxfield.kernels.sample_runs import follow_runs, run_indices, take_runs

LENGTHS = torch.tensor([0, 3, 40, 1, 0, 200, 17, 16, 0])


def packed(lengths: torch.Tensor) -> PackedSamples:
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    count, generator = int(offsets[-1]), torch.Generator().manual_seed(0)
    start = torch.rand(count, generator=generator)
    return PackedSamples(
        t_start=start,
        t_end=start + 0.1,
        ray_index=torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths),
        ray_offsets=offsets,
        positions=torch.rand(3, count, generator=generator).T,
        pixel_area=torch.rand(len(lengths), generator=generator),
    )


def some_runs(samples: PackedSamples, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    begin = torch.randint(len(samples), (count,), generator=generator)
    return begin, torch.randint(0, 30, (count,), generator=generator).minimum(len(samples) - begin)


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
@pytest.mark.parametrize("row_by_row", [False, True])
def test_numba_takes_the_same_runs(count: int, row_by_row: bool) -> None:
    samples = packed(LENGTHS)
    if row_by_row:
        samples = replace(samples, positions=samples.positions.contiguous())
    begin, counts = some_runs(samples, count)
    found = take_runs(samples, begin, counts)
    wanted = take_runs(samples, begin, counts, implementation="reference")
    for name in ("t_start", "t_end", "ray_index", "ray_offsets", "positions", "pixel_area"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name


def test_runs_are_the_elements_from_their_first_one_on() -> None:
    index, offsets = run_indices(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3]))
    assert (index.tolist(), offsets.tolist()) == ([5, 6, 7, 8, 9], [0, 2, 2, 5])
    samples = packed(LENGTHS)
    begin, counts = some_runs(samples, 11)
    wanted = [first + n for first, count in zip(begin.tolist(), counts.tolist(), strict=True) for n in range(count)]
    assert torch.equal(take_runs(samples, begin, counts).t_start, samples.t_start[wanted])


@pytest.mark.parametrize("scale", [0.0, 0.05, 0.5, 5.0, 1e6, math.inf])
@pytest.mark.parametrize("repeated", [1, 700])
def test_numba_follows_as_far(scale: float, repeated: int) -> None:
    lengths = LENGTHS.repeat(repeated)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    generator = torch.Generator().manual_seed(3)
    thickness = torch.rand(int(offsets[-1]), generator=generator) ** 2
    thickness = thickness * scale if math.isfinite(scale) else torch.where(thickness > 0.5, math.inf, thickness)
    before = 5 * torch.rand(len(lengths), generator=generator, dtype=torch.float64)
    limit, passed, wanted_passed = 4.6, before.clone(), before.clone()
    counts = follow_runs(thickness, offsets, passed, limit)
    wanted = follow_runs(thickness, offsets, wanted_passed, limit, implementation="reference")
    assert torch.equal(counts, wanted)
    assert torch.equal(passed > limit, wanted_passed > limit)
    within = wanted_passed <= limit
    torch.testing.assert_close(passed[within], wanted_passed[within], rtol=1e-9, atol=1e-9)
    assert not bool(counts[before > limit].any()), "no light is left"


def test_errors_teach() -> None:
    samples = packed(LENGTHS)
    one = torch.ones(1, dtype=torch.int64)
    for begin, counts in ((one * len(samples), one), (-one, one), (one, -one)):
        with pytest.raises(InputError, match="begin: runs leave the 277 samples"):
            take_runs(samples, begin, counts)
    with pytest.raises(InputError, match="counts: expected shape"):
        take_runs(samples, one, one.repeat(2))
    offsets = torch.tensor([0, 277])
    with pytest.raises(InputError, match="passed: expected dtype"):
        follow_runs(samples.t_start, offsets, torch.zeros(1), 1.0)
    with pytest.raises(InputError, match="run_offsets: expected shape"):
        follow_runs(samples.t_start, samples.ray_offsets, torch.zeros(1, dtype=torch.float64), 1.0)
    with pytest.raises(InputError, match="limit: expected"):
        follow_runs(samples.t_start, offsets, torch.zeros(1, dtype=torch.float64), 0.0)
