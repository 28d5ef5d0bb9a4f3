"""A voxel grid at several resolutions in one OpenVDB file, in bricks that are loaded one by one.

The file has one grid ``level_L_brick_X_Y_Z`` for each brick that stores something: the voxels of level L (0 is the
finest) in the cube of ``brick`` voxels (a power of two, 8 to 128) that begins at ``brick`` (X, Y, Z), as
`voxfield.storage.voxel_vdb` stores a compact grid. Coarse bricks stand first. The file's metadata ``plenoxels`` lists
the levels and, for every brick, how many voxels it has, so that a reader knows what to ask for.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np

from voxfield.checks import check_choice
from voxfield.errors import InputError, VolumeFormatError
from voxfield.geometry.bounds import Bounds
from voxfield.storage.vdb import VdbFile, VdbHeader, writing_vdb
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.voxel_vdb import (
    METADATA_NAME,
    VoxelFrame,
    VoxelRows,
    compact_grid,
    described,
    grid_of,
    read_compact,
    read_description,
)
from voxfield.voxels.lod import MOST_LEVELS
from voxfield.voxels.vdb_tree import node_origin, unique_origins
from voxfield.voxels.voxel_grid import VoxelGrid

LAYOUT: Final = "pyramid"
BRICKS: Final = (8, 16, 32, 64, 128)


class Brick(NamedTuple):
    """A place for voxels: level, 0 the finest, and which brick along x, y, z."""

    level: int
    x: int
    y: int
    z: int

    @property
    def name(self) -> str:
        """Of its grid in the file."""
        return f"level_{self.level}_brick_{self.x}_{self.y}_{self.z}"

    @property
    def parent(self) -> "Brick":
        """The brick of the next coarser level that covers it."""
        return Brick(self.level + 1, self.x // 2, self.y // 2, self.z // 2)


def write_pyramid(
    path: str | os.PathLike[str],
    levels: Sequence[VoxelGrid],
    *,
    brick: int = 32,
    half: bool = False,
    compression: Compression = "blosc",
    level: int = 9,
    configuration: Mapping[str, Any] | None = None,
) -> Path:
    """Write a grid and its coarser ones, as `voxfield.voxels.lod.grid_levels` makes them, to one file.

    Args:
        path: the file to make or replace.
        levels: finest first, each with half the voxels along every axis (rounded up) of the one before.
        brick: voxels along a brick's side: 8, 16, 32, 64 or 128. Small ones are loaded more precisely.
        half, compression, level, configuration: see `write_voxel_vdb`.

    Raises:
        InputError: levels that do not follow each other, or as `write_voxel_vdb`.
        OSError: the file cannot be written; what was there before stays.
    """
    check_choice("brick", brick, BRICKS)
    _check_levels(levels)
    frames = [VoxelFrame.of(grid) for grid in levels]
    # Coarse to fine: what is shown first stands first.
    parts = [part for number in reversed(range(len(levels))) for part in _bricks(levels[number], number, brick)]
    about = {
        "half": half,
        "model_config": dict(configuration or {}),
        "brick": brick,
        "levels": [frame.to_dict() for frame in frames],
        "bricks": [[*key, int((voxels.rows >= 0).sum())] for key, voxels in parts],
    }
    metadata = {METADATA_NAME: described(frames[0], LAYOUT, about)}
    names = [key.name for key, _ in parts]
    with writing_vdb(path, names, compression=compression, level=level, metadata=metadata) as writer:
        for key, voxels in parts:
            writer.write(compact_grid(key.name, voxels, half=half, compression=compression, level=level))
    return Path(path)


@dataclass(frozen=True, kw_only=True, eq=False)
class BrickVoxels:
    """The voxels of a brick."""

    coordinates: np.ndarray
    """(N, 3) int32 (x, y, z) in the level."""
    values: np.ndarray
    """(N, channels): density, then the coefficients of red, green and blue."""


class VoxelPyramid:
    """A file that `write_pyramid` wrote. Opening it reads what it lists; bricks are read when they are asked for.

    Args:
        path: the file.

    Attributes:
        path: the file.
        levels: the frames of the levels, finest first.
        brick: voxels along a brick's side.
        voxels: how many voxels each brick has; those that are not listed have none.
        configuration: what the writer gave as such.

    Raises:
        MissingFileError: there is no such file.
        VolumeFormatError: it is no such file, of a newer version, cut short or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file = VdbFile(path)
        frame, about = read_description(file)
        if about.get("layout") != LAYOUT:
            raise VolumeFormatError(
                f"{path}: holds one resolution, not several. Make them: voxfield vdb lod {path} --output levels.vdb"
            )
        self.path, self._file, self.configuration = file.path, file, about["model_config"]
        self._headers: dict[str, VdbHeader] = {header.name: header for header in file.grids}
        try:
            self.brick = about["brick"]
            check_choice("brick", self.brick, BRICKS)
            self.levels = tuple(VoxelFrame.from_dict(one) for one in about["levels"])
            if not 1 <= len(self.levels) <= MOST_LEVELS or self.levels[0] != frame:
                raise ValueError(f"{len(self.levels)} levels")
            self.voxels = {Brick(*one[:4]): self._checked(*one) for one in about["bricks"]}
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            reason = " ".join(str(error).split())[:100]
            raise VolumeFormatError(f"{path}: its levels cannot be read ({reason}). Make them again.") from None

    def read(self, brick: Brick) -> BrickVoxels:
        """Load one brick; nothing where none is listed.

        Raises:
            VolumeFormatError: it is damaged, or holds voxels of elsewhere.
            MissingExtraError: it is compressed by Blosc, which is not installed.
        """
        frame = self.levels[brick.level]
        if brick not in self.voxels:
            return BrickVoxels(coordinates=np.empty((0, 3), np.int32), values=np.empty((0, frame.channels), np.float32))
        coordinates, values = read_compact(self.path, self._file.read(self._headers[brick.name]), frame)
        low = np.array(brick[1:]) * self.brick
        inside = ((coordinates >= low) & (coordinates < np.minimum(low + self.brick, frame.size))).all()
        if len(coordinates) != self.voxels[brick] or not inside or not np.isfinite(values).all():
            raise VolumeFormatError(f"{self.path}: grid {brick.name} does not hold the voxels of that brick.")
        return BrickVoxels(coordinates=coordinates, values=values)

    def grid(self, level: int = 0) -> VoxelGrid:
        """A whole level.

        Raises:
            InputError: there is no such level. VolumeFormatError, MissingExtraError: as `read`.
        """
        check_choice("level", level, range(len(self.levels)))
        frame = self.levels[level]
        parts = [self.read(brick) for brick in self.voxels if brick.level == level]
        coordinates = np.concatenate([np.empty((0, 3), np.int32), *(part.coordinates for part in parts)])
        values = np.concatenate([np.empty((0, frame.channels), np.float32), *(part.values for part in parts)])
        try:
            return grid_of(frame, coordinates, values)
        except InputError as error:
            raise VolumeFormatError(f"{self.path}: {error}") from None

    def bounds_of(self, brick: Brick) -> Bounds:
        """The box of a brick in the world."""
        frame = self.levels[brick.level]
        edge = np.array(frame.bounds.size) / frame.size * self.brick
        low = np.array(frame.bounds.minimum) + np.array(brick[1:]) * edge
        ends = [(float(one[0]), float(one[1]), float(one[2])) for one in (low, low + edge)]
        return Bounds(minimum=ends[0], maximum=ends[1])

    def _checked(self, level: Any, x: Any, y: Any, z: Any, voxels: Any) -> int:
        """How many voxels a brick has, if it is one of the levels and in the file."""
        brick = Brick(level, x, y, z)
        if not all(type(one) is int and one >= 0 for one in (*brick, voxels)) or level >= len(self.levels):
            raise ValueError(f"brick {brick}")
        if voxels > self.brick**3 or brick.name not in self._headers:
            raise ValueError(f"brick {brick} of {voxels} voxels")
        return cast(int, voxels)


