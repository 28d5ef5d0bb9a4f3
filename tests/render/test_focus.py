"""Focus measures on pictures whose blur, shift, noise and exposure are known."""

import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.focus import MOST_TILES, blurred, fit_exposure, image_shift, sharpness
from voxfield.render.metrics import psnr


def photograph(seed=0, side=192, channels=3):
    """A picture with a 1/f^2 power spectrum, as photographs have, sharp to the pixel."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side))
    frequency[0, 0] = math.inf
    noise = torch.randn(channels, side, side, generator=generator)
    image = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(side, side))
    return (0.5 + 0.12 * image / image.std()).clamp(0, 1).permute(1, 2, 0)


def moved(image, down, right):
    """``image`` with its content moved by parts of a pixel, as if it were periodic."""
    rows, columns = torch.fft.fftfreq(image.shape[0])[:, None], torch.fft.rfftfreq(image.shape[1])
    turn = torch.exp(-2j * math.pi * (rows * down + columns * right))
    planes = torch.fft.rfft2(image.permute(2, 0, 1)) * turn
    return torch.fft.irfft2(planes, s=image.shape[:2]).permute(1, 2, 0)


# ------------------------------------------------------------------------------------------------------------ blurred


def test_blur_is_a_gaussian():
    spot = torch.zeros(41, 41, 1)
    spot[20, 20] = 1.0
    seen = blurred(spot, 2.0)[..., 0]
    away = torch.arange(41) - 20.0
    expected = torch.exp(-(away[:, None] ** 2 + away**2) / 8.0)
    torch.testing.assert_close(seen, expected / expected.sum(), rtol=0.01, atol=2e-5)


def test_what_does_not_count_has_no_share():
    image = torch.full((20, 30, 2), 0.25)
    image[:, :7] = 9.0
    mask = torch.ones(20, 30, dtype=torch.bool)
    mask[:, :7] = False
    torch.testing.assert_close(blurred(image, 3.0, mask)[:, 7:], torch.full((20, 23, 2), 0.25))
    torch.testing.assert_close(blurred(torch.ones(1, 1, 1), 5.0), torch.ones(1, 1, 1))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, 1e9])
def test_bad_blur(sigma):
    with pytest.raises(InputError, match="sigma"):
        blurred(torch.ones(4, 4, 1), sigma)


# ---------------------------------------------------------------------------------------------------------- sharpness


@pytest.mark.parametrize("seed", [0, 1])
def test_sharpness_follows_the_formula(seed):
    image = photograph(seed)
    found = [sharpness(image), *(sharpness(blurred(image, b)) for b in (1.0, 2.0, 3.0))]
    # The spectrum ends at the pixel's frequency, differences are not derivatives: a quarter is what that makes.
    assert found == pytest.approx([1.0, 1 / 2, 1 / 5, 1 / 10], rel=0.3)


def test_exposure_does_not_change_sharpness():
    image = photograph()
    assert sharpness(image * 0.5 + 0.2) == pytest.approx(sharpness(image), rel=1e-3)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_noise_is_no_sharpness(noise):
    soft = blurred(photograph(), 2.0)
    grainy = soft + noise * torch.randn(soft.shape, generator=torch.Generator().manual_seed(1))
    assert sharpness(grainy) == pytest.approx(sharpness(soft), rel=0.35)


def test_masked_pixels_and_their_edge_do_not_count():
    image = blurred(photograph(), 2.0)
    mask = torch.ones(image.shape[:2], dtype=torch.bool)
    mask[:, :60] = False
    spoilt = image.clone()
    spoilt[:, :60] = torch.rand(image.shape[0], 60, 3, generator=torch.Generator().manual_seed(2))
    assert sharpness(spoilt, mask) == pytest.approx(sharpness(image, mask), rel=1e-5)
    assert sharpness(spoilt) > 2 * sharpness(spoilt, mask)


def test_pictures_without_sharpness():
    assert sharpness(photograph()[:31]) is None
    assert sharpness(torch.full((64, 64, 3), 0.3)) is None
    assert sharpness(photograph(), torch.zeros(192, 192, dtype=torch.bool)) is None


# --------------------------------------------------------------------------------------------------------- the shift


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, 0.0), (-2.5, 1.25), (6.0, -8.0)])
def test_a_shift_is_found_whatever_blur_noise_and_exposure(shift):
    truth = photograph()
    prediction = moved(truth, *shift)
    worse = 0.7 * blurred(prediction, 1.5) + 0.1
    worse += 0.02 * torch.randn(worse.shape, generator=torch.Generator().manual_seed(3))
    for seen in (prediction, worse):
        assert image_shift(seen, truth) == pytest.approx(math.hypot(*shift), abs=0.15 + 0.02 * math.hypot(*shift))


def test_tiles_that_say_nothing_have_no_say():
    truth = photograph(side=256)
    prediction = moved(truth, 2.0, 0.0)
    truth[:, 130:], prediction[:, 130:] = 0.5, 0.5
    assert image_shift(prediction, truth) == pytest.approx(2.0, abs=0.2)
    assert image_shift(photograph(1), photograph(2)) is None, "two different pictures"
    assert image_shift(torch.full((200, 200, 3), 0.5), torch.full((200, 200, 3), 0.5)) is None
    assert image_shift(photograph()[:31], photograph()[:31]) is None


def test_hidden_tiles_have_no_say():
    truth = photograph(side=256)
    prediction = moved(truth, 3.0, 0.0)
    prediction[:128] = truth[:128]
    mask = torch.ones(256, 256, dtype=torch.bool)
    mask[:128] = False
    assert image_shift(prediction, truth, mask) == pytest.approx(3.0, abs=0.3)
    assert image_shift(prediction, truth, torch.zeros_like(mask)) is None


def test_large_pictures_have_few_tiles():
    side = 64 * (math.isqrt(MOST_TILES) + 4)
    truth = photograph(side=256).tile(side // 256, side // 256, 1)
    assert image_shift(torch.roll(truth, 2, 0), truth) == pytest.approx(2.0, abs=0.2)


# ----------------------------------------------------------------------------------------------------------- exposure


def test_gain_and_offset_are_found():
    image = 0.5 * photograph() + 0.1
    gains, offsets = torch.tensor([1.2, 0.8, 1.0]), torch.tensor([-0.02, 0.05, 0.1])
    found = fit_exposure(image, image * gains + offsets)
    assert found.gain == pytest.approx(gains.tolist(), rel=1e-3)
    assert found.offset == pytest.approx(offsets.tolist(), abs=1e-3)
    assert found.psnr > 60


def test_neither_blur_nor_shift_nor_an_occluder_passes_for_exposure():
    truth = photograph()
    prediction = torch.roll(blurred(truth, 2.0), 2, 0)
    found = fit_exposure(prediction, truth)
    assert found.psnr - psnr(prediction, truth).item() < 0.3
    hidden = truth.clone()
    hidden[20:60, 30:80] = 1.0
    found = fit_exposure(truth, hidden)
    assert found.gain == pytest.approx((1, 1, 1), abs=0.02)
    assert found.psnr == pytest.approx(psnr(truth, hidden).item(), abs=0.2)


def test_a_backdrop_has_no_exposure():
    image, foreground = photograph(), torch.zeros(192, 192, dtype=torch.bool)
    foreground[40:150, 40:150] = True
    prediction = torch.where(foreground[..., None], image, 1.0)
    truth = torch.where(foreground[..., None], 0.6 * image, 1.0)
    assert fit_exposure(prediction, truth, foreground=foreground).psnr > 60
    assert fit_exposure(prediction, truth).psnr < 30
    assert fit_exposure(prediction, truth, foreground=torch.zeros_like(foreground)) is None


def test_hidden_pixels_have_no_exposure():
    truth, mask = photograph(), torch.zeros(192, 192, dtype=torch.bool)
    mask[:, :100] = True
    prediction = truth * 0.5
    prediction[:, 100:] = 0.9
    found = fit_exposure(prediction, truth, mask)
    assert found.gain == pytest.approx((2, 2, 2), rel=1e-3)
    assert found.psnr > 60


@pytest.mark.parametrize("measure", [image_shift, fit_exposure])
def test_pictures_of_two_sizes(measure):
    with pytest.raises(InputError, match=r"truth: expected shape \(40, 40, 3\), got \(40, 41, 3\)"):
        measure(torch.zeros(40, 40, 3), torch.zeros(40, 41, 3))
