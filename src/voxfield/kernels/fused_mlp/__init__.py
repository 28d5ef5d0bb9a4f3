"""Small multilayer perceptrons whose activations never leave the cache."""

from voxfield.kernels.fused_mlp.api import fused_mlp

__all__ = ["fused_mlp"]
