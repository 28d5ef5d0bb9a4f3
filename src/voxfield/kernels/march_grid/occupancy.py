"""Which cells of nested grids hold matter, one bit a cell, with two coarser summaries for skipping empty space.

A grid has ``resolution`` cells along each axis. Cascade 0 covers the scene's box; cascade c covers that box scaled by
2**c about its centre with as many cells, so cells double in size from one cascade to the next.

``bits`` holds three pyramid levels one after another: the cells themselves, then blocks of 4x4x4 cells, then blocks of
16x16x16 cells. Within a level cascades follow one another. The bit of block (x, y, z) of a level with R blocks along
each axis is number x + y*R + z*R*R, least significant bit of a byte first. A block's bit is set if any cell in it is.
A level of a cascade occupies whole bytes: one byte where it has fewer than 8 blocks.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from voxfield.checks import check_dtype, check_range, check_shape
from voxfield.errors import InputError

PYRAMID_FACTORS: Final = (1, 4, 16)
"""Cells along each axis of a block, one number a pyramid level."""


@dataclass(frozen=True, kw_only=True)
class OccupancyBits:
    """Bit-packed occupancy of nested grids; made by ``pack_occupancy``."""

    bits: torch.Tensor
    """(num_bytes,) uint8, contiguous; layout in the module's description."""
    resolution: int
    """Cells along each axis: a power of two, 16 to 1024."""
    num_cascades: int
    """Nested grids, 1 to 16."""

    def __post_init__(self) -> None:
        _check_resolution(self.resolution)
        check_range("num_cascades", self.num_cascades, minimum=1, maximum=16)
        check_dtype("bits", self.bits, (torch.uint8,))
        check_shape("bits", self.bits, (self.num_cascades * sum(self.cascade_bytes),))

    @property
    def cascade_bytes(self) -> tuple[int, int, int]:
        """Bytes that one cascade takes in each pyramid level."""
        fine, coarse, coarsest = (-(-((self.resolution // factor) ** 3) // 8) for factor in PYRAMID_FACTORS)
        return fine, coarse, coarsest

    @property
    def level_starts(self) -> tuple[int, int, int]:
        """First byte of each pyramid level. Cascade c of level l starts at level_starts[l] + c * cascade_bytes[l]."""
        fine, coarse, _ = self.cascade_bytes
        return 0, self.num_cascades * fine, self.num_cascades * (fine + coarse)

    def to(self, device: torch.device | str) -> "OccupancyBits":
        """The same occupancy on another device."""
        return OccupancyBits(bits=self.bits.to(device), resolution=self.resolution, num_cascades=self.num_cascades)


def pack_occupancy(occupied: torch.Tensor) -> OccupancyBits:
    """Pack a boolean grid and build its summaries.

    Args:
        occupied: (C, R, R, R) bool, axes cascade, z, y, x; R a power of two from 16 to 1024.

    Raises:
        InputError: wrong shape, dtype or resolution.
    """
    check_shape("occupied", occupied, ("C", "R", "R", "R"))
    check_dtype("occupied", occupied, (torch.bool,))
    cascades, resolution = occupied.shape[:2]
    _check_resolution(resolution)
    packed, level = [], occupied
    for _ in PYRAMID_FACTORS:
        packed.append(_pack_bits(level.reshape(cascades, -1)).flatten())
        blocks = level.shape[1] // 4
        if blocks:
            # Four flags in a row are one integer.
            level = level.contiguous().view(torch.int32) != 0
            level = level.reshape(cascades, blocks, 4, blocks, 4, blocks).any(4).any(2)
    return OccupancyBits(bits=torch.cat(packed), resolution=resolution, num_cascades=cascades)


def unpack_occupancy(occupancy: OccupancyBits, pyramid_level: int = 0) -> torch.Tensor:
    """The boolean grid (C, B, B, B), axes cascade, z, y, x, of one pyramid level (0 cells, 1 and 2 blocks)."""
    blocks = occupancy.resolution // PYRAMID_FACTORS[pyramid_level]
    start = occupancy.level_starts[pyramid_level]
    size = occupancy.num_cascades * occupancy.cascade_bytes[pyramid_level]
    bytes_of_level = occupancy.bits[start : start + size].reshape(occupancy.num_cascades, -1, 1)
    shifts = torch.arange(8, device=occupancy.bits.device, dtype=torch.uint8)
    bits = ((bytes_of_level >> shifts) & 1).bool().reshape(occupancy.num_cascades, -1)
    return bits[:, : blocks**3].reshape(occupancy.num_cascades, blocks, blocks, blocks)


def cascade_box(box: torch.Tensor, cascade: int) -> torch.Tensor:
    """Corners (2, 3) of a cascade's box: ``box`` scaled by 2**cascade about its centre."""
    centre, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    return torch.stack([centre - half * 2**cascade, centre + half * 2**cascade])


def _check_resolution(resolution: int) -> None:
    check_range("resolution", resolution, minimum=16, maximum=1024)
    if resolution & (resolution - 1):
        raise InputError(f"resolution: expected a power of two, got {resolution}.")


def _pack_bits(flags: torch.Tensor) -> torch.Tensor:
    """(C, n) bool -> (C, ceil(n / 8)) uint8, first flag in the least significant bit."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.packbits(flags.numpy(), axis=1, bitorder="little"))
    flags = torch.nn.functional.pad(flags, (0, -flags.shape[1] % 8))
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], device=flags.device, dtype=torch.uint8)
    return (flags.reshape(len(flags), -1, 8).to(torch.uint8) * weights).sum(2, dtype=torch.uint8)
