"""Looking at a voxel grid that is loaded piece by piece: coarse first, then bricks where a camera needs them.

A brick is refined, those of its eight finer bricks loaded that are in the camera's view, while its voxels look larger
than a given number of pixels there; the largest first, for as long as the memory lasts. What is loaded for other views
goes when room is needed, oldest first; the coarsest level always stays. Everything is drawn from the finest bricks that
are there: where one is missing, also beyond the edge of one that is not, the next coarser voxel stands for its eight.
"""

import heapq
import math
from collections.abc import Iterator
from typing import Final

import torch

from voxfield.checks import check_bytes, check_range
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.kernels.ray_box import ray_box
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.storage.voxel_pyramid import Brick, VoxelPyramid

LOOKED_AT: Final = 16
"""Rays along each side of a picture that tell where a camera looks."""
SAMPLES_AT_ONCE: Final = 1 << 19
"""Samples of rays worked on together: bounds the memory of drawing."""
_ABSENT, _EMPTY, _NEAR = -1, -2, -3
"""Places without a slot: not in memory, known to be empty, and empty beside one that is not, whose voxels reach in."""


class ProgressiveVoxels:
    """The bricks of a `VoxelPyramid` that are in memory, and what is seen of them.

    Args:
        pyramid: the file.
        budget: most memory for voxels, in bytes or as ``"500MB"``.

    Raises:
        InputError: the coarsest level alone takes more.
    """

    def __init__(self, pyramid: VoxelPyramid, budget: int | str) -> None:
        self.pyramid = pyramid
        self.budget = check_bytes("budget", budget)
        channels, side = pyramid.levels[0].channels, pyramid.brick
        self._coarsest = len(pyramid.levels) - 1
        total = sum(pyramid.voxels.values())
        row_bytes, slot_bytes = 4 * channels, 4 * side**3
        mean = total / max(1, len(pyramid.voxels)) * row_bytes + slot_bytes
        slots = min(len(pyramid.voxels), int(self.budget / mean))
        rows = min(total, (self.budget - slots * slot_bytes) // row_bytes)
        pinned = [brick for brick in pyramid.voxels if brick.level == self._coarsest]
        if len(pinned) > slots or sum(pyramid.voxels[brick] for brick in pinned) > rows:
            raise InputError(
                f"budget: {self.budget:,} bytes do not hold the coarsest level of {pyramid.path}. Give more, or make "
                "more levels: voxfield vdb lod --levels."
            )
        self._values = torch.zeros(rows, channels)
        self._rows = torch.full((slots, side**3), -1, dtype=torch.int32)
        self._free_rows = torch.arange(rows, dtype=torch.int32)
        self._free_slots = list(range(slots))
        self._tables = [self._empty_table(level) for level in range(len(pyramid.levels))]
        self.resident: dict[Brick, int] = {}
        """Slots of the bricks in memory, those used longest ago first."""
        for brick in pinned:
            self._load(brick)

    @property
    def nbytes(self) -> int:
        """Bytes of the voxels in memory, with those kept for others."""
        return self._values.nbytes + self._rows.nbytes

    def wanted(self, cameras: Cameras, i: int = 0, *, pixels: float = 1.0) -> list[Brick]:
        """The bricks that camera ``i`` needs within the budget, in the order in which they help.

        Args:
            cameras, i: the camera, in the grid's world.
            pixels: voxels that look at most so many pixels large are fine enough, above 0.
        """
        check_range("pixels", pixels, above=0.0)
        view = _View(cameras, i)
        chosen = [brick for brick in self.pyramid.voxels if brick.level == self._coarsest]
        slots = len(self._rows) - len(chosen)
        rows = len(self._values) - sum(self.pyramid.voxels[brick] for brick in chosen)
        queue = [(-self._size_seen(brick, view), brick) for brick in chosen]
        heapq.heapify(queue)
        while queue:
            size, brick = heapq.heappop(queue)
            if -size <= pixels or brick.level == 0:
                continue
            sizes = {one: self._size_seen(one, view) for one in self._children(brick)}
            finer = [one for one, seen in sizes.items() if seen > 0]
            needed = sum(self.pyramid.voxels[one] for one in finer)
            if len(finer) > slots or needed > rows:
                continue
            slots, rows = slots - len(finer), rows - needed
            chosen += finer
            for one in finer:
                heapq.heappush(queue, (-sizes[one], one))
        return chosen

    def refine(self, cameras: Cameras, i: int = 0, *, pixels: float = 1.0) -> Iterator[Brick]:
        """Load what camera ``i`` needs, one brick after another, and give each back once it is there.

        Arguments as `wanted`. Stop whenever a picture is due: what is there can be drawn at any time.

        Raises:
            VolumeFormatError: a brick is damaged.
        """
        wanted = self.wanted(cameras, i, pixels=pixels)
        kept = set(wanted)
        for brick in wanted:
            if brick in self.resident:
                self.resident[brick] = self.resident.pop(brick)  # used last
                continue
            while not self._free_slots or len(self._free_rows) < self.pyramid.voxels[brick]:
                self._drop(next(one for one in self.resident if one not in kept))
            self._load(brick)
            yield brick

    def query(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Density (N,), coefficients (N, 3, B) and the level (N,) they come from at world ``points`` (N, 3).

        Interpolated between the voxels of the finest level that is there; 0, and level -1, outside the grid and where
        nothing is stored.
        """
        level = self._level_at(points)
        found = torch.zeros(len(points), self._values.shape[1])
        for number in range(len(self._tables)):
            at = (level == number).nonzero()[:, 0]
            if len(at):
                found[at] = self._interpolated(points[at], number)
        return found[:, 0], found[:, 1:].reshape(len(points), 3, self.pyramid.levels[0].channels // 3), level

    @torch.no_grad()
    def render(self, rays: Rays, *, background: torch.Tensor, step: float = 0.5) -> dict[str, torch.Tensor]:
        """What rays see: ``rgb`` (R, 3) over ``background`` (3,), ``opacity`` (R,), ``depth`` (R,).

        Samples lie ``step`` voxels of the finest level apart, above 0.
        """
        check_range("step", step, above=0.0)
        frame = self.pyramid.levels[0]
        length = step * min(side / count for side, count in zip(frame.bounds.size, frame.resolution, strict=True))
        most = math.ceil(math.dist(frame.bounds.minimum, frame.bounds.maximum) / length)
        parts = []
        for chunk in range(0, len(rays), max(1, SAMPLES_AT_ONCE // most)):
            parts.append(self._march(rays[chunk : chunk + max(1, SAMPLES_AT_ONCE // most)], length, background))
        return {name: torch.cat([part[name] for part in parts]) for name in ("rgb", "opacity", "depth")}

    def _march(self, rays: Rays, length: float, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """`render` of few rays."""
        near, far = ray_box(rays.origins, rays.directions, self.pyramid.levels[0].bounds.tensor())
        near = near.clamp(min=0.0)
        count = ((far - near).clamp(min=0.0) / length).ceil().long()
        ray = torch.repeat_interleave(torch.arange(len(rays)), count)
        first = torch.cat([count.new_zeros(1), count.cumsum(0)])
        start = near[ray] + (torch.arange(len(ray)) - first[ray]) * length
        points = rays.origins[ray] + (start + 0.5 * length)[:, None] * rays.directions[ray]
        density, sh, level = self.query(points)
        met = (level >= 0) & (density > 0)
        basis = spherical_harmonics(rays.directions, self.pyramid.levels[0].sh_degree)
        colour = (0.5 + torch.einsum("njb,nb->nj", sh[met], basis[ray[met]])).clamp(min=0)
        kept = torch.zeros(len(rays), dtype=torch.int64).index_add_(0, ray[met], torch.ones(int(met.sum())).long())
        offsets = torch.cat([kept.new_zeros(1), kept.cumsum(0)])
        seen = composite(density[met], colour, start[met], start[met] + length, offsets)
        return {
            "rgb": seen.rgb + (1 - seen.opacity)[:, None] * background,
            "opacity": seen.opacity,
            "depth": seen.depth / seen.opacity.clamp(min=1e-6),
        }

    def _size_seen(self, brick: Brick, view: "_View") -> float:
        """How many pixels long a voxel of ``brick`` looks at its nearest; 0 out of view."""
        bounds = self.pyramid.bounds_of(brick)
        return view.pixels(bounds.centre, bounds.size, max(bounds.size) / self.pyramid.brick)

    def _children(self, brick: Brick) -> list[Brick]:
        """The bricks of the next finer level in ``brick`` that store something."""
        places = (
            Brick(brick.level - 1, 2 * brick.x + dx, 2 * brick.y + dy, 2 * brick.z + dz)
            for dx in (0, 1)
            for dy in (0, 1)
            for dz in (0, 1)
        )
        return [one for one in places if one in self.pyramid.voxels]

    def _load(self, brick: Brick) -> None:
        voxels = self.pyramid.read(brick)
        slot, side = self._free_slots.pop(), self.pyramid.brick
        rows, self._free_rows = self._free_rows.split([len(voxels.values), len(self._free_rows) - len(voxels.values)])
        self._values[rows.long()] = torch.from_numpy(voxels.values).float()
        local = torch.from_numpy(voxels.coordinates).long() - torch.tensor(brick[1:]) * side
        self._rows[slot].fill_(-1)
        self._rows[slot, (local[:, 2] * side + local[:, 1]) * side + local[:, 0]] = rows
        self._tables[brick.level][brick.z, brick.y, brick.x] = slot
        self.resident[brick] = slot

    def _drop(self, brick: Brick) -> None:
        slot = self.resident.pop(brick)
        rows = self._rows[slot]
        self._free_rows = torch.cat([self._free_rows, rows[rows >= 0]])
        self._free_slots.append(slot)
        self._tables[brick.level][brick.z, brick.y, brick.x] = _ABSENT

    def _empty_table(self, level: int) -> torch.Tensor:
        """(D, H, W) int32 of bricks: slots, none yet; places where the level stores nothing are known to be empty."""
        size = [-(-count // self.pyramid.brick) for count in self.pyramid.levels[level].resolution]
        table = torch.full(size[::-1], _EMPTY, dtype=torch.int32)
        stored = torch.tensor([brick[:0:-1] for brick in self.pyramid.voxels if brick.level == level]).reshape(-1, 3)
        last = torch.tensor(table.shape) - 1
        for shift in torch.cartesian_prod(*[torch.arange(-1, 2)] * 3):
            z, y, x = torch.minimum((stored + shift).clamp(min=0), last).T
            table[z, y, x] = _NEAR
        z, y, x = stored.T
        table[z, y, x] = _ABSENT
        return table

    def _places(self, points: torch.Tensor, level: int) -> torch.Tensor:
        """Voxel positions (N, 3) of world points in a level: voxel i's centre is at i."""
        frame = self.pyramid.levels[level]
        box = frame.bounds.tensor().to(points)
        return (points - box[0]) / (box[1] - box[0]) * torch.tensor(frame.resolution) - 0.5

    def _level_at(self, points: torch.Tensor) -> torch.Tensor:
        """(N,) the finest level that knows what is at world ``points``; -1 where that is nothing."""
        level = torch.full((len(points),), -1)
        open_ = torch.arange(len(points))
        for number, table in enumerate(self._tables):
            if not len(open_):
                break
            voxel = (self._places(points[open_], number) + 0.5).floor().long()
            size = torch.tensor(self.pyramid.levels[number].resolution)
            inside = ((voxel >= 0) & (voxel < size)).all(dim=1)
            open_, voxel = open_[inside], voxel[inside]
            x, y, z = (voxel // self.pyramid.brick).T
            slot = table[z, y, x]
            level[open_[(slot >= 0) | (slot == _NEAR)]] = number
            open_ = open_[slot == _ABSENT]
        return level

    def _interpolated(self, points: torch.Tensor, level: int) -> torch.Tensor:
        """(N, channels) between the eight voxels of ``level`` around each of ``points``."""
        size = torch.tensor(self.pyramid.levels[level].resolution)
        place = self._places(points, level).clamp(min=torch.zeros(3), max=(size - 1).float())
        base = torch.minimum(place.floor().long(), size - 2)
        upper = place - base
        total = torch.zeros(len(points), self._values.shape[1])
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            weight = torch.where(corner.bool(), upper, 1 - upper).prod(dim=1)
            rows = self._rows_at(base + corner, level)
            stored = rows >= 0
            total[stored] += weight[stored, None] * self._values[rows[stored].long()]
        return total

    def _rows_at(self, voxels: torch.Tensor, level: int) -> torch.Tensor:
        """(N,) int32 rows of ``voxels`` (N, 3) of a level, or of the coarser ones that stand for them; -1: empty."""
        rows = torch.full((len(voxels),), -1, dtype=torch.int32)
        open_, side = torch.arange(len(voxels)), self.pyramid.brick
        for number in range(level, len(self._tables)):
            x, y, z = voxels.T
            slot = self._tables[number][z // side, y // side, x // side]
            there = slot >= 0
            at = ((z % side) * side + y % side) * side + x % side
            rows[open_[there]] = self._rows[slot[there].long(), at[there]]
            missing = slot == _ABSENT
            open_, voxels = open_[missing], voxels[missing] // 2
        return rows


class _View:
    """What a camera can see, as a cone around its middle."""

    def __init__(self, cameras: Cameras, i: int) -> None:
        camera = cameras[i : i + 1]
        small = camera.resized(*(side.clamp(max=LOOKED_AT) for side in (camera.width, camera.height)))
        rays = small.image_rays(0)
        self._orthographic = camera.model == "orthographic"
        self._origin = rays.origins.mean(dim=0).double()
        mean = rays.directions.double().mean(dim=0)
        self._axis = mean / mean.norm().clamp(min=1e-9)
        least = float((rays.directions.double() @ self._axis).min())
        # A ray in the middle of a coarse pixel stands for its corners too.
        spacing = float(rays.pixel_area.double().sqrt().max())
        self._angle = math.pi if float(mean.norm()) < 1e-3 else math.acos(max(-1.0, min(1.0, least))) + spacing
        self._pixel = float(camera.image_rays(0).pixel_area.double().mean().sqrt())

    def pixels(self, centre: tuple[float, ...], size: tuple[float, ...], length: float) -> float:
        """How many pixels something ``length`` long looks in a box of ``size`` around ``centre``; 0 out of view."""
        if self._orthographic:
            return length / self._pixel
        radius = math.hypot(*size) / 2
        away = torch.tensor(centre, dtype=torch.float64) - self._origin
        distance = float(away.norm())
        if distance <= radius:
            return math.inf
        angle = math.acos(max(-1.0, min(1.0, float(away @ self._axis) / distance)))
        if angle > self._angle + math.asin(radius / distance):
            return 0.0
        return length / (self._pixel * (distance - radius))
