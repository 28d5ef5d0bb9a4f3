"""Sparse volumes in memory: blocks of 8³ voxels where something is, constant tiles, and a background everywhere else.

The layout is that of OpenVDB's tree, so that files are read and written without another copy, and memory follows the
number of blocks, never the extent. **Index space**: voxels have whole coordinates (x, y, z), from -2^31 to 2^31 - 1.
Blocks are indexed [x, y, z], as in the file; dense arrays are (D, H, W) = (z, y, x), with the channel axis, if any, in
front. Boxes are half-open, [lower, upper).

A voxel has a value and is *active* or not. Inactive voxels of a fog volume hold the background; those of a level set
hold plus or minus the background, which tells outside from inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from voxfield.errors import InputError
from voxfield.voxels.vdb_tree import (
    COORDINATE_MAX,
    COORDINATE_MIN,
    LEAF_SIDE,
    LEAF_VOXELS,
    LOWER_SIDE,
    UPPER_SIDE,
    NodeIndex,
    node_origin,
    unique_origins,
)

TILE_SIDES: Final = (LEAF_SIDE, LOWER_SIDE, UPPER_SIDE)
MOST_DENSE_VOXELS: Final = 2**30
"""Voxels of the largest dense array made unless a caller allows more: 4 GiB of float32."""
_CHUNK: Final = 4096  # blocks worked on at a time: 8 MiB of float32, so that temporaries stay small beside the volume


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Cubes of one value each, where a tree has no smaller nodes."""

    origins: np.ndarray
    """(T, 3) int32, multiples of the side."""
    sides: np.ndarray
    """(T,) int32, each one of `TILE_SIDES`."""
    values: np.ndarray
    """(T,) or (T, C), of the volume's type."""
    active: np.ndarray
    """(T,) bool."""

    def __len__(self) -> int:
        return len(self.origins)

    def take(self, rows: np.ndarray) -> "Tiles":
        """The tiles at ``rows``: indices, or a (T,) mask."""
        return Tiles(
            origins=self.origins[rows], sides=self.sides[rows], values=self.values[rows], active=self.active[rows]
        )

    @staticmethod
    def none(background: np.ndarray) -> "Tiles":
        """No tiles, for a volume of that background."""
        return Tiles(
            origins=np.empty((0, 3), np.int32),
            sides=np.empty(0, np.int32),
            values=np.empty((0, *background.shape), background.dtype),
            active=np.empty(0, np.bool_),
        )

    @staticmethod
    def joined(parts: "Sequence[Tiles]") -> "Tiles":
        """All tiles of ``parts`` (at least one)."""
        return Tiles(
            origins=np.concatenate([part.origins for part in parts]),
            sides=np.concatenate([part.sides for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            active=np.concatenate([part.active for part in parts]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseVolume:
    """Blocks, tiles and a background. Make one with `from_blocks`, `from_dense` or `from_voxels`.

    Arrays are not copied on construction: treat them as read-only.
    """

    origins: np.ndarray
    """(N, 3) int32: each block's smallest voxel, a multiple of 8; in the order of the tree, no two alike."""
    values: np.ndarray
    """(N, 8, 8, 8) or (N, 8, 8, 8, C): blocks indexed [x, y, z]."""
    active: np.ndarray
    """(N, 8, 8, 8) bool."""
    background: np.ndarray
    """() or (C,), of the values' type: what is where no block or tile is."""
    tiles: Tiles = field(repr=False)
    """Constant cubes; none overlaps a block or another."""

    def __post_init__(self) -> None:
        count = len(self.origins)
        block = (count, LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
        if self.origins.shape != (count, 3) or self.origins.dtype != np.int32:
            raise InputError(f"origins: expected (N, 3) int32, got {self.origins.shape} {self.origins.dtype}.")
        if self.values.shape != block + self.background.shape or self.values.dtype != self.background.dtype:
            raise InputError(
                f"values: expected {block + self.background.shape} {self.background.dtype} as the origins and the "
                f"background have, got {self.values.shape} {self.values.dtype}."
            )
        if self.active.shape != block or self.active.dtype != np.bool_:
            raise InputError(f"active: expected {block} bool, got {self.active.shape} {self.active.dtype}.")
        if self.tiles.values.shape[1:] != self.background.shape or self.tiles.values.dtype != self.background.dtype:
            raise InputError(f"tiles: expected values of {self.background.dtype}, got {self.tiles.values.dtype}.")

    @classmethod
    def from_blocks(
        cls,
        origins: np.ndarray,
        values: np.ndarray,
        active: np.ndarray,
        *,
        background: "np.ndarray | float | Sequence[float]" = 0.0,
        tiles: Tiles | None = None,
    ) -> "SparseVolume":
        """A volume of the given blocks, brought into the order of the tree (which copies them if they are not).

        Args:
            origins: (N, 3) whole numbers, multiples of 8, no two alike.
            values: (N, 8, 8, 8[, C]), indexed [x, y, z].
            active: (N, 8, 8, 8) bool.
            background: a number, or C of them.
            tiles: constant cubes beside the blocks.

        Raises:
            InputError: shapes that do not fit; origins that are repeated, out of range, or not multiples of 8 or of the
                tile's side.
        """
        origins = _checked_origins(origins)
        if tiles is not None:
            check_tiles(tiles)
        channels = values.shape[4:] if values.ndim > 4 else ()
        base = np.broadcast_to(np.asarray(background, dtype=values.dtype), channels).copy()
        index = NodeIndex(origins, LEAF_SIDE)
        if index.has_duplicates():
            raise InputError("origins: two blocks have the same origin. Join them first.")
        order = index.order
        if not np.array_equal(order, np.arange(len(order))):
            origins, values, active = origins[order], values[order], active[order]
        return cls(
            origins=origins,
            values=values,
            active=active,
            background=base,
            tiles=Tiles.none(base) if tiles is None else tiles,
        )

    @classmethod
    def from_dense(
        cls,
        dense: np.ndarray,
        *,
        origin: Sequence[int] = (0, 0, 0),
        background: "float | Sequence[float]" = 0.0,
        tolerance: float = 0.0,
        active: np.ndarray | None = None,
    ) -> "SparseVolume":
        """The voxels of a dense array that differ from the background.

        Args:
            dense: (D, H, W), or (C, D, H, W) for vectors.
            origin: (x, y, z) of the first voxel.
            background: a number, or C of them.
            tolerance: voxels whose every channel is within this of the background become inactive background. NaN is
                never within it.
            active: (D, H, W) bool: which voxels are active instead; the values of the others are kept.

        Returns:
            A volume of the array's type, with one block for each 8³ cube that holds a kept voxel.

        Raises:
            InputError: another shape, or coordinates out of range.
        """
        if dense.ndim not in {3, 4} or (active is not None and active.shape != dense.shape[-3:]):
            got = dense.shape if active is None else (dense.shape, active.shape)
            raise InputError(f"dense: expected (D, H, W) or (C, D, H, W), and active (D, H, W), got {got}.")
        base = np.broadcast_to(np.asarray(background, dtype=dense.dtype), dense.shape[:-3]).copy()
        size = np.array(dense.shape[:-4:-1], dtype=np.int64)  # (x, y, z)
        start = np.array([int(one) for one in origin], dtype=np.int64)
        _check_box(start, start + size)
        first = node_origin(start, LEAF_SIDE)
        parts = [
            _blocks_of_slab(dense, active, z, first, start, base, tolerance)
            for z in range(int(first[2]), int(start[2] + size[2]), LEAF_SIDE)
        ]
        channels = base.shape
        nothing = (
            np.empty((0, 3), np.int32),
            np.empty((0, 8, 8, 8, *channels), dense.dtype),
            np.empty((0, 8, 8, 8), np.bool_),
        )
        origins, values, on = (np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True))
        return cls.from_blocks(origins, values, on, background=base)

    @classmethod
    def from_voxels(
        cls,
        coordinates: np.ndarray,
        values: np.ndarray,
        *,
        background: "float | Sequence[float]" = 0.0,
    ) -> "SparseVolume":
        """A volume whose active voxels are listed.

        Args:
            coordinates: (M, 3) whole numbers (x, y, z). Of a voxel that is named twice the last value counts.
            values: (M,) or (M, C).
            background: a number, or C of them.

        Raises:
            InputError: shapes that do not fit, or coordinates out of range.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != 3 or not np.issubdtype(coordinates.dtype, np.integer):
            raise InputError(
                f"coordinates: expected (M, 3) whole numbers, got {coordinates.shape} {coordinates.dtype}."
            )
        if values.shape[:1] != coordinates.shape[:1] or values.ndim > 2:
            raise InputError(f"values: expected ({len(coordinates)},) or ({len(coordinates)}, C), got {values.shape}.")
        if len(coordinates):
            _check_box(coordinates.min(axis=0).astype(object), coordinates.max(axis=0).astype(object) + 1)
        coordinates = coordinates.astype(np.int32)
        base = np.broadcast_to(np.asarray(background, dtype=values.dtype), values.shape[1:]).copy()
        origins, block = unique_origins(node_origin(coordinates, LEAF_SIDE))
        blocks = np.broadcast_to(base, (len(origins), LEAF_VOXELS, *base.shape)).copy()
        active = np.zeros((len(origins), LEAF_VOXELS), dtype=np.bool_)
        x, y, z = (coordinates & (LEAF_SIDE - 1)).T
        at = block, (x * LEAF_SIDE + y) * LEAF_SIDE + z
        blocks[at] = values
        active[at] = True
        shape = (len(origins), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
        return cls.from_blocks(origins, blocks.reshape(shape + base.shape), active.reshape(shape), background=base)

    @property
    def channels(self) -> tuple[int, ...]:
        """() for scalars, (C,) for vectors."""
        return self.background.shape

    @cached_property
    def index(self) -> NodeIndex:
        """Finds blocks by coordinate."""
        return NodeIndex(self.origins, LEAF_SIDE)

    @cached_property
    def active_count(self) -> int:
        """Active voxels, those of tiles included."""
        sides = self.tiles.sides[self.tiles.active].tolist()
        return int(np.count_nonzero(self.active)) + sum(side**3 for side in sides)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        tiles = self.tiles
        arrays = (self.origins, self.values, self.active, tiles.origins, tiles.sides, tiles.values, tiles.active)
        return sum(array.nbytes for array in arrays)

    @cached_property
    def active_bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The smallest box of all active voxels, as two (3,) int64: [lower, upper). None when none is active."""
        return bounds_of_active(self.origins, self.active, self.tiles)

    def active_range(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Least and greatest active value per channel, as two () or (C,); NaN counts only where all are NaN.

        None when nothing is active.
        """
        lows, highs = [], []
        for start in range(0, len(self.values), _CHUNK):
            found = self.values[start : start + _CHUNK][self.active[start : start + _CHUNK]]
            if len(found):
                lows.append(np.fmin.reduce(found, axis=0) if found.dtype != np.bool_ else found.all(axis=0))
                highs.append(np.fmax.reduce(found, axis=0) if found.dtype != np.bool_ else found.any(axis=0))
        tiles = self.tiles.values[self.tiles.active]
        lows.extend(tiles)
        highs.extend(tiles)
        if not lows:
            return None
        low, high = np.stack(lows), np.stack(highs)
        if low.dtype == np.bool_:
            return np.asarray(low.all(axis=0)), np.asarray(high.any(axis=0))
        return np.fmin.reduce(low, axis=0), np.fmax.reduce(high, axis=0)

    def active_voxels(self) -> tuple[np.ndarray, np.ndarray]:
        """Every active voxel of the blocks (tiles stand in `tiles`), in the order of the tree.

        Returns:
            Coordinates (M, 3) int32, and values (M,) or (M, C).
        """
        rows, x, y, z = np.nonzero(self.active)
        coordinates = self.origins[rows]
        for axis, places in enumerate((x, y, z)):
            coordinates[:, axis] += places.astype(np.int32)
        return coordinates, self.values[rows, x, y, z]

    def values_at(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and states of any voxels.

        Args:
            coordinates: (M, 3) whole numbers (x, y, z) within range.

        Returns:
            Values (M,) or (M, C), the background where nothing is stored, and whether active (M,).
        """
        coordinates = coordinates.astype(np.int32)
        values = np.broadcast_to(self.background, (len(coordinates), *self.channels)).copy()
        active = np.zeros(len(coordinates), dtype=np.bool_)
        for rows, nodes in self._tile_indices:
            found = nodes.find(coordinates)
            hit = found >= 0
            tile = rows[found[hit]]
            values[hit], active[hit] = self.tiles.values[tile], self.tiles.active[tile]
        found = self.index.find(coordinates)
        hit = found >= 0
        x, y, z = (coordinates[hit] & (LEAF_SIDE - 1)).T
        values[hit], active[hit] = self.values[found[hit], x, y, z], self.active[found[hit], x, y, z]
        return values, active

    def interpolate(self, positions: np.ndarray) -> np.ndarray:
        """Trilinear interpolation between the values at whole coordinates, inactive ones included.

        Args:
            positions: (M, 3) index coordinates (x, y, z), finite and within range.

        Returns:
            (M,) or (M, C) float64.

        Raises:
            InputError: positions that are not finite or out of range.
        """
        if not np.isfinite(positions).all() or not ((positions >= COORDINATE_MIN) & (positions < COORDINATE_MAX)).all():
            raise InputError(
                f"positions: expected finite index coordinates within {COORDINATE_MIN} to {COORDINATE_MAX}."
            )
        base = np.floor(positions).astype(np.int64)
        upper = positions - base
        total = np.zeros((len(positions), *self.channels))
        for corner in np.ndindex(2, 2, 2):
            weight = np.where(corner, upper, 1.0 - upper).prod(axis=1)
            values, _ = self.values_at(base + corner)
            total += weight.reshape(-1, *(1 for _ in self.channels)) * values
        return total

    @cached_property
    def _tile_indices(self) -> list[tuple[np.ndarray, NodeIndex]]:
        """For each side of tiles there is: the tiles' rows, and what finds them among these."""
        found = []
        for side in TILE_SIDES:
            rows = np.flatnonzero(self.tiles.sides == side)
            if len(rows):
                found.append((rows, NodeIndex(self.tiles.origins[rows], side)))
        return found

    def to_dense(
        self,
        lower: Sequence[int] | np.ndarray | None = None,
        upper: Sequence[int] | np.ndarray | None = None,
        *,
        most_voxels: int = MOST_DENSE_VOXELS,
    ) -> np.ndarray:
        """All values in a box as a dense array, those of inactive voxels included.

        Args:
            lower: first voxel (x, y, z); the active voxels' box where left out.
            upper: one past the last voxel.
            most_voxels: boxes of more voxels are refused, since a sparse volume may span what no memory holds.

        Returns:
            (D, H, W), or (C, D, H, W) for vectors.

        Raises:
            InputError: an empty box, or one too large.
        """
        low, high = self._box(lower, upper)
        size = [int(one) for one in high - low]
        if min(size) < 0 or size[0] * size[1] * size[2] > most_voxels:
            raise InputError(
                f"box: expected at most {most_voxels:,} voxels, got {size[0]} x {size[1]} x {size[2]}. Crop it, or "
                "raise most_voxels."
            )
        start, stop = node_origin(low, LEAF_SIDE), -node_origin(-high, LEAF_SIDE)
        counts = [int(one) for one in (stop - start) // LEAF_SIDE]
        dense = np.broadcast_to(self.background, (*[8 * one for one in counts], *self.channels)).copy()
        for row in np.argsort(-self.tiles.sides, kind="stable"):
            begin = np.maximum(self.tiles.origins[row].astype(np.int64), start) - start
            end = np.minimum(self.tiles.origins[row].astype(np.int64) + self.tiles.sides[row], stop) - start
            if (begin < end).all():
                dense[begin[0] : end[0], begin[1] : end[1], begin[2] : end[2]] = self.tiles.values[row]
        blocks = dense.reshape(counts[0], 8, counts[1], 8, counts[2], 8, *self.channels)
        at = (self.origins.astype(np.int64) - start) // LEAF_SIDE
        inside = np.flatnonzero(((at >= 0) & (at < counts)).all(axis=1))
        for chunk in np.split(inside, range(_CHUNK, len(inside), _CHUNK)):
            x, y, z = at[chunk].T
            blocks[x, :, y, :, z] = self.values[chunk]
        cut = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
        return np.ascontiguousarray(dense[cut].transpose())

    def to_dense_mask(
        self,
        lower: Sequence[int] | np.ndarray | None = None,
        upper: Sequence[int] | np.ndarray | None = None,
        *,
        most_voxels: int = MOST_DENSE_VOXELS,
    ) -> np.ndarray:
        """(D, H, W) bool: which voxels of a box are active. Arguments and errors as `to_dense`."""
        tiles = self.tiles
        states = SparseVolume(
            origins=self.origins,
            values=self.active,
            active=self.active,
            background=np.zeros((), np.bool_),
            tiles=Tiles(origins=tiles.origins, sides=tiles.sides, values=tiles.active, active=tiles.active),
        )
        return states.to_dense(lower, upper, most_voxels=most_voxels)

    def _box(self, lower: object, upper: object) -> tuple[np.ndarray, np.ndarray]:
        """The box asked for, or that of the active voxels; empty at the origin when there are none."""
        bounds = self.active_bounds or (np.zeros(3, np.int64), np.zeros(3, np.int64))
        low = bounds[0] if lower is None else np.asarray(lower, dtype=np.int64)
        high = bounds[1] if upper is None else np.asarray(upper, dtype=np.int64)
        _check_box(low, high)
        return low, high


def bounds_of_active(origins: np.ndarray, active: np.ndarray, tiles: Tiles) -> tuple[np.ndarray, np.ndarray] | None:
    """The smallest box of the active voxels of blocks (N, 8, 8, 8) and tiles; see `SparseVolume.active_bounds`."""
    lower, upper = np.empty(3, np.int64), np.empty(3, np.int64)
    starts = tiles.origins[tiles.active].astype(np.int64)
    ends = starts + tiles.sides[tiles.active][:, None]
    for axis in range(3):
        others = tuple(1 + other for other in range(3) if other != axis)
        rows, places = np.nonzero(active.any(axis=others))
        found = origins[rows, axis].astype(np.int64) + places
        if not len(found) and not len(starts):
            return None
        lower[axis] = min(array.min() for array in (found, starts[:, axis]) if len(array))
        upper[axis] = max(array.max() for array in (found + 1, ends[:, axis]) if len(array))
    return lower, upper


def _blocks_of_slab(
    dense: np.ndarray,
    active: np.ndarray | None,
    z: int,
    first: np.ndarray,
    start: np.ndarray,
    background: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins, values and states of the blocks of one layer of 8 voxels, from ``z``, that hold a kept voxel."""
    size = np.array(dense.shape[:-4:-1], dtype=np.int64)
    counts = [int(one) for one in -((first - start - size) // LEAF_SIDE)]
    begin, end = max(z, int(start[2])) - int(start[2]), min(z + LEAF_SIDE, int(start[2] + size[2])) - int(start[2])
    place = tuple(
        slice(int(a), int(b))
        for a, b in (
            (start[0] - first[0], start[0] - first[0] + size[0]),
            (start[1] - first[1], start[1] - first[1] + size[1]),
            (begin + start[2] - z, end + start[2] - z),
        )
    )
    layer = np.broadcast_to(background, (counts[0] * 8, counts[1] * 8, LEAF_SIDE, *background.shape)).copy()
    # The transpose of (C, z, y, x) is (x, y, z, C).
    layer[place] = dense[..., begin:end, :, :].transpose()
    if active is not None:
        on = np.zeros(layer.shape[:3], dtype=np.bool_)
        on[place] = active[begin:end].transpose()
        kept = on | _differs(layer, background, 0.0)
    else:
        on = kept = _differs(layer, background, tolerance)
        layer[~on] = background
    grouped = (counts[0], LEAF_SIDE, counts[1], LEAF_SIDE, LEAF_SIDE)
    x, y = np.nonzero(kept.reshape(grouped).any(axis=(1, 3, 4)))
    origins = np.stack([x * LEAF_SIDE + first[0], y * LEAF_SIDE + first[1], np.full_like(x, z)], axis=-1)
    values = layer.reshape(grouped + background.shape)[x, :, y]
    return origins.astype(np.int32), values, on.reshape(grouped)[x, :, y]


def _differs(values: np.ndarray, background: np.ndarray, tolerance: float) -> np.ndarray:
    """Where any channel is further than ``tolerance`` from the background, or NaN."""
    if tolerance > 0.0:
        if values.dtype.kind in "bu":  # whose differences wrap around, or are not defined
            values, background = values.astype(np.int64), background.astype(np.int64)
        differs = ~(np.abs(values - background) <= tolerance)
    else:
        differs = values != background
    return differs.any(axis=-1) if background.shape else differs


def _checked_origins(origins: np.ndarray) -> np.ndarray:
    """Origins of blocks as (N, 3) int32."""
    if origins.ndim != 2 or origins.shape[1] != 3 or not np.issubdtype(origins.dtype, np.integer):
        raise InputError(f"origins: expected (N, 3) whole numbers, got {origins.shape} {origins.dtype}.")
    if len(origins):
        _check_box(origins.min(axis=0).astype(object), origins.max(axis=0).astype(object) + LEAF_SIDE)
        if (origins & (LEAF_SIDE - 1)).any():
            raise InputError("origins: expected multiples of 8.")
    return np.ascontiguousarray(origins, dtype=np.int32)


def check_tiles(tiles: Tiles) -> None:
    """Raise unless tiles have the sides and places that a tree has for them."""
    count = len(tiles.origins)
    if tiles.origins.shape != (count, 3) or not len(tiles.sides) == len(tiles.values) == len(tiles.active) == count:
        raise InputError(f"tiles: expected origins ({count}, 3), and {count} sides, values and states.")
    if not np.isin(tiles.sides, TILE_SIDES).all() or (tiles.origins & (tiles.sides[:, None] - 1)).any():
        raise InputError("tiles: expected sides of 8, 128 or 4096, and origins that are multiples of them.")


def _check_box(lower: np.ndarray, upper: np.ndarray) -> None:
    """Raise unless a box lies within the range of coordinates. Whole numbers of any size."""
    if (lower < COORDINATE_MIN).any() or (upper > COORDINATE_MAX + 1).any():
        raise InputError(
            f"coordinates: expected {COORDINATE_MIN} to {COORDINATE_MAX}, got {list(lower)} to {list(upper)}."
        )
