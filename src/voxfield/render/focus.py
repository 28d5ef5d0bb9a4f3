"""What a picture lost against the truth: sharpness, place, exposure. Three causes of one bad PSNR, told apart.

Images are (H, W, 3) floats in [0, 1] as displayed, masks (H, W), true where a pixel counts. Everything but `blurred` is
measured on the luminance Y = 0.2126 R + 0.7152 G + 0.0722 B of the displayed values. Nothing here is differentiable.

Sharpness compares how steep a picture is at two scales. With G_s the Gaussian of standard deviation s pixels and the
mean over the pixels that count ::

    E(s)      = mean |grad (G_s * Y)|^2
    sharpness = max(0, E(1) - noise - E(4)) / (15 E(4))

the energy of what is between 1 and 4 pixels wide over that of what is wider, where *noise* is what white noise of the
strength met in the flattest tenth of the picture adds to E(1). A gain changes both alike and an offset neither, so
exposure cancels. Photographs have power spectra near 1/f^2; then E(s) falls as 1/s^2, a picture sharp to the pixel has
sharpness 1, and a Gaussian blur of b pixels leaves 1 / (1 + b^2) of it. Between different pictures the number says as
much about what they show: compare the two of one view by their quotient.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voxfield.checks import check_range, check_shape
from voxfield.render.metrics import psnr

SHARPNESS_SIDE = 32
"""Pixels a picture needs in both directions for its sharpness."""

SHIFT_TILE = 64
"""Side of the tiles whose shift is looked for, pixels; half of it in pictures smaller than two tiles."""

MOST_TILES = 400
"""Tiles of one picture compared at most, about; they overlap by half where that makes fewer."""

_LUMINANCE = (0.2126, 0.7152, 0.0722)
_NOISE_BLOCK = 16
_NOISE_SHARE = 0.1
_LEAST_NOISE = 1e-5
"""Blocks calmer than this are one colour, clipped or a backdrop, and say nothing of noise."""
_LEAST_SLOPE = 1e-5
"""Root of E(4) below which a picture is flat: its sharpness would be that of its rounding."""

_SHIFT_BAND = 0.12
"""Standard deviation, cycles a pixel, of the Gaussian over frequencies that weighs a tile's correlation: finer ones are
noise, or blurred away in one of the two pictures."""
_LEAST_PEAK = 0.35
"""Height of a correlation's peak, 1 for equal tiles, below which a tile's shift is a guess."""
_LEAST_CONTRAST = 0.02
"""Standard deviation of the luminance below which a tile shows nothing that could be placed."""
_LEAST_TILES = 3

_EXPOSURE_BLOCK = 12
"""Least side of a block, pixels: blur must not lower the contrast of their means."""
_EXPOSURE_BLOCKS = 48
"""Blocks along the longer side of large pictures."""
_EXPOSURE_ROUNDS = 8


def blurred(image: torch.Tensor, sigma: float, mask: torch.Tensor | None = None) -> torch.Tensor:
    """An image convolved with a Gaussian; pixels outside the image or the mask have no share in any other.

    Args:
        image: (H, W, C) float.
        sigma: standard deviation in pixels, above 0, at most 1000; the window ends at 3.5 of them.
        mask: (H, W) bool.

    Returns:
        (H, W, C) of the same dtype; 0 where no pixel that counts is near.
    """
    check_shape("image", image, ("H", "W", "C"))
    check_range("sigma", sigma, above=0.0, maximum=1e3)
    planes = image.permute(2, 0, 1)
    weight = torch.ones_like(planes[:1]) if mask is None else mask[None].to(image.dtype)
    return (_smooth(planes * weight, sigma) / _smooth(weight, sigma).clamp(min=1e-6)).permute(1, 2, 0)


def sharpness(image: torch.Tensor, mask: torch.Tensor | None = None) -> float | None:
    """How much of a picture's steepness is fine: see the module's formula.

    Args:
        image: (H, W, 3) float in [0, 1].
        mask: (H, W) bool, the pixels that count; steps along its edge do not.

    Returns:
        0 (nothing fine at all) or above, near 1 for a photograph sharp to the pixel; None for
        pictures smaller than ``SHARPNESS_SIDE``, flat ones, and where the mask leaves too little.
    """
    check_shape("image", image, ("H", "W", 3))
    if min(image.shape[:2]) < SHARPNESS_SIDE:
        return None
    luminance = _luminance(image)[None]
    counts = torch.ones_like(luminance) if mask is None else mask[None].to(luminance)
    fine = _smoothed(luminance, counts, 1.0)
    first = _steepness(fine, counts)
    # From 1 to 2 and from 2 to 4 pixels, each on half of the pixels: 4 costs a quarter of what it would.
    plane, weight = fine, counts
    for _ in range(2):
        plane = _smoothed(plane, weight, math.sqrt(3.0))[:, ::2, ::2]
        weight = weight[:, ::2, ::2]
    coarse = _steepness(plane, weight)
    if first is None or coarse is None or coarse / 16.0 < _LEAST_SLOPE**2:
        return None
    coarse /= 16.0  # a pixel of that plane is four of the picture
    noise = _noise(luminance[0], counts[0]) ** 2 * _noise_gain()
    return max(0.0, first - noise - coarse) / (15.0 * coarse)


def image_shift(prediction: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None = None) -> float | None:
    """How far a prediction lies from where the truth shows the same things.

    Tiles spread over the picture are compared by the peak of their phase correlation (Kuglin and Hines 1975) over low
    frequencies, refined to parts of a pixel; flat tiles, and those whose peak is low, have no say.

    Args:
        prediction: (H, W, 3) float in [0, 1].
        truth: the same shape.
        mask: (H, W) bool; tiles with hidden pixels are left out.

    Returns:
        The median length of the tiles' shifts, pixels, at most a quarter of a tile along each axis; None where fewer
        than three tiles show something that can be placed.
    """
    check_shape("prediction", prediction, ("H", "W", 3))
    check_shape("truth", truth, tuple(prediction.shape))
    height, width = truth.shape[:2]
    tile = SHIFT_TILE if min(height, width) >= 2 * SHIFT_TILE else SHIFT_TILE // 2
    if min(height, width) < tile:
        return None
    apart = max(tile // 2, math.ceil(math.sqrt(height * width / MOST_TILES)))
    pair = torch.stack([_luminance(prediction), _luminance(truth)])
    tiles = pair.unfold(1, tile, apart).unfold(2, tile, apart).flatten(1, 2)
    tiles = tiles - tiles.mean(dim=(2, 3), keepdim=True)
    shown = tiles.std(dim=(2, 3)).amin(0) > _LEAST_CONTRAST
    if mask is not None:
        shown &= mask.unfold(0, tile, apart).unfold(1, tile, apart).flatten(0, 1).all(dim=2).all(dim=1)
    shifts, peaks = _tile_shifts(tiles[0, shown], tiles[1, shown])
    lengths = shifts[peaks > _LEAST_PEAK].norm(dim=1)
    return float(lengths.median()) if len(lengths) >= _LEAST_TILES else None


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The gain and offset of each channel that bring a prediction nearest to the truth."""

    gain: tuple[float, float, float]
    """Of red, green, blue; 1 where exposures agree."""
    offset: tuple[float, float, float]
    """Added after the gain, in units of the full scale."""
    psnr: float
    """Of the prediction so corrected, dB."""


