"""Stretches of packed samples: taken out, and followed until no light is left. The contract is in ``api.py``."""

from voxfield.kernels.sample_runs.api import follow_runs, take_runs
from voxfield.kernels.sample_runs.reference import run_indices

__all__ = ["follow_runs", "run_indices", "take_runs"]
