"""From noise to volumes, by a network that cleans: DDPM, DDIM, DPM-Solver++.

All start from standard normal noise at time T - 1, visit times that are spread evenly from there to 0, and end with
what the network makes of time 0. Where a clean volume is clamped, the noise is that which goes with the clamped one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.models.noise_schedule import NoiseSchedule

Sampler = Literal["ddpm", "ddim", "dpm-solver++"]
Cleaner = Callable[[torch.Tensor, int], torch.Tensor]
"""The clean volumes that a network sees in noisy ones (B, C, D, H, W) at a time."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How volumes are drawn from a diffusion."""

    sampler: Sampler = "ddim"
    """``ddpm``: Ho et al. 2020, wants hundreds of steps; ``ddim``: Song et al. 2021, https://arxiv.org/abs/2010.02502;
    ``dpm-solver++``: its second-order multistep form, Lu et al. 2022, https://arxiv.org/abs/2211.01095, 15 to 30."""
    steps: int = 50
    """How often the network is asked, at least 1, at most the times it was trained on."""
    eta: float = 0.0
    """Noise that ``ddim`` adds at every step, 0 (none) to 1 (as much as ``ddpm``)."""
    guidance: float = 1.0
    """How far beyond the unconditional prediction towards the conditional one: 1 is the conditional one, 0 the other.
    Only for models with a condition."""

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, get_args(Sampler))
        check_range("steps", self.steps, minimum=1, maximum=10_000)
        check_range("eta", self.eta, minimum=0.0, maximum=1.0)
        check_range("guidance", self.guidance, minimum=0.0, maximum=100.0)


def sampling_times(timesteps: int, steps: int) -> list[int]:
    """Times from ``timesteps - 1`` down to 0, spread evenly; one step alone starts where there is only noise."""
    check_range("steps", steps, minimum=1, maximum=timesteps)
    return [round(at) for at in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]


def draw(
    clean: Cleaner,
    schedule: NoiseSchedule,
    start: torch.Tensor,
    config: SamplingConfig,
    generator: torch.Generator,
    *,
    after_step: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Turn noise into volumes.

    Args:
        clean: the network.
        schedule: the noise it was trained on.
        start: (B, C, D, H, W) standard normal.
        config: sampler and steps; ``guidance`` is the network's affair.
        generator: of the noise that is added on the way, on the CPU.
        after_step: told how many steps are done.

    Returns:
        (B, C, D, H, W).

    Raises:
        InputError: more steps than the schedule has times.
    """
    times = sampling_times(schedule.timesteps, config.steps)
    if config.sampler == "dpm-solver++":
        return _solve(clean, schedule, start, times, after_step)
    eta = 1.0 if config.sampler == "ddpm" else config.eta
    noisy = start
    for count, (time, following) in enumerate(zip(times, [*times[1:], None], strict=True), start=1):
        noisy = _step_back(clean(noisy, time), schedule, noisy, time, following, eta, generator)
        after_step(count)
    return noisy


def _step_back(
    cleaned: torch.Tensor,
    schedule: NoiseSchedule,
    noisy: torch.Tensor,
    time: int,
    following: int | None,
    eta: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """``x_s`` of ``x_t`` for s < t, or x0: Song et al. 2021, equations 12 and 16. With ``eta = 1`` its noise is that of
    the posterior q(x_s | x_t, x0), which DDPM draws from (Ho et al. 2020, equations 6 and 7).
    """
    if following is None:
        return cleaned
    now, then = float(schedule.survival[time]), float(schedule.survival[following])
    noise = (noisy - now**0.5 * cleaned) / (1.0 - now) ** 0.5
    variance = eta**2 * (1.0 - then) / (1.0 - now) * (1.0 - now / then)
    stepped = then**0.5 * cleaned + max(1.0 - then - variance, 0.0) ** 0.5 * noise
    if variance > 0.0:
        drawn = torch.randn(noisy.shape, generator=generator, dtype=noisy.dtype)
        stepped = stepped + variance**0.5 * drawn.to(noisy.device)
    return stepped


def _solve(
    clean: Cleaner,
    schedule: NoiseSchedule,
    noisy: torch.Tensor,
    times: list[int],
    after_step: Callable[[int], None],
) -> torch.Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2. The last two steps are of first order: to time 0, since log-SNR
    grows so much faster there that extrapolating overshoots, and to no noise at all.
    """
    survival = [float(schedule.survival[time]) for time in times]
    signal, sigma = [one**0.5 for one in survival], [(1.0 - one) ** 0.5 for one in survival]
    rates = [float(torch.logit(schedule.survival[time])) / 2 for time in times]
    before: torch.Tensor | None = None
    for i, time in enumerate(times):
        cleaned = clean(noisy, time)
        if i == len(times) - 1:
            noisy = cleaned
        else:
            reach = rates[i + 1] - rates[i]
            direction = cleaned
            if before is not None and i < len(times) - 2:
                ratio = (rates[i] - rates[i - 1]) / reach
                direction = cleaned + (cleaned - before) / (2.0 * ratio)
            shrink = float(torch.tensor(-reach, dtype=torch.float64).expm1())
            noisy = sigma[i + 1] / sigma[i] * noisy - signal[i + 1] * shrink * direction
        before = cleaned
        after_step(i + 1)
    return noisy
