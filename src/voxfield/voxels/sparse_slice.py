"""A slice through a sparse volume as a picture, however far the volume reaches."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.vdb_tree import LEAF_SIDE

Axis = Literal["x", "y", "z"]
SHADES: Final = " .:-=+*#%@"


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """What a plane of voxels holds."""

    axis: Axis
    """Across the plane."""
    at: int
    """The voxels' coordinate along it."""
    across: tuple[Axis, Axis]
    """The axes that point right and up in the picture."""
    lower: tuple[int, int]
    """Least coordinates along these."""
    voxels_per_pixel: int
    """Along both; the greatest of the active values in a pixel is shown, of vectors their lengths."""
    values: np.ndarray
    """(H, W) float64, the first row on top; NaN where nothing is active."""


def slice_of(volume: SparseVolume, axis: Axis = "z", at: int | None = None, *, longest: int = 64) -> Slice:
    """The slice of the active voxels' box.

    Args:
        volume: what to cut.
        axis: across the plane; the picture's upward axis is z, of a slice across z it is y.
        at: coordinate of the plane; None: the middle of the box.
        longest: pixels along the longer side at most, 1 to 4096.

    Raises:
        InputError: options out of range, or a volume of which nothing is active.
    """
    check_choice("axis", axis, ("x", "y", "z"))
    check_range("longest", longest, minimum=1, maximum=4096)
    bounds = volume.active_bounds
    if bounds is None:
        raise InputError("slice: nothing in this volume is active.")
    through = "xyz".index(axis)
    right, up = [one for one in range(3) if one != through]
    plane = int((bounds[0][through] + bounds[1][through] - 1) // 2) if at is None else at
    if not bounds[0][through] <= plane < bounds[1][through]:
        raise InputError(
            f"at: expected {axis} from {bounds[0][through]} to {bounds[1][through] - 1}, where voxels are active, got "
            f"{plane}."
        )
    low, size = bounds[0][[right, up]], (bounds[1] - bounds[0])[[right, up]]
    step = max(1, -(-int(size.max()) // longest))
    width, height = (-(-size // step)).tolist()
    picture = np.full((height, width), -np.inf)
    coordinates, values = _voxels_in(volume, through, plane)
    columns, rows = ((coordinates[:, [right, up]] - low) // step).T
    np.maximum.at(picture, (rows, columns), values)
    _paint_tiles(picture, volume, (through, right, up), plane, low, step)
    picture[np.isneginf(picture)] = np.nan
    names: tuple[Axis, Axis, Axis] = ("x", "y", "z")
    return Slice(
        axis=axis,
        at=plane,
        across=(names[right], names[up]),
        lower=(int(low[0]), int(low[1])),
        voxels_per_pixel=step,
        values=picture[::-1],
    )


def shades(values: np.ndarray) -> np.ndarray:
    """Values (H, W) as shades from 0, nothing, to 1, the greatest; the least active value is 0.15."""
    shown = np.zeros(values.shape)
    finite = np.isfinite(values)
    if finite.any():
        low, high = values[finite].min(), values[finite].max()
        span = high - low
        shown[finite] = 0.15 + 0.85 * ((values[finite] - low) / span if span > 0 else 1.0)
    return shown


def as_text(values: np.ndarray) -> str:
    """Values (H, W) as lines of characters, two a value, since they are about twice as high as wide."""
    index = np.ceil(shades(values) * (len(SHADES) - 1)).astype(int)
    return "\n".join("".join(2 * SHADES[one] for one in row).rstrip() for row in index)


def _voxels_in(volume: SparseVolume, through: int, plane: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (M, 3) and values (M,) of the blocks' active voxels in a plane."""
    place = plane - volume.origins[:, through].astype(np.int64)
    rows = np.flatnonzero((place >= 0) & (place < LEAF_SIDE))
    inside = int(plane) & (LEAF_SIDE - 1)
    active = np.take(volume.active[rows], inside, axis=1 + through)
    which, first, second = np.nonzero(active)
    local = np.insert(np.stack([first, second], axis=1), through, inside, axis=1)
    values = np.take(volume.values[rows], inside, axis=1 + through)[which, first, second]
    return volume.origins[rows[which]].astype(np.int64) + local, _lengths(values, volume)


def _paint_tiles(
    picture: np.ndarray, volume: SparseVolume, axes: tuple[int, int, int], plane: int, low: np.ndarray, step: int
) -> None:
    """Paint the active tiles that a plane meets."""
    through, right, up = axes
    tiles = volume.tiles.take(volume.tiles.active)
    begin = tiles.origins[:, through].astype(np.int64)
    tiles = tiles.take((begin <= plane) & (plane < begin + tiles.sides))
    for origin, side, value in zip(tiles.origins, tiles.sides, _lengths(tiles.values, volume), strict=True):
        first = (origin[[right, up]] - low) // step
        last = (origin[[right, up]] + side - 1 - low) // step
        part = picture[first[1] : last[1] + 1, first[0] : last[0] + 1]
        np.maximum(part, value, out=part)


def _lengths(values: np.ndarray, volume: SparseVolume) -> np.ndarray:
    """(M,) float64: numbers as they are, lengths of vectors; NaN counts as nothing."""
    found = values.astype(np.float64)
    found = np.linalg.norm(found, axis=-1) if volume.channels else found
    return np.where(np.isnan(found), -np.inf, found)
