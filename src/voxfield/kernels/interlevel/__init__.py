"""The loss that teaches proposal networks to bound the final weights. The contract is in ``api.py``."""

from voxfield.kernels.interlevel.api import interlevel_loss

__all__ = ["interlevel_loss"]
