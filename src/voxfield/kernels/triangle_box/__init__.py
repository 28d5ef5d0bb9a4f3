"""Which voxels triangles touch. The contract is in ``api.py``."""

from voxfield.kernels.triangle_box.api import triangle_box

__all__ = ["triangle_box"]
