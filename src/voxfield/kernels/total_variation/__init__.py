"""Total variation of values on a sparse voxel grid. The contract is in ``api.py``."""

from voxfield.kernels.total_variation.api import CellRange, total_variation

__all__ = ["CellRange", "total_variation"]
