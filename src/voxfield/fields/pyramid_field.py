"""A radiance field at several resolutions: samples are asked for at the one their pixel's width suits.

Neighbouring levels are asked and their answers blended: what a pixel covers is averaged, and nothing aliases. Each
level has a density network of its own, over one hash grid that all share or over grids that end at their resolutions.
Samples are sorted by level first, so that a sample costs the networks of its own two levels and no others'.

Source: Turki, Zollhoefer, Richardt and Ramanan 2023, PyNeRF (https://arxiv.org/abs/2312.00252), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from voxfield.checks import check_choice, check_range
from voxfield.distributed.ranks import Ranks
from voxfield.errors import FormatError, InputError
from voxfield.fields.activations import density_and_features, truncated_exp
from voxfield.fields.hash_field import FieldSamples, HashFieldConfig, colour_of, ray_inputs, relu_layers
from voxfield.fields.pyramid_levels import (
    Blending,
    GroupedLevels,
    LevelGroup,
    PyramidLevels,
    blend,
    check_blending,
    group_levels,
)
from voxfield.fields.trained_levels import TrainedLevels
from voxfield.kernels.fused_mlp import fused_mlp
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.workspace import huge_zeros

_IDENTITY: Final = ("num_levels", "scale_factor", "blending", "interpolate", "share_feature_grid", "trained_resolution")
"""Settings without which a checkpoint means something else."""


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """The pyramid. Its finest resolution, tables and networks are those of ``model.field``."""

    num_levels: int = 8
    """Levels, 1 to 16. The coarsest must have a cell at least, with grids of their own ``field.base_resolution``."""
    scale_factor: float = 2.0
    """Factor between the resolutions of neighbouring levels, above 1."""
    blending: Blending = "linear"
    """How levels make one value: ``linear`` between the two next to a sample's own, ``none``: the next finer one alone,
    ``laplacian``: all up to its own are summed, each the residual of those before it."""
    interpolate: Literal["embedding", "color"] = "embedding"
    """What is blended: the outputs of the density networks, for one network of colour, or activated densities and the
    colours of a network of each level, which costs a second one."""
    share_feature_grid: bool = True
    """Whether one hash grid serves all levels, or each has one that ends at its resolution, for many times the memory.
    """
    trained_resolution: int = 128
    """Cells along each axis of the grids that keep which levels were learnt where, so that rendering asks for no
    others; 0: it asks for any. Up to 256."""
    consistency_weight: float = 0.0
    """Weight of the mean squared difference between the two levels of a sample, at least 0. 0.1 suits; the paper has no
    such loss."""
    l2_weight: float = 0.0
    """Weight of the sum of the networks' squared weights, at least 0."""

    def __post_init__(self) -> None:
        check_blending(self.blending)
        check_choice("interpolate", self.interpolate, ("embedding", "color"))
        check_range("num_levels", self.num_levels, minimum=1, maximum=16)
        check_range("scale_factor", self.scale_factor, above=1.0, maximum=64.0)
        check_range("trained_resolution", self.trained_resolution, minimum=0, maximum=256)
        check_range("consistency_weight", self.consistency_weight, minimum=0.0)
        check_range("l2_weight", self.l2_weight, minimum=0.0)
        if self.blending == "laplacian" and self.interpolate == "color":
            raise InputError("interpolate: laplacian levels are residuals of embeddings, not colours. Set embedding.")
        if self.consistency_weight and self.blending != "linear":
            raise InputError("consistency_weight: only linear blending has two levels to compare. Set blending=linear.")

    def levels(self, field: HashFieldConfig, extent: float) -> PyramidLevels:
        """The pyramid over ``extent`` world units whose finest level has the finest cells of ``field``.

        Raises:
            InputError: the coarsest level would have less than a cell, or than its grid begins with.
        """
        return PyramidLevels(
            num_levels=self.num_levels,
            scale_factor=self.scale_factor,
            max_resolution=field.max_resolution,
            extent=extent,
            least_resolution=1 if self.share_feature_grid else field.base_resolution,
        )


