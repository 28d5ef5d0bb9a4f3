"""Samplers on normally distributed data, for which the best cleaner and the end of every path are known."""

import pytest
import torch

from voxfield.errors import InputError
from voxfield.models.diffusion_samplers import SamplingConfig, _step_back, draw, sampling_times
from voxfield.models.noise_schedule import NoiseSchedule, NoiseScheduleConfig

MEAN, SPREAD = 0.3, 0.2
SCHEDULE = NoiseSchedule(NoiseScheduleConfig(kind="cosine", timesteps=1000))


def best_cleaner(noisy: torch.Tensor, time: int) -> torch.Tensor:
    """The mean of x0 given x_t, for x0 ~ N(MEAN, SPREAD^2)."""
    survival = float(SCHEDULE.survival[time])
    gain = survival**0.5 * SPREAD**2 / (survival * SPREAD**2 + 1 - survival)
    return MEAN + gain * (noisy - survival**0.5 * MEAN)


def end_of_path(start: torch.Tensor) -> torch.Tensor:
    """Where the probability flow leads: quantiles are kept."""
    survival = float(SCHEDULE.survival[-1])
    return MEAN + SPREAD * (start - survival**0.5 * MEAN) / (survival * SPREAD**2 + 1 - survival) ** 0.5


def drawn(sampler: str, steps: int, *, eta: float = 0.0, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn((count, 1, 1, 1, 1), generator=generator, dtype=torch.float64)
    config = SamplingConfig(sampler=sampler, steps=steps, eta=eta)  # type: ignore[arg-type]
    return draw(best_cleaner, SCHEDULE, start, config, generator), start


@pytest.mark.parametrize(
    ("sampler", "steps", "eta"),
    [("ddpm", 1000, 0.0), ("ddim", 200, 0.0), ("ddim", 500, 0.5), ("dpm-solver++", 30, 0.0)],
)
def test_samples_have_the_distribution_of_the_data(sampler: str, steps: int, eta: float) -> None:
    samples, _ = drawn(sampler, steps, eta=eta)
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.015)
    assert float(samples.std()) == pytest.approx(SPREAD, rel=0.06)


def test_paths_end_where_they_should_and_the_solver_is_of_a_higher_order() -> None:
    errors = {}
    for sampler in ("ddim", "dpm-solver++"):
        for steps in (25, 50, 100):
            samples, start = drawn(sampler, steps, count=200)
            errors[sampler, steps] = float((samples - end_of_path(start)).abs().mean())
    assert errors["ddim", 25] / errors["ddim", 100] > 2.5
    assert errors["dpm-solver++", 25] < 0.5 * errors["ddim", 25]
    assert errors["ddim", 100] < 0.02


@pytest.mark.parametrize("time", [1, 400, 999])
def test_a_ddpm_step_is_that_of_another_implementation(time: int) -> None:
    from monai.networks.schedulers.ddpm import DDPMScheduler

    other = DDPMScheduler(1000, schedule="linear_beta", prediction_type="sample", clip_sample=False)
    schedule = NoiseSchedule(NoiseScheduleConfig(kind="linear"))
    noisy, cleaned = torch.randn((2, 2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    ours = _step_back(cleaned, schedule, noisy, time, time - 1, 1.0, torch.Generator().manual_seed(5))
    theirs, _ = other.step(cleaned, time, noisy, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
def test_times_start_where_all_is_noise_and_end_at_zero(steps: int) -> None:
    times = sampling_times(1000, steps)
    assert times[0] == 999
    assert len(set(times)) == steps
    assert steps == 1 or times[-1] == 0


def test_the_same_seed_draws_the_same_and_noise_is_added_only_where_asked_for() -> None:
    assert torch.equal(drawn("ddpm", 10, count=5)[0], drawn("ddpm", 10, count=5)[0])
    assert torch.equal(drawn("ddim", 10, eta=1.0, count=5)[0], drawn("ddpm", 10, count=5)[0])
    assert not torch.equal(drawn("ddim", 10, count=5)[0], drawn("ddpm", 10, count=5)[0])


def test_impossible_samplings_are_refused() -> None:
    with pytest.raises(InputError, match=r"steps: expected a value .*at most 1000, got 1001"):
        drawn("ddim", 1001, count=1)
    for settings in ({"sampler": "euler"}, {"steps": 0}, {"eta": 1.5}, {"guidance": -1.0}):
        with pytest.raises(InputError):
            SamplingConfig(**settings)  # type: ignore[arg-type]
