"""The document's storage manager, over `voxfield.storage.voxel_vdb` and `voxfield.api.levels`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from voxfield.api.levels import optimise_volume
from voxfield.api.volume_info import volume_info
from voxfield.checks import check_choice, check_range
from voxfield.compat.plenoxel_settings import PlenoxelConfig
from voxfield.distributed.devices import check_device
from voxfield.errors import InputError
from voxfield.storage.vdb.layout import Compression
from voxfield.storage.voxel_vdb import read_voxel_vdb, write_voxel_vdb
from voxfield.training.settings import replace_values, to_plain
from voxfield.voxels.lod import MOST_LEVELS, grid_levels
from voxfield.voxels.vdb_tree import LEAF_VOXELS
from voxfield.voxels.voxel_grid import GridChunk, VoxelGrid

BLOSC_LEVELS = 6
"""Levels up to this are Blosc's efforts, quick to write and read; those above are zlib's, smaller."""


@dataclass
class NeuralVDBConfig:
    """How the manager stores grids: the document's settings, by its names, with its defaults."""

    compression_level: int = 6
    """0: none; 1 to 6: Blosc with this effort; 7 to 9: zlib with this effort."""
    half_precision: bool = True
    """Values in 16 bits."""
    chunk_size: tuple[int, int, int] = (64, 64, 64)
    """Voxels that are brought into the file's order together: bounds the memory of writing."""
    tolerance: float = 1e-4
    """Voxels whose density is within this of 0 are not stored; at least 0."""
    background_value: float = 0.0
    """Density that other programs see where no voxel is stored."""
    include_metadata: bool = True
    """Keep the model's settings in the file. What the grid itself is, is always there."""
    include_training_info: bool = True
    """Keep what the trainer says of the training too: epoch, stage, rate."""
    use_lod: bool = False
    """Also write levels of detail, in a folder beside the file: ``model_lod/lod_0.vdb``, ..."""
    lod_levels: int = 3
    """How many, the finest included: 1 to 12."""
    optimize_storage: bool = False
    """Write files anew once they are written, packed with the greatest effort."""

    def checked(self) -> "NeuralVDBConfig":
        """The same, if it makes sense: fields can be set at any time, so every use asks.

        Raises:
            InputError: a value is out of range.
        """
        check_choice("compression_level", self.compression_level, range(10))
        check_range("tolerance", self.tolerance, minimum=0.0)
        check_range("lod_levels", self.lod_levels, minimum=1, maximum=MOST_LEVELS)
        sides = list(self.chunk_size)
        if len(sides) != 3 or min(sides) < 1:
            raise InputError(f"chunk_size: expected three whole numbers of at least 1, got {self.chunk_size!r}.")
        return self

    @property
    def compression(self) -> Compression:
        """The codec of ``compression_level``."""
        if self.compression_level == 0:
            return "none"
        return "blosc" if self.compression_level <= BLOSC_LEVELS else "zip"

    @property
    def blocks_at_once(self) -> int:
        """Blocks of 8³ voxels that ``chunk_size`` holds, at least 1."""
        return max(1, self.chunk_size[0] * self.chunk_size[1] * self.chunk_size[2] // LEAF_VOXELS)


@dataclass
class NeuralVDBManager:
    """Stores voxel grids as OpenVDB files, and looks after these."""

    config: NeuralVDBConfig = field(default_factory=NeuralVDBConfig)

    def export_plenoxel_to_vdb(
        self,
        voxel_grid: VoxelGrid | GridChunk,
        output_path: str | os.PathLike[str],
        model_config: "PlenoxelConfig | Mapping[str, Any] | None" = None,
        training_info: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a grid, or a chunk of one, which then lies where it does in that.

        Args:
            voxel_grid: the grid.
            output_path: the ``.vdb`` file to make or replace.
            model_config: kept in the file.
            training_info: plain values, kept too.

        Returns:
            The path.

        Raises:
            InputError, OSError: as `write_voxel_vdb`.
        """
        config = self.config.checked()
        kept: dict[str, Any] = {}
        if config.include_metadata and model_config is not None:
            kept["model"] = to_plain(model_config)
        if config.include_training_info and training_info is not None:
            kept["training"] = to_plain(dict(training_info))
        grid = _thinned(voxel_grid, config.tolerance)
        path = write_voxel_vdb(
            output_path,
            grid,
            half=config.half_precision,
            compression=config.compression,
            level=config.compression_level,
            configuration=kept,
            background=config.background_value,
            blocks_at_once=config.blocks_at_once,
        )
        if config.optimize_storage:
            self.optimize_vdb_storage(path)
        if config.use_lod:
            if not isinstance(voxel_grid, VoxelGrid):
                raise InputError("use_lod: a chunk has no levels of its own. Make them of the grid.")
            self.create_hierarchical_lod(voxel_grid, path.with_name(f"{path.stem}_lod"), config.lod_levels)
        return path

    def load_plenoxel_from_vdb(
        self, vdb_path: str | os.PathLike[str], device: torch.device | str | None = None
    ) -> tuple[VoxelGrid, PlenoxelConfig]:
        """Read a grid, onto ``device``, and the model's settings; those that fit the grid where the file has none.

        Raises:
            MissingFileError, VolumeFormatError, MissingExtraError: as `read_voxel_vdb`.
            InputError: the settings in the file are not a `PlenoxelConfig`'s.
            UnavailableError: torch cannot use ``device`` here.
        """
        device = None if device is None else check_device(device)
        stored = read_voxel_vdb(vdb_path)
        grid, bounds = stored.grid, stored.grid.scene_bounds
        own = PlenoxelConfig(
            grid_resolution=grid.resolution,
            scene_bounds=(*bounds.minimum, *bounds.maximum),
            sh_degree=grid.sh_degree,
        )
        said = stored.configuration.get("model")
        # Settings of other writers, such as voxfield export vdb, are of another model class.
        if isinstance(said, Mapping) and "grid_resolution" in said:
            own = replace_values(own, said, source=str(vdb_path))
        return grid if device is None else grid.to(device), own

    def create_hierarchical_lod(
        self, voxel_grid: VoxelGrid, output_dir: str | os.PathLike[str], levels: int = 3
    ) -> list[Path]:
        """Write ``lod_0.vdb`` (the finest), ``lod_1.vdb``, ...: each half the resolution of the one before, of the same
        mass, colours weighed by density.

        Raises:
            InputError, OSError: as `write_voxel_vdb`.
        """
        plain = NeuralVDBManager(replace(self.config, use_lod=False))
        return [
            plain.export_plenoxel_to_vdb(grid, Path(output_dir) / f"lod_{number}.vdb")
            for number, grid in enumerate(grid_levels(voxel_grid, levels))
        ]

    def optimize_vdb_storage(
        self, vdb_path: str | os.PathLike[str], output_path: str | os.PathLike[str] | None = None
    ) -> Path:
        """Write a file anew, in place unless ``output_path`` is given: without voxels within the tolerance of nothing,
        in 16 bits if the config says so, packed with zlib's greatest effort.

        Raises:
            MissingFileError, VolumeFormatError, MissingExtraError: as `read_voxel_vdb`.
        """
        config = self.config.checked()
        half = True if config.half_precision else None
        return optimise_volume(
            vdb_path, output_path, tolerance=config.tolerance, half=half, compression="zip", level=9
        ).file

    def get_storage_stats(self, vdb_path: str | os.PathLike[str]) -> dict[str, Any]:
        """What a file holds.

        Returns:
            ``file_size_mb``, ``num_grids``, ``total_active_voxels`` (of the grid: those of ``density`` where there is
            one), and ``grids``: by name ``grid_class``, ``active_voxel_count``, ``memory_usage_mb``, once loaded, and
            ``bounding_box`` with ``min`` and ``max``, both inside, None where nothing is active.

        Raises:
            MissingFileError, VolumeFormatError, MissingExtraError: as `volume_info`.
        """
        information = volume_info(vdb_path, values=True)
        grids = {
            one["name"]: {
                "grid_class": one["class"],
                "active_voxel_count": one["active_voxels"],
                "memory_usage_mb": one["memory_mb"],
                "bounding_box": one["bounding_box"],
            }
            for one in information["grids"]
            if one["read"]
        }
        total = information["total_active_voxels"]
        return {
            "file_size_mb": information["file_size_mb"],
            "num_grids": information["num_grids"],
            "total_active_voxels": grids["density"]["active_voxel_count"] if "density" in grids else total,
            "grids": grids,
        }


def save_plenoxel_as_neuralvdb(
    voxel_grid: VoxelGrid,
    output_path: str | os.PathLike[str],
    model_config: "PlenoxelConfig | Mapping[str, Any] | None" = None,
    vdb_config: NeuralVDBConfig | None = None,
) -> bool:
    """Write ``voxel_grid``: `NeuralVDBManager.export_plenoxel_to_vdb`. True; what goes wrong is raised."""
    NeuralVDBManager(vdb_config or NeuralVDBConfig()).export_plenoxel_to_vdb(voxel_grid, output_path, model_config)
    return True


def load_plenoxel_from_neuralvdb(
    vdb_path: str | os.PathLike[str], device: torch.device | str | None = None
) -> tuple[VoxelGrid, PlenoxelConfig]:
    """Read a grid and its model's settings: `NeuralVDBManager.load_plenoxel_from_vdb`."""
    return NeuralVDBManager().load_plenoxel_from_vdb(vdb_path, device)


def _thinned(grid: VoxelGrid | GridChunk, tolerance: float) -> VoxelGrid | GridChunk:
    """Without the voxels whose density is within ``tolerance`` of 0."""
    if isinstance(grid, VoxelGrid):
        return grid.prune(keep=grid.density.detach().abs() > tolerance)
    return replace(grid, stored=grid.stored & (grid.density.abs() > tolerance))
