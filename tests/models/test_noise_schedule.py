import pytest
import torch

from voxfield.errors import InputError
from voxfield.models.noise_schedule import NoiseSchedule, NoiseScheduleConfig

PREDICTIONS = ("epsilon", "x0", "v")


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_betas_are_those_of_another_implementation(kind: str) -> None:
    from monai.networks.schedulers.ddpm import DDPMScheduler

    other = DDPMScheduler(1000, schedule=kind if kind == "cosine" else "linear_beta")
    ours = NoiseSchedule(NoiseScheduleConfig(kind=kind, beta_start=1e-4, beta_end=2e-2))  # type: ignore[arg-type]
    torch.testing.assert_close(ours.survival.float(), other.alphas_cumprod.float(), rtol=2e-3, atol=1e-7)


def test_all_is_noise_in_the_end_and_nearly_none_at_first() -> None:
    for kind in ("linear", "cosine"):
        survival = NoiseSchedule(NoiseScheduleConfig(kind=kind)).survival  # type: ignore[arg-type]
        assert survival[0] > 0.999
        assert survival[-1] < 1e-4
        assert bool((survival[1:] < survival[:-1]).all())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_predicted_gives_the_clean_volume_back(prediction: str) -> None:
    schedule = NoiseSchedule(NoiseScheduleConfig(timesteps=50))
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 4, 1, 3, 2, 5), generator=generator)
    times = torch.tensor([0, 7, 30, 40])
    noisy = schedule.noised(clean, noise, times)
    target = schedule.target(prediction, clean, noise, times)  # type: ignore[arg-type]
    torch.testing.assert_close(schedule.clean_of(prediction, target, noisy, times), clean, atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_min_snr_weighs_every_prediction_alike(scale: float) -> None:
    schedule = NoiseSchedule(NoiseScheduleConfig(timesteps=100, snr_scale=scale))
    generator = torch.Generator().manual_seed(0)
    clean, noise, wrong = torch.randn((3, 5, 1, 2, 2, 2), generator=generator)
    times = torch.tensor([1, 20, 50, 80, 95])
    noisy = schedule.noised(clean, noise, times)
    a, s = schedule.signal_and_noise(times)
    guess = clean + 0.1 * wrong
    guesses = {"x0": guess, "epsilon": (noisy - a * guess) / s, "v": (a * noisy - guess) / s}
    losses = {
        name: (guesses[name] - schedule.target(name, clean, noise, times)).square().mean((1, 2, 3, 4))  # type: ignore[arg-type]
        * schedule.loss_weights(name, times, 5.0)  # type: ignore[arg-type]
        for name in PREDICTIONS
    }
    torch.testing.assert_close(losses["epsilon"], losses["x0"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(losses["v"], losses["x0"], rtol=1e-3, atol=1e-6)
    assert bool((schedule.loss_weights("v", times, 0.0) == 1).all())


def test_the_scale_multiplies_the_ratio_of_signal_to_noise_and_leaves_weights() -> None:
    plain, scaled = (NoiseSchedule(NoiseScheduleConfig(timesteps=50, snr_scale=one)) for one in (1.0, 0.125))
    ratios = [one.survival / (1.0 - one.survival) for one in (plain, scaled)]
    torch.testing.assert_close(ratios[1], ratios[0] * 0.125)
    times = torch.tensor([1, 20, 48])
    torch.testing.assert_close(scaled.loss_weights("x0", times, 5.0), plain.loss_weights("x0", times, 5.0))
    a, s = scaled.signal_and_noise(times)
    torch.testing.assert_close(a.square() + s.square(), torch.ones_like(a))


def test_larger_volumes_are_drowned_for_as_long_as_small_ones() -> None:
    cosine, linear = NoiseScheduleConfig(), NoiseScheduleConfig(kind="linear")
    assert [cosine.of_voxels(side**3).snr_scale for side in (4, 8, 16, 32)] == [1.0, 1.0, 1 / 8, 1 / 64]
    assert linear.of_voxels(32**3).snr_scale == 1.0
    assert NoiseScheduleConfig(snr_scale=0.5).of_voxels(32**3).snr_scale == 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "square"},
        {"snr_scale": 0.0},
        {"timesteps": 1},
        {"beta_start": 0.0},
        {"beta_start": 0.5, "beta_end": 0.1},
    ],
)
def test_settings_that_make_no_schedule_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        NoiseScheduleConfig(**settings)  # type: ignore[arg-type]
