"""Entropy coding of blocks of 8³ voxels: their states and whole-number values. The contract is in ``api.py``."""

from voxfield.kernels.block_code.api import (
    EARLIER,
    FEW_TAPS,
    HINTS,
    LARGEST,
    TAPS,
    decode_states,
    decode_values,
    encode_states,
    encode_values,
    fit_taps,
)

__all__ = [
    "EARLIER",
    "FEW_TAPS",
    "HINTS",
    "LARGEST",
    "TAPS",
    "decode_states",
    "decode_values",
    "encode_states",
    "encode_values",
    "fit_taps",
]
