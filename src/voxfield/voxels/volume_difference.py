"""How far two sparse volumes are from each other: in their values, and in the shapes that they show.

Volumes whose voxels stand at the same places are compared voxel by voxel. Others are compared at the voxels of the
finer one, where the coarser is interpolated trilinearly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import COORDINATE_MAX, COORDINATE_MIN

MOST_PLACES: Final = 1 << 28
"""Voxels of the finer volume in the box around both, where they stand at different places."""
_AT_ONCE: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedVolume:
    """A volume, where it stands, and what of it is inside."""

    volume: SparseVolume
    index_to_world: np.ndarray
    """(4, 4): takes whole index coordinates to where their values stand."""
    level: float = 0.5
    """Values of at least this are inside the shape."""
    inverted: bool = False
    """Values of at most ``level`` are inside instead: those of a level set."""

    @property
    def pitch(self) -> float:
        """Side of a cube as large as a voxel, world units."""
        return float(np.abs(np.linalg.det(self.index_to_world[:3, :3])) ** (1 / 3))

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Which ``values`` are inside."""
        return values <= self.level if self.inverted else values >= self.level


@dataclass(frozen=True, kw_only=True)
class VolumeDifference:
    """How far the second of two volumes is from the first."""

    voxels: tuple[int, int]
    """Active ones, of each."""
    compared: int
    """Places where either is active, of values that are finite in both."""
    rmse: float
    """Root of the mean square difference there; of vectors, over their components."""
    largest_error: float
    """The largest difference there."""
    psnr: float | None
    """20 log10(range / rmse) in dB, the range being that of the first's active values; None: it has none, or they are
    equal."""
    iou: float | None
    """Volume inside both shapes as a share of that inside either; None: nothing is inside, or values are vectors."""


def volume_difference(first: PlacedVolume, second: PlacedVolume) -> VolumeDifference:
    """Compare two volumes.

    Raises:
        InputError: numbers of different length, or volumes at different places that span more than `MOST_PLACES`
            voxels of the finer.
    """
    if first.volume.channels != second.volume.channels:
        raise InputError(
            f"volumes: expected values of one length, got {first.volume.channels or 'numbers'} and "
            f"{second.volume.channels or 'numbers'}."
        )
    same = bool(np.allclose(first.index_to_world, second.index_to_world, rtol=1e-9, atol=1e-12))
    lattice, other = (first, second) if same or first.pitch <= second.pitch else (second, first)
    to_other = np.linalg.inv(other.index_to_world) @ lattice.index_to_world
    count, squares, components, largest, both, either = 0, 0.0, 0, 0.0, 0, 0
    for places in _places(lattice, other, same):
        values, active = lattice.volume.values_at(places)
        if same:
            others, met = other.volume.values_at(places)
        else:
            positions = places @ to_other[:3, :3].T + to_other[:3, 3]
            others = other.volume.interpolate(positions)
            _, met = other.volume.values_at(np.rint(positions).astype(np.int64))
        values, others = values.astype(np.float64), others.astype(np.float64)
        if not first.volume.channels:
            mine, yours = lattice.inside(values), other.inside(others)
            both, either = both + int((mine & yours).sum()), either + int((mine | yours).sum())
        apart = (values - others)[active | met]
        finite = np.isfinite(apart) if apart.ndim == 1 else np.isfinite(apart).all(axis=1)
        apart = apart[finite]
        count, components = count + len(apart), components + apart.size
        squares += float(np.square(apart).sum())
        largest = max(largest, float(np.abs(apart).max(initial=0.0)))
    rmse = float(np.sqrt(squares / components)) if components else 0.0
    extent = _range(first.volume)
    return VolumeDifference(
        voxels=(first.volume.active_count, second.volume.active_count),
        compared=count,
        rmse=rmse,
        largest_error=largest,
        psnr=float(20 * np.log10(extent / rmse)) if extent and rmse else None,
        iou=both / either if either else None,
    )


def _range(volume: SparseVolume) -> float:
    """From the least to the greatest active value, of the widest channel; 0 without any."""
    found = volume.active_range()
    if found is None:
        return 0.0
    low, high = (np.asarray(end, np.float64) for end in found)
    extent = float(np.max(high - low))
    return extent if np.isfinite(extent) else 0.0


def _places(lattice: PlacedVolume, other: PlacedVolume, same: bool) -> Iterator[np.ndarray]:
    """Voxels (M, 3) int64 of the lattice at which the two are compared, each once."""
    if same and not (lattice.volume.tiles.active.any() or other.volume.tiles.active.any()):
        own, _ = lattice.volume.active_voxels()
        more, _ = other.volume.active_voxels()
        for start in range(0, len(own), _AT_ONCE):
            yield own[start : start + _AT_ONCE].astype(np.int64)
        for start in range(0, len(more), _AT_ONCE):
            part = more[start : start + _AT_ONCE].astype(np.int64)
            yield part[~lattice.volume.values_at(part)[1]]
        return
    boxes = [box for box in (_box(lattice, lattice), _box(other, lattice)) if box is not None]
    if not boxes:
        return
    low, high = (
        np.min([box[0] for box in boxes], axis=0),
        np.max([box[1] for box in boxes], axis=0),
    )
    size = (high - low).astype(object)
    if size.prod() > MOST_PLACES:
        raise InputError(
            f"volumes: the box around both has {size[0]} x {size[1]} x {size[2]} voxels, at most {MOST_PLACES:,} are "
            "compared. Crop them, or compare coarser levels."
        )
    width, height, depth = (int(one) for one in size)
    rows = max(1, _AT_ONCE // width)
    lines = np.stack(np.meshgrid(np.arange(height), np.arange(depth), indexing="ij"), axis=-1).reshape(-1, 2)
    along = np.arange(width)
    for start in range(0, len(lines), rows):
        part = lines[start : start + rows]
        x = np.tile(along, len(part))
        yield np.column_stack([x, np.repeat(part, width, axis=0)]) + low


def _box(of: PlacedVolume, lattice: PlacedVolume) -> tuple[np.ndarray, np.ndarray] | None:
    """The lattice's voxels [lower, upper) around a volume's active ones; None where it has none."""
    bounds = of.volume.active_bounds
    if bounds is None:
        return None
    if of is lattice:
        return bounds[0].astype(np.int64), bounds[1].astype(np.int64)
    low, high = bounds[0] - 0.5, bounds[1] - 0.5
    corners = np.array(
        [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    )
    placed = corners @ (np.linalg.inv(lattice.index_to_world) @ of.index_to_world).T
    lower, upper = np.floor(placed[:, :3].min(axis=0)), np.ceil(placed[:, :3].max(axis=0)) + 1
    if not (lower > COORDINATE_MIN).all() or not (upper < COORDINATE_MAX).all():
        raise InputError("volumes: lie too far apart, in voxels of the finer one, to be compared.")
    return lower.astype(np.int64), upper.astype(np.int64)
