"""How rays pass through a grid of voxels. The contract is in ``api.py``."""

from voxfield.kernels.traverse_voxels.api import VoxelHits, traverse_voxels

__all__ = ["VoxelHits", "traverse_voxels"]
