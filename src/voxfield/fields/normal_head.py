"""Normals learnt by a network, smoother than the slope of a density that a hash grid describes.

Source: Verbin et al. 2022, Ref-NeRF, https://arxiv.org/abs/2112.03907, section 4; the inputs are those of nerfstudio's
nerfacto.
"""

import math
from typing import Final

import torch

from voxfield.fields.hash_field import relu_layers
from voxfield.kernels.fused_mlp import fused_mlp

_FREQUENCIES: Final = (1.0, 2.0)
"""Periods across the unit cube of the sines and cosines that tell where a sample is."""


class NormalHead(torch.nn.Module):
    """Unit vectors in world axes from a field's geometry features."""

    def __init__(self, geometry_features: int, hidden: int, generator: torch.Generator) -> None:
        """Two hidden layers of ``hidden`` units over ``geometry_features`` numbers and the position."""
        super().__init__()
        inputs = geometry_features + 6 * len(_FREQUENCIES)
        self.net = relu_layers([inputs, hidden, hidden, 3], generator)

    def forward(self, geometry: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Normals (N, 3), unit, from geometry features (N, geometry_features) at ``positions`` (N, 3) in the unit cube.

        Differentiable in all but the positions.
        """
        angles = torch.cat([positions.detach() * (2 * math.pi * frequency) for frequency in _FREQUENCIES], dim=1)
        inputs = torch.cat([geometry, angles.sin(), angles.cos()], dim=1)
        return torch.nn.functional.normalize(fused_mlp(inputs, list(self.net)), dim=1, eps=1e-10)
