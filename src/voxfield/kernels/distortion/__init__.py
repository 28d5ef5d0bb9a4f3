"""The loss that pulls a ray's weights together. The contract is in ``api.py``."""

from voxfield.kernels.distortion.api import distortion_loss

__all__ = ["distortion_loss"]
