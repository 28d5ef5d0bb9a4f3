"""Between which levels of a pyramid each part of space was learnt, so that rendering asks for no others.

Source: Turki et al. 2023, PyNeRF (https://arxiv.org/abs/2312.00252), and the authors' implementation: two grids of
128^3 cells with the least and the greatest level that training samples had.
"""

import math
from typing import Final

import torch

from voxfield.distributed.ranks import Ranks

_CODES: Final = 254
"""Levels are kept as whole numbers from 0 to this: a byte a cell, fine to a thirtieth of a level with 8 of them."""
_NEVER: Final = 255


class TrainedLevels(torch.nn.Module):
    """The least and the greatest level that samples had in each cell of the unit cube."""

    least: torch.Tensor
    """(R^3,) uint8, axes z, y, x: the least level, rounded down; 255 where there was no sample."""
    greatest: torch.Tensor
    """(R^3,) uint8: 0, or the greatest level, rounded up."""

    def __init__(self, num_levels: int, resolution: int) -> None:
        """Nothing learnt yet, for levels 0 to ``num_levels`` - 1 and ``resolution`` cells along each axis."""
        super().__init__()
        self.resolution, self.highest = resolution, num_levels - 1
        self.codes_per_level = _CODES // max(1, self.highest)
        self.register_buffer("least", torch.full((resolution**3,), _NEVER, dtype=torch.uint8))
        self.register_buffer("greatest", torch.zeros(resolution**3, dtype=torch.uint8))

    @torch.no_grad()
    def observe(self, positions: torch.Tensor, level: torch.Tensor) -> None:
        """Note training samples at ``positions`` (N, 3) of the unit cube, with their ``level`` (N,)."""
        cells = self._cells(positions)
        codes = level.clamp(0, self.highest) * self.codes_per_level
        # Exact multiples stay what they are: rounding must not widen the range by a code each time.
        self.least.scatter_reduce_(0, cells, codes.floor().to(torch.uint8), "amin")
        self.greatest.scatter_reduce_(0, cells, codes.ceil().to(torch.uint8), "amax")

    @torch.no_grad()
    def merge(self, ranks: Ranks) -> None:
        """Make what ``ranks`` observed the same on all of them."""
        ranks.greatest_(self.greatest)
        self.least.copy_(_NEVER - ranks.greatest_(_NEVER - self.least))

    @torch.no_grad()
    def clamp(self, positions: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """``level`` (N,), at most what was learnt at ``positions`` (N, 3), and at least; as it is where nothing was."""
        cells = self._cells(positions)
        least, greatest = self.least[cells], self.greatest[cells]
        low = torch.where(least == _NEVER, -math.inf, least / self.codes_per_level)
        high = torch.where(least == _NEVER, math.inf, greatest / self.codes_per_level)
        # Beyond the ends a level is the end's anyway.
        return torch.minimum(torch.maximum(level.clamp(0, self.highest), low), high)

    def _cells(self, positions: torch.Tensor) -> torch.Tensor:
        r = self.resolution
        x, y, z = (positions.detach().T * r).int().clamp_(0, r - 1)
        return (x + (y + z * r) * r).long()
