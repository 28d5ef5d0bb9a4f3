"""A radiance field: features of a hash grid, a small network for density, another for colour seen from a direction.

Source: Mueller et al. 2022, Instant Neural Graphics Primitives (https://arxiv.org/abs/2201.05989), section 5.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from voxfield.checks import check_range
from voxfield.fields.activations import (
    density_and_features,
    recovering_sigmoid,
    recovering_softplus,
    truncated_exp,
)
from voxfield.kernels.fused_mlp import fused_mlp
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.kernels.workspace import huge_zeros


@dataclass(frozen=True, kw_only=True)
class HashFieldConfig:
    """Sizes of the field. The defaults are instant-ngp's networks on a smaller table (see docs/decisions)."""

    num_levels: int = 16
    """Resolutions of the hash grid, 1 to 32."""
    features: int = 2
    """Features of an entry: 1, 2, 4 or 8."""
    log2_table_size: int = 18
    """Base-2 logarithm of the entries of a level, 4 to 24. A small table stays in cache, a large one keeps more
    detail."""
    base_resolution: int = 16
    """Cells along each axis of the coarsest level, at least 1."""
    max_resolution: int = 2048
    """Cells along each axis of the finest level, across the outermost box."""
    hidden: int = 64
    """Units of a hidden layer, at least 1."""
    geometry_features: int = 16
    """Outputs of the density network that the colour network sees; the first is the density's logarithm. At least 1."""
    colour_layers: int = 2
    """Hidden layers of the colour network, at least 1."""
    sh_degree: int = 3
    """Degree of the spherical harmonics of the viewing direction, 0 to 4."""
    appearance: int = 0
    """Numbers that the colour network is told about the picture a ray belongs to, 0 to 256."""

    def __post_init__(self) -> None:
        check_range("hidden", self.hidden, minimum=1, maximum=1024)
        check_range("geometry_features", self.geometry_features, minimum=1, maximum=256)
        check_range("colour_layers", self.colour_layers, minimum=1, maximum=8)
        check_range("sh_degree", self.sh_degree, minimum=0, maximum=4)
        check_range("appearance", self.appearance, minimum=0, maximum=256)

    @property
    def grid(self) -> HashGrid:
        """Topology of the hash grid."""
        return HashGrid(
            num_levels=self.num_levels,
            features=self.features,
            log2_table_size=self.log2_table_size,
            base_resolution=self.base_resolution,
            max_resolution=self.max_resolution,
        )


class FieldSamples(NamedTuple):
    """What a field says of N samples."""

    density: torch.Tensor
    """(N,) per unit of length the caller scales by."""
    geometry: torch.Tensor
    """(N, G): what their colour depends on beside the direction."""
    discord: torch.Tensor | None = None
    """Scalar: how far the field contradicts itself, where that is asked for."""


