"""Values as whole numbers: evenly spaced levels, so that every value is within a stated error of its level.

``value = offset + step · level``, computed in float64 and rounded to the grid's type. What rounding or range would take
beyond the error is kept aside exactly, see `chunk`.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from voxfield.kernels.block_code import LARGEST

_MOST_LEVELS: Final = LARGEST // 2
_SLACK: Final = 1e-6
"""Share of the error that is left to rounding."""


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """How one channel of a grid is turned into whole numbers."""

    offset: float
    """Value of level 0; whole for whole numbers."""
    step: float
    """Between two levels, above 0."""

    @classmethod
    def fitted(cls, low: float, high: float, max_error: float, *, whole: bool, background: float = math.nan) -> Self:
        """For values from ``low`` to ``high``. Both are levels, as many volumes have many voxels of either; or the
        background is one, where it lies between them, so that what is nearly nothing does not all become a little.

        Args:
            low, high: least and greatest finite value.
            max_error: at most this far may a level be from a value, at least 0. With 0, floating-point values have no
                levels but 0, so that all others are kept exactly.
            whole: values are whole numbers.
            background: of the grid.
        """
        span = high - low
        if whole:
            step = 2 * math.floor(max_error) + 1
            return cls(offset=low, step=step) if span / step < _MOST_LEVELS else cls(offset=0, step=1)
        levels = span / (2 * max_error * (1 - _SLACK)) if max_error > 0 else math.inf
        if span == 0 or not math.isfinite(span):
            return cls(offset=low if span == 0 else 0.0, step=1.0)
        if levels >= _MOST_LEVELS:
            return cls(offset=0.0, step=1.0)
        width = span / max(1, math.ceil(levels))
        if low < background < high:
            return cls(offset=background - math.ceil((background - low) / width) * width, step=width)
        return cls(offset=low, step=width)

    def levels(self, values: np.ndarray, predicted: np.ndarray | None = None) -> np.ndarray:
        """Nearest level of every value, int32; 0 of those that are not finite, and beyond the range its end.

        Args:
            values: of the grid's type.
            predicted: what level 0 stands for instead of ``offset``, of the same shape.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            exact = values.astype(np.float64) - (self.offset if predicted is None else predicted.astype(np.float64))
            found = np.clip(np.rint(exact / self.step), -_MOST_LEVELS, _MOST_LEVELS)
        return np.where(np.isfinite(found), found, 0).astype(np.int32)

    def values(
        self, levels: np.ndarray, dtype: np.dtype, *, half: bool, predicted: np.ndarray | None = None
    ) -> np.ndarray:
        """The inverse: values of ``dtype``, with ``half`` those that 16 bits can hold."""
        base = self.offset if predicted is None else predicted.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            exact = base + self.step * levels
            if dtype.kind != "f":
                limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max // 2)
                return np.clip(np.rint(exact), *limits).astype(dtype)
            return exact.astype(np.float32).astype(np.float16).astype(dtype) if half else exact.astype(dtype)

    def as_json(self) -> dict[str, Any]:
        """Its fields."""
        return {"offset": self.offset, "step": self.step}


def within(decoded: np.ndarray, values: np.ndarray, max_error: float) -> np.ndarray:
    """Where decoded values are within ``max_error``, or alike, also as NaN; computed without loss."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            alike = (decoded == values) | (np.isnan(decoded) & np.isnan(values))
            return alike | (np.abs(decoded.astype(np.float64) - values.astype(np.float64)) <= max_error)
    if max_error < 1 or values.dtype.kind == "b":
        return np.asarray(decoded == values)
    # Whole numbers whose difference may need another bit.
    upper, lower = np.maximum(decoded, values), np.minimum(decoded, values)
    return (upper.astype(np.uint64) - lower.astype(np.uint64)) <= np.uint64(min(max_error, 2**63))
