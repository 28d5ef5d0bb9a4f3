"""All of space in a box: near points stay, far ones are drawn in, so that a bounded field can describe both.

Source: Barron et al., Mip-NeRF 360, https://arxiv.org/abs/2111.12077, equation 10, which takes the length of a point.
With its largest coordinate instead, as in nerfstudio's nerfacto, space becomes a cube, which a grid fills.
"""

from typing import Literal

import torch

from voxfield.checks import check_choice, check_shape
from voxfield.kernels.interval_points.reference import contract_linf

Norm = Literal["linf", "l2"]
"""What stays as it is: ``"linf"`` the cube [-1, 1]^3, ``"l2"`` the unit ball."""


def contract(points: torch.Tensor, *, norm: Norm = "linf") -> torch.Tensor:
    """Draw space into [-2, 2]^3 (``"linf"``) or the ball of radius 2 (``"l2"``).

    With n = ||x||: x stays where n <= 1, and elsewhere becomes (2 - 1/n) x/n. Once continuously differentiable in n.

    Args:
        points: (N, 3), finite, in units in which the scene of interest lies within 1 of the origin.
        norm: how far a point is: its largest coordinate's magnitude, or its length. In float32 a length above 1e19
            overflows.

    Returns:
        (N, 3), same dtype.

    Gradients:
        To ``points``, finite everywhere, the origin and the points with equal coordinates included; there, where
        ``"linf"`` has an edge outside the cube, it is the mean of the sides'.

    Raises:
        InputError: wrong shape, or an unknown norm.
    """
    check_shape("points", points, ("N", 3))
    check_choice("norm", norm, ("linf", "l2"))
    if norm == "linf":
        return contract_linf(points.T).T
    inverse = points.norm(dim=1, keepdim=True).clamp(min=1.0).reciprocal()
    return points * ((2.0 - inverse) * inverse)


def contract_to_unit_cube(points: torch.Tensor, *, norm: Norm = "linf") -> torch.Tensor:
    """``contract``, moved and scaled from [-2, 2]^3 into [0, 1]^3: (contract(x) + 2) / 4, where the hash grids live.

    What stays uncontracted is the middle half of each axis. Arguments, gradients and errors are those of ``contract``.
    """
    return contract(points, norm=norm) * 0.25 + 0.5
