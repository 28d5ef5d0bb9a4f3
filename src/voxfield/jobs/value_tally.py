"""How the values of many grids are spread, in little memory: what thresholds would cost and save."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

_LEAST: Final = 2.0**-24
_BINS_PER_OCTAVE: Final = 4
_OCTAVES: Final = 56
_BINS: Final = _OCTAVES * _BINS_PER_OCTAVE
_STRIDE: Final = 7
"""Every seventh voxel is looked at: an odd step, so that no row or layer is met again and again."""


def _bin_of(values: np.ndarray) -> np.ndarray:
    """Bins by exponent and two bits of the mantissa; bin 0 also takes what is smaller."""
    bits = values.view(np.int32) >> 21
    first = int(np.float32(_LEAST).view(np.int32)) >> 21
    return np.clip(bits - first, 0, _BINS - 1)


def _lower_edges() -> np.ndarray:
    first = int(np.float32(_LEAST).view(np.int32)) >> 21
    return (np.arange(first, first + _BINS, dtype=np.int32) << 21).view(np.float32)


@dataclass(kw_only=True)
class ValueTally:
    """Counts over grids. All fields add up."""

    voxels: int = 0
    not_zero: int = 0
    """Voxels above 0, before thresholds."""
    kept: int = 0
    """Of them, those that thresholds and rounding left."""
    worst_error: float = 0.0
    """Largest difference that the stored type made."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(_BINS))
    """Looked-at voxels above 0 in bins of their value."""
    mass: np.ndarray = field(default_factory=lambda: np.zeros(_BINS))
    """Sum of their values."""

    def count(self, values: np.ndarray) -> None:
        """Take a normalised grid in, before its threshold."""
        self.voxels += values.size
        self.not_zero += int(np.count_nonzero(values))
        some = values.reshape(-1)[::_STRIDE]
        some = some[some > 0]
        bins = _bin_of(some)
        self.counts += np.bincount(bins, minlength=_BINS)
        self.mass += np.bincount(bins, some, minlength=_BINS)

    def add(self, other: "ValueTally") -> None:
        """Take another tally in."""
        self.voxels += other.voxels
        self.not_zero += other.not_zero
        self.kept += other.kept
        self.worst_error = max(self.worst_error, other.worst_error)
        self.counts += other.counts
        self.mass += other.mass

    @property
    def share_not_zero(self) -> float:
        """Of all voxels, before thresholds."""
        return self.not_zero / self.voxels if self.voxels else 0.0

    @property
    def share_kept(self) -> float:
        """Of all voxels, after them."""
        return self.kept / self.voxels if self.voxels else 0.0

    def suggested_threshold(self, lost_mass: float = 1e-3) -> tuple[float, float]:
        """The highest threshold that loses at most a share of the sum of values, and the share of voxels it leaves.

        To a quarter of an octave; 0 where no threshold loses so little.
        """
        total, number = self.mass.sum(), self.counts.sum()
        if total <= 0:
            return 0.0, 0.0
        below = np.concatenate([[0.0], np.cumsum(self.mass)[:-1]])
        last = int(np.flatnonzero(below <= lost_mass * total)[-1])
        left = float(self.counts[last:].sum() / number)
        # The smallest bin also holds what is smaller.
        return (float(_lower_edges()[last]) if last else 0.0), self.share_not_zero * left

    def plain(self) -> dict[str, Any]:
        """In the types JSON has."""
        return {
            **{name: getattr(self, name) for name in ("voxels", "not_zero", "kept", "worst_error")},
            **{name: getattr(self, name).tolist() for name in ("counts", "mass")},
        }

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "ValueTally":
        """What `plain` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        counts, mass = (np.array(content[name], np.float64) for name in ("counts", "mass"))
        if counts.shape != (_BINS,) or mass.shape != (_BINS,):
            raise ValueError(f"expected {_BINS} bins")
        numbers = {name: int(content[name]) for name in ("voxels", "not_zero", "kept")}
        return cls(**numbers, worst_error=float(content["worst_error"]), counts=counts, mass=mass)
