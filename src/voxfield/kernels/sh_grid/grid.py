"""What the kernels over sparse voxel grids share: where voxels lie, which of them are stored, how rays step.

A grid has (D, H, W) voxels, axes z, y, x, and fills a box. Voxel i is the value at its centre: a point's *voxel
position* is p = (point - minimum) / (maximum - minimum) * (W, H, D) - 1/2 in the order x, y, z, clamped to
[0, size - 1] on every axis, and the eight voxels around it are c + {0, 1}^3 with c = min(floor(p), size - 2). The
*cell* c is what lies between those eight. A voxel that is not stored counts as density 0 and coefficients 0.
"""

import math
from dataclasses import dataclass
from typing import Final, cast

import torch

from voxfield.checks import check_dtype, check_range, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend
from voxfield.kernels.workspace import on_huge_pages

MAX_DEGREE: Final = 3
"""Highest band of spherical harmonics that a voxel may store."""
MOST_CLEARANCE: Final = 32
"""Largest distance that is noted: a ray crosses so many empty cells in one go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GridLinks:
    """Which voxels are stored, and how far empty cells are from those that are not."""

    links: torch.Tensor
    """(D, H, W) int32: the voxel's row in the tensors of values; -1 where nothing is stored."""
    clearance: torch.Tensor
    """(D, H, W) uint8, of the cell whose lowest voxel stands there: 0 if one of its eight voxels is stored, else the
    steps (in cells, diagonals count as one) to the nearest such cell, at most `MOST_CLEARANCE`. The last of each axis
    belongs to no cell."""
    count: int
    """Rows N: every link is below it."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        depth, height, width = self.links.shape
        return width, height, depth

    def to(self, device: torch.device | str) -> "GridLinks":
        """The same on ``device``."""
        return GridLinks(links=self.links.to(device), clearance=self.clearance.to(device), count=self.count)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShGrid:
    """A grid's values. Voxel v of ``links`` has density ``density[links[v]]``, colour coefficients ``sh[links[v]]``."""

    links: GridLinks
    """Where the rows stand."""
    density: torch.Tensor
    """(N,) per world unit; what lies below 0 is empty, after interpolation."""
    sh: torch.Tensor
    """(N, 3, B), B = (degree + 1)^2: coefficients of red, green, blue."""
    box: torch.Tensor
    """(2, 3) lowest and highest corner, world units, same dtype."""

    @property
    def degree(self) -> int:
        """Highest band of the harmonics."""
        return math.isqrt(self.sh.shape[2]) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class GridGradients:
    """Buffers that a backward adds to, and which of their rows it has."""

    density: torch.Tensor
    """(N,), contiguous."""
    sh: torch.Tensor
    """(N, 3, B), contiguous."""
    touched: torch.Tensor
    """(N,) uint8, contiguous: set to 1 for rows that something was added to."""


@dataclass(frozen=True, kw_only=True)
class MarchRule:
    """How rays step through a grid. Source: svox2, options of its renderer."""

    step: float = 0.5
    """Distance between samples in voxels, above 0 to 4."""
    density_threshold: float = 1e-8
    """Densities up to this are empty, at least 0."""
    early_stop: float = 1e-7
    """Transmittance below which a ray ends, 0 to 1."""

    def __post_init__(self) -> None:
        check_range("step", self.step, above=0.0, maximum=4.0)
        check_range("density_threshold", self.density_threshold, minimum=0.0)
        check_range("early_stop", self.early_stop, minimum=0.0, maximum=1.0)

    def most_samples(self, size: tuple[int, int, int]) -> int:
        """Upper bound of the samples on a ray through a grid of ``size`` voxels."""
        return math.ceil(math.hypot(*size) / self.step) + 1


def link_grid(links: torch.Tensor, count: int) -> GridLinks:
    """Find out how far empty cells are from stored voxels.

    Args:
        links: (D, H, W) int32, each size at least 2; -1, or a row below ``count``.
        count: rows of the values, at least 0.

    Raises:
        InputError: wrong shape, dtype, or a link that points outside the rows.
    """
    check_shape("links", links, ("D", "H", "W"))
    check_dtype("links", links, (torch.int32,))
    if min(links.shape) < 2:
        raise InputError(f"links: expected at least 2 voxels along each axis, got {tuple(links.shape)}.")
    lowest, highest = int(links.min()), int(links.max())
    if lowest < -1 or highest >= count:
        raise InputError(f"links: expected -1 or rows below {count}, got values from {lowest} to {highest}.")
    clearance = cell_clearance(links)
    return GridLinks(links=on_huge_pages(links.contiguous()), clearance=on_huge_pages(clearance), count=count)


def without_empty(links: GridLinks, dense: torch.Tensor) -> GridLinks:
    """``links`` for rays that need not stop where nothing is dense: clearances are those to the nearest cell that has a
    voxel of which ``dense`` (N,) bool is true.

    As long as the densities of all others are at most 0, what rays meet is the same: between them nothing is above it.
    """
    clearance = cell_clearance(links.links, dense)
    return GridLinks(links=links.links, clearance=on_huge_pages(clearance), count=links.count)


def cell_clearance(
    links: torch.Tensor, dense: torch.Tensor | None = None, *, implementation: Implementation | None = None
) -> torch.Tensor:
    """(D, H, W) uint8: see `GridLinks.clearance`.

    Args:
        links: (D, H, W) int32.
        dense: (N,) bool: the voxels that count as stored; None: all.
        implementation: ``reference`` or ``numba``; None chooses by device.
    """
    if implementation is None:
        implementation = "numba" if links.device.type == "cpu" else "reference"
    if implementation == "numba":
        return cast(torch.Tensor, load_backend("sh_grid", "numba").cell_clearance(links, dense, MOST_CLEARANCE))
    stored = links >= 0
    if dense is not None:
        stored[stored.clone()] = dense[links[stored].long()]
    near = torch.zeros_like(stored)
    near[:-1, :-1, :-1] = _any_corner(stored)
    clearance = torch.zeros(links.shape, dtype=torch.uint8, device=links.device)
    for _ in range(MOST_CLEARANCE):
        if bool(near.all()):
            break
        clearance += ~near
        near = dilated(near)
    return clearance


def dilated(voxels: torch.Tensor) -> torch.Tensor:
    """``voxels`` (D, H, W) bool, and those that share a face, an edge or a corner with one of them."""
    for axis in range(3):
        grown, size = voxels.clone(), voxels.shape[axis]
        grown.narrow(axis, 1, size - 1).logical_or_(voxels.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(voxels.narrow(axis, 1, size - 1))
        voxels = grown
    return voxels


def _any_corner(stored: torch.Tensor) -> torch.Tensor:
    """(D - 1, H - 1, W - 1) bool: cells of which a voxel is stored."""
    for axis in range(3):
        size = stored.shape[axis]
        stored = stored.narrow(axis, 0, size - 1) | stored.narrow(axis, 1, size - 1)
    return stored
