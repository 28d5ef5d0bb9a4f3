"""A density field too small to paint with, but quick to ask: where along a ray matter may be.

Source: Barron et al., Mip-NeRF 360, https://arxiv.org/abs/2111.12077, section 3; on a hash grid as in nerfstudio's
nerfacto.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from voxfield.checks import check_range
from voxfield.fields.activations import truncated_exp
from voxfield.fields.hash_field import relu_layers
from voxfield.kernels.fused_mlp import fused_mlp
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.workspace import huge_zeros


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Sizes of a proposal network. The defaults are nerfacto's first."""

    num_samples: int | Literal["auto"] = "auto"
    """Intervals a ray is looked at in, at least 1. ``auto``: what the model chooses for the capture."""
    num_levels: int = 5
    """Resolutions of the hash grid, 1 to 32."""
    log2_table_size: int = 17
    """Base-2 logarithm of the entries of a level, 4 to 24."""
    base_resolution: int = 16
    """Cells along each axis of the coarsest level, at least 1."""
    max_resolution: int = 128
    """Cells along each axis of the finest level."""
    hidden: int = 16
    """Units of the hidden layer, 1 to 1024."""

    def __post_init__(self) -> None:
        if self.num_samples != "auto":
            check_range("num_samples", self.num_samples, minimum=1, maximum=4096)
        check_range("hidden", self.hidden, minimum=1, maximum=1024)

    @property
    def grid(self) -> HashGrid:
        """Topology of the hash grid."""
        return HashGrid(
            num_levels=self.num_levels,
            features=2,
            log2_table_size=self.log2_table_size,
            base_resolution=self.base_resolution,
            max_resolution=self.max_resolution,
        )


class ProposalNetwork(torch.nn.Module):
    """Density anywhere in the unit cube."""

    def __init__(self, config: ProposalConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config, self.grid = config, config.grid
        table = huge_zeros(torch.Size((self.grid.num_entries, 2)))
        self.table = torch.nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        self.density_net = relu_layers([self.grid.num_outputs, config.hidden, 1], generator)
        self.table_grad: torch.Tensor | None = None

    def density(self, positions: torch.Tensor) -> torch.Tensor:
        """Density (N,), per unit of length the caller scales by, at ``positions`` (N, 3) in the unit cube."""
        features = hash_encode(positions, self.table, self.grid, table_grad=self.table_grad)
        return truncated_exp(fused_mlp(features, list(self.density_net))[:, 0])
