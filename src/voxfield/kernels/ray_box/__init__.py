"""Where rays enter and leave a box. The contract is in ``api.py``."""

from voxfield.kernels.ray_box.api import ray_box

__all__ = ["ray_box"]
