"""OpenVDB volumes as the viewer marches through them: fog that takes away and gives light, and level sets.

The volume is laid out densely, at half its resolution as often as it takes to fit, about the origin and two units long.
Along a ray, samples half a voxel apart absorb by their density and give their colour,

    alpha = 1 - exp(-density * length),

skipping cells without matter. Fog without colours of its own is white and lit from above: each voxel by the light that
what stands over it lets through, and evenly by a third. Level sets are opaque within, and lit by the side they face.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from voxfield.errors import FormatError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.kernels.march_grid import OccupancyBits, StepRule, march_grid, pack_occupancy
from voxfield.storage.vdb import VdbGrid
from voxfield.storage.volume_files import open_volume_file
from voxfield.viewer.subjects import MODES, Mode, Subject
from voxfield.voxels.lod import halved, halved_transform
from voxfield.voxels.sparse import SparseVolume

MOST_VOXELS: Final = 1 << 24
"""Of the dense layout: 256 MiB with colours."""
COLOURS: Final = ("color", "colour", "Cd", "rgb", "albedo")
"""Names of grids that hold the colour of a fog, red, green, blue; ``sh_coeff_0`` is that of Voxfield's own volumes."""
FAINTEST: Final = 0.5
"""Optical depth of the densest column, below which a fog is shown denser than it is."""
SHOWN_DEPTH: Final = 8.0
"""Optical depth that it is then given."""
_LEAST_LIGHT: Final = 0.35
_DC: Final = 0.28209479177387814
_CELLS: Final = 128
_SIDE: Final = 2.0


def volume_subject(path: Path, box: Bounds | None = None) -> "VolumeSubject | None":
    """The fog or level set of an OpenVDB file or a compressed volume; None where it has none to march through.

    ``box`` is `VolumeSubject`'s. Of several grids that of the name ``density``, or else the first of floating-point
    numbers, with a grid of colours.

    Raises:
        MissingFileError, VolumeFormatError: as reading the file. FormatError: the grid is empty.
    """
    file = open_volume_file(path)
    kinds = {header.name: header.kind for header in file.grids}
    scalars = [name for name, kind in kinds.items() if kind is not None and kind.real and kind.channels == ()]
    if not scalars:
        return None
    grid = file.read("density" if "density" in scalars else scalars[0])
    if grid.volume.active_bounds is None:
        raise FormatError(f"{path}: grid {grid.name!r} holds nothing to show.")
    painted = next((name for name in (*COLOURS, "sh_coeff_0") if kinds.get(name) is not None), None)
    colours = file.read(painted) if painted is not None else None
    if colours is not None and colours.volume.channels != (3,):
        colours = None
    return VolumeSubject(grid, colours, box=box)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Laid:
    """A dense layout."""

    values: torch.Tensor
    """(C, D, H, W) float32: density, then density times light or colour."""
    index_to_world: np.ndarray
    """(4, 4): takes (x, y, z) of the array to the world."""
    voxel: float
    """Side of a voxel, world units."""


