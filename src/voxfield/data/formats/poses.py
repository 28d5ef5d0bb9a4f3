"""Poses as files state them, checked: a camera-to-world matrix is finite, rigid and right-handed, or it is refused.

OpenCV cameras (+X right, +Y down, looking along +Z) become OpenGL ones (+X right, +Y up, looking along -Z) by turning
half a circle about X: the second and third columns change sign, the centre stays.
"""

from typing import Final

import torch
from torch import Tensor

from voxfield.errors import FormatError
from voxfield.geometry.pose import RIGID_TOLERANCE, is_rigid, orthonormalise

LARGEST_NUMBER: Final = 1e8
"""Beyond it float32 no longer resolves a scene; such numbers are mistakes."""

Pose = tuple[tuple[float, ...], ...]
"""3 rows of 4: camera-to-world."""


def rigid_pose(matrix: Tensor, *, where: str, name: str) -> Pose:
    """A (3, 4) or (4, 4) camera-to-world matrix with OpenGL axes, checked and cleaned of rounding.

    Args:
        matrix: float64, may hold anything.
        where: file and frame, the beginning of every message.
        name: what the file calls the matrix.

    Raises:
        FormatError: NaN, infinite or huge numbers, a last row other than 0 0 0 1, a scale, shear or mirroring.
    """
    if not bool(matrix.isfinite().all()) or float(matrix.abs().max()) > LARGEST_NUMBER:
        raise FormatError(f"{where}: {name} holds NaN, infinite or huge numbers. Remove the frame or redo its pose.")
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    if matrix.shape[0] == 4 and float((matrix[3] - bottom).abs().max()) > 1e-6:
        raise FormatError(
            f"{where}: expected the last row of {name} to be 0 0 0 1, got {matrix[3].tolist()}. "
            "Is the matrix transposed?"
        )
    if not bool(is_rigid(matrix)):
        raise FormatError(
            f"{where}: {name} is not rigid: {_why_not_rigid(matrix[:3, :3])}. "
            "Export camera-to-world poses without scale or mirroring."
        )
    rotation = orthonormalise(matrix[:3, :3])
    return tuple(tuple(row) for row in torch.cat([rotation, matrix[:3, 3:]], dim=1).tolist())


def from_opencv(matrix: Tensor) -> Tensor:
    """The same camera-to-world matrix (..., 3 or 4, 4) with OpenGL axes in place of OpenCV's."""
    return matrix * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=matrix.dtype)


def _why_not_rigid(rotation: Tensor) -> str:
    determinant = float(torch.linalg.det(rotation))
    scale = float(rotation.norm(dim=0).mean())
    if abs(determinant) < 1e-12:
        return "its 3x3 part is singular"
    even = (rotation / scale) @ (rotation / scale).T - torch.eye(3, dtype=rotation.dtype)
    if float(even.abs().max()) > RIGID_TOLERANCE:
        return "its axes are not perpendicular and of one length"
    if determinant < 0:
        return "it mirrors (determinant below 0)"
    return f"it scales by {scale:.4g}"
