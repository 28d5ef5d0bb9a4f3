"""How sharp photographs are, and which of a set are blurred.

The measure is the variance of the Laplacian over the variance of the picture,

    S = Var(L) / Var(G),    L = G(x-1, y) + G(x+1, y) + G(x, y-1) + G(x, y+1) - 4 G(x, y),

of the grey picture G, reduced by area averaging until its longest side has at most `MEASURED_SIDE` pixels. The
variance of the Laplacian alone (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000) grows
with the square of contrast and exposure; the quotient does not, is dimensionless, and lies in [0, 64). Reducing keeps
sensor noise out, and blur too small to matter for training. Rounding to 8 bits adds up to (16 + 4) / 12 to Var(L):
below that more blur no longer shows.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MEASURED_SIDE: Final = 1000
"""Pixels of the longest side at which sharpness is measured."""

BLURRED_BELOW: Final = 0.3
"""A picture is blurred when its sharpness is below this share of the set's median. A Gaussian blur of one pixel at
`MEASURED_SIDE` takes sharp photographs to 0.13 - 0.20 of their own, one of two to 0.03 (two handheld captures of 50 and
77 photographs, whose own range was 0.42 - 2.3 and 0.24 - 2.3 of the median)."""


def measure_sharpness(picture: "Image") -> float:
    """S of the formula above; 0 for a picture of one colour or less than 3 pixels wide or high.

    Args:
        picture: of any size and any mode that Pillow turns into grey.
    """
    # Reduced first: the conversion then touches few pixels.
    factor = -(-max(picture.size) // MEASURED_SIDE)
    grey = np.asarray((picture.reduce(factor) if factor > 1 else picture).convert("L"), dtype=np.float32)
    variance = float(grey.var())
    if min(grey.shape) < 3 or variance == 0.0:
        return 0.0
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var()) / variance


def find_blurred(sharpness: Mapping[str, float]) -> dict[str, float]:
    """Pictures blurred in comparison with the others.

    Args:
        sharpness: of every picture, by name.

    Returns:
        Name to share of the set's median, below `BLURRED_BELOW`, the most blurred first.
    """
    median = float(np.median(list(sharpness.values()))) if sharpness else 0.0
    if median == 0.0:
        return {}
    shares = {name: value / median for name, value in sharpness.items() if value < BLURRED_BELOW * median}
    return dict(sorted(shares.items(), key=lambda item: item[1]))
