"""The shape of a multi-resolution hash grid: everything but its values.

Level ``l`` divides the unit cube into ``resolutions[l]`` cells along each axis, so it has ``resolutions[l] + 1``
vertices along each. A level whose vertices all fit the table is *dense*: vertex (x, y, z) has its own entry. A finer
level is *hashed*: vertices share ``2**log2_table_size`` entries. Entries of all levels lie one after another in one
table of shape (num_entries, features); level ``l`` owns rows ``offsets[l]`` to ``offsets[l + 1]``.

Source: Müller et al., Instant Neural Graphics Primitives, https://arxiv.org/abs/2201.05989, section 3.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from voxfield.checks import check_choice, check_range

HASH_PRIMES: Final = (1, 2654435761, 805459861)
"""Factors of x, y and z in the spatial hash (section 3, equation 4), in unsigned 32-bit arithmetic."""

_ROW_ALIGNMENT: Final = 8
"""A dense level's rows are rounded up to this, so that every level starts on a cache line."""


@dataclass(frozen=True, kw_only=True)
class HashGrid:
    """Topology of a hash grid; the values are an ordinary tensor of shape (num_entries, features)."""

    num_levels: int = 16
    """Number of resolutions, 1 to 32."""
    features: int = 2
    """Features of an entry: 1, 2, 4 or 8."""
    log2_table_size: int = 19
    """Base-2 logarithm of the most entries a level may have, 4 to 28."""
    base_resolution: int = 16
    """Cells per axis of the coarsest level, 1 to 65535."""
    max_resolution: int = 2048
    """Cells per axis of the finest level, base_resolution to 65535. Ignored with one level."""
    smoothstep: bool = False
    """Interpolate with the weight w*w*(3 - 2w) instead of w, so that the gradient to positions is continuous."""

    def __post_init__(self) -> None:
        check_range("num_levels", self.num_levels, minimum=1, maximum=32)
        check_choice("features", self.features, (1, 2, 4, 8))
        check_range("log2_table_size", self.log2_table_size, minimum=4, maximum=28)
        check_range("base_resolution", self.base_resolution, minimum=1, maximum=65535)
        check_range("max_resolution", self.max_resolution, minimum=self.base_resolution, maximum=65535)

    @cached_property
    def growth(self) -> float:
        """Factor between the resolutions of neighbouring levels (section 3, equations 2 and 3)."""
        if self.num_levels == 1:
            return 1.0
        return math.exp((math.log(self.max_resolution) - math.log(self.base_resolution)) / (self.num_levels - 1))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells per axis, one number a level."""
        # The 1e-6 keeps floor() from losing a cell when growth**l should be exact, as for the last level.
        return tuple(int(self.base_resolution * self.growth**level + 1e-6) for level in range(self.num_levels))

    @cached_property
    def dense(self) -> tuple[bool, ...]:
        """Whether every vertex of a level has an entry of its own."""
        return tuple((resolution + 1) ** 3 <= self.table_size for resolution in self.resolutions)

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Rows of the table a level owns: its vertices rounded up to a multiple of 8, or ``table_size`` if hashed."""
        return tuple(
            -(-((resolution + 1) ** 3) // _ROW_ALIGNMENT) * _ROW_ALIGNMENT if dense else self.table_size
            for resolution, dense in zip(self.resolutions, self.dense, strict=True)
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level, then ``num_entries``: num_levels + 1 numbers."""
        offsets = [0]
        for entries in self.entries:
            offsets.append(offsets[-1] + entries)
        return tuple(offsets)

    @property
    def table_size(self) -> int:
        """Entries of a hashed level."""
        return 1 << self.log2_table_size

    @property
    def num_entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def num_outputs(self) -> int:
        """Numbers an encoded point has: num_levels * features."""
        return self.num_levels * self.features