def _bricks(grid: VoxelGrid, level: int, side: int) -> Iterator[tuple[Brick, VoxelRows]]:
    """The bricks of a level that store something, and what."""
    voxels = VoxelRows.of(grid)
    corners, brick_of = unique_origins(node_origin(voxels.origins, side))
    order = np.argsort(brick_of, kind="stable")
    begins = np.searchsorted(brick_of[order], np.arange(len(corners) + 1))
    for number, corner in enumerate((corners // side).tolist()):
        part = order[begins[number] : begins[number + 1]]
        yield Brick(level, *corner), replace(voxels, origins=voxels.origins[part], rows=voxels.rows[part])


def _check_levels(levels: Sequence[VoxelGrid]) -> None:
    """Raise unless grids are one and its coarser ones."""
    if not 1 <= len(levels) <= MOST_LEVELS:
        raise InputError(f"levels: expected 1 to {MOST_LEVELS}, got {len(levels)}.")
    for fine, coarse in zip(levels, levels[1:], strict=False):
        expected = tuple(math.ceil(side / 2) for side in fine.resolution)
        if coarse.resolution != expected or coarse.sh_degree != fine.sh_degree:
            raise InputError(
                f"levels: expected {expected} voxels of degree {fine.sh_degree} below {fine.resolution}, got "
                f"{coarse.resolution} of {coarse.sh_degree}. Make them with voxfield.voxels.lod.grid_levels."
            )
