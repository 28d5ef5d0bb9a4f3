"""Where a field has matter: nested grids of density estimates that decay unless confirmed, packed into bits for
marching.

Source: Mueller et al. 2022 (https://arxiv.org/abs/2201.05989), appendix C. Differences, for CPUs: an update looks at a
fraction of the cells (three quarters of them drawn among the occupied), during warm-up it sweeps all cells in turn, and
the neighbours of cells with matter count as occupied too: with so few looks a surface could otherwise never grow back
into a cell that was once found empty, and its pictures would show cell-shaped notches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.march_grid import OccupancyBits, pack_occupancy


@dataclass(frozen=True, kw_only=True)
class OccupancyConfig:
    """How occupancy is tracked."""

    resolution: int = 128
    """Cells along each axis of a cascade: a power of two, 16 to 512."""
    update_every: int = 16
    """Training steps between updates, at least 1."""
    decay: float = 0.95
    """Factor on every cell's estimate at each update, 0 to 1."""
    cells_per_update: float = 0.03125
    """Fraction of all cells looked at in one update after the warm-up, 0 (exclusive) to 1."""
    minimum_thickness: float = 0.01
    """A cell counts as empty when its density times the least step is below this (or below the mean), at least 0."""
    warm_up_updates: int = 16
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
    """(C, R, R, R) float32, axes cascade, z, y, x: decayed maximum of the densities seen; starts at 0."""
    occupied: torch.Tensor
    """(C, R, R, R) bool: what `bits` packs; starts all true."""
    visible: torch.Tensor
    """(C, R, R, R) bool: cells that may ever be occupied; see `restrict`."""
    updates: torch.Tensor
    """Scalar int64: updates so far."""

    def __init__(self, bounds: Bounds, cascades: int, min_step: float, config: OccupancyConfig) -> None:
        super().__init__()
        self.config, self.bounds, self.cascades, self.min_step = config, bounds, cascades, min_step
        shape = (cascades, config.resolution, config.resolution, config.resolution)
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("visible", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._bits: OccupancyBits | None = None

    @property
    def bits(self) -> OccupancyBits:
        """The occupied cells, packed for `march_grid`."""
        if self._bits is None or self._bits.bits.device != self.occupied.device:
            self._bits = pack_occupancy(self.occupied)
        return self._bits

    @property
    def warming_up(self) -> bool:
        """Whether updates still sweep over all cells in turn."""
        return int(self.updates) < self.config.warm_up_updates

    def fraction(self) -> float:
        """Share of cells that are occupied, 0 to 1."""
        return float(self.occupied.float().mean())

    def restrict(self, visible: torch.Tensor) -> None:
        """Mark cells outside ``visible`` (C, R, R, R) as empty for good: no camera sees them, or all see through
        them.
        """
        self.visible.copy_(visible)
        self.occupied &= visible
        self._bits = None

    @torch.no_grad()
    def update(self, density_at: Callable[[torch.Tensor], torch.Tensor], generator: torch.Generator) -> None:
        """Look at some cells again.

        Args:
            density_at: densities (N,) per world unit at world positions (N, 3).
            generator: source of randomness, on the CPU.
        """
        cells = self._choose(generator)
        jitter = torch.rand(len(cells), 3, generator=generator).to(cells.device)
        seen = density_at(self._positions(cells, jitter))
        flat = self.density.view(-1)
        if self.warming_up:
            flat[cells] = seen.float()
        else:
            # All cells decay, looked at or not. Slowly: a thin surface is missed by most looks at its cell.
            self.density *= self.config.decay
            # A cell drawn twice keeps one of its two readings: either is as good.
            flat[cells] = torch.maximum(flat[cells], seen.float())
        self.updates += 1
        mean = float(flat[self.visible.view(-1)].mean()) if bool(self.visible.any()) else 0.0
        threshold = min(mean, self.config.minimum_thickness / self.min_step)
        self.occupied = _with_neighbours(self.density > threshold) & self.visible
        self._bits = None

    def _choose(self, generator: torch.Generator) -> torch.Tensor:
        """Cells to look at, as flat indices."""
        total, device = self.density.numel(), self.density.device
        wanted = max(1, int(total * self.config.cells_per_update))
        if self.warming_up:
            wanted = max(wanted, -(-total // max(1, self.config.warm_up_updates)))
            stride = max(1, total // wanted)
            # Each sweep visits every residue once; the odd factor keeps neighbours apart in time.
            offset = int(self.updates) * 5 % stride
            cells = torch.arange(offset, total, stride)
            return cells[self.visible.view(-1)[cells.to(device)].cpu()].to(device)
        uniform = torch.randint(total, (wanted // 4,), generator=generator).to(device)
        occupied = self.occupied.view(-1).nonzero()[:, 0]
        if not len(occupied):
            return uniform
        drawn = torch.randint(len(occupied), (wanted - wanted // 4,), generator=generator).to(device)
        return torch.cat([uniform, occupied[drawn]])

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
        self._bits = None


def _with_neighbours(cells: torch.Tensor) -> torch.Tensor:
    """``cells`` (C, R, R, R) bool, and those that share a face, an edge or a corner with one of them."""
    for axis in (1, 2, 3):
        grown = cells.clone()
        size = cells.shape[axis]
        grown.narrow(axis, 1, size - 1).logical_or_(cells.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(cells.narrow(axis, 1, size - 1))
        cells = grown
    return cells
