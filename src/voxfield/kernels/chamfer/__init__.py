"""How far sets of points lie from each other. The contract is in ``api.py``."""

from voxfield.kernels.chamfer.api import chamfer_distances

__all__ = ["chamfer_distances"]