class VolumeSubject(Subject):
    """A volume in its own units, made two long; of whatever size it is."""

    modes: tuple[Mode, ...] = MODES[:4]

    def __init__(self, density: VdbGrid, colours: VdbGrid | None = None, *, box: Bounds | None = None) -> None:
        """Lay a volume out.

        Args:
            density: a scalar grid with active voxels: distances if it is a level set, else density per world unit.
            colours: of three values, standing where ``density`` does; None: white.
            box: what becomes two long, in the volume's units; None: the volume itself.
        """
        laid = _level_set(density) if density.grid_class == "level set" else _fog(density, colours)
        depth, height, width = laid.values.shape[1:]
        size = np.array([width, height, depth])
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
        corners[:, :3] = corners[:, :3] * size - 0.5
        placed = (laid.index_to_world @ corners.T).T[:, :3]
        low, high = placed.min(0), placed.max(0)
        if box is not None:
            low, high = np.array(box.minimum), np.array(box.maximum)
        self.box = Bounds(minimum=tuple(low.tolist()), maximum=tuple(high.tolist()))
        """What became two long, in the volume's units."""
        self.scale = _SIDE / float((high - low).max())
        """What the world's units were multiplied by."""
        shift = np.eye(4)
        shift[:3] = np.concatenate([np.eye(3), -((low + high) / 2)[:, None]], axis=1) * self.scale
        # Array coordinates of which voxel i covers [i, i + 1).
        centre = np.eye(4)
        centre[:3, 3] = -0.5
        self._from_view = torch.from_numpy(np.linalg.inv(shift @ laid.index_to_world @ centre)).float()
        half = (high - low) / 2 * self.scale
        self.bounds = Bounds(minimum=(-half[0], -half[1], -half[2]), maximum=(half[0], half[1], half[2]))
        self._values, self._size = laid.values[None], torch.tensor(size)
        column = float(laid.values[0].sum(0).max()) * laid.voxel
        self.gain = SHOWN_DEPTH / column if 0 < column < FAINTEST else 1.0
        """What densities are multiplied by, so that faint volumes show."""
        # Per unit of the view.
        self._density = self.gain / self.scale
        self.voxel = laid.voxel * self.scale
        """Side of a voxel of the layout, units of the view."""
        self._occupied = _occupancy(laid.values[0])
        self._box = torch.stack([torch.zeros(3), self._size.float()])
        # Of a ray, half a voxel apart along the diagonal, and those that its ends are rounded to.
        self._most_samples = min(1 << 14, 2 * math.ceil(float(self._size.float().norm())) + 4)

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        """See `voxfield.viewer.subjects.Subject.look`."""
        del mode
        turn, move = self._from_view[:3, :3], self._from_view[:3, 3]
        origins, along = rays.origins @ turn.T + move, rays.directions @ turn.T
        # Voxels per unit of the view, along each ray.
        stretch = along.norm(dim=1)
        samples = march_grid(
            origins,
            along / stretch[:, None],
            self._occupied,
            self._box,
            step=StepRule(min_step=0.5),
            max_samples=self._most_samples,
        )
        found = torch.nn.functional.grid_sample(
            self._values,
            (2 * samples.positions - 1).reshape(1, 1, 1, -1, 3),
            padding_mode="zeros",
            align_corners=False,
        ).reshape(self._values.shape[1], -1)
        colour = (found[1:] / found[0].clamp(min=1e-12)).T.expand(-1, 3)
        ray = samples.ray_index.long()
        start, end = samples.t_start / stretch[ray], samples.t_end / stretch[ray]
        seen = composite(found[0] * self._density, colour, start, end, samples.ray_offsets)
        return {
            "rgb": (seen.rgb + (1 - seen.opacity)[:, None]).clamp(0, 1),
            "opacity": seen.opacity,
            "depth": seen.depth / seen.opacity.clamp(min=1e-6),
        }


def load_kernels() -> None:
    """Load (the first time: compile) what `VolumeSubject.look` needs."""
    subject = VolumeSubject(VdbGrid(name="density", volume=SparseVolume.from_dense(np.ones((2, 2, 2), np.float32))))
    pose = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    first = torch.zeros(1, dtype=torch.int64)
    subject.look(Rays(origins=pose[:1], directions=pose[1:], pixel_area=torch.ones(1), camera_index=first), "colour")


def _fitting(grids: Sequence[VdbGrid]) -> tuple[list[VdbGrid], np.ndarray, np.ndarray]:
    """The grids at half their resolution as often as it takes, and the box of the first one, grown by a voxel."""
    found = list(grids)
    while True:
        low, high = _active_box(found[0])
        if int(np.prod(high - low)) <= MOST_VOXELS:
            return found, low, high
        found = [
            VdbGrid(
                name=grid.name,
                volume=halved(grid.volume),
                index_to_world=halved_transform(grid.index_to_world),
                grid_class=grid.grid_class,
            )
            for grid in found
        ]


