"""The 48 symmetries of the cube, numbered.

Number ``8 * p + f`` first exchanges the axes by the p-th permutation of (x, y, z) in lexicographic order, then mirrors
along x, y and z where bits 0, 1 and 2 of f are set. So 0 leaves everything in place.
"""

from itertools import permutations
from typing import Final

import numpy as np

SYMMETRIES: Final = 48
"""How many there are: 24 turns, and as many that mirror, too."""
AXES: Final = tuple(permutations(range(3)))
"""For each permutation the axis of the source that becomes x, y and z."""


def symmetry_matrix(number: int) -> np.ndarray:
    """The matrix (3, 3) int64 that maps places about the block's centre, axes x, y, z."""
    matrix = np.zeros((3, 3), np.int64)
    for axis, source in enumerate(AXES[number // 8]):
        matrix[axis, source] = -1 if number >> axis & 1 else 1
    return matrix


def _inverses() -> np.ndarray:
    matrices = [symmetry_matrix(number) for number in range(SYMMETRIES)]
    numbers = {matrix.tobytes(): number for number, matrix in enumerate(matrices)}
    return np.array([numbers[np.ascontiguousarray(matrix.T).tobytes()] for matrix in matrices])


INVERSE: Final = _inverses()
"""(48,) int64: the number of each one's inverse."""
