"""Lens distortion: from ideal image coordinates to those a real lens makes, and back.

Image coordinates here are pixel offsets from the principal point divided by the focal length, in the axes of the
picture: x to the right, y **down** (OpenCV). Coefficients come in the order k1, k2, k3, k4, p1, p2 and, of rational
lenses, d1, d2, d3.

Perspective lenses follow OpenCV's polynomial model, with r2 = x*x + y*y:

    radial = (1 + k1*r2 + k2*r2^2 + k3*r2^3 + k4*r2^4) / (1 + d1*r2 + d2*r2^2 + d3*r2^3)
    x' = x*radial + 2*p1*x*y + p2*(r2 + 2*x*x)
    y' = y*radial + p1*(r2 + 2*y*y) + 2*p2*x*y

Fisheye lenses follow OpenCV's equidistant model, with theta the angle between ray and optical axis:

    r' = theta * (1 + k1*theta^2 + k2*theta^4 + k3*theta^6 + k4*theta^8)

Sources: https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html and .../db/d58/group__calib3d__fisheye.html. In
OpenCV's own rational model the denominator's d1, d2, d3 are called k4, k5, k6; photogrammetry tools and
``transforms.json`` files mean the r^8 term by k4, as here.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

MOST_NEWTON_STEPS: Final = 10
"""Newton's method converges quadratically from the distorted point: five steps reach float32 at k1 = -0.3, r = 0.9;
lenses that need more than ten are not invertible within the picture."""

_SMALLEST_DETERMINANT: Final = 1e-3
"""Below this the lens model folds over itself (it is not invertible there); steps are damped to stay finite."""


class Coefficients(NamedTuple):
    """Distortion coefficients, each a tensor that broadcasts against the points."""

    k1: Tensor
    k2: Tensor
    k3: Tensor
    k4: Tensor
    p1: Tensor
    p2: Tensor
    d1: Tensor | None = None
    d2: Tensor | None = None
    d3: Tensor | None = None


class Distorted(NamedTuple):
    """Distorted coordinates and the symmetric Jacobian d(x', y') / d(x, y) of the perspective model."""

    x: Tensor
    y: Tensor
    dxx: Tensor
    dxy: Tensor
    dyy: Tensor


def distort(x: Tensor, y: Tensor, lens: Coefficients) -> Distorted:
    """Apply the perspective model to ideal coordinates.

    Args:
        x, y: ideal coordinates, any equal shape.
        lens: coefficients that broadcast against them.

    Returns:
        The distorted coordinates and their Jacobian, each shaped as ``x``. Differentiable.
    """
    r2 = x * x + y * y
    radial = 1 + r2 * (lens.k1 + r2 * (lens.k2 + r2 * (lens.k3 + r2 * lens.k4)))
    slope = 2 * (lens.k1 + r2 * (2 * lens.k2 + r2 * (3 * lens.k3 + r2 * (4 * lens.k4))))
    if lens.d1 is not None and lens.d2 is not None and lens.d3 is not None:
        below = 1 + r2 * (lens.d1 + r2 * (lens.d2 + r2 * lens.d3))
        radial = radial / below
        slope = (slope - 2 * radial * (lens.d1 + r2 * (2 * lens.d2 + r2 * (3 * lens.d3)))) / below
    p1x, p1y, p2x, p2y = lens.p1 * x, lens.p1 * y, lens.p2 * x, lens.p2 * y
    # x*(2*p1*y + 3*p2*x) + p2*y*y is the tangential part 2*p1*x*y + p2*(r2 + 2*x*x), regrouped to share products.
    return Distorted(
        x=x * (radial + 2 * p1y + 3 * p2x) + p2y * y,
        y=y * (radial + 3 * p1y + 2 * p2x) + p1x * x,
        dxx=radial + slope * x * x + 2 * p1y + 6 * p2x,
        dxy=slope * x * y + 2 * (p1x + p2y),
        dyy=radial + slope * y * y + 6 * p1y + 2 * p2x,
    )


def undistort(x: Tensor, y: Tensor, lens: Coefficients, *, steps: int = MOST_NEWTON_STEPS) -> tuple[Tensor, Tensor]:
    """Invert ``distort`` by Newton's method.

    Args:
        x, y: distorted coordinates, any equal shape.
        lens: coefficients that broadcast against them.
        steps: Newton steps, at least 1.

    Returns:
        Ideal coordinates (x, y). Where the lens model is not invertible (beyond its fold) they are finite but
        arbitrary. Meant for constant input; no useful gradient flows to the coefficients.
    """
    ideal_x, ideal_y = x, y
    for _ in range(steps):
        there = distort(ideal_x, ideal_y, lens)
        miss_x, miss_y = there.x - x, there.y - y
        determinant = there.dxx * there.dyy - there.dxy * there.dxy
        determinant = determinant.clamp(min=_SMALLEST_DETERMINANT)
        ideal_x = ideal_x - (there.dyy * miss_x - there.dxy * miss_y) / determinant
        ideal_y = ideal_y - (there.dxx * miss_y - there.dxy * miss_x) / determinant
    return _finite(ideal_x, x), _finite(ideal_y, y)


def distort_angle(theta: Tensor, lens: Coefficients) -> tuple[Tensor, Tensor]:
    """Apply the fisheye model: angle (radians) to image radius, and the derivative of that radius by the angle.

    p1, p2 and d1 to d3 play no part.
    """
    t2 = theta * theta
    radius = theta * (1 + t2 * (lens.k1 + t2 * (lens.k2 + t2 * (lens.k3 + t2 * lens.k4))))
    slope = 1 + t2 * (3 * lens.k1 + t2 * (5 * lens.k2 + t2 * (7 * lens.k3 + t2 * (9 * lens.k4))))
    return radius, slope


def undistort_angle(radius: Tensor, lens: Coefficients, *, steps: int = MOST_NEWTON_STEPS) -> Tensor:
    """Invert ``distort_angle`` by Newton's method; the angle is kept within [0, pi]."""
    theta = radius.clamp(max=torch.pi)
    for _ in range(steps):
        there, slope = distort_angle(theta, lens)
        theta = (theta - (there - radius) / slope.clamp(min=_SMALLEST_DETERMINANT)).clamp(0.0, torch.pi)
    return theta


def largest_radius(lens: Coefficients, *, steps: int = 512) -> Tensor:
    """The image radius up to which a fisheye lens shows every angle once.

    Beyond it the polynomial turns back (two angles at one place) or the angle passes pi: no ray belongs there.

    Args:
        lens: coefficients of shape (N,).
        steps: angles looked at between 0 and pi.

    Returns:
        (N,): the radius at the polynomial's first turning point (to pi / ``steps`` radians), at most that at pi.
    """
    theta = torch.linspace(0, torch.pi, steps + 1, dtype=lens.k1.dtype, device=lens.k1.device)
    radius, slope = distort_angle(theta, Coefficients(*(value[:, None] for value in lens[:6])))
    # The last angle before the first that no longer grows; the slope at 0 is 1.
    last = (slope > 0).long().cumprod(dim=1).sum(dim=1) - 1
    return radius.gather(1, last[:, None])[:, 0]


def _finite(value: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value, otherwise)
