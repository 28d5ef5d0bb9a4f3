"""Changing sparse volumes: fewer voxels by a tolerance, constant blocks as tiles, a part of one, two as one.

Every function returns a new volume, and none needs memory for the box around it.
"""

from typing import Final, Literal

import numpy as np

from voxfield.checks import check_choice
from voxfield.errors import InputError
from voxfield.voxels.sparse import TILE_SIDES, SparseVolume, Tiles
from voxfield.voxels.vdb_tree import LEAF_SIDE, LEAF_VOXELS, NodeIndex, entry_origins, node_origin, unique_origins

MOST_NEW_NODES: Final = 2**20
"""Blocks and tiles made of tiles that have to be split, at most: 2 GiB as blocks of float32."""
_CHUNK: Final = 4096

Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Origins (N, 3), values (N, 8, 8, 8[, C]) and states (N, 8, 8, 8)."""
How = Literal["over", "sum", "max", "min"]


def sparsify(volume: SparseVolume, tolerance: float) -> SparseVolume:
    """Make active voxels that are within ``tolerance`` of the background in every channel inactive background.

    Blocks and tiles without a voxel that is active or differs from the background are dropped. NaN is kept.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance: expected at least 0, got {tolerance}.")
    values, active, vector = volume.values.copy(), volume.active.copy(), bool(volume.channels)
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = _near(values[part], volume.background, tolerance, vector) & active[part]
        values[part][near] = volume.background
        active[part] &= ~near
    near_tiles = _near(volume.tiles.values, volume.background, tolerance, vector) & volume.tiles.active
    return _tidied((volume.origins, values, active), volume.background, volume.tiles.take(~near_tiles))


