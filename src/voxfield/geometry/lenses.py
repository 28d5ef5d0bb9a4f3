"""Lenses other than OpenCV's: those that COLMAP calibrates besides.

Image coordinates are as in ``geometry.distortion``: pixel offsets from the principal point divided by the focal length,
x right, y **down**. theta is the angle between ray and optical axis, r the distance of its image from the principal
point, and (u, v) the equidistant image: theta along the ray's azimuth.

Round lenses map theta to r, along the azimuth, and back in closed form:

    fov             r = atan(a tan(theta)) / omega with a = 2 tan(omega / 2), up to 90 degrees
    division        tan(theta) = r / (1 + k r^2)
    eucm            r = sin(theta) / (alpha sqrt(beta sin^2(theta) + cos^2(theta)) + (1 - alpha) cos(theta))

Prism lenses move the equidistant image, with q = |(u, v)|^2; the inverse is Newton's:

    thin_prism_fisheye            radial = 1 + k1 q + k2 q^2 + k3 q^3 + k4 q^4
        x = u radial + 2 p1 u v + p2 (q + 2 u^2) + sx1 q
        y = v radial + 2 p2 u v + p1 (q + 2 v^2) + sy1 q
    rad_tan_thin_prism_fisheye    (s, t) = (u, v) (1 + k0 q + ... + k5 q^6), m = |(s, t)|^2
        x = s + 2 p1 s t + p0 (m + 2 s^2) + s0 m + s1 m^2
        y = t + 2 p0 s t + p1 (m + 2 t^2) + s2 m + s3 m^2

Sources: https://colmap.github.io/cameras.html; fov: Devernay and Faugeras 2001, "Straight lines have to be straight";
division: Fitzgibbon 2001; eucm: Khomutenko, Garcia and Martinet 2016, "An enhanced unified camera model"; the last:
Project Aria's Fisheye624, https://facebookresearch.github.io/projectaria_tools.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from voxfield.geometry.distortion import MOST_NEWTON_STEPS

COEFFICIENTS: Final[dict[str, tuple[str, ...]]] = {
    "fov": ("omega",),
    "division": ("k",),
    "eucm": ("alpha", "beta"),
    "thin_prism_fisheye": ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    "rad_tan_thin_prism_fisheye": ("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3"),
}
"""What each model's distortion is, in COLMAP's order and by its names."""
ROUND: Final = ("fov", "division", "eucm")
PRISM: Final = ("thin_prism_fisheye", "rad_tan_thin_prism_fisheye")

_SMALLEST_OMEGA: Final = 1e-6
"""Below it a fov lens is a perspective one to seven digits; its formula divides by omega."""
_SMALLEST_DETERMINANT: Final = 1e-3
"""Below it a prism lens folds over itself; Newton's steps are damped to stay finite."""
_ANGLES: Final = 512
_AZIMUTHS: Final = 64
"""How finely ``reach`` looks for a fold: between 0 and pi, and around the axis."""


class Moved(NamedTuple):
    """Image coordinates and their Jacobian d(x, y) / d(u, v): ``xv`` is dx / dv."""

    x: Tensor
    y: Tensor
    xu: Tensor
    xv: Tensor
    yu: Tensor
    yv: Tensor

    @property
    def determinant(self) -> Tensor:
        """How much the image is enlarged; not above 0 where the lens has folded over."""
        return self.xu * self.yv - self.xv * self.yu


def fault(model: str, coefficients: tuple[float, ...]) -> str | None:
    """What makes these coefficients no lens of ``model``, in words; None if nothing."""
    if model == "fov" and not -math.pi < coefficients[0] < math.pi:
        return f"expected omega between -pi and pi, got {coefficients[0]:g}"
    if model == "eucm" and not (0 <= coefficients[0] <= 1 and coefficients[1] > 0):
        return f"expected alpha from 0 to 1 and beta above 0, got {coefficients[0]:g} and {coefficients[1]:g}"
    return None


