"""Ray marching through an occupancy pyramid, into packed samples. The contract is in ``api.py``."""

from voxfield.kernels.march_grid.api import march_grid
from voxfield.kernels.march_grid.occupancy import OccupancyBits, pack_occupancy, unpack_occupancy
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule

__all__ = ["OccupancyBits", "PackedSamples", "StepRule", "march_grid", "pack_occupancy", "unpack_occupancy"]
