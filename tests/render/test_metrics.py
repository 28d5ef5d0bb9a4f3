"""PSNR and SSIM against closed forms, scikit-image and scipy, and the laws they obey."""

import math

import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.metrics import PSNR_LIMIT, psnr, psnr_from_mse, ssim


def picture(height=40, width=33, channels=3, seed=0, dtype=torch.float64):
    """Smooth content with noise: neither flat (SSIM's constants decide) nor white noise (SSIM is 0)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 5, height), torch.linspace(0, 4, width), indexing="ij")
    waves = torch.stack([0.5 + 0.3 * torch.sin(x + c) * torch.cos(y - c) for c in range(channels)], dim=-1)
    return (waves + 0.05 * torch.randn(waves.shape, generator=generator)).clamp(0, 1).to(dtype)


def disturbed(image, seed=1, amount=0.1):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
    return (image + amount * noise).clamp(0, 1)


def test_psnr_closed_form():
    truth = torch.full((4, 5, 3), 0.5)
    assert psnr(truth + 0.1, truth).item() == pytest.approx(20.0, abs=1e-4)
    half = truth.clone()
    half[:2] += 0.1
    assert psnr(half, truth).item() == pytest.approx(20.0 + 10 * math.log10(2), abs=1e-4)


def test_psnr_equals_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    truth, other = picture(), disturbed(picture())
    expected = peak_signal_noise_ratio(truth.numpy(), other.numpy(), data_range=1.0)
    assert psnr(other, truth).item() == pytest.approx(expected, abs=1e-9)


def test_equal_images_have_the_limit_and_a_finite_gradient():
    truth = picture()
    guess = truth.clone().requires_grad_()
    value = psnr(guess, truth)
    value.backward()
    assert value.item() == pytest.approx(PSNR_LIMIT)
    assert torch.isfinite(guess.grad).all()


@pytest.mark.parametrize(("mse", "expected"), [(1.0, 0.0), (0.01, 20.0), (0.0, 100.0), (1e-30, 100.0), (4.0, -6.0206)])
def test_psnr_from_mse(mse, expected):
    assert psnr_from_mse(mse) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_diverged_loss_is_nan():
    assert math.isnan(psnr_from_mse(math.nan))


def test_psnr_counts_only_masked_pixels():
    truth = torch.full((4, 4, 3), 0.5)
    other = truth + 0.1
    other[0] = 0.0
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[0] = False
    assert psnr(other, truth, mask).item() == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (11, 30), (40, 33), (64, 12)])
def test_ssim_equals_scikit_image(size, channels):
    from skimage.metrics import structural_similarity

    truth = picture(*size, channels)
    other = disturbed(truth)
    # Its own crop of the border, (window - 1) / 2, is the valid region.
    expected = structural_similarity(
        truth.numpy(), other.numpy(), data_range=1.0, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(other, truth).item() == pytest.approx(expected, abs=1e-10)


def test_ssim_reflect_equals_scipy():
    from scipy.ndimage import gaussian_filter

    truth, other = picture(), disturbed(picture())

    def mean(image):
        # scipy calls "mirror" what torch calls "reflect"; truncate 3.5 gives the window of 11.
        return gaussian_filter(image, 1.5, mode="mirror", truncate=3.5, axes=(0, 1))

    x, y = other.numpy(), truth.numpy()
    ux, uy = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - ux * ux, mean(y * y) - uy * uy, mean(x * y) - ux * uy
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(other, truth, border="reflect").item() == pytest.approx(expected, abs=1e-10)
    assert ssim(other, truth).item() != pytest.approx(expected, abs=1e-4), "the two borders must differ"


def test_ssim_of_constant_images_is_the_luminance_term():
    x, y = torch.full((20, 20, 3), 0.2, dtype=torch.float64), torch.full((20, 20, 3), 0.7, dtype=torch.float64)
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    for border in ("valid", "reflect"):
        assert ssim(x, y, border=border).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_laws():
    truth, other = picture(), disturbed(picture())
    assert ssim(truth, truth).item() == pytest.approx(1.0, abs=1e-12)
    assert ssim(other, truth).item() == pytest.approx(ssim(truth, other).item(), abs=1e-12)
    assert ssim(other.flip(0), truth.flip(0)).item() == pytest.approx(ssim(other, truth).item(), abs=1e-12)
    assert ssim(disturbed(truth, amount=0.3), truth) < ssim(disturbed(truth, amount=0.1), truth) < 1
    assert ssim(1 - truth, truth) < 0, "a negative has opposite structure"


def test_single_precision_is_enough():
    truth, other = picture(90, 80), disturbed(picture(90, 80), amount=0.02)
    for metric, tolerance in ((psnr, 1e-4), (ssim, 2e-6)):
        assert metric(other.float(), truth.float()).item() == pytest.approx(metric(other, truth).item(), abs=tolerance)


def test_ssim_gradient_against_finite_differences():
    truth = picture(12, 13, 1)
    guess = disturbed(truth).requires_grad_()
    for border in ("valid", "reflect"):
        assert torch.autograd.gradcheck(lambda x, border=border: ssim(x, truth, border), (guess,), fast_mode=True)


def test_ssim_mask_averages_the_windows_it_keeps():
    truth = picture(60, 40)
    other = truth.clone()
    other[:30] = disturbed(truth)[:30]
    mask = torch.zeros(60, 40, dtype=torch.bool)
    mask[36:] = True  # windows centred below row 35 do not reach row 29
    assert ssim(other, truth, mask=mask).item() == pytest.approx(1.0, abs=1e-12)
    everything = torch.ones(60, 40, dtype=torch.bool)
    for border in ("valid", "reflect"):
        assert torch.allclose(ssim(other, truth, border, everything), ssim(other, truth, border))


def test_non_contiguous_images():
    truth, other = picture(), disturbed(picture())
    strided = other.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(ssim(strided, truth), ssim(other, truth))
    assert psnr(strided, truth).item() == pytest.approx(psnr(other, truth).item(), abs=1e-12)


def test_reduced_matrix_precision_does_not_reach_the_metrics():
    """Training may lower it for the whole process; SSIM subtracts near-equal numbers and would not survive."""
    truth, other = picture(64, 64, dtype=torch.float32), disturbed(picture(64, 64)).float()
    before = ssim(other, truth)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(ssim(other, truth), before)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (1, 1)])
def test_image_smaller_than_the_window(size):
    image = picture(*size)
    for border in ("valid", "reflect"):
        with pytest.raises(InputError, match=rf"ssim: expected at least 11x11 pixels \(the window\), got {size[1]}x"):
            ssim(image, image, border)


def test_bad_arguments():
    image = picture()
    with pytest.raises(InputError, match=r"truth: expected shape \(40, 33, 3\), got \(33, 40, 3\)"):
        psnr(image, image.transpose(0, 1))
    with pytest.raises(
        InputError, match=r"prediction: expected dtype torch\.float32 or torch\.float64, got torch\.uint8"
    ):
        ssim((image * 255).byte(), (image * 255).byte())
    with pytest.raises(InputError, match=r"truth: expected dtype torch\.float64, got torch\.float32"):
        psnr(image, image.float())
    with pytest.raises(InputError, match="border: unknown value 'zero'"):
        ssim(image, image, "zero")
    with pytest.raises(InputError, match="expected at least one pixel"):
        psnr(image[:0], image[:0])
    with pytest.raises(InputError, match="expected at least one pixel"):
        psnr(image, image, torch.zeros(40, 33, dtype=torch.bool))
    corner = torch.zeros(40, 33, dtype=torch.bool)
    corner[0, 0] = True
    with pytest.raises(InputError, match="keeps at least one window's centre"):
        ssim(image, image, "valid", corner)
    with pytest.raises(InputError, match=r"mask: expected dtype torch\.bool"):
        psnr(image, image, torch.ones(40, 33))


def test_numpy_round_trip_of_uint8_images_matches_by_hand():
    """A picture one grey level off everywhere: 20 log10(255) dB."""
    levels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    a, b = torch.from_numpy(levels).float() / 255, torch.from_numpy(levels + 1).float() / 255
    assert psnr(a, b).item() == pytest.approx(20 * math.log10(255), abs=1e-3)
