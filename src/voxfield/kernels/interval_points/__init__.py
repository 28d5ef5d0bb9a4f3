"""Where the intervals along rays lie in the cube that a field covers. The contract is in ``api.py``."""

from voxfield.kernels.interval_points.api import interval_points

__all__ = ["interval_points"]