def radius_of(model: str, theta: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """(r, dr / dtheta) of a round lens.

    Args:
        model: one of ``ROUND``.
        theta: radians from 0 to pi, any shape.
        lens: (coefficients, ...) which broadcast against ``theta``.

    Returns:
        NaN where the lens does not show that angle.
    """
    sine, cosine = theta.sin(), theta.cos()
    if model == "fov":
        omega = lens[0].abs().clamp(min=_SMALLEST_OMEGA)
        widening = 2 * (omega / 2).tan()
        shown = theta < math.pi / 2
        radius = torch.atan2(widening * sine, cosine) / omega
        slope = widening / (omega * (cosine.square() + (widening * sine).square()))
    elif model == "division":
        # The smaller root of k sin(theta) r^2 - cos(theta) r + sin(theta) = 0, which is 0 on the axis.
        root = (cosine.square() - 4 * lens[0] * sine.square()).sqrt()
        radius = 2 * sine / (cosine + root)
        shown = (root > 0) & (cosine + root > 0)
        slope = (lens[0] * cosine * radius.square() + sine * radius + cosine) / root
    else:
        alpha, beta = lens[0], lens[1]
        stretched = (beta * sine.square() + cosine.square()).sqrt()
        depth = alpha * stretched + (1 - alpha) * cosine
        radius = sine / depth
        slope = (alpha * cosine / stretched + (1 - alpha)) / depth.square()
        shown = (depth > 0) & (slope > 0)
    nothing = torch.full_like(radius, math.nan)
    return torch.where(shown, radius, nothing), torch.where(shown, slope, nothing)


def angle_of(model: str, radius: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    """(theta, dr / dtheta) of a round lens: the inverse of ``radius_of``, arbitrary but finite beyond ``reach``."""
    if model == "fov":
        omega = lens[0].abs().clamp(min=_SMALLEST_OMEGA)
        turned = (radius * omega).clamp(max=math.pi / 2 - 1e-6)
        theta = torch.atan2(turned.sin(), 2 * (omega / 2).tan() * turned.cos())
    elif model == "division":
        theta = torch.atan2(radius, 1 + lens[0] * radius.square())
    else:
        alpha, beta = lens[0], lens[1]
        square = beta * radius.square()
        inside = (1 - (2 * alpha - 1) * square).clamp(min=0).sqrt()
        theta = torch.atan2(radius, (1 - alpha * alpha * square) / (alpha * inside + 1 - alpha).clamp(min=1e-6))
    return theta, radius_of(model, theta, lens)[1].nan_to_num(nan=0.0)


def move(model: str, u: Tensor, v: Tensor, lens: Tensor) -> Moved:
    """Where a prism lens brings the equidistant image.

    Args:
        model: one of ``PRISM``.
        u, v: equidistant coordinates in radians, any equal shape.
        lens: (coefficients, ...) which broadcast against them.
    """
    if model == "thin_prism_fisheye":
        k1, k2, p1, p2, k3, k4, prism_x, prism_y = lens.unbind(0)
        return _bent(u, v, (k1, k2, k3, k4), (p1, p2), (prism_x, torch.zeros_like(k1), prism_y, torch.zeros_like(k1)))
    k, (p0, p1), prism = lens[:6].unbind(0), lens[6:8].unbind(0), lens[8:].unbind(0)
    none = torch.zeros_like(p0)
    first = _bent(u, v, k, (none, none), (none, none, none, none))
    # COLMAP's p1 and p2 of other lenses are this one's p1 and p0.
    then = _bent(first.x, first.y, (none,), (p1, p0), prism)
    return Moved(
        then.x,
        then.y,
        then.xu * first.xu + then.xv * first.yu,
        then.xu * first.xv + then.xv * first.yv,
        then.yu * first.xu + then.yv * first.yu,
        then.yu * first.xv + then.yv * first.yv,
    )


def unmove(model: str, x: Tensor, y: Tensor, lens: Tensor, *, steps: int = MOST_NEWTON_STEPS) -> tuple[Tensor, Tensor]:
    """Invert ``move`` by Newton's method; (u, v) stay within pi of the axis, and are arbitrary beyond ``reach``."""
    u, v = _within_pi(x, y)
    for _ in range(steps):
        there = move(model, u, v, lens)
        miss_x, miss_y = there.x - x, there.y - y
        determinant = there.determinant.clamp(min=_SMALLEST_DETERMINANT)
        next_u = u - (there.yv * miss_x - there.xv * miss_y) / determinant
        next_v = v - (there.xu * miss_y - there.yu * miss_x) / determinant
        u, v = _within_pi(next_u, next_v)
    return u, v


def reach(model: str, coefficients: tuple[float, ...]) -> float:
    """The image radius up to which a lens shows every angle once; infinite for lenses that end nowhere.

    A prism lens, which is not round, ends at the nearest point of its fold.
    """
    if model == "fov":
        return math.pi / 2 / max(abs(coefficients[0]), _SMALLEST_OMEGA)
    if model == "division":
        return 1 / math.sqrt(coefficients[0]) if coefficients[0] > 0 else math.inf
    if model == "eucm":
        alpha, beta = coefficients
        return 1 / math.sqrt(beta * (2 * alpha - 1)) if alpha > 0.5 else math.inf
    lens = torch.tensor(coefficients, dtype=torch.float64)[:, None, None]
    theta = torch.linspace(0, math.pi, _ANGLES + 1, dtype=torch.float64)
    azimuth = torch.arange(_AZIMUTHS, dtype=torch.float64)[:, None] * (2 * math.pi / _AZIMUTHS)
    there = move(model, theta * azimuth.cos(), theta * azimuth.sin(), lens)
    # The last angle before the first that is folded over.
    last = (there.determinant > 0).long().cumprod(dim=1).sum(dim=1, keepdim=True) - 1
    return float(torch.hypot(there.x, there.y).gather(1, last.clamp(min=0)).min())


def _bent(
    x: Tensor, y: Tensor, radial: tuple[Tensor, ...], tangential: tuple[Tensor, Tensor], prism: tuple[Tensor, ...]
) -> Moved:
    """Radial terms (q, q^2, ...), tangential ones (p1, p2) and prism ones (x: q, q^2; y: q, q^2), with the Jacobian."""
    q = x * x + y * y
    grown, slope = torch.zeros_like(q), torch.zeros_like(q)
    for order in range(len(radial), 0, -1):
        grown = (grown + radial[order - 1]) * q
        slope = slope * q + order * radial[order - 1]
    grown, slope = 1 + grown, 2 * slope
    p1, p2 = tangential
    x1, x2, y1, y2 = prism
    prism_x, prism_y = 2 * (x1 + 2 * x2 * q), 2 * (y1 + 2 * y2 * q)
    cross = slope * x * y + 2 * (p1 * x + p2 * y)
    return Moved(
        x * grown + 2 * p1 * x * y + p2 * (q + 2 * x * x) + q * (x1 + x2 * q),
        y * grown + 2 * p2 * x * y + p1 * (q + 2 * y * y) + q * (y1 + y2 * q),
        grown + slope * x * x + 2 * p1 * y + 6 * p2 * x + prism_x * x,
        cross + prism_x * y,
        cross + prism_y * x,
        grown + slope * y * y + 6 * p1 * y + 2 * p2 * x + prism_y * y,
    )


def _within_pi(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    shrink = (math.pi / torch.hypot(u, v).clamp(min=1e-6)).clamp(max=1.0)
    return u * shrink, v * shrink
