"""Transforms: where a grid's voxels are in the world, as a matrix here, as one of several maps in a file.

A matrix (4, 4) float64 takes index coordinates, a column (x, y, z, 1), to world ones. Whole index coordinates are where
the values are sampled: the world position of voxel i's value is ``matrix @ (i, 1)``.
"""

from typing import Final

import numpy as np

from voxfield.errors import InputError
from voxfield.storage.vdb.cursor import Cursor, packed_text

_SCALE_PARTS: Final = 15
"""Doubles of a scale: itself, the voxel's size, 1 / s, 1 / s² and 1 / 2s, each for x, y and z."""

_ALIKE: Final = 1e-6
"""Entries of axes one unit long that differ by less are alike: files made by other programs round."""


def read_transform(cursor: Cursor) -> np.ndarray:
    """The index-to-world matrix of the map that stands next.

    Raises:
        VolumeFormatError: it ends too soon, is not finite, has no inverse, or is a frustum or another map that is no
            matrix.
    """
    kind = cursor.text()
    matrix = np.eye(4)
    if kind in {"UniformScaleMap", "ScaleMap"}:
        matrix[:3, :3] = np.diag(cursor.unpack(f"{_SCALE_PARTS}d")[:3])
    elif kind in {"UniformScaleTranslateMap", "ScaleTranslateMap"}:
        numbers = cursor.unpack(f"{3 + _SCALE_PARTS}d")
        matrix[:3, :3], matrix[:3, 3] = np.diag(numbers[3:6]), numbers[:3]
    elif kind == "TranslationMap":
        matrix[:3, 3] = cursor.unpack("3d")
    elif kind in {"AffineMap", "UnitaryMap"}:
        # Rows times matrices in the file: the translation is its last row.
        matrix = np.array(cursor.unpack("16d")).reshape(4, 4).T
    else:
        raise cursor.fault(f"a transform of kind {kind[:60]!r}, where a matrix is needed")
    if not _usable(matrix):
        raise cursor.fault("a transform that is not finite or has no inverse")
    return matrix


def packed_transform(matrix: np.ndarray) -> bytes:
    """The inverse of `read_transform`, as the plainest map that says it.

    Raises:
        InputError: not a (4, 4) matrix of finite numbers with an inverse and the last row 0 0 0 1.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if not _usable(matrix):
        raise InputError(
            "index_to_world: expected a (4, 4) matrix of finite numbers with an inverse and the last row 0, 0, 0, 1, "
            f"got {matrix.tolist()}."
        )
    scale, translation = np.diag(matrix)[:3], matrix[:3, 3]
    if (matrix[:3, :3] != np.diag(scale)).any() or (scale <= 0).any():
        return packed_text("AffineMap") + matrix.T.astype("<f8").tobytes()
    parts = [scale, scale, 1.0 / scale, 1.0 / scale**2, 0.5 / scale]
    kind = "UniformScale" if (scale == scale[0]).all() else "Scale"
    if translation.any():
        kind, parts = f"{kind}Translate", [translation, *parts]
    return packed_text(f"{kind}Map") + np.concatenate(parts).astype("<f8").tobytes()


def matrix_of_bounds(lower: np.ndarray, upper: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """The index-to-world matrix of a grid of cells over a box, whose values stand at the cells' centres.

    Args:
        lower: (3,) world coordinates of the box.
        upper: (3,) likewise, above ``lower``.
        resolution: (3,) cells along x, y and z, at least 1.
    """
    size = (np.asarray(upper, np.float64) - np.asarray(lower, np.float64)) / np.asarray(resolution, np.float64)
    matrix = np.diag([*size, 1.0])
    matrix[:3, 3] = lower + size / 2
    return matrix


def turn_of(matrix: np.ndarray) -> str | None:
    """How the axes of a grid are turned, in words: such as ``turned 30 degrees about (0, 0, 1)``; None: not at all.

    Axes that are also mirrored or not at right angles are said to be; the three columns of the matrix tell how.
    """
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if np.abs(axes - np.eye(3)).max() < _ALIKE:
        return None
    if np.abs(axes.T @ axes - np.eye(3)).max() > _ALIKE:
        return "sheared"
    mirrored = np.linalg.det(axes) < 0
    if mirrored:
        # The turn behind a mirroring of all three axes, which is what any other one is too.
        axes = -axes
    # Rodrigues: the angle is in the trace, the axis is the eigenvector that stays.
    angle = float(np.degrees(np.arccos(np.clip((np.trace(axes) - 1) / 2, -1, 1))))
    values, vectors = np.linalg.eig(axes)
    axis = vectors[:, np.argmin(np.abs(values - 1))].real
    skew = np.array([axes[2, 1] - axes[1, 2], axes[0, 2] - axes[2, 0], axes[1, 0] - axes[0, 1]])
    side = skew @ axis if abs(skew @ axis) > _ALIKE else axis[np.argmax(np.abs(axis))]
    axis = np.round(axis if side >= 0 else -axis, 4) + 0.0
    words = [] if angle < _ALIKE else [f"turned {angle:.4g} degrees about ({', '.join(f'{one:.4g}' for one in axis)})"]
    return " and ".join(["mirrored in all axes", *words] if mirrored else words)


def _usable(matrix: np.ndarray) -> bool:
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (matrix[3] != (0, 0, 0, 1)).any():
        return False
    # The determinant over the columns' lengths: free of the unit, so that tiny voxels are as good as large ones.
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        columns = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        return bool(np.isfinite(columns).all() and abs(np.linalg.det(columns)) > 1e-12)
