"""Real spherical harmonics of directions. The contract is in ``api.py``."""

from voxfield.kernels.spherical_harmonics.api import spherical_harmonics

__all__ = ["spherical_harmonics"]
