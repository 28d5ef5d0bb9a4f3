"""The Adam update as one pass over memory."""

from voxfield.kernels.adam.api import AdamRule, adam_step

__all__ = ["AdamRule", "adam_step"]
