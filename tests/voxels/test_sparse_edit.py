import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.sparse_edit import combine, crop, prune, sparsify

LOW, HIGH = np.array([-20, -20, -20]), np.array([150, 30, 30])


def mixed(seed=0, channels=()):
    """Blocks, and tiles of sides 8 and 128, active and not, over the background 1."""
    draw = np.random.default_rng(seed)
    origins = np.unique(draw.integers(-2, 2, size=(8, 3)) * 8, axis=0)
    values = draw.normal(size=(len(origins), 8, 8, 8, *channels)).astype(np.float32)
    active = draw.random((len(origins), 8, 8, 8)) < 0.5
    values[~active] = 1.0
    tiles = Tiles(
        origins=np.array([[16, 0, 0], [24, 0, 0], [128, 0, 0]], np.int32),
        sides=np.array([8, 8, 128], np.int32),
        values=draw.normal(size=(3, *channels)).astype(np.float32),
        active=np.array([True, False, True]),
    )
    return SparseVolume.from_blocks(origins, values, active, background=1.0, tiles=tiles)


def dense(volume):
    return volume.to_dense(LOW, HIGH), volume.to_dense_mask(LOW, HIGH)


@settings(max_examples=12, deadline=None)
@given(
    corner=st.tuples(*[st.integers(-20, 20)] * 3),
    size=st.tuples(*[st.integers(1, 140)] * 3),
    seed=st.integers(0, 9),
    channels=st.sampled_from([(), (3,)]),
)
def test_a_crop_is_the_dense_crop(corner, size, seed, channels):
    volume = mixed(seed, channels)
    lower, upper = np.array(corner), np.minimum(np.array(corner) + size, HIGH)
    part, states = dense(crop(volume, lower, upper))
    expected, on = dense(volume)
    inside = np.zeros_like(on)
    inside[tuple(slice(a, b) for a, b in zip((lower - LOW)[::-1], (upper - LOW)[::-1], strict=True))] = True
    assert np.array_equal(part, np.where(inside, expected, np.float32(1.0)))
    assert np.array_equal(states, on & inside)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99), how=st.sampled_from(["over", "sum", "max", "min"]), channels=st.sampled_from([(), (3,)])
)
def test_two_as_one_is_that_of_the_dense_ones(seed, how, channels):
    first, second = (
        mixed(seed, channels),
        crop(mixed(seed + 1, channels), np.array([-9, -9, -9]), np.array([140, 20, 9])),
    )
    (one, one_on), (two, two_on) = dense(first), dense(second)
    merged = {"over": two, "sum": one + two, "max": np.maximum(one, two), "min": np.minimum(one, two)}[how]
    # The second's inactive values do not show.
    expected = np.where(one_on & two_on, merged, np.where(two_on, two, one))
    values, on = dense(combine(first, second, how))
    assert np.array_equal(values, expected)
    assert np.array_equal(on, one_on | two_on)


def test_near_voxels_become_background():
    block = np.linspace(0, 2, 512, dtype=np.float32).reshape(1, 8, 8, 8)
    volume = SparseVolume.from_blocks(np.zeros((1, 3), int), block, block >= 0, background=1.0)
    thinner = sparsify(volume, 0.25)
    assert thinner.active_count == np.count_nonzero(np.abs(block - 1) > 0.25)
    assert np.array_equal(thinner.values, np.where(thinner.active, block, np.float32(1.0)))
    assert len(sparsify(volume, 1.0).origins) == 0
    assert volume.active_count == 512


def test_pruning_changes_only_how_it_is_stored():
    values = np.ones((4, 8, 8, 8), np.float32) * np.array([2, 2, 0, 3], np.float32)[:, None, None, None]
    active = np.ones((4, 8, 8, 8), bool)
    active[1], active[2], active[3, 0, 0, 0] = False, False, False
    origins = np.arange(4)[:, None] * np.array([[0, 0, 8]])
    volume = SparseVolume.from_blocks(origins, values, active)
    pruned = prune(volume)
    assert (len(pruned.origins), len(pruned.tiles)) == (1, 2)
    assert np.array_equal(pruned.to_dense((0, 0, 0), (8, 8, 32)), volume.to_dense((0, 0, 0), (8, 8, 32)))
    assert np.array_equal(pruned.to_dense_mask((0, 0, 0), (8, 8, 32)), volume.to_dense_mask((0, 0, 0), (8, 8, 32)))
    assert pruned.active_count == volume.active_count


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_pruning_keeps_within_the_tolerance(dtype):
    low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else (-1e30, 1e30)
    values = np.full((3, 8, 8, 8), 10, dtype)
    values[0, 0, 0, 0], values[1, 0, 0, 0], values[2, 0, 0, 0], values[2, 1, 1, 1] = 12, 15, low, high
    volume = SparseVolume.from_blocks(
        np.arange(3)[:, None] * np.array([[0, 0, 8]]), values, np.ones((3, 8, 8, 8), bool)
    )
    pruned = prune(volume, 1.0)
    assert pruned.tiles.values.tolist() == [11]
    assert pruned.tiles.origins.tolist() == [[0, 0, 0]]
    assert np.array_equal(pruned.values, values[1:])


def test_nan_stays():
    values = np.full((2, 8, 8, 8), np.nan, np.float32)
    values[1] = 0.0
    values[1, 0, 0, 0] = np.nan
    volume = SparseVolume.from_blocks(np.array([[0, 0, 0], [0, 0, 8]]), values, np.ones((2, 8, 8, 8), bool))
    assert np.isnan(sparsify(volume, 1e9).values[1, 0, 0, 0])
    assert len(prune(volume, 1e9).origins) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crop(mixed(), np.array([0, 0, 0]), np.array([0, 5, 5])), "box"),
        (lambda: sparsify(mixed(), -1.0), "tolerance"),
        (lambda: prune(mixed(), float("nan")), "tolerance"),
        (lambda: combine(mixed(), mixed(channels=(3,))), "one type"),
        (lambda: combine(mixed(), mixed(), "mean"), "how"),
        (lambda: crop(huge_tiles(), np.array([1, 1, 1]), np.array([4095, 4095, 4095 * 40])), "parts"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def huge_tiles():
    """A row of large tiles."""
    count = 40
    tiles = Tiles(
        origins=np.arange(count, dtype=np.int32)[:, None] * np.array([[0, 0, 4096]], np.int32),
        sides=np.full(count, 4096, np.int32),
        values=np.ones(count, np.float32),
        active=np.ones(count, bool),
    )
    nothing = np.zeros((0, 8, 8, 8), np.float32)
    return SparseVolume.from_blocks(np.zeros((0, 3), int), nothing, nothing > 0, tiles=tiles)
