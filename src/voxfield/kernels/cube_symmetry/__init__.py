"""Blocks of voxels turned and mirrored onto themselves, and one form for all 48. The contract is in ``api.py``."""

from voxfield.kernels.cube_symmetry.api import CanonicalBlocks, canonical_blocks, turn_blocks
from voxfield.kernels.cube_symmetry.symmetries import SYMMETRIES, symmetry_matrix

__all__ = ["SYMMETRIES", "CanonicalBlocks", "canonical_blocks", "symmetry_matrix", "turn_blocks"]