def _active_box(grid: VdbGrid) -> tuple[np.ndarray, np.ndarray]:
    box = grid.volume.active_bounds
    if box is None:
        raise FormatError(f"grid {grid.name!r}: holds nothing to show.")
    return box[0].astype(np.int64) - 1, box[1].astype(np.int64) + 1


def _laid(grid: VdbGrid, low: np.ndarray, values: np.ndarray) -> _Laid:
    """A layout whose first voxel is ``low`` of the grid."""
    move = np.eye(4)
    move[:3, 3] = low
    matrix = grid.index_to_world @ move
    side = float(np.abs(np.linalg.det(matrix[:3, :3])) ** (1 / 3))
    return _Laid(values=torch.from_numpy(np.ascontiguousarray(values)), index_to_world=matrix, voxel=side)


def _fog(density: VdbGrid, colours: VdbGrid | None) -> _Laid:
    (fog, *painted), low, high = _fitting([density] if colours is None else [density, colours])
    dense = fog.volume.to_dense(low, high, most_voxels=MOST_VOXELS).astype(np.float32)
    dense = np.nan_to_num(dense, nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
    side = _laid(fog, low, dense[None]).voxel
    if painted:
        colour = painted[0].volume.to_dense(low, high, most_voxels=MOST_VOXELS).astype(np.float32)
        colour = np.nan_to_num(colour)
        colour = 0.5 + _DC * colour if painted[0].name == "sh_coeff_0" else colour
        return _laid(fog, low, np.concatenate([dense[None], dense * colour.clip(0.0, 1.0)]))
    # What stands over a voxel: its column's matter from there to the top, without half of its own.
    above = np.cumsum(dense[::-1], axis=0)[::-1] - 0.5 * dense
    column = float(above[0].max()) * side
    thickness = above * (side * (SHOWN_DEPTH / column if 0 < column < FAINTEST else 1.0))
    light = _LEAST_LIGHT + (1 - _LEAST_LIGHT) * np.exp(-0.5 * thickness)
    return _laid(fog, low, np.stack([dense, dense * light]))


def _level_set(distance: VdbGrid) -> _Laid:
    (grid,), low, high = _fitting([distance])
    dense = np.nan_to_num(grid.volume.to_dense(low, high, most_voxels=MOST_VOXELS).astype(np.float32))
    side = _laid(grid, low, dense[None]).voxel
    # Opaque within a voxel or two of the surface.
    inside = (0.5 - dense / side).clip(0.0, 1.0) * (4.0 / side)
    slopes = np.gradient(dense, axis=(2, 1, 0)) if min(dense.shape) > 1 else [np.zeros_like(dense)] * 3
    length = np.sqrt(sum(slope**2 for slope in slopes)) + 1e-12
    facing = sum(part * slope for part, slope in zip((0.35, -0.55, 0.76), slopes, strict=True)) / length
    light = _LEAST_LIGHT + (1 - _LEAST_LIGHT) * np.clip(facing, 0.0, 1.0)
    return _laid(grid, low, np.stack([inside, inside * light]).astype(np.float32))


def _occupancy(density: torch.Tensor) -> OccupancyBits:
    """Cells of a layout (D, H, W) in which, or beside which, there is matter."""
    cells = _CELLS
    while cells > 16 and cells > min(density.shape):
        cells //= 2
    matter = torch.nn.functional.adaptive_max_pool3d((density > 0).float()[None, None], cells)[0, 0] > 0
    # Samples reach a voxel further than its own cell.
    reach = -(-cells // min(density.shape))
    return pack_occupancy(_widened(matter, reach)[None])


def _widened(flags: torch.Tensor, reach: int) -> torch.Tensor:
    """(D, H, W) bool: what is at most so far from a set flag along every axis."""
    for axis in range(3):
        wider = flags.clone()
        for shift in range(1, min(reach, flags.shape[axis] - 1) + 1):
            count = flags.shape[axis] - shift
            wider.narrow(axis, shift, count).logical_or_(flags.narrow(axis, 0, count))
            wider.narrow(axis, 0, count).logical_or_(flags.narrow(axis, shift, count))
        flags = wider
    return flags
