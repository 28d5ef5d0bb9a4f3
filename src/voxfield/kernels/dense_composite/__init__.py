"""Volume rendering of rays that all have equally many samples. The contract is in ``api.py``."""

from voxfield.kernels.dense_composite.api import DenseComposited, dense_composite, dense_weights

__all__ = ["DenseComposited", "dense_composite", "dense_weights"]
