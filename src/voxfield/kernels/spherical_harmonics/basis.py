"""Factors of the real spherical harmonics, bands 0 to 4, in closed form.

``Y[l]`` lists the factors of band l in the order m = -l ... l. They make the functions orthonormal on the unit sphere.
The signs are those of the (-1)**m of the Condon-Shortley phase, as Sloan's table has them.
"""

from math import pi, sqrt
from typing import Final

MAX_DEGREE: Final = 4

Y: Final[tuple[tuple[float, ...], ...]] = (
    (sqrt(1 / pi) / 2,),
    (-sqrt(3 / pi) / 2, sqrt(3 / pi) / 2, -sqrt(3 / pi) / 2),
    (sqrt(15 / pi) / 2, -sqrt(15 / pi) / 2, sqrt(5 / pi) / 4, -sqrt(15 / pi) / 2, sqrt(15 / pi) / 4),
    (
        -sqrt(35 / (2 * pi)) / 4,
        sqrt(105 / pi) / 2,
        -sqrt(21 / (2 * pi)) / 4,
        sqrt(7 / pi) / 4,
        -sqrt(21 / (2 * pi)) / 4,
        sqrt(105 / pi) / 4,
        -sqrt(35 / (2 * pi)) / 4,
    ),
    (
        3 * sqrt(35 / pi) / 4,
        -3 * sqrt(35 / (2 * pi)) / 4,
        3 * sqrt(5 / pi) / 4,
        -3 * sqrt(5 / (2 * pi)) / 4,
        3 * sqrt(1 / pi) / 16,
        -3 * sqrt(5 / (2 * pi)) / 4,
        3 * sqrt(5 / pi) / 8,
        -3 * sqrt(35 / (2 * pi)) / 4,
        3 * sqrt(35 / pi) / 16,
    ),
)
