"""`VoxelGrid`: density and spherical-harmonic colour on a dense or sparse voxel grid, as Plenoxels trains it.

Rows of the values follow the voxels brick by brick (4 x 4 x 4, x fastest), so that a ray's next voxels are near its
last ones in memory. Topology (`links`) and values are apart: pruning and resampling return a new grid.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch

from voxfield.checks import check_choice, check_range, check_shape
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.rays import Rays
from voxfield.kernels.sh_grid import (
    GridGradients,
    GridLinks,
    MarchRule,
    RenderedGrid,
    SampledGrid,
    ShGrid,
    link_grid,
    render_sh_grid,
    sample_sh_grid,
)
from voxfield.kernels.sh_grid.grid import MAX_DEGREE, dilated
from voxfield.kernels.workspace import huge_zeros

Resolution = tuple[int, int, int]
"""Voxels along x, y, z."""

BRICK: Final = 4
"""Side of a brick, in voxels."""
MOST_VOXELS: Final = 1 << 31
"""More voxels than this have no int32 links."""
POINTS_AT_ONCE: Final = 1 << 20
"""Points that resampling looks at together: bounds its memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GridChunk:
    """A dense block of a grid, which it says where it lies in."""

    id: int
    """Its number among those that store something, from 0."""
    resolution: Resolution
    """Of the grid."""
    scene_bounds: Bounds
    """Of the grid."""
    corner: Resolution
    """Its lowest voxel."""
    stored: torch.Tensor
    """(d, h, w) bool: which voxels are stored; at least one is."""
    density: torch.Tensor
    """(d, h, w), 0 where nothing is stored."""
    sh: torch.Tensor
    """(d, h, w, 3, B), likewise."""


