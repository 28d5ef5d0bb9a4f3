"""Point clouds to grids of values for learning: the volume, what a voxel holds, and how values are brought to a range.

A volume is the box from ``volume_origin - padding`` to ``volume_origin + volume_dims + padding`` in the points' units,
divided into voxels. Settings give axes in the order x, y, z; grids have the axes z, y, x.

``mode="compatible"`` is the formula of programs whose data this must match: voxel floor(clip((p - min) / (max - min) *
(V - 1), 0, V - 1)), so the last layer is all but empty and points outside lie on the border. ``corrected``, the
default, divides the volume into V equal cells and drops points outside.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.kernels.scatter_points import Method, Outside, scatter_points

Mode = Literal["corrected", "compatible"]
"""Which voxel a point lies in: see the module."""
Normalise = Literal["sample", "global", "none"]
"""``sample``: each grid's least value becomes 0, its greatest 1. ``global``: those of all samples. ``none``: kept."""
SigmaUnits = Literal["voxels", "physical"]
"""What ``sigma`` is measured in: voxels along each axis, or the points' units."""

Triple = tuple[float, float, float]
ValueRange = tuple[float, float]

_EXACT_DIGITS = 2.0**24
"""A float32 is spaced by its size / 2^24 or more."""


@dataclass(frozen=True, kw_only=True)
class PointGridSettings:
    """How a point cloud becomes a grid. Several values stand for x, y and z."""

    voxel_size: int | tuple[int, int, int] = 128
    """Voxels along each axis, 1 to 1024."""
    voxelization_method: Method = "gaussian"
    """What a voxel holds, see `voxfield.kernels.scatter_points.scatter_points`."""
    sigma: float | Triple = 1.0
    """Standard deviation of the gaussian, 0 or more. Below 0.125 voxels it does nothing."""
    sigma_units: SigmaUnits = "voxels"
    """Where voxels are not cubes, the same number of voxels is another length along each axis."""
    volume_dims: Triple | None = None
    """Size of the volume in the points' units, above 0; None is to be measured, see `fitted`."""
    volume_origin: Triple = (0.0, 0.0, 0.0)
    """Its least corner."""
    padding: Triple = (0.0, 0.0, 0.0)
    """Added on both sides, in the points' units, 0 or more."""
    mode: Mode = "corrected"
    outside: Outside = "drop"
    """What becomes of points outside the volume; ``compatible`` always clamps."""
    normalise: Normalise = "sample"
    threshold: float = 0.0
    """Values below it become 0, after normalisation: relative to the sample's own peak with ``sample``."""
    precision: int = 10
    """Decimals kept, 0 to 17. A float32 near 1 has 7: only small values change with more, and no file shrinks."""

    def __post_init__(self) -> None:
        for side in self.sides:
            check_range("voxel_size", side, minimum=1, maximum=1024)
        check_choice("voxelization_method", self.voxelization_method, get_args(Method))
        check_choice("sigma_units", self.sigma_units, get_args(SigmaUnits))
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("outside", self.outside, get_args(Outside))
        check_choice("normalise", self.normalise, get_args(Normalise))
        for one in self._triple(self.sigma):
            check_range("sigma", one, minimum=0, maximum=1e9)
        for name in ("volume_dims", "padding", "volume_origin"):
            values = getattr(self, name)
            if values is not None and len(values) != 3:
                raise InputError(f"{name}: expected three values, along x, y and z, got {len(values)}.")
        for one in self.volume_dims or ():
            check_range("volume_dims", one, above=0, maximum=1e30)
        for one in self.padding:
            check_range("padding", one, minimum=0, maximum=1e30)
        for one in self.volume_origin:
            check_range("volume_origin", one, minimum=-1e30, maximum=1e30)
        check_range("threshold", self.threshold, minimum=0, maximum=1e30)
        if self.normalise != "none" and self.threshold > 1:
            raise InputError(
                f"threshold: values are brought to 0 to 1 first, so that one of {self.threshold:g} leaves nothing. "
                "Take less than 1, or normalise=none (--normalise none)."
            )
        check_range("precision", self.precision, minimum=0, maximum=17)
        if self.mode == "compatible" and self.voxelization_method == "trilinear":
            raise InputError("voxelization_method: trilinear is not in the compatible formula. Use mode=corrected.")
        if self.volume_dims is not None:
            for one in self.sigma_voxels:
                check_range("sigma in voxels", one, minimum=0, maximum=256)

    @staticmethod
    def _triple(value: float | Triple) -> Triple:
        if isinstance(value, int | float):
            return (value, value, value)
        if len(value) != 3:
            raise InputError(f"expected one value or three, along x, y and z, got {len(value)}: {value}.")
        return value

    @property
    def sides(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self._triple(self.voxel_size)
        return int(x), int(y), int(z)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a grid: voxels along z, y, x."""
        return self.sides[::-1]

    @property
    def low(self) -> Triple:
        """Least corner of the volume, padding included."""
        x, y, z = (at - pad for at, pad in zip(self.volume_origin, self.padding, strict=True))
        return x, y, z

    @property
    def high(self) -> Triple:
        """Greatest corner of the volume, padding included."""
        if self.volume_dims is None:
            raise InputError("volume_dims: is not known. Give the size of the volume along x, y and z.")
        x, y, z = (
            at + size + pad for at, size, pad in zip(self.volume_origin, self.volume_dims, self.padding, strict=True)
        )
        return x, y, z

    @property
    def pitch(self) -> Triple:
        """Size of a voxel along x, y, z, in the points' units (of the lattice, in ``compatible`` mode)."""
        spans = [max(side - 1, 1) if self.mode == "compatible" else side for side in self.sides]
        x, y, z = ((high - low) / span for low, high, span in zip(self.low, self.high, spans, strict=True))
        return x, y, z

    @property
    def sigma_voxels(self) -> Triple:
        """Standard deviations along x, y, z in voxels."""
        sigma = self._triple(self.sigma)
        if self.sigma_units == "voxels":
            return sigma
        x, y, z = (one / pitch for one, pitch in zip(sigma, self.pitch, strict=True))
        return x, y, z

    @property
    def blurs(self) -> bool:
        """Whether the gaussian reaches beyond a voxel along any axis."""
        return self.voxelization_method == "gaussian" and any(math.floor(4 * one + 0.5) for one in self.sigma_voxels)


@dataclass(frozen=True, kw_only=True)
class PointGrid:
    """A grid of a point cloud, before its values are brought to a range."""

    values: np.ndarray
    """(D, H, W) float32, at least 0."""
    points: int
    """Points of the cloud."""
    not_finite: int
    """Of them, those left out because a coordinate is NaN or infinite."""
    outside: int
    """Of them, those outside the volume: dropped, or clamped onto its border."""

    @property
    def value_range(self) -> ValueRange:
        """Least and greatest value."""
        return float(self.values.min()), float(self.values.max())


def finite_points(points: np.ndarray) -> np.ndarray:
    """The (M, 3) points without those that have a NaN or an infinity.

    Raises:
        InputError: none is left.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"points: expected shape (M, 3), got {points.shape}.")
    if not len(points):
        raise InputError("the cloud is empty.")
    # The sum tells at a tenth of the cost, unless large coordinates overflow it.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(points.sum(dtype=np.float64)):
            return points
    kept = points[np.isfinite(points).all(1)]
    if not len(kept):
        raise InputError(f"none of its {len(points):,} points is finite.")
    return kept


def point_grid(points: np.ndarray, settings: PointGridSettings) -> PointGrid:
    """Count a cloud's points in the voxels of the volume, and blur them if so set.

    Args:
        points: (M, 3) x, y, z, float32 or float64. Points that are not finite are left out and counted.
        settings: how; ``volume_dims`` must be known.

    Raises:
        InputError: the cloud is empty, has no finite point, or none in the volume.
    """
    kept = finite_points(points)
    scattered = scatter_points(
        # A read-only array, as of a file in memory, would make torch warn.
        torch.from_numpy(kept if kept.flags.writeable else kept.copy()),
        settings.shape,
        settings.low,
        settings.high,
        method=settings.voxelization_method,
        sigma=settings.sigma_voxels,
        cells="compatible" if settings.mode == "compatible" else "equal",
        outside=settings.outside,
    )
    if scattered.outside == len(kept):
        spans = " x ".join(
            f"{low:g} to {high:g}" for low, high in zip(kept.min(0).tolist(), kept.max(0).tolist(), strict=True)
        )
        volume = " x ".join(f"{low:g} to {high:g}" for low, high in zip(settings.low, settings.high, strict=True))
        raise InputError(f"none of its {len(kept):,} points, {spans}, lies in the volume, {volume}.")
    return PointGrid(
        values=scattered.grid.numpy(),
        points=len(points),
        not_finite=len(points) - len(kept),
        outside=scattered.outside,
    )


def fitted(settings: PointGridSettings, corners: Sequence[tuple[np.ndarray, np.ndarray]]) -> PointGridSettings:
    """Settings whose volume is the box about boxes, given as least and greatest corners x, y, z.

    Raises:
        InputError: no boxes.
    """
    if not corners:
        raise InputError("volume_dims: no cloud could be read to measure the volume of. Give its size.")
    low = np.min([low for low, _ in corners], 0).astype(np.float64)
    high = np.max([high for _, high in corners], 0).astype(np.float64)
    # A flat cloud still needs a volume: as thick as a thousandth of its longest side.
    extent = np.maximum(high - low, max(float((high - low).max()) / 1000, 1e-6))
    # Rounding must not leave the outermost points outside.
    extent += 8 * np.spacing(np.maximum(np.abs(low), np.abs(high)))
    x, y, z = ((low + high - extent) / 2).tolist()
    width, height, depth = extent.tolist()
    return dataclasses.replace(settings, volume_origin=(x, y, z), volume_dims=(width, height, depth))


def normalise_values(grid: np.ndarray, settings: PointGridSettings, value_range: ValueRange | None = None) -> None:
    """Bring values to a range, in place.

    Args:
        grid: float32, of any shape.
        settings: how.
        value_range: least and greatest value that become 0 and 1, for ``normalise="global"``.

    Raises:
        InputError: ``global`` without a range.
    """
    if settings.normalise != "none":
        low, high = (grid.min(), grid.max()) if settings.normalise == "sample" else _float32(value_range)
        if high > low:
            if low != 0:
                grid -= low
            grid /= high - low
        elif high != 0:
            # Equal values everywhere: there is nothing to spread, but what is there is not nothing.
            grid /= high


def cut_values(grid: np.ndarray, settings: PointGridSettings) -> None:
    """Set values below the threshold to 0 and round the others, in place."""
    if settings.threshold > 0:
        np.copyto(grid, 0, where=grid < np.float32(settings.threshold))
    # Where a float32 is coarser than the decimals, rounding gives it back.
    small = grid < 10.0**-settings.precision * _EXACT_DIGITS
    small &= grid != 0
    if small.any():
        grid[small] = np.round(grid[small].astype(np.float64), settings.precision)


def _float32(value_range: ValueRange | None) -> tuple[np.float32, np.float32]:
    if value_range is None:
        raise InputError("value_range: normalise='global' needs the least and greatest value of all samples.")
    return np.float32(value_range[0]), np.float32(value_range[1])