class HashField(torch.nn.Module):
    """Density and colour anywhere in the unit cube."""

    def __init__(self, config: HashFieldConfig, generator: torch.Generator, *, linear: bool = False) -> None:
        """A fresh field; ``linear`` ones have colours without an upper bound, see `colour`."""
        super().__init__()
        self.config, self.grid, self.linear = config, config.grid, linear
        table = huge_zeros(torch.Size((self.grid.num_entries, config.features)))
        self.table = torch.nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        shared = (config.sh_degree + 1) ** 2 + config.appearance
        self.density_net = relu_layers([self.grid.num_outputs, config.hidden, config.geometry_features], generator)
        self.colour_net = relu_layers(
            [config.geometry_features + shared, *[config.hidden] * config.colour_layers, 3], generator
        )
        self.table_grad: torch.Tensor | None = None

    def parameters_of_tables(self) -> list[torch.nn.Parameter]:
        """The hash grid's entries, of which a batch touches a part."""
        return [self.table]

    def parameters_of_networks(self) -> list[torch.nn.Parameter]:
        """Weights of the networks that every sample meets."""
        return [*self.density_net, *self.colour_net]

    def parameters_of_levels(self) -> list[torch.nn.Parameter]:
        """None: a field of one resolution has no networks that only some samples meet."""
        return []

    def accumulate_in_place(self) -> None:
        """Let the hash grid's backward add to the table's ``.grad`` rather than return a new tensor each time."""
        self.table_grad = self.table.grad

    def query(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> FieldSamples:  # noqa: ARG002
        """What is at ``positions`` (N, 3) in the unit cube; a field of one resolution does not mind the ``level``."""
        density, geometry = self.geometry(self.encode(positions))
        return FieldSamples(density, geometry)

    def encode(self, positions: torch.Tensor) -> torch.Tensor:
        """Features (N, levels * features) at ``positions`` (N, 3) in the unit cube; differentiable in table and
        positions.
        """
        return hash_encode(positions, self.table, self.grid, table_grad=self.table_grad)

    def geometry(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Density (N,) and geometry features (N, geometry_features) from encoded positions."""
        return density_and_features(fused_mlp(features, list(self.density_net)))

    def density(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """Density (N,), per unit of length the caller scales by, at ``positions`` (N, 3) in the unit cube."""
        *hidden, last = self.density_net
        return truncated_exp(fused_mlp(self.encode(positions), [*hidden, last[:1]])[:, 0])

    def log_density(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """Logarithm of ``density``, (N,), differentiable in ``positions`` alone: the parameters are constants."""
        features = hash_encode(positions, self.table.detach(), self.grid)
        *hidden, last = (weight.detach() for weight in self.density_net)
        return fused_mlp(features, [*hidden, last[:1]])[:, 0]

    def colour(
        self,
        geometry: torch.Tensor,
        directions: torch.Tensor,
        ray_index: torch.Tensor,
        appearance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Colour (N, 3): the sigmoid of the network's output, in [0, 1], or in linear fields its softplus, above 0 (see
        docs/decisions).

        Args:
            geometry: (N, geometry_features).
            directions: (R, 3) unit vectors, one a ray.
            ray_index: (N,) the ray of each sample.
            appearance: (R, A) of each ray's picture, where the field was made with ``appearance`` A above 0.
        """
        shared = ray_inputs(directions, self.config.sh_degree, appearance)
        return colour_of(geometry, list(self.colour_net), shared, ray_index, linear=self.linear)

    def penalty(self, discord: torch.Tensor | None) -> torch.Tensor | None:  # noqa: ARG002
        """Nothing is added to the loss."""
        return None


def ray_inputs(directions: torch.Tensor, sh_degree: int, appearance: torch.Tensor | None) -> torch.Tensor:
    """What a network of colour is told of each of R rays: harmonics of ``directions`` (R, 3), ``appearance`` (R, A)."""
    shared = spherical_harmonics(directions, sh_degree)
    return shared if appearance is None else torch.cat([shared, appearance], dim=1)


def colour_of(
    geometry: torch.Tensor,
    net: Sequence[torch.Tensor],
    shared: torch.Tensor,
    ray_index: torch.Tensor,
    *,
    linear: bool,
) -> torch.Tensor:
    """Colour (N, 3): the sigmoid of the output of ``net``, in [0, 1], or with ``linear`` its softplus, above 0."""
    raw = fused_mlp(geometry, net, shared=shared, shared_index=ray_index)
    return recovering_softplus(raw) if linear else recovering_sigmoid(raw)


def relu_layers(widths: list[int], generator: torch.Generator) -> torch.nn.ParameterList:
    """Weights of a ReLU network without biases, uniform with the variance of He et al. 2015."""
    layers = []
    for columns, rows in zip(widths[:-1], widths[1:], strict=True):
        bound = (6.0 / columns) ** 0.5
        layers.append(torch.nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)))
    return torch.nn.ParameterList(layers)