class VoxelGrid(torch.nn.Module):
    """A grid of voxels in a box. Values are parameters: ``density`` (N,) per world unit, ``sh`` (N, 3, B)."""

    links: torch.Tensor
    """(D, H, W) int32: the row of each voxel, -1 where none is stored."""
    clearance: torch.Tensor
    """(D, H, W) uint8: see `voxfield.kernels.sh_grid.GridLinks`."""
    box: torch.Tensor
    """(2, 3): corners, world units."""

    def __init__(
        self,
        resolution: int | Sequence[int],
        scene_bounds: Bounds | Sequence[float],
        sh_degree: int = 2,
        *,
        density: float = 0.1,
        stored: torch.Tensor | None = None,
    ) -> None:
        """A grid of one density and grey.

        Args:
            resolution: voxels along every axis, or along x, y, z; each at least 2.
            scene_bounds: the box, or its (x, y, z) minimum and maximum as six numbers, world units.
            sh_degree: highest band of the harmonics, 0 to 3.
            density: of every voxel, per world unit.
            stored: (D, H, W) bool: the voxels that exist; None: all (a dense grid).

        Raises:
            InputError: a resolution, a box or a degree out of range.
        """
        super().__init__()
        size = _resolution(resolution)
        self.scene_bounds = _bounds(scene_bounds)
        check_choice("sh_degree", sh_degree, range(MAX_DEGREE + 1))
        if stored is None:
            stored = torch.ones(size[::-1], dtype=torch.bool)
        check_shape("stored", stored, size[::-1])
        links, count = brick_links(stored)
        self._set_links(link_grid(links, count))
        self.register_buffer("box", self.scene_bounds.tensor().to(links.device), persistent=False)
        self.density = torch.nn.Parameter(_zeros((count,), links.device).fill_(float(density)))
        self.sh = torch.nn.Parameter(_zeros((count, 3, (sh_degree + 1) ** 2), links.device))

    @classmethod
    def from_values(
        cls, links: torch.Tensor, density: torch.Tensor, sh: torch.Tensor, scene_bounds: Bounds | Sequence[float]
    ) -> "VoxelGrid":
        """A grid of given values, whose rows are put into brick order.

        Args:
            links: (D, H, W) int32, -1 or a row; every row belongs to at most one voxel.
            density: (N,) per world unit. Its type becomes the grid's.
            sh: (N, 3, B) coefficients, B = (degree + 1)^2.
            scene_bounds: see the constructor.

        Raises:
            InputError: shapes that do not fit, or links that point outside the rows.
        """
        check_shape("density", density, ("N",))
        check_shape("sh", sh, (len(density), 3, "B"))
        check_choice("sh's coefficients", sh.shape[2], [(degree + 1) ** 2 for degree in range(MAX_DEGREE + 1)])
        link_grid(links, len(density))
        depth, height, width = links.shape
        degree = round(sh.shape[2] ** 0.5) - 1
        grid = cls((width, height, depth), scene_bounds, degree, stored=links >= 0).to(density.dtype)
        stored = grid.links >= 0
        source = torch.empty(grid.num_voxels, dtype=torch.int64, device=links.device)
        source[grid.links[stored].long()] = links[stored].long()
        with torch.no_grad():
            grid.density.copy_(density[source])
            grid.sh.copy_(sh[source])
        return grid

    @classmethod
    def from_dense(
        cls,
        density: torch.Tensor,
        sh: torch.Tensor,
        scene_bounds: Bounds | Sequence[float],
        *,
        stored: torch.Tensor | None = None,
    ) -> "VoxelGrid":
        """A grid of values that are given for every voxel.

        Args:
            density: (D, H, W) per world unit.
            sh: (D, H, W, 3, B) coefficients, B = (degree + 1)^2.
            scene_bounds: see the constructor.
            stored: (D, H, W) bool: the voxels to store; None: all.

        Raises:
            InputError: shapes that do not fit.
        """
        check_shape("density", density, ("D", "H", "W"))
        check_shape("sh", sh, (*density.shape, 3, "B"))
        kept = torch.ones_like(density, dtype=torch.bool) if stored is None else stored
        check_shape("stored", kept, tuple(density.shape))
        links = torch.full(density.shape, -1, dtype=torch.int32, device=density.device)
        links[kept] = torch.arange(int(kept.sum()), dtype=torch.int32, device=density.device)
        return cls.from_values(links, density[kept], sh[kept], scene_bounds)

    @classmethod
    def from_voxels(
        cls,
        voxels: torch.Tensor,
        density: torch.Tensor,
        sh: torch.Tensor,
        resolution: int | Sequence[int],
        scene_bounds: Bounds | Sequence[float],
    ) -> "VoxelGrid":
        """A sparse grid of some voxels.

        Args:
            voxels: (N, 3) whole numbers: x, y, z of each, from 0; none twice.
            density: (N,) per world unit.
            sh: (N, 3, B) coefficients, B = (degree + 1)^2.
            resolution, scene_bounds: see the constructor.

        Raises:
            InputError: shapes that do not fit, a voxel outside the grid, or one that is there twice.
        """
        size = _resolution(resolution)
        check_shape("voxels", voxels, ("N", 3))
        if voxels.dtype.is_floating_point or voxels.dtype in (torch.bool, torch.complex64, torch.complex128):
            raise InputError(f"voxels: expected whole numbers, got {voxels.dtype}.")
        places = voxels.long()
        outside = (places < 0) | (places >= torch.tensor(size, device=places.device))
        if bool(outside.any()):
            first = places[outside.any(1)][0].tolist()
            raise InputError(f"voxels: {first} lies outside a grid of {size}; {int(outside.any(1).sum())} do.")
        links = torch.full(size[::-1], -1, dtype=torch.int32, device=places.device)
        rows = torch.arange(len(places), dtype=torch.int32, device=places.device)
        links[places[:, 2], places[:, 1], places[:, 0]] = rows
        twice = len(places) - int((links >= 0).sum())
        if twice:
            raise InputError(f"voxels: {twice} are there more than once.")
        return cls.from_values(links, density, sh, scene_bounds)

    @property
    def resolution(self) -> Resolution:
        """Voxels along x, y, z."""
        return self.topology.size

    @property
    def sh_degree(self) -> int:
        """Highest band of the harmonics."""
        return self.values.degree

    @property
    def num_voxels(self) -> int:
        """Voxels stored."""
        return len(self.density)

    @property
    def topology(self) -> GridLinks:
        """Which voxels are stored, for kernels."""
        return GridLinks(links=self.links, clearance=self.clearance, count=len(self.density))

    @property
    def values(self) -> ShGrid:
        """The grid as kernels take it; it shares memory."""
        return ShGrid(links=self.topology, density=self.density, sh=self.sh, box=self.box)

    def query(self, points: torch.Tensor) -> SampledGrid:
        """Density and coefficients, interpolated at world ``points`` (N, 3): see `sample_sh_grid`."""
        return sample_sh_grid(points, self.values)

    def render(
        self,
        rays: Rays,
        *,
        rule: MarchRule | None = None,
        near: float = 0.0,
        gradients: GridGradients | None = None,
    ) -> RenderedGrid:
        """What rays see, without a background; differentiable to the values: see `render_sh_grid`."""
        return render_sh_grid(
            rays.origins, rays.directions, self.values, rule=rule or MarchRule(), near=near, gradients=gradients
        )

    @torch.no_grad()
    def prune(
        self, *, min_density: float | None = None, keep: torch.Tensor | None = None, dilate: int = 0
    ) -> "VoxelGrid":
        """A grid without the voxels that do not matter.

        Args:
            min_density: voxels at least this dense are kept, per world unit.
            keep: (N,) bool, by row: kept (of those dense enough, if both are given); None: decided by the other alone.
            dilate: keep also what is within so many steps of a kept voxel, diagonals count as one; at least 0.

        Raises:
            InputError: neither criterion, a wrong shape, or a density that is no number.
        """
        if min_density is None and keep is None:
            raise InputError("prune: give min_density, keep or both.")
        if min_density is not None:
            check_range("min_density", min_density)
        check_range("dilate", dilate, minimum=0)
        kept = torch.ones(self.num_voxels, dtype=torch.bool, device=self.links.device)
        if keep is not None:
            check_shape("keep", keep, (self.num_voxels,))
            kept &= keep
        if min_density is not None:
            kept &= self.density >= min_density
        existing = self.links >= 0
        stored = torch.zeros_like(existing)
        stored[existing] = kept[self.links[existing].long()]
        for _ in range(dilate):
            stored = dilated(stored)
        pruned = VoxelGrid(self.resolution, self.scene_bounds, self.sh_degree, stored=stored & existing)
        source = pruned.rows_in(self)
        pruned.density.copy_(self.density[source])
        pruned.sh.copy_(self.sh[source])
        return pruned

    @torch.no_grad()
    def resample(self, resolution: int | Sequence[int]) -> "VoxelGrid":
        """The same field on another number of voxels, interpolated at their centres.

        A voxel is stored where one of the eight around its centre was.
        """
        size = _resolution(resolution)
        grid = VoxelGrid(size, self.scene_bounds, self.sh_degree, stored=self._stored_at(size))
        for rows, points in grid.centres():
            found = self.query(points)
            grid.density[rows], grid.sh[rows] = found.density, found.sh
        return grid

    def resampled_voxels(self, resolution: int | Sequence[int]) -> int:
        """How many voxels `resample` would store: a cheap look ahead."""
        return int(self._stored_at(_resolution(resolution)).sum())

    def chunks(self, side: int = 64) -> Iterator[GridChunk]:
        """Dense blocks of at most ``side`` voxels (at least 1) along each axis, those that store something, z slowest.

        For writers and tools that take a grid piece by piece.
        """
        check_range("side", side, minimum=1)
        width, height, depth = self.resolution
        number = 0
        for z in range(0, depth, side):
            for y in range(0, height, side):
                for x in range(0, width, side):
                    links = self.links[z : z + side, y : y + side, x : x + side]
                    stored = links >= 0
                    if not bool(stored.any()):
                        continue
                    rows = links[stored].long()
                    density = self.density.new_zeros(links.shape)
                    sh = self.sh.new_zeros(*links.shape, *self.sh.shape[1:])
                    density[stored], sh[stored] = self.density.detach()[rows], self.sh.detach()[rows]
                    yield GridChunk(
                        id=number,
                        resolution=self.resolution,
                        scene_bounds=self.scene_bounds,
                        corner=(x, y, z),
                        stored=stored,
                        density=density,
                        sh=sh,
                    )
                    number += 1

    def rows_in(self, other: "VoxelGrid") -> torch.Tensor:
        """(N,) int64: for every voxel the row of the same one in ``other``; -1 where that does not store it.

        All -1 if the other has another resolution.
        """
        rows = torch.full((self.num_voxels,), -1, dtype=torch.int64, device=self.links.device)
        if other.links.shape == self.links.shape:
            stored = self.links >= 0
            rows[self.links[stored].long()] = other.links[stored].long()
        return rows

    @torch.no_grad()
    def adopt(self, other: "VoxelGrid") -> None:
        """Become ``other`` (of the same box and degree), whose memory is then shared."""
        self._set_links(other.topology)
        self.density, self.sh = torch.nn.Parameter(other.density.data), torch.nn.Parameter(other.sh.data)

    def _stored_at(self, size: Resolution) -> torch.Tensor:
        """(D, H, W) bool: of ``size`` voxels those around whose centre one of this grid's is stored."""
        if size == self.resolution:
            return self.links >= 0
        cells = [_cells(new, old).to(self.links.device) for new, old in zip(size, self.resolution, strict=True)]
        return self.clearance[cells[2]][:, cells[1]][:, :, cells[0]] == 0

    def _set_links(self, topology: GridLinks) -> None:
        self.register_buffer("links", topology.links)
        self.register_buffer("clearance", topology.clearance, persistent=False)

    def centres(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rows (n,) and world centres (n, 3) of the stored voxels, some at a time, in order of their rows."""
        order = torch.empty(self.num_voxels, dtype=torch.int64, device=self.links.device)
        stored = self.links.reshape(-1)
        places = (stored >= 0).nonzero()[:, 0]
        order[stored[places].long()] = places
        width, height, depth = self.resolution
        size = torch.tensor([width, height, depth], device=order.device)
        for first in range(0, len(order), POINTS_AT_ONCE):
            place = order[first : first + POINTS_AT_ONCE]
            index = torch.stack([place % width, place // width % height, place // (width * height)], dim=1)
            centres = self.box[0] + (index + 0.5) / size * (self.box[1] - self.box[0])
            yield torch.arange(first, first + len(place), device=order.device), centres

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take the size of what is loaded: a trained grid has fewer voxels than a fresh one, or more."""
        saved = {name: state_dict.get(prefix + name) for name in ("links", "density", "sh")}
        errors: list[str] = args[-1]
        if all(isinstance(value, torch.Tensor) for value in saved.values()):
            links, density, sh = (cast(torch.Tensor, value) for value in saved.values())
            try:
                check_shape("density", density, ("N",))
                check_shape("sh", sh, (len(density), 3, self.sh.shape[2]))
                self._set_links(link_grid(links.to(self.box.device), len(density)))
            except InputError as error:
                errors.append(str(error))
                return
            self.density, self.sh = (
                torch.nn.Parameter(_zeros(values.shape, self.box.device).to(values.dtype)) for values in (density, sh)
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _zeros(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Room for values; where rows are read at random, on few pages."""
    return huge_zeros(torch.Size(shape)) if device.type == "cpu" else torch.zeros(shape, device=device)


def brick_links(stored: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Number the voxels that are stored, brick by brick.

    Args:
        stored: (D, H, W) bool.

    Returns:
        Links (D, H, W) int32, -1 where nothing is stored, and how many voxels are.
    """
    depth, height, width = stored.shape
    padding = [value for size in (width, height, depth) for value in (0, -size % BRICK)]
    padded = torch.nn.functional.pad(stored, padding)
    bricks = [size // BRICK for size in padded.shape]
    shape = (bricks[0], BRICK, bricks[1], BRICK, bricks[2], BRICK)
    ordered = padded.reshape(shape).permute(0, 2, 4, 1, 3, 5)
    flat = ordered.reshape(-1)
    rows = torch.where(flat, flat.cumsum(0, dtype=torch.int32) - 1, -1)
    links = rows.reshape(ordered.shape).permute(0, 3, 1, 4, 2, 5).reshape(padded.shape)
    return links[:depth, :height, :width].int().contiguous(), int(flat.sum())


def _cells(new: int, old: int) -> torch.Tensor:
    """(new,) int64: along an axis of ``old`` voxels, the cell that holds each of ``new`` voxels' centre."""
    position = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    return position.floor().long().clamp(0, old - 2)


def _resolution(resolution: int | Sequence[int]) -> Resolution:
    size: tuple[Any, ...] = tuple(resolution) if isinstance(resolution, Iterable) else (resolution,) * 3
    # Numbers of NumPy are whole numbers too.
    whole = all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in size)
    if len(size) != 3 or not whole or min(size) < 2:
        raise InputError(f"resolution: expected whole numbers of at least 2 along x, y, z, got {resolution!r}.")
    if math.prod(map(int, size)) >= MOST_VOXELS:
        raise InputError(f"resolution: {size[0]} x {size[1]} x {size[2]} voxels are too many, expected below 2^31.")
    return int(size[0]), int(size[1]), int(size[2])


def _bounds(scene_bounds: Bounds | Sequence[float]) -> Bounds:
    if isinstance(scene_bounds, Bounds):
        return scene_bounds
    try:
        numbers = [float(value) for value in scene_bounds]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 6:
        raise InputError(f"scene_bounds: expected minimum and maximum x, y, z, six numbers, got {scene_bounds!r}.")
    return Bounds(minimum=cast(Vector, tuple(numbers[:3])), maximum=cast(Vector, tuple(numbers[3:])))
