"""The names of the document on Plenoxels in NeuralVDB: change its ``from src.plenoxels import`` to this module.

What each does, and where the document is wrong, is in docs/compat/plenoxels.md. New code is better served by
``voxfield.train("plenoxels", ...)``, `Run.export_vdb` and `voxfield.storage.voxel_vdb`.
"""

from voxfield.compat.plenoxel_settings import PlenoxelConfig, PlenoxelDatasetConfig, PlenoxelTrainerConfig
from voxfield.compat.plenoxel_training import NeuralVDBPlenoxelTrainer, NeuralVDBTrainerConfig
from voxfield.compat.plenoxel_volumes import (
    NeuralVDBConfig,
    NeuralVDBManager,
    load_plenoxel_from_neuralvdb,
    save_plenoxel_as_neuralvdb,
)
from voxfield.voxels.voxel_grid import VoxelGrid

__all__ = [
    "NeuralVDBConfig",
    "NeuralVDBManager",
    "NeuralVDBPlenoxelTrainer",
    "NeuralVDBTrainerConfig",
    "PlenoxelConfig",
    "PlenoxelDatasetConfig",
    "PlenoxelTrainerConfig",
    "VoxelGrid",
    "load_plenoxel_from_neuralvdb",
    "save_plenoxel_as_neuralvdb",
]
