"""Which voxels lie inside a surface of triangles. The contract is in ``api.py``."""

from voxfield.kernels.scan_fill.api import Inside, scan_fill

__all__ = ["Inside", "scan_fill"]
