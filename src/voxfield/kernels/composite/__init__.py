"""Volume rendering of packed samples, front to back. The contract is in ``api.py``."""

from voxfield.kernels.composite.api import Composited, composite

__all__ = ["Composited", "composite"]
