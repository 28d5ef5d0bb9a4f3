"""``voxel_dataset_generator.datasets``: datasets, batches and transforms are Voxfield's own under their own names."""

from voxfield.data.ray_transforms import (
    AddNoise,
    Compose,
    NormalizeRayOrigins,
    RandomFlip,
    RandomRaySubsample,
    RandomRotation90,
    ToDevice,
    VoxelOccupancyJitter,
)
from voxfield.data.shape_rays import (
    HierarchicalVoxelRayDataset,
    RayBatchSampler,
    collate_ray_batch,
    transforms,
)

__all__ = [
    "AddNoise",
    "Compose",
    "HierarchicalVoxelRayDataset",
    "NormalizeRayOrigins",
    "RandomFlip",
    "RandomRaySubsample",
    "RandomRotation90",
    "RayBatchSampler",
    "ToDevice",
    "VoxelOccupancyJitter",
    "collate_ray_batch",
    "transforms",
]
