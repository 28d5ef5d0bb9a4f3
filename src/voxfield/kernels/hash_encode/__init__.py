"""Multi-resolution hash encoding of points in the unit cube. The contract is in ``api.py``."""

from voxfield.kernels.hash_encode.api import hash_encode
from voxfield.kernels.hash_encode.grid import HashGrid

__all__ = ["HashGrid", "hash_encode"]