class PyramidField(torch.nn.Module):
    """Density and colour anywhere in the unit cube, for pixels of any width."""

    def __init__(
        self,
        config: HashFieldConfig,
        pyramid: PyramidConfig,
        generator: torch.Generator,
        *,
        extent: float,
        linear: bool = False,
    ) -> None:
        """A fresh field.

        Args:
            config: sizes of the grids and the networks.
            pyramid: the levels.
            generator: of the initial parameters.
            extent: longest side of the region the unit cube stands for before contraction, world units.
            linear: colours without an upper bound, see `voxfield.fields.hash_field.colour_of`.
        """
        super().__init__()
        self.config, self.pyramid, self.linear = config, pyramid, linear
        self.levels = pyramid.levels(config, extent)
        self.grids = _grids(config, self.levels, shared=pyramid.share_feature_grid)
        self.tables = torch.nn.ParameterList()
        for grid in self.grids:
            table = huge_zeros(torch.Size((grid.num_entries, grid.features)))
            self.tables.append(torch.nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator)))
        inputs = self.grids[0].num_outputs
        self.density_nets = torch.nn.ModuleList(
            relu_layers([inputs, config.hidden, config.geometry_features], generator) for _ in range(pyramid.num_levels)
        )
        seen = config.geometry_features + (config.sh_degree + 1) ** 2 + config.appearance
        widths = [seen, *[config.hidden] * config.colour_layers, 3]
        count = pyramid.num_levels if pyramid.interpolate == "color" else 1
        self.colour_nets = torch.nn.ModuleList(relu_layers(widths, generator) for _ in range(count))
        self.trained = (
            TrainedLevels(pyramid.num_levels, pyramid.trained_resolution) if pyramid.trained_resolution else None
        )
        self.table_grads: list[torch.Tensor | None] = [None] * len(self.grids)

    def parameters_of_tables(self) -> list[torch.nn.Parameter]:
        """The hash grids' entries, of which a batch touches a part."""
        return list(self.tables)

    def parameters_of_networks(self) -> list[torch.nn.Parameter]:
        """Weights of the networks that every sample meets: those of one network of colour."""
        return [] if self.pyramid.interpolate == "color" else list(self.colour_nets.parameters())

    def parameters_of_levels(self) -> list[torch.nn.Parameter]:
        """Weights of the networks of single levels: those of a level that no sample asks for get no gradient."""
        nets = [*self.density_nets, *(self.colour_nets if self.pyramid.interpolate == "color" else ())]
        return [weight for net in nets for weight in net.parameters()]

    def accumulate_in_place(self) -> None:
        """Let the hash grids' backward add to the tables' ``.grad`` rather than return a new tensor each time."""
        self.table_grads = [table.grad for table in self.tables]

    def learn_levels(self, positions: torch.Tensor, level: torch.Tensor) -> None:
        """Note at which ``level`` (N,) training asks for ``positions`` (N, 3) in the unit cube."""
        if self.trained is not None:
            self.trained.observe(positions, level)

    def merge(self, ranks: Ranks) -> None:
        """Make the levels that ``ranks`` noted the same on all of them."""
        if self.trained is not None:
            self.trained.merge(ranks)

    def trained_level(self, positions: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The ``level`` (N,) to render ``positions`` (N, 3) at: the nearest that training asked for there."""
        return level if self.trained is None else self.trained.clamp(positions, level)

    def level_seen(self, pixel_area: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """The level (R,), 0 to the finest, that rays' pixels ask for at ``depth`` (R,)."""
        return self.levels.at_distance(pixel_area, depth).clamp(0, self.pyramid.num_levels - 1)

    def query(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> FieldSamples:
        """What is at ``positions`` (N, 3) in the unit cube at ``level`` (N,), see `PyramidLevels.of_width`; None: the
        finest.

        Differentiable in the parameters and the positions; levels are constants.
        """
        grouped = self._grouped(positions, level)
        values = self._level_outputs(positions, grouped)
        parts = [self._blended(group, of_levels) for group, of_levels in zip(grouped.groups, values, strict=True)]
        out = _put_back(grouped, parts, like=positions, rows=self._rows).T
        if self.pyramid.interpolate == "color":
            density, geometry = out[:, 0], out[:, 1:]
        else:
            density, geometry = density_and_features(out)
        discord = None
        if self.pyramid.consistency_weight and torch.is_grad_enabled():
            discord = _discord(grouped, values)
        return FieldSamples(density=density, geometry=geometry, discord=discord)

    def density(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """Density (N,), per unit of length the caller scales by, of `query`."""
        row = self._density_row(positions, level, constants=False)
        return row if self.pyramid.interpolate == "color" else truncated_exp(row)

    def log_density(self, positions: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """Logarithm of ``density``, (N,), differentiable in ``positions`` alone: the parameters are constants."""
        row = self._density_row(positions, level, constants=True)
        return row.clamp(min=1e-30).log() if self.pyramid.interpolate == "color" else row

    def colour(
        self,
        geometry: torch.Tensor,
        directions: torch.Tensor,
        ray_index: torch.Tensor,
        appearance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Colour (N, 3) from ``query``'s ``geometry`` (N, G); the rest as `HashField.colour`."""
        shared = ray_inputs(directions, self.config.sh_degree, appearance)
        if self.pyramid.interpolate == "embedding":
            return colour_of(geometry, list(self.colour_nets[0].parameters()), shared, ray_index, linear=self.linear)
        width = self.config.geometry_features
        blending = self.pyramid.blending
        grouped = group_levels(geometry[:, 2 * width].detach(), self.pyramid.num_levels, blending)
        counts = [group.count for group in grouped.groups]
        taken = _take(grouped, geometry.T[: 2 * width])
        rays = ray_index.index_select(0, grouped.order).split(counts) if counts else ()
        parts = []
        for group, features, index in zip(grouped.groups, taken, rays, strict=True):
            halves = (features[:width], features[width:])
            colours = [
                colour_of(half.T, list(self.colour_nets[at].parameters()), shared, index, linear=self.linear).T
                for half, at in zip(halves, group.levels, strict=False)
            ]
            parts.append(blend(colours, group.share, blending))
        return _put_back(grouped, parts, like=geometry, rows=3).T

    def penalty(self, discord: torch.Tensor | None) -> torch.Tensor | None:
        """What the loss gets beside the error of colours; None: nothing."""
        terms = []
        if discord is not None:
            terms.append(self.pyramid.consistency_weight * discord)
        if self.pyramid.l2_weight:
            weights = [*self.density_nets.parameters(), *self.colour_nets.parameters()]
            terms.append(self.pyramid.l2_weight * torch.stack([weight.square().sum() for weight in weights]).sum())
        return torch.stack(terms).sum() if terms else None

    def get_extra_state(self) -> dict[str, Any]:
        """The pyramid's settings: two pyramids may have parameters of the same shapes."""
        settings = {name: getattr(self.pyramid, name) for name in _IDENTITY}
        return {**settings, "max_resolution": self.config.max_resolution}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Compare a checkpoint's pyramid with this one.

        Raises:
            FormatError: they differ.
        """
        own = self.get_extra_state()
        apart = [f"{name} is {state.get(name)} there, {own[name]} here" for name in own if state.get(name) != own[name]]
        if apart:
            raise FormatError(f"the checkpoint is of another pyramid: {'; '.join(apart)}")

    @property
    def _rows(self) -> int:
        """Numbers a sample has after its levels are blended."""
        width = self.config.geometry_features
        return 2 + 2 * width if self.pyramid.interpolate == "color" else width

    def _level_outputs(
        self,
        positions: torch.Tensor,
        grouped: GroupedLevels,
        *,
        rows: int | None = None,
        constants: bool = False,
    ) -> list[list[torch.Tensor]]:
        """What the density networks say, (geometry_features, count), of every level of every group: all of it, or the
        first ``rows``.

        With ``constants`` no gradient flows to the parameters.
        """
        counts = [group.count for group in grouped.groups]
        inputs = positions.T.index_select(1, grouped.order).T
        if self.pyramid.share_feature_grid:
            inputs = self._encode(0, inputs, constants=constants)
        # Whole arrays each: kernels are compiled for those.
        parts = [part.contiguous() for part in inputs.T.split(counts, dim=1)] if counts else []
        values = []
        for group, part in zip(grouped.groups, parts, strict=True):
            of_levels = []
            for level in group.levels:
                features = part.T
                if not self.pyramid.share_feature_grid:
                    features = self._encode(level, features, constants=constants)
                net = self.density_nets[level].parameters()
                *hidden, out = [weight.detach() if constants else weight for weight in net]
                of_levels.append(fused_mlp(features, [*hidden, out[:rows]]).T)
            values.append(of_levels)
        return values

    def _grouped(self, positions: torch.Tensor, level: torch.Tensor | None) -> GroupedLevels:
        last = self.pyramid.num_levels - 1
        level = positions.new_full((len(positions),), float(last)) if level is None else level.detach().to(positions)
        return group_levels(level, self.pyramid.num_levels, self.pyramid.blending)

    def _density_row(self, positions: torch.Tensor, level: torch.Tensor | None, *, constants: bool) -> torch.Tensor:
        """(N,): the blended logarithm of the density, or where colours are blended the blended density."""
        grouped = self._grouped(positions, level)
        values = self._level_outputs(positions, grouped, rows=1, constants=constants)
        activate = truncated_exp if self.pyramid.interpolate == "color" else torch.Tensor.contiguous
        parts = [
            blend([activate(value[:1]) for value in of_levels], group.share, self.pyramid.blending)
            for group, of_levels in zip(grouped.groups, values, strict=True)
        ]
        return _put_back(grouped, parts, like=positions, rows=1)[0]

    def _encode(self, grid: int, positions: torch.Tensor, *, constants: bool) -> torch.Tensor:
        """Features (N, F) of one hash grid."""
        if constants:
            return hash_encode(positions, self.tables[grid].detach(), self.grids[grid])
        return hash_encode(positions, self.tables[grid], self.grids[grid], table_grad=self.table_grads[grid])

    def _blended(self, group: LevelGroup, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """(rows, count) of one group: the blended embedding, or, to blend colours later, the blended density, both
        levels' features and the level.
        """
        if self.pyramid.interpolate == "embedding":
            return blend(values, group.share, self.pyramid.blending)
        density = blend([truncated_exp(value[:1]) for value in values], group.share, self.pyramid.blending)
        level = torch.full_like(density, float(group.levels[0])).detach()
        if group.share is not None:
            level = level + group.share
        return torch.cat([density, values[0], values[-1], level])


def _grids(config: HashFieldConfig, levels: PyramidLevels, *, shared: bool) -> list[HashGrid]:
    """One hash grid for all levels, or one for each that ends at its resolution."""
    if shared:
        return [config.grid]
    return [
        HashGrid(
            num_levels=config.num_levels,
            features=config.features,
            log2_table_size=config.log2_table_size,
            base_resolution=config.base_resolution,
            max_resolution=max(config.base_resolution, round(resolution)),
        )
        for resolution in levels.resolutions
    ]


def _discord(grouped: GroupedLevels, values: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor | None:
    """Mean squared difference between the outputs of the two levels of the samples that have two."""
    pairs = [of_levels for group, of_levels in zip(grouped.groups, values, strict=True) if group.share is not None]
    if not pairs:
        return None
    squares = torch.stack([(fine - coarse).square().sum() for coarse, fine in pairs]).sum()
    return squares / sum(coarse.numel() for coarse, _ in pairs)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, *orders: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        ctx.orders, ctx.width = orders, rows.shape[1]
        return tuple(rows.index_select(1, order) for order in orders)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        rows = gradients[0].new_empty(gradients[0].shape[0], ctx.width)
        for order, gradient in zip(ctx.orders, gradients, strict=True):
            rows.index_copy_(1, order, gradient)
        return rows, *(None for _ in ctx.orders)


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, width: int, orders: Sequence[torch.Tensor], *parts: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.orders = orders
        rows = parts[0].new_empty(parts[0].shape[0], width)
        for order, part in zip(orders, parts, strict=True):
            rows.index_copy_(1, order, part)
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return None, None, *(gradient.index_select(1, order) for order in ctx.orders)


def _take(grouped: GroupedLevels, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The columns of ``rows`` (C, N) group by group. Each column is taken once, so that backward need not add."""
    if not grouped.groups:
        return ()
    orders = grouped.order.split([group.count for group in grouped.groups])
    taken: tuple[torch.Tensor, ...] = _Take.apply(rows, *orders)  # type: ignore[no-untyped-call]
    return taken


def _put_back(grouped: GroupedLevels, parts: Sequence[torch.Tensor], *, like: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, N) in the order samples came in, from the groups' (rows, count); the inverse of `_take`."""
    if not parts:
        return like.new_zeros(rows, 0)
    orders = grouped.order.split([group.count for group in grouped.groups])
    back: torch.Tensor = _PutBack.apply(len(grouped.order), orders, *parts)  # type: ignore[no-untyped-call]
    return back
