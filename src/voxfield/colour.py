"""Colour spaces: linear light, exposure, the sRGB display and the tone curve under which linear colours are compared.

*Linear* values are proportional to light, in the units of the capture's files, at least 0 and without an upper bound.
*Exposed* values are linear ones times the capture's exposure, a factor that brings its log-average luminance to
``MIDDLE_GREY``: 1 is then about what a photograph would show as white. *sRGB* values are those of ordinary pictures in
[0, 1] (IEC 61966-2-1). Colours are (..., 3), red, green, blue.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError

MIDDLE_GREY: Final = 0.18
"""Exposed luminance of a picture's average: the reflectance photographers expose for."""
LARGEST_EXPOSURE: Final = 1e9
"""Exposures lie between its inverse and this."""
MOST_STOPS: Final = 60.0
"""Largest change of exposure for viewing, in stops."""
_LUMINANCE: Final = (0.2126, 0.7152, 0.0722)  # of ITU-R BT.709 primaries, which sRGB has too
_DARKEST: Final = 1e-3
"""Share of the mean below which luminance stops to lower the log-average: black is not infinitely dark."""

ToneMap = Literal["none", "filmic"]
"""What brings exposed values above 1 to a display: nothing (they are clipped), or a curve that rolls off."""


@dataclass(frozen=True, kw_only=True)
class ToneCurve:
    """How a linear capture is exposed, and the space its errors are counted in.

    ``encode`` is the mu-law of HDR imaging (Kalantari and Ramamoorthi 2017, https://doi.org/10.1145/3072959.3073609),

        encode(x) = log(1 + mu x) / log(1 + mu),   x exposed,

    which maps 0 to 0 and 1 to 1, is nearly linear in the dark and logarithmic above. With the default ``mu`` its slope
    is 12.7 at black and 1.3 at middle grey, where sRGB's is 12.9 and 1.2: up to white, errors weigh as they do in
    ordinary photographs.
    """

    exposure: float
    """Exposed per linear value, above 0."""
    mu: float = 50.0
    """Bend of the curve, above 0."""

    def __post_init__(self) -> None:
        check_exposure("exposure", self.exposure)
        check_range("mu", self.mu, above=0.0, maximum=1e6)

    def encode(self, exposed: torch.Tensor) -> torch.Tensor:
        """Exposed values (at least 0) in the space errors are counted in; differentiable."""
        return torch.log1p(self.mu * exposed) / math.log1p(self.mu)

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`."""
        return torch.expm1(encoded * math.log1p(self.mu)) / self.mu

    @property
    def name(self) -> str:
        """The space as metrics state it."""
        return f"linear-tonemapped(mu={self.mu:g})"


def compared(colour: torch.Tensor, tone: ToneCurve | None) -> torch.Tensor:
    """Colours in the space errors are counted in: exposed ones on their curve; sRGB ones, without one, as they are."""
    return colour if tone is None else tone.encode(colour)


def check_exposure(name: str, value: object) -> None:
    """Raise InputError unless ``value`` is a number above 0 that float32 can take."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: expected a number above 0, got {value!r}.")
    check_range(name, value, minimum=1 / LARGEST_EXPOSURE, maximum=LARGEST_EXPOSURE)


def srgb_from_linear(linear: torch.Tensor) -> torch.Tensor:
    """The sRGB transfer function of display-linear values in [0, 1], applied to each; values outside are clipped.

    12.92 x up to 0.0031308, 1.055 x^(1/2.4) - 0.055 above.
    """
    x = linear.clamp(0.0, 1.0)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def linear_from_srgb(srgb: torch.Tensor) -> torch.Tensor:
    """The inverse of `srgb_from_linear` on [0, 1]; values outside are clipped."""
    x = srgb.clamp(0.0, 1.0)
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def display(exposed: torch.Tensor, *, stops: float = 0.0, tone_map: ToneMap = "none") -> torch.Tensor:
    """What a screen shows of exposed colours.

    Args:
        exposed: (..., 3) exposed linear values; NaN shows as black.
        stops: change of exposure: one stop more doubles the light. -60 to 60.
        tone_map: ``none`` clips above 1; ``filmic`` is Narkowicz's fit of the ACES curve
            (https://knarkowicz.wordpress.com/2016/01/06/aces-filmic-tone-mapping-curve), which rolls off.

    Returns:
        sRGB values in [0, 1], float.
    """
    check_range("exposure", stops, minimum=-MOST_STOPS, maximum=MOST_STOPS)
    check_choice("tone_map", tone_map, get_args(ToneMap))
    x = (exposed.nan_to_num(nan=0.0) * 2.0**stops).clamp(0.0, 1e6)
    if tone_map == "filmic":
        x = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return srgb_from_linear(x)


def luminance(colour: torch.Tensor) -> torch.Tensor:
    """(..., 3) linear colours -> (...) luminance, with the weights of ITU-R BT.709."""
    red, green, blue = _LUMINANCE
    return red * colour[..., 0] + green * colour[..., 1] + blue * colour[..., 2]


def automatic_exposure(samples: Iterable[torch.Tensor]) -> float:
    """The exposure that brings the log-average luminance of linear colours to ``MIDDLE_GREY``.

    The log-average (Reinhard et al. 2002, https://doi.org/10.1145/566654.566575, equation 1) is taken over pixels above
    black, those darker than a thousandth of their mean counting as that.

    Args:
        samples: (N, 3) float each, finite and at least 0.

    Returns:
        A factor above 0; 1 where everything is black.

    Raises:
        InputError: on another shape.
    """
    values = []
    for colour in samples:
        if colour.ndim != 2 or colour.shape[1] != 3:
            raise InputError(f"samples: expected shape (N, 3), got {tuple(colour.shape)}.")
        light = luminance(colour.double())
        values.append(light[light > 0])
    light = torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
    if not len(light):
        return 1.0
    average = float(light.clamp(min=_DARKEST * float(light.mean())).log().mean().exp())
    return min(max(MIDDLE_GREY / average, 1 / LARGEST_EXPOSURE), LARGEST_EXPOSURE)