def prune(volume: SparseVolume, tolerance: float = 0.0) -> SparseVolume:
    """Turn blocks whose voxels are all active, or all inactive, and within ``tolerance`` of their middle into tiles.

    The tile takes the value midway between the block's least and greatest. With a tolerance of 0 nothing changes but
    how the volume is stored. Blocks with a NaN stay.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance: expected at least 0, got {tolerance}.")
    count = len(volume.origins)
    states = volume.active.reshape(count, LEAF_VOXELS)
    values = volume.values.reshape(count, LEAF_VOXELS, *volume.channels)
    constant = states.all(axis=1) | ~states.any(axis=1)
    rows = np.flatnonzero(constant)
    low, high = values[rows].min(axis=1), values[rows].max(axis=1)
    middle = _midway(low, high)
    vector = bool(volume.channels)
    fits = _near(high, middle, tolerance, vector) & _near(low, middle, tolerance, vector)
    rows, middle = rows[fits], middle[fits]
    kept = np.ones(count, dtype=np.bool_)
    kept[rows] = False
    made = Tiles(
        origins=volume.origins[rows],
        sides=np.full(len(rows), LEAF_SIDE, np.int32),
        values=middle,
        active=states[rows, 0],
    )
    blocks = volume.origins[kept], volume.values[kept], volume.active[kept]
    return _tidied(blocks, volume.background, Tiles.joined([volume.tiles, made]))


def crop(volume: SparseVolume, lower: np.ndarray, upper: np.ndarray) -> SparseVolume:
    """The part of a volume within [lower, upper), in index coordinates; outside it everything is inactive background.

    Args:
        volume: what to cut.
        lower: (3,) first voxel.
        upper: (3,) one past the last voxel, above ``lower``.

    Raises:
        InputError: an empty box, or large tiles whose cut surface would need too many blocks.
    """
    low, high = np.asarray(lower, dtype=np.int64), np.asarray(upper, dtype=np.int64)
    if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
        raise InputError(f"box: expected three lower coordinates below the upper ones, got {lower} and {upper}.")
    met = _overlap(volume.origins, LEAF_SIDE, low, high)
    tiles, cut = _crop_tiles(volume.tiles, low, high)
    origins, values, active = _joined([(volume.origins[met], volume.values[met], volume.active[met]), _blocks_of(cut)])
    start = origins.astype(np.int64)
    rows = np.flatnonzero(((start < low) | (start + LEAF_SIDE > high)).any(axis=1))
    for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
        places = start[chunk][:, :, None] + np.arange(LEAF_SIDE)
        x, y, z = np.moveaxis((places >= low[:, None]) & (places < high[:, None]), 1, 0)
        outside = ~(x[:, :, None, None] & y[:, None, :, None] & z[:, None, None, :])
        values[chunk] = np.where(_as_values(outside, volume), volume.background, values[chunk])
        active[chunk] &= ~outside
    return _tidied((origins, values, active), volume.background, tiles)


def combine(first: SparseVolume, second: SparseVolume, how: How = "over") -> SparseVolume:
    """Two volumes of one type as one. Where only one is active its value stands; the background is the first's.

    Args:
        first: what is below.
        second: what is laid over it.
        how: the value where both are active: the second's (``over``), their ``sum``, ``max`` or ``min``.

    Raises:
        InputError: volumes of different types, or large tiles that meet so much that too many blocks would be made.
    """
    check_choice("how", how, ("over", "sum", "max", "min"))
    if (first.values.dtype, first.channels) != (second.values.dtype, second.channels):
        raise InputError(
            f"volumes: expected one type, got {first.values.dtype} {first.channels} and {second.values.dtype} "
            f"{second.channels}. Convert one of them."
        )
    below, above = _split_where_met(first, second), _split_where_met(second, first)
    origins, _ = unique_origins(np.concatenate([below.origins, above.origins]))
    shape = (len(origins), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
    values = np.broadcast_to(first.background, shape + first.channels).copy()
    active = np.zeros(shape, dtype=np.bool_)
    rows = below.index.find(origins)
    values[rows >= 0], active[rows >= 0] = below.values[rows[rows >= 0]], below.active[rows[rows >= 0]]
    found = above.index.find(origins)
    at = np.flatnonzero(found >= 0)
    for chunk in np.split(at, range(_CHUNK, len(at), _CHUNK)):
        values_on, on = above.values[found[chunk]], above.active[found[chunk]]
        both = _as_values(on & active[chunk], first)
        merged = np.where(both, _merged(how, values[chunk], values_on), values_on)
        values[chunk] = np.where(_as_values(on, first), merged, values[chunk])
        active[chunk] |= on
    # Where the second has inactive tiles only, the first's background stands.
    tiles = Tiles.joined([below.tiles, above.tiles.take(above.tiles.active)])
    return _tidied((origins, values, active), first.background, tiles)


def _merged(how: How, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """What stands where both are active."""
    if how == "over":
        return above
    return {"sum": np.add, "max": np.maximum, "min": np.minimum}[how](below, above)


def _split_where_met(volume: SparseVolume, other: SparseVolume) -> SparseVolume:
    """The same volume, whose tiles meet no block or tile of ``other``: those that do are split, down to blocks."""
    tiles = volume.tiles
    for side in TILE_SIDES[::-1]:
        near = np.concatenate([other.origins, other.tiles.origins])
        nodes = NodeIndex(unique_origins(node_origin(near, side))[0], side)
        # A tile within a larger one of the other is met too, wherever that begins.
        met = nodes.find(tiles.origins) >= 0
        for larger in TILE_SIDES[TILE_SIDES.index(side) + 1 :]:
            covers = NodeIndex(other.tiles.origins[other.tiles.sides == larger], larger)
            met |= covers.find(tiles.origins) >= 0
        met &= tiles.sides == side
        if side == LEAF_SIDE:
            blocks = _joined([(volume.origins, volume.values, volume.active), _blocks_of(tiles.take(met))])
            return SparseVolume.from_blocks(*blocks, background=volume.background, tiles=tiles.take(~met))
        tiles = Tiles.joined([tiles.take(~met), _split(tiles.take(met), side)])
    raise AssertionError("the smallest side returns")


def _crop_tiles(tiles: Tiles, low: np.ndarray, high: np.ndarray) -> tuple[Tiles, Tiles]:
    """Tiles within a box, and those of side 8 that its surface cuts; larger ones that it cuts are split."""
    for side in TILE_SIDES[::-1]:
        start = tiles.origins.astype(np.int64)
        end = start + tiles.sides[:, None]
        tiles = tiles.take(((start < high) & (end > low)).all(axis=1))
        start = tiles.origins.astype(np.int64)
        cut = ((start < low) | (start + tiles.sides[:, None] > high)).any(axis=1) & (tiles.sides == side)
        if side == LEAF_SIDE:
            return tiles.take(~cut), tiles.take(cut)
        tiles = Tiles.joined([tiles.take(~cut), _split(tiles.take(cut), side)])
    raise AssertionError("the smallest side returns")


def _split(tiles: Tiles, side: int) -> Tiles:
    """Tiles of ``side`` (128 or 4096) as tiles of the next smaller side."""
    smaller = TILE_SIDES[TILE_SIDES.index(side) - 1]
    entries = (side // smaller) ** 3
    if len(tiles) * entries > MOST_NEW_NODES:
        raise InputError(
            f"tiles: {len(tiles):,} of side {side} would be split into more than {MOST_NEW_NODES:,} parts."
        )
    offsets = np.tile(np.arange(entries), len(tiles))
    rows = np.repeat(np.arange(len(tiles)), entries)
    return Tiles(
        origins=entry_origins(offsets, tiles.origins[rows], side, smaller),
        sides=np.full(len(rows), smaller, np.int32),
        values=tiles.values[rows],
        active=tiles.active[rows],
    )


def _blocks_of(tiles: Tiles) -> Blocks:
    """Tiles of side 8 as blocks."""
    block = (len(tiles), LEAF_SIDE, LEAF_SIDE, LEAF_SIDE)
    channels = tiles.values.shape[1:]
    values = np.broadcast_to(tiles.values.reshape(-1, 1, 1, 1, *channels), block + channels)
    return tiles.origins, values, np.broadcast_to(tiles.active.reshape(-1, 1, 1, 1), block)


def _joined(parts: list[Blocks]) -> Blocks:
    origins, values, active = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return origins, values, active


def _tidied(blocks: Blocks, background: np.ndarray, tiles: Tiles) -> SparseVolume:
    """A volume without blocks and tiles that are all inactive background."""
    origins, values, active = blocks
    kept = np.asarray(active.any(axis=(1, 2, 3)))
    vector = bool(background.shape)
    differs = ~_near(values[~kept], background, 0.0, vector)
    kept[~kept] = differs.any(axis=(1, 2, 3))
    if not kept.all():
        origins, values, active = origins[kept], values[kept], active[kept]
    tiles = tiles.take(tiles.active | ~_near(tiles.values, background, 0.0, vector))
    return SparseVolume.from_blocks(origins, values, active, background=background, tiles=tiles)


def _near(values: np.ndarray, others: np.ndarray, tolerance: float, vector: bool) -> np.ndarray:
    """Where values are within ``tolerance`` of others; vectors, whose last axis is that of channels, in every channel.
    NaN never is.
    """
    if tolerance == 0 or values.dtype == np.bool_:
        near = values == others
    elif values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinity less infinity
            near = (values == others) | (np.abs(values - others) <= tolerance)
    else:  # whole numbers, whose differences may need another bit
        near = np.abs(values.astype(np.float64) - others.astype(np.float64)) <= tolerance
    return np.asarray(near.all(axis=-1) if vector else near)


def _midway(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The middle of each pair, exactly the value itself where both are alike. Nothing overflows on the way."""
    if low.dtype == np.bool_:
        return low
    if low.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinities of both signs
            return np.where(low == high, low, low / 2 + high / 2)
    return low // 2 + high // 2 + (low & high & 1)


def _overlap(origins: np.ndarray, side: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N,) which nodes share a voxel with a box."""
    start = origins.astype(np.int64)
    return np.asarray(((start < high) & (start + side > low)).all(axis=1))


def _as_values(mask: np.ndarray, volume: SparseVolume) -> np.ndarray:
    """A mask of voxels with an axis for the channels, if the volume has them."""
    return mask[..., None] if volume.channels else mask
