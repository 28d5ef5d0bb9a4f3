"""Points to a dense grid of voxels. The contract is in ``api.py``."""

from voxfield.kernels.scatter_points.api import CellRule, Method, Outside, ScatteredPoints, scatter_points

__all__ = ["CellRule", "Method", "Outside", "ScatteredPoints", "scatter_points"]
