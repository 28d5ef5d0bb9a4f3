"""Voxel grids that Voxfield wrote and sets of levels of detail, as the viewer marches through them.

Of several levels that is shown, and loaded, whose voxels look about a pixel large: coarse ones for the first pictures,
finer ones for those of a camera at rest, and of a file with bricks only those in view.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from voxfield.errors import FormatError, InputError, VolumeFormatError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.render.progressive import ProgressiveVoxels
from voxfield.storage.compressed import is_compressed
from voxfield.storage.vdb import VdbFile
from voxfield.storage.voxel_pyramid import LAYOUT, Brick, VoxelPyramid
from voxfield.storage.voxel_vdb import METADATA_NAME, read_description, read_voxel_vdb
from voxfield.viewer.subjects import MODES, Mode, Subject
from voxfield.viewer.volume_subject import VolumeSubject, volume_subject
from voxfield.voxels.lod import MOST_LEVELS
from voxfield.voxels.voxel_grid import VoxelGrid

BUDGET: Final = "1GB"
"""Memory for the bricks of a file of levels."""
_LEVEL_FILE: Final = re.compile(r"lod_(\d{1,2})\.vdb")


def open_volume(path: Path) -> Subject | None:
    """An OpenVDB file, a compressed volume, or a folder of ``lod_0.vdb`` (the finest), ``lod_1.vdb`` and so on; None:
    nothing that can be marched through.

    Raises:
        MissingFileError, VolumeFormatError, FormatError: a file that cannot be read, or holds nothing to show.
    """
    if path.is_dir():
        files = level_files(path)
        return LevelFiles(files) if files else None
    if is_compressed(path):
        # Of a voxel grid that was compressed too: as the fog that other programs see.
        return volume_subject(path)
    return _open_file(path) if path.suffix.lower() == ".vdb" else None


def level_files(folder: Path) -> list[Path]:
    """The files of a set of levels in a folder, finest first; none unless there are all from ``lod_0.vdb`` on."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _LEVEL_FILE.fullmatch(path.name))}
    return [found[number] for number in sorted(found)] if set(found) == set(range(len(found))) else []


def _open_file(path: Path, box: Bounds | None = None) -> "GridSubject | PyramidSubject | VolumeSubject | None":
    file = VdbFile(path)
    if METADATA_NAME not in file.metadata:
        return volume_subject(path, box)
    if read_description(file)[1].get("layout") == LAYOUT:
        return PyramidSubject(VoxelPyramid(path))
    return GridSubject(read_voxel_vdb(path).grid)


def voxels_a_pixel(rays: Rays, bounds: Bounds, side: float) -> float:
    """How many voxels, ``side`` long, in the middle of ``bounds`` lie side by side across a pixel of the rays."""
    if not len(rays):
        return 0.0
    distance = (rays.origins - torch.tensor(bounds.centre)).norm(dim=1).mean()
    # Whoever stands within looks at what is near.
    distance = distance.clamp(min=0.25 * math.dist(bounds.minimum, bounds.maximum))
    return float(rays.pixel_area.sqrt().mean() * distance) / side


def level_for(voxels: float, levels: int) -> int:
    """The level whose voxels, each twice as long as those of the one before, are just not larger than a pixel."""
    return min(levels - 1, max(0, math.floor(math.log2(voxels)))) if voxels > 0 else 0


class GridSubject(Subject):
    """A voxel grid in its own world."""

    modes: tuple[Mode, ...] = MODES[:4]

    def __init__(self, grid: VoxelGrid) -> None:
        """Look at ``grid``."""
        self._grid, self.bounds = grid.float(), grid.scene_bounds
        self.voxel = min(side / count for side, count in zip(self.bounds.size, grid.resolution, strict=True))
        """Side of a voxel, world units."""

    @torch.no_grad()
    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        """See `voxfield.viewer.subjects.Subject.look`."""
        del mode
        seen = self._grid.render(rays)
        return {
            "rgb": (seen.rgb + (1 - seen.opacity)[:, None]).clamp(0, 1),
            "opacity": seen.opacity,
            "depth": seen.depth / seen.opacity.clamp(min=1e-6),
        }


class PyramidSubject(Subject):
    """A file with several levels in bricks, which are loaded where a camera needs them."""

    modes: tuple[Mode, ...] = MODES[:4]

    def __init__(self, pyramid: VoxelPyramid, budget: int | str = BUDGET) -> None:
        """Look at ``pyramid``; its coarsest level is loaded.

        Raises:
            InputError: that takes more than ``budget``. VolumeFormatError: it is damaged.
        """
        self.voxels = ProgressiveVoxels(pyramid, budget)
        frame = pyramid.levels[0]
        self.bounds = frame.bounds
        self._side = min(side / count for side, count in zip(frame.bounds.size, frame.resolution, strict=True))

    def load(self, camera: Cameras) -> Iterator[Brick]:
        """See `voxfield.viewer.subjects.Subject.load`."""
        return self.voxels.refine(camera)

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        """See `voxfield.viewer.subjects.Subject.look`."""
        del mode
        level = level_for(voxels_a_pixel(rays, self.bounds, self._side), len(self.voxels.pyramid.levels))
        seen = self.voxels.render(rays, background=torch.ones(3), step=0.5 * 2**level)
        return seen | {"rgb": seen["rgb"].clamp(0, 1)}


class LevelFiles(Subject):
    """A file for each level; all are of one kind."""

    modes: tuple[Mode, ...] = MODES[:4]

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the coarsest of ``files``, which are given finest first.

        Raises:
            FormatError, VolumeFormatError: it cannot be shown.
        """
        if not 1 <= len(files) <= MOST_LEVELS:
            raise InputError(f"levels: expected 1 to {MOST_LEVELS} files, got {len(files)}.")
        self._files = list(files)
        self._box: Bounds | None = None
        self._open: dict[int, GridSubject | VolumeSubject] = {}
        coarsest = self._opened(len(files) - 1)
        self.bounds = coarsest.bounds
        self._box = coarsest.box if isinstance(coarsest, VolumeSubject) else None
        self._side = coarsest.voxel / 2 ** (len(files) - 1)

    @property
    def finest(self) -> int:
        """The finest level that is loaded."""
        return min(self._open)

    def load(self, camera: Cameras) -> Iterator[int]:
        """See `voxfield.viewer.subjects.Subject.load`: level after level, as far as the camera shows them."""
        wanted = self._level(camera.image_rays(0))
        for level in reversed(range(wanted, self.finest)):
            self._opened(level)
            yield level

    def look(self, rays: Rays, mode: Mode) -> dict[str, torch.Tensor]:
        """See `voxfield.viewer.subjects.Subject.look`."""
        return self._open[max(self._level(rays), self.finest)].look(rays, mode)

    def _level(self, rays: Rays) -> int:
        return level_for(voxels_a_pixel(rays, self.bounds, self._side), len(self._files))

    def _opened(self, level: int) -> GridSubject | VolumeSubject:
        path = self._files[level]
        found = _open_file(path, self._box)
        if not isinstance(found, GridSubject | VolumeSubject):
            raise FormatError(f"{path}: expected a level of detail with matter to show. Make them: voxfield vdb lod.")
        if self._open and type(found) is not type(next(iter(self._open.values()))):
            raise VolumeFormatError(f"{path}: is not of the same kind as the other levels beside it.")
        self._open[level] = found
        return found
