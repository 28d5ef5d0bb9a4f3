"""Where a voxel grid in training is empty, for rays to pass by: most voxels of a dense grid soon are."""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch

from voxfield.kernels.sh_grid import GridLinks, ShGrid, without_empty
from voxfield.voxels.voxel_grid import VoxelGrid

_PLACES: Final = 1 << 24
"""Of a grid above which it is looked at more rarely: it takes as long as there are places."""


class _Looked(NamedTuple):
    """Which voxels were dense when a grid was looked at, and leaps over what is between the others."""

    links: GridLinks
    density: torch.Tensor
    version: int
    """Of the density, as torch counts changes."""
    dense: torch.Tensor
    """(N,) bool."""


class EmptySpace:
    """What is known of where nothing is dense: for training of some steps ago, for pictures of now.

    Args:
        every: steps after which a grid in training is looked at again; of more than 256^3 places more rarely.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._trained: _Looked | None = None
        self._shown: _Looked | None = None
        self._noted = torch.zeros(0, dtype=torch.uint8)

    def now(self, grid: VoxelGrid) -> ShGrid:
        """``grid`` for rays, which pass by where nothing is dense."""
        density, shown = grid.density, self._shown
        if shown is None or shown.density is not density or shown.version != density._version:
            shown = self._shown = _look(grid, ~(density.detach() <= 0))
        return replace(grid.values, links=shown.links)

    def in_training(self, grid: VoxelGrid, step: int) -> ShGrid:
        """The same for a training step: of where nothing was dense when the grid was last looked at.

        What rays do not meet has no gradient, so that little is missed: a voxel that only its neighbours' growing or
        the total variation fills is seen some steps later.
        """
        due = step % (self._every * max(1, grid.links.numel() // _PLACES)) == 0
        density, looked = grid.density, self._trained
        if looked is None or looked.density is not density or due:
            dense = ~(density.detach() <= 0)
            if not due and len(self._noted) == -(-len(dense) // 8):
                # A resumed run goes on with what was found before.
                noted = np.unpackbits(self._noted.numpy(), count=len(dense)).view(np.bool_)
                dense = torch.from_numpy(noted).to(dense.device)
            looked = self._trained = _look(grid, dense)
            self._noted = torch.zeros(0, dtype=torch.uint8)
        # The optimiser's kernels change values where torch does not see it.
        self._shown = None
        return replace(grid.values, links=looked.links)

    def notes(self, grid: VoxelGrid) -> torch.Tensor:
        """(N / 8,) uint8: bits of the voxels that were dense when the grid was last looked at in training; empty where
        it has not been.
        """
        if self._trained is None or self._trained.density is not grid.density:
            return self._noted
        return torch.from_numpy(np.packbits(self._trained.dense.cpu().numpy()))

    def go_on_from(self, notes: object) -> None:
        """Take such notes; in place of what is none the grid is looked at."""
        self._trained, self._noted = None, torch.zeros(0, dtype=torch.uint8)
        if isinstance(notes, torch.Tensor) and notes.dtype == torch.uint8 and notes.ndim == 1:
            self._noted = notes.cpu()


def _look(grid: VoxelGrid, dense: torch.Tensor) -> _Looked:
    density = grid.density
    return _Looked(without_empty(grid.topology, dense), density, density._version, dense)