def fit_exposure(
    prediction: torch.Tensor,
    truth: torch.Tensor,
    mask: torch.Tensor | None = None,
    foreground: torch.Tensor | None = None,
) -> Exposure | None:
    """Fit truth = gain * prediction + offset per channel, and say what PSNR that gives.

    The fit is made on the means of large blocks, so that neither blur nor a shift of a few pixels can pass for a lack
    of contrast, with Huber weights, so that an occluder has little say.

    Args:
        prediction: (H, W, 3) float in [0, 1].
        truth: the same shape.
        mask: (H, W) bool, the pixels that count.
        foreground: (H, W) bool, the pixels that a camera exposed: a backdrop laid behind alpha is left as it is.

    Returns:
        The fit, or None where nothing is exposed.
    """
    check_shape("prediction", prediction, ("H", "W", 3))
    check_shape("truth", truth, tuple(prediction.shape))
    shown = torch.ones(truth.shape[:2], dtype=torch.bool) if mask is None else mask
    exposed = shown if foreground is None else shown & foreground
    if not bool(exposed.any()):
        return None
    block = max(_EXPOSURE_BLOCK, max(truth.shape[:2]) // _EXPOSURE_BLOCKS)
    weight = exposed.float()[..., None]
    planes = torch.cat([prediction.float() * weight, truth.float() * weight, weight], dim=2).permute(2, 0, 1)[None]
    means = F.avg_pool2d(planes, block, ceil_mode=True, count_include_pad=False)[0].flatten(1).double()
    means = means[:, means[6] > 0]
    share = means[6]
    gain, offset = zip(*(_robust_line(means[c] / share, means[3 + c] / share, share) for c in range(3)), strict=True)
    fitted = (prediction * prediction.new_tensor(gain) + prediction.new_tensor(offset)).clamp(0.0, 1.0)
    corrected = torch.where(exposed[..., None], fitted, prediction)
    return Exposure(gain=gain, offset=offset, psnr=psnr(corrected, truth, mask).item())


def _luminance(image: torch.Tensor) -> torch.Tensor:
    return image.float() @ image.new_tensor(_LUMINANCE, dtype=torch.float32)


def _smoothed(plane: torch.Tensor, weight: torch.Tensor, sigma: float) -> torch.Tensor:
    """``plane`` (1, H, W) blurred over the pixels that count."""
    return _smooth(plane * weight, sigma) / _smooth(weight, sigma).clamp(min=1e-6)


def _smooth(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve (C, H, W) with a Gaussian, zeros beyond the border: shifted sums stay in cache where conv2d does not."""
    for axis in (1, 2):
        size, total = planes.shape[axis], torch.zeros_like(planes)
        for shift, weight in _taps(sigma):
            if abs(shift) < size:
                begin, end = max(0, -shift), min(size, size - shift)
                source = planes.narrow(axis, begin + shift, end - begin)
                total.narrow(axis, begin, end - begin).add_(source, alpha=weight)
        planes = total
    return planes


@functools.lru_cache(maxsize=16)
def _taps(sigma: float) -> tuple[tuple[int, float], ...]:
    """Shifts and weights of a Gaussian, summing to 1."""
    radius = math.ceil(3.5 * sigma)
    weights = [math.exp(-0.5 * (shift / sigma) ** 2) for shift in range(-radius, radius + 1)]
    return tuple(
        (shift, weight / sum(weights)) for shift, weight in zip(range(-radius, radius + 1), weights, strict=True)
    )


def _steepness(plane: torch.Tensor, weight: torch.Tensor) -> float | None:
    """Mean squared gradient of (1, H, W) by central differences over the pixels whose four neighbours count."""
    inside = weight[0, 1:-1, 1:-1].bool()
    for part in (weight[0, 2:, 1:-1], weight[0, :-2, 1:-1], weight[0, 1:-1, 2:], weight[0, 1:-1, :-2]):
        inside = inside & part.bool()
    if not bool(inside.any()):
        return None
    down = 0.5 * (plane[0, 2:, 1:-1] - plane[0, :-2, 1:-1])
    right = 0.5 * (plane[0, 1:-1, 2:] - plane[0, 1:-1, :-2])
    return float((down.square() + right.square())[inside].double().mean())


def _noise(luminance: torch.Tensor, weight: torch.Tensor) -> float:
    """Standard deviation of white noise, from the flattest tenth of the blocks.

    Source: Immerkaer 1996, Fast Noise Variance Estimation: the difference of two Laplacians sees no slopes and no
    straight edges along the axes.
    """
    rows = luminance[2:] - 2.0 * luminance[1:-1] + luminance[:-2]
    response = (rows[:, 2:] - 2.0 * rows[:, 1:-1] + rows[:, :-2]) / 6.0
    # A block counts where the mask hides none of it.
    stacked = torch.stack([response.square(), 1.0 - weight[1:-1, 1:-1]])[None]
    power, hidden = F.avg_pool2d(stacked, _NOISE_BLOCK)[0].flatten(1)
    levels = power[hidden == 0].sqrt()
    levels = levels[levels > _LEAST_NOISE]
    if not len(levels):
        return 0.0
    return float(levels.kthvalue(max(1, round(_NOISE_SHARE * len(levels)))).values)


@functools.cache
def _noise_gain() -> float:
    """What white noise of unit variance adds to E(1): the energy of the filter that measures it."""
    weights = torch.tensor([0.0, 0.0, *(weight for _, weight in _taps(1.0)), 0.0, 0.0], dtype=torch.float64)
    slope = 0.5 * (weights[2:] - weights[:-2])
    return float(2.0 * slope.square().sum() * weights.square().sum())


def _tile_shifts(moved: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shifts (K, 2) and heights (K,) of the correlation peaks of tiles (K, T, T) without their means."""
    count, tile = moved.shape[:2]
    if count == 0:
        return torch.zeros(0, 2), torch.zeros(0)
    window = torch.hann_window(tile, periodic=False)
    window = window[:, None] * window
    cross = torch.fft.rfft2(moved * window).conj() * torch.fft.rfft2(fixed * window)
    rows, columns = torch.fft.fftfreq(tile)[:, None], torch.fft.rfftfreq(tile)
    band = torch.exp(-0.5 * (rows.square() + columns.square()) / _SHIFT_BAND**2)
    band[0, 0] = 0.0
    size = cross.abs()
    phase = cross / size.clamp(min=1e-12) * (size > 1e-6 * size.amax(dim=(1, 2), keepdim=True))
    surface = torch.fft.irfft2(phase * band, s=(tile, tile))
    top = torch.fft.irfft2(band, s=(tile, tile))[0, 0]
    reach = tile // 4
    near = torch.roll(surface, (reach, reach), dims=(1, 2))[:, : 2 * reach + 1, : 2 * reach + 1]
    peaks, at = near.flatten(1).max(dim=1)
    row, column = at // (2 * reach + 1), at % (2 * reach + 1)
    shifts = torch.stack([(row - reach).float(), (column - reach).float()], dim=1)
    tiles = torch.arange(count)
    for axis, (step_row, step_column) in enumerate(((1, 0), (0, 1))):
        before = surface[tiles, (row - reach - step_row) % tile, (column - reach - step_column) % tile]
        after = surface[tiles, (row - reach + step_row) % tile, (column - reach + step_column) % tile]
        # The top of the parabola through the peak and its neighbours.
        bend = (2.0 * peaks - before - after).clamp(min=1e-12)
        shifts[:, axis] += (0.5 * (after - before) / bend).clamp(-0.5, 0.5)
    return shifts, peaks / top


def _robust_line(x: torch.Tensor, y: torch.Tensor, share: torch.Tensor) -> tuple[float, float]:
    """Gain and offset of y = gain * x + offset by iterated least squares with Huber weights times ``share`` (N,)."""
    gain, offset = 1.0, float((share * (y - x)).sum() / share.sum())
    weight = share
    for _ in range(_EXPOSURE_ROUNDS):
        total = weight.sum()
        mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
        spread = float((weight * (x - mean_x).square()).sum() / total)
        # Blocks of one colour cannot tell a gain from an offset.
        gain = float((weight * (x - mean_x) * (y - mean_y)).sum() / total) / spread if spread > 1e-5 else 1.0
        offset = float(mean_y - gain * mean_x)
        error = (y - gain * x - offset).abs()
        scale = max(1.5 * float(error.median()), 1e-4)
        weight = share * (scale / error.clamp(min=scale))
    return gain, offset
