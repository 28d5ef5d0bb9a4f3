"""Where a field has matter: nested grids of density estimates, packed into bits for marching.

Source: Mueller et al. 2022 (https://arxiv.org/abs/2201.05989), appendix C. Differences, for CPUs: training evaluates
the density at hundreds of thousands of points between two updates anyway, and those are what empties a cell, within a
few updates; an update itself only looks for matter that appeared where no sample falls, mostly next to cells that have
some, since surfaces grow. Parts that were small or thin when their cells were emptied come back because rays that
should have met matter and met none open the cells along them again. See docs/decisions/0007.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from voxfield.checks import check_range
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.march_grid import OccupancyBits, pack_occupancy

REOPENED: Final = 1.5
"""Estimate of a cell that is opened again, in multiples of the threshold: samples that then meet nothing empty it at
the next update."""


@dataclass(frozen=True, kw_only=True)
class OccupancyConfig:
    """How occupancy is tracked."""

    resolution: int = 128
    """Cells along each axis of a cascade: a power of two, 16 to 512."""
    update_every: int = 16
    """Training steps between updates, at least 1."""
    decay: float = 0.5
    """Factor on the estimate of a cell that samples fell into since the last update, 0 to 1; the largest density they
    met is its lower limit."""
    cells_per_update: float = 0.03125
    """Largest fraction of all cells that an update after the warm-up looks into, 0 (exclusive) to 1: a quarter of them
    anywhere, the others next to occupied ones."""
    minimum_thickness: float = 0.01
    """A cell counts as empty when its density times the least step is below this (or below the mean), at least 0."""
    warm_up_updates: int = 32
    """First updates, which sweep over all cells in turn instead of drawing them, at least 0."""

    def __post_init__(self) -> None:
        if self.resolution not in (16, 32, 64, 128, 256, 512):
            raise InputError(f"resolution: expected a power of two from 16 to 512, got {self.resolution}.")
        check_range("update_every", self.update_every, minimum=1)
        check_range("decay", self.decay, minimum=0.0, maximum=1.0)
        check_range("cells_per_update", self.cells_per_update, above=0.0, maximum=1.0)
        check_range("minimum_thickness", self.minimum_thickness, minimum=0.0)
        check_range("warm_up_updates", self.warm_up_updates, minimum=0)


class Occupancy(torch.nn.Module):
    """Density estimates of nested grids. Cascade c covers ``bounds`` scaled by 2**c about its centre."""

    density: torch.Tensor
    """(C, R, R, R) float32, axes cascade, z, y, x: estimates per world unit; starts at 0."""
    seen: torch.Tensor
    """(C, R, R, R) float32: largest density that samples met since the last update; -1 where none fell."""
    occupied: torch.Tensor
    """(C, R, R, R) bool: what `bits` packs; starts all true."""
    updates: torch.Tensor
    """Scalar int64: updates so far."""

    def __init__(self, bounds: Bounds, cascades: int, min_step: float, config: OccupancyConfig) -> None:
        super().__init__()
        self.config, self.bounds, self.cascades, self.min_step = config, bounds, cascades, min_step
        shape = (cascades, config.resolution, config.resolution, config.resolution)
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("seen", torch.full(shape, -1.0))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._bits: OccupancyBits | None = None
        self._all_bits: OccupancyBits | None = None
        self._least: float | None = None

    @property
    def bits(self) -> OccupancyBits:
        """The occupied cells, packed for `march_grid`."""
        if self._bits is None or self._bits.bits.device != self.occupied.device:
            self._bits = pack_occupancy(self.occupied)
        return self._bits

    @property
    def all_bits(self) -> OccupancyBits:
        """Bits of a grid of which every cell is occupied."""
        if self._all_bits is None or self._all_bits.bits.device != self.occupied.device:
            self._all_bits = pack_occupancy(torch.ones_like(self.occupied))
        return self._all_bits

    @property
    def warming_up(self) -> bool:
        """Whether updates still sweep over all cells in turn."""
        return int(self.updates) < self.config.warm_up_updates

    def fraction(self) -> float:
        """Share of cells that are occupied, 0 to 1."""
        return float(self.occupied.float().mean())

    @torch.no_grad()
    def observe(self, positions: torch.Tensor, lengths: torch.Tensor, density: torch.Tensor) -> None:
        """Note what samples met.

        Args:
            positions: (N, 3) in the unit cube of the outermost cascade's box; a transposed (3, N) tensor is fastest.
            lengths: (N,) of the samples' intervals, world units: with the positions they decide the cascade.
            density: (N,) per world unit.
        """
        r, outermost = self.config.resolution, 2.0 ** (self.cascades - 1)
        unit = (positions.T - 0.5) * (2 * outermost)  # cascade 0's box is [-1, 1]
        if self.cascades == 1:
            scale, start = unit.new_ones(1), unit.new_zeros(1, dtype=torch.int64)
        else:
            longest = max(self.bounds.size) / r
            least = torch.maximum(unit.abs().amax(0), 0.5 * lengths / longest).clamp_(max=outermost)
            cascade = least.log2_().ceil_().clamp_(min=0)
            scale, start = torch.exp2(cascade), cascade.long() * r**3
        x, y, z = unit.add_(scale).mul_(0.5 * r / scale).int().clamp_(0, r - 1)
        cells = (x + (y + z * r) * r).long() + start
        self.seen.view(-1).scatter_reduce_(0, cells, density.float(), "amax")

    @torch.no_grad()
    def merge(self, ranks: Ranks) -> None:
        """Make what samples of ``ranks`` met since the last update the same on all of them."""
        ranks.greatest_(self.seen)

    def reopen(self, positions: torch.Tensor, lengths: torch.Tensor) -> None:
        """Let samples fall again into the cells at ``positions`` (see `observe`), from the next update on.

        A cell that samples do not visit keeps its estimate, and a field does not learn where there are no samples: this
        is how a part that was emptied by mistake is learned after all.
        """
        self.observe(positions, lengths, positions.new_full((len(positions),), REOPENED * self._threshold()))

    def holds(self, points: torch.Tensor) -> torch.Tensor:
        """(N,) bool: whether world ``points`` (N, 3) lie in an occupied cell of the finest cascade around them."""
        r = self.config.resolution
        low, high = self.bounds.tensor(points.device)
        unit = (points - (low + high) / 2) / ((high - low) / 2)  # cascade 0's box is [-1, 1]
        cascade = unit.abs().amax(1).clamp(min=1.0).log2().ceil()
        inside = cascade < self.cascades
        cascade = torch.where(inside, cascade, 0)
        x, y, z = ((unit / torch.exp2(cascade)[:, None] + 1) * (0.5 * r)).nan_to_num().long().clamp(0, r - 1).unbind(1)
        return inside & self.occupied[cascade.long(), z, y, x]

    @torch.no_grad()
    def update(
        self,
        density_at: Callable[[torch.Tensor], torch.Tensor],
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        """Look into some cells, and draw conclusions from this and from what samples met.

        Args:
            density_at: densities (N,) per world unit at world positions (N, 3).
            generator: source of randomness, on the CPU.
            ranks: who shares the looking; what their samples met is merged already.
        """
        cells = self._choose(generator)
        jitter = torch.rand(len(cells), 3, generator=generator).to(cells.device)
        found = _asked(density_at, self._positions(cells, jitter), ranks).float()
        flat = self.density.view(-1)
        # One look that meets nothing does not empty a cell: thin surfaces are easily missed.
        flat[cells] = found if self.warming_up else torch.maximum(flat[cells], found)
        # Of those that samples fell into, a few percent of all.
        seen = self.seen.view(-1)
        met = (seen >= 0).nonzero()[:, 0]
        flat[met] = torch.maximum(flat[met] * self.config.decay, seen[met])
        seen[met] = -1.0
        self.updates += 1
        self._least = None
        self.occupied = self.density > self._threshold()
        self._bits = None

    def _threshold(self) -> float:
        """The density above which a cell is occupied; kept between updates, since `reopen` asks in every step."""
        if self._least is None:
            self._least = min(float(self.density.mean()), self.config.minimum_thickness / self.min_step)
        return self._least

    def _choose(self, generator: torch.Generator) -> torch.Tensor:
        """Cells to look into, as flat indices."""
        total, device = self.density.numel(), self.density.device
        wanted = max(1, int(total * self.config.cells_per_update))
        if self.warming_up:
            wanted = max(wanted, -(-total // max(1, self.config.warm_up_updates)))
            stride = max(1, total // wanted)
            # Each sweep visits every residue once; the odd factor keeps neighbours apart in time.
            return torch.arange(int(self.updates) * 5 % stride, total, stride, device=device)
        anywhere = torch.randint(total, (wanted // 4,), generator=generator).to(device)
        shell = (_with_neighbours(self.occupied) & ~self.occupied).view(-1).nonzero()[:, 0]
        if len(shell) > wanted - len(anywhere):
            drawn = torch.randint(len(shell), (wanted - len(anywhere),), generator=generator)
            shell = shell[drawn.to(device)]
        return torch.cat([anywhere, shell])

    def _positions(self, cells: torch.Tensor, jitter: torch.Tensor) -> torch.Tensor:
        """World positions (N, 3) inside ``cells``."""
        r = self.config.resolution
        x, y, z, cascade = cells % r, cells // r % r, cells // (r * r) % r, cells // (r * r * r)
        unit = (torch.stack([x, y, z], dim=1) + jitter) / r - 0.5
        minimum = torch.tensor(self.bounds.minimum, device=cells.device)
        maximum = torch.tensor(self.bounds.maximum, device=cells.device)
        side = (maximum - minimum) * torch.exp2(cascade.float())[:, None]
        return (minimum + maximum) / 2 + unit * side

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._bits = self._least = None


def _asked(density_at: Callable[[torch.Tensor], torch.Tensor], positions: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Densities (N,) at ``positions`` (N, 3): each of ``ranks`` asks for its part, all get the same numbers."""
    if ranks.size == 1:
        return density_at(positions)
    # Whole rounds of 64: what is asked by turns (`voxfield.models.footprints`) is then asked in the same turn.
    each = -(-len(positions) // (64 * ranks.size)) * 64
    own = density_at(positions[ranks.rank * each : (ranks.rank + 1) * each])
    padded = torch.nn.functional.pad(own, (0, each - len(own)))
    return ranks.gathered(padded).view(-1)[: len(positions)]


def _with_neighbours(cells: torch.Tensor) -> torch.Tensor:
    """``cells`` (C, R, R, R) bool, and those that share a face, an edge or a corner with one of them."""
    for axis in (1, 2, 3):
        grown = cells.clone()
        size = cells.shape[axis]
        grown.narrow(axis, 1, size - 1).logical_or_(cells.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(cells.narrow(axis, 1, size - 1))
        cells = grown
    return cells
