"""Volumes made lighter: levels of detail, and files without what does not matter."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from voxfield.api.places import anywhere
from voxfield.api.volume_memory import check_volumes
from voxfield.api.volumes import convert_volume
from voxfield.checks import check_range
from voxfield.storage.vdb import VdbFile, VdbGrid, read_vdb, write_vdb
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.voxel_files import is_archive, read_archive
from voxfield.storage.voxel_pyramid import LAYOUT, VoxelPyramid, write_pyramid
from voxfield.storage.voxel_vdb import (
    METADATA_NAME,
    Layout,
    StoredVoxels,
    read_description,
    read_voxel_vdb,
    write_voxel_vdb,
)
from voxfield.voxels.lod import MOST_LEVELS, grid_levels, halved, halved_transform
from voxfield.voxels.voxel_grid import VoxelGrid

_LIGHTER: Final = 1.9
"""Bytes of what is made of a volume for each of its own. Measured."""


@dataclass(frozen=True, kw_only=True)
class LighterVolume:
    """What `optimise_volume` did."""

    file: Path
    bytes_before: int
    bytes_after: int
    voxels_before: int
    """Active ones, of all grids that have a tree of their own."""
    voxels_after: int


@anywhere("source", output="output")
def make_levels(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    levels: int = 4,
    half: bool | None = None,
    brick: int = 32,
    compression: Compression = "blosc",
    level: int = 9,
    memory: int | str | None = None,
    quiet: bool = True,
) -> list[Path]:
    """Write a volume at several resolutions, each half of the one before: see `voxfield.voxels.lod`.

    Args:
        source: a ``.vdb`` file: a voxel grid that Voxfield wrote, or any volumes.
        output: a folder for ``lod_0.vdb`` (the finest), ``lod_1.vdb`` and so on; or a ``.vdb`` file for all of them: of
            a voxel grid in bricks that are loaded as they are needed (`VoxelPyramid`), of other volumes as grids named
            ``NAME_level_0`` and so on.
        levels: how many, 1 to 12; of a voxel grid fewer where it becomes smaller than 2 voxels.
        half: values in 16 bits; as the source has them where left out.
        brick: of a voxel grid in one file, voxels along a brick's side: 8, 16, 32, 64 or 128.
        compression, level: ``blosc``, ``zip`` or ``none``, and its effort, 0 to 9.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Returns:
        The files written.

    Raises:
        InputError: options that do not fit. MissingFileError, VolumeFormatError, MissingExtraError: as `read_volume`.
    """
    check_volumes([source], memory, quiet=quiet, made=_LIGHTER)
    check_range("levels", levels, minimum=1, maximum=MOST_LEVELS)
    single = Path(output).suffix.lower() == ".vdb"
    if METADATA_NAME not in VdbFile(source).metadata:
        return _volume_levels(source, Path(output), single, levels, half, compression, level)
    stored, own_half = read_voxels(source)
    half = own_half if half is None else half
    made = grid_levels(stored.grid, levels)
    if single:
        return [
            write_pyramid(
                output,
                made,
                brick=brick,
                half=half,
                compression=compression,
                level=level,
                configuration=stored.configuration,
            )
        ]
    return [
        write_voxel_vdb(
            Path(output) / f"lod_{number}.vdb",
            grid,
            layout=_layout(stored),
            half=half,
            compression=compression,
            level=level,
            configuration=stored.configuration,
            background=stored.background,
        )
        for number, grid in enumerate(made)
    ]


@anywhere("source", output="output", back="source")
def optimise_volume(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    tolerance: float = 1e-4,
    half: bool | None = None,
    compression: Compression = "blosc",
    level: int = 9,
    memory: int | str | None = None,
    quiet: bool = True,
) -> LighterVolume:
    """Write a volume anew without what does not matter: voxels near to nothing, constant blocks, bits, loose packing.

    Args:
        source: a ``.vdb`` file: a voxel grid that Voxfield wrote, or any volumes.
        output: the file to write; the source itself where left out, which is replaced only once the new one is whole.
        tolerance: voxels go whose density (of other volumes: any value) is within this of nothing (the background), at
            least 0; of other volumes blocks that are constant within it become tiles.
        half: values in 16 bits; as the source has them where left out.
        compression, level: ``blosc``, ``zip`` or ``none``, and its effort, 0 to 9.
        memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known before.
        quiet: do not say that much is needed.

    Raises:
        InputError, MissingFileError, VolumeFormatError, MissingExtraError: as `make_levels`.
    """
    check_volumes([source], memory, quiet=quiet, made=_LIGHTER)
    check_range("tolerance", tolerance, minimum=0.0)
    file = VdbFile(source)
    target, bytes_before = Path(source if output is None else output), file.path.stat().st_size
    if METADATA_NAME in file.metadata:
        before, after = _optimise_voxels(source, target, tolerance, half, compression, level)
    else:
        before = _active(read_vdb(source))
        kept = convert_volume(
            source, target, half=half, tolerance=tolerance, compression=compression, level=level, memory=memory
        )
        after = _active(kept)
    return LighterVolume(
        file=target,
        bytes_before=bytes_before,
        bytes_after=target.stat().st_size,
        voxels_before=before,
        voxels_after=after,
    )


def _optimise_voxels(
    source: str | os.PathLike[str],
    target: Path,
    tolerance: float,
    half: bool | None,
    compression: Compression,
    level: int,
) -> tuple[int, int]:
    """`optimise_volume` of a voxel grid; how many voxels there were, and are."""
    stored, own_half = read_voxels(source)
    half = own_half if half is None else half
    lighter = stored.grid.prune(keep=stored.grid.density.detach().abs() > tolerance)
    if stored.layout == LAYOUT:
        pyramid = VoxelPyramid(source)
        write_pyramid(
            target,
            grid_levels(lighter, len(pyramid.levels)),
            brick=pyramid.brick,
            half=half,
            compression=compression,
            level=level,
            configuration=stored.configuration,
        )
    else:
        write_voxel_vdb(
            target,
            lighter,
            layout=_layout(stored),
            half=half,
            compression=compression,
            level=level,
            configuration=stored.configuration,
            background=stored.background,
        )
    return stored.grid.num_voxels, lighter.num_voxels


def _volume_levels(
    source: str | os.PathLike[str],
    output: Path,
    single: bool,
    levels: int,
    half: bool | None,
    compression: Compression,
    level: int,
) -> list[Path]:
    """`make_levels` of any volumes."""
    metadata, grids = VdbFile(source).metadata, read_vdb(source)
    if half is not None:
        grids = [replace(grid, half=half) for grid in grids]
    made = [grids]
    while len(made) < levels:
        made.append(_halved(made[-1]))
    if single:
        named = [replace(grid, name=f"{grid.name}_level_{number}") for number, one in enumerate(made) for grid in one]
        return [write_vdb(output, named, compression=compression, level=level, metadata=metadata)]
    return [
        write_vdb(output / f"lod_{number}.vdb", one, compression=compression, level=level, metadata=metadata)
        for number, one in enumerate(made)
    ]


def _halved(grids: list[VdbGrid]) -> list[VdbGrid]:
    """Grids at half their resolution; those that shared a volume go on sharing it."""
    coarse = {id(grid.volume): grid.volume for grid in grids}
    coarse = {key: halved(volume) for key, volume in coarse.items()}
    return [
        replace(grid, volume=coarse[id(grid.volume)], index_to_world=halved_transform(grid.index_to_world))
        for grid in grids
    ]


def read_voxels(source: str | os.PathLike[str]) -> tuple[StoredVoxels, bool]:
    """The voxel grid of a file of any layout (of several levels the finest) or ``.npz``, and whether it is in 16 bits.

    Raises:
        MissingFileError: there is no such file. VolumeFormatError: it holds no voxel grid, or is damaged.
    """
    if is_archive(source):
        return StoredVoxels(grid=read_archive(source)[0], layout="grids"), False
    _, about = read_description(VdbFile(source))
    if about.get("layout") == LAYOUT:
        pyramid = VoxelPyramid(source)
        grid: VoxelGrid = pyramid.grid(0)
        return StoredVoxels(grid=grid, layout=LAYOUT, configuration=pyramid.configuration), bool(about.get("half"))
    return read_voxel_vdb(source), bool(about.get("half"))


def _layout(stored: StoredVoxels) -> Layout:
    return "grids" if stored.layout == "grids" else "compact"


def _active(grids: list[VdbGrid]) -> int:
    """Active voxels of grids; a volume that several share counts once."""
    return sum(volume.active_count for volume in {id(grid.volume): grid.volume for grid in grids}.values())
