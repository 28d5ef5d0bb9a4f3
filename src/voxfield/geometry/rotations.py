"""Rotations as matrices and as unit quaternions (w, x, y, z). q and -q are the same rotation."""

import torch
from torch import Tensor

from voxfield.checks import check_shape


def quaternions_from_rotations(rotations: Tensor) -> Tensor:
    """(N, 3, 3) rotation matrices to (N, 4) unit quaternions with w >= 0, in their dtype.

    The quaternion is the eigenvector of the largest eigenvalue of a symmetric 4x4 matrix made of R's entries
    (Bar-Itzhack 2000, https://doi.org/10.2514/2.4654): exact for rotations, best in the least squares sense
    otherwise, and stable at every angle.
    """
    check_shape("rotations", rotations, ("N", 3, 3))
    (r00, r01, r02), (r10, r11, r12), (r20, r21, r22) = (row.unbind(-1) for row in rotations.double().unbind(-2))
    upper = [
        [r00 + r11 + r22, r21 - r12, r02 - r20, r10 - r01],
        [r21 - r12, r00 - r11 - r22, r01 + r10, r02 + r20],
        [r02 - r20, r01 + r10, r11 - r00 - r22, r12 + r21],
        [r10 - r01, r02 + r20, r12 + r21, r22 - r00 - r11],
    ]
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in upper], dim=-2)
    quaternions = torch.linalg.eigh(symmetric).eigenvectors[..., -1]
    return torch.where(quaternions[..., :1] < 0, -quaternions, quaternions).to(rotations.dtype)


def rotations_from_quaternions(quaternions: Tensor) -> Tensor:
    """(N, 4) quaternions of any length above 0 to (N, 3, 3) rotation matrices. Differentiable."""
    check_shape("quaternions", quaternions, ("N", 4))
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def slerp(start: Tensor, end: Tensor, fraction: Tensor) -> Tensor:
    """Turn from ``start`` to ``end`` at constant speed, the short way.

    Args:
        start, end: (N, 4) unit quaternions.
        fraction: (N,) in [0, 1].

    Returns:
        (N, 4) unit quaternions.
    """
    cosine = (start * end).sum(-1, keepdim=True)
    end = torch.where(cosine < 0, -end, end)
    angle = torch.acos(cosine.abs().clamp(max=1.0))
    fraction = fraction[:, None]
    # Below 1e-4 radians a straight line is the arc to float32's precision.
    sine = angle.sin()
    straight = angle < 1e-4
    safe = torch.where(straight, torch.ones_like(sine), sine)
    first = torch.where(straight, 1 - fraction, ((1 - fraction) * angle).sin() / safe)
    second = torch.where(straight, fraction, (fraction * angle).sin() / safe)
    mixed = first * start + second * end
    return mixed / mixed.norm(dim=-1, keepdim=True)
