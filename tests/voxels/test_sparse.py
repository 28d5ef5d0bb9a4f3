import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume, Tiles

RNG = np.random.default_rng(0)


def dense_of(shape=(13, 9, 21), fill=0.2, seed=0, dtype=np.float32):
    """(D, H, W) of which a part is not zero."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random(shape) < fill, draw.normal(size=shape), 0).astype(dtype)


def volume_with_tiles():
    tiles = Tiles(
        origins=np.array([[0, 0, 0], [128, 0, 0], [4096, 0, 0]], np.int32),
        sides=np.array([8, 128, 4096], np.int32),
        values=np.array([1.0, 2.0, 3.0], np.float32),
        active=np.array([True, False, True]),
    )
    block = np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8)
    return SparseVolume.from_blocks(np.array([[-8, 0, 0]]), block, block >= 100, tiles=tiles)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(0, 20)] * 3),
    origin=st.tuples(*[st.integers(-40, 40)] * 3),
    vector=st.booleans(),
    seed=st.integers(0, 99),
)
def test_dense_and_back(shape, origin, vector, seed):
    dense = dense_of((3, *shape) if vector else shape, seed=seed)
    volume = SparseVolume.from_dense(dense, origin=origin)
    upper = np.array(origin) + shape[::-1]
    assert np.array_equal(volume.to_dense(origin, upper), dense)
    differs = dense.any(axis=0) if vector else dense != 0
    assert np.array_equal(volume.to_dense_mask(origin, upper), differs)
    assert volume.active_count == np.count_nonzero(differs)
    larger = volume.to_dense(np.array(origin) - 3, upper + 5)
    assert np.array_equal(larger[..., 3:-5, 3:-5, 3:-5], dense)
    assert np.count_nonzero(larger) == np.count_nonzero(dense)


def test_axes_are_z_y_x_outside_and_x_y_z_inside():
    dense = np.zeros((2, 3, 4), np.float32)
    dense[1, 2, 3] = 7
    volume = SparseVolume.from_dense(dense, origin=(10, 20, 30))
    coordinates, values = volume.active_voxels()
    assert coordinates.tolist() == [[13, 22, 31]]
    assert values.tolist() == [7]
    lower, upper = volume.active_bounds
    assert (lower.tolist(), upper.tolist()) == ([13, 22, 31], [14, 23, 32])
    assert volume.origins.tolist() == [[8, 16, 24]]
    assert volume.values[0, 5, 6, 7] == 7


def test_only_blocks_with_something_are_kept():
    dense = np.zeros((64, 64, 64), np.float32)
    dense[0, 0, 0] = dense[63, 63, 63] = 1
    assert len(SparseVolume.from_dense(dense).origins) == 2


def test_tolerance_and_given_states():
    dense = np.array([[[0.0, 0.05, 0.2, np.nan, -0.3]]], np.float32)
    volume = SparseVolume.from_dense(dense, tolerance=0.1)
    assert volume.to_dense_mask((0, 0, 0), (5, 1, 1)).ravel().tolist() == [False, False, True, True, True]
    assert volume.values_at(np.array([[1, 0, 0]]))[0] == 0
    states = np.array([[[True, False, False, False, False]]])
    volume = SparseVolume.from_dense(dense, active=states)
    assert volume.active_count == 1
    assert np.array_equal(volume.to_dense((0, 0, 0), (5, 1, 1)), dense, equal_nan=True)


def test_whole_numbers_near_the_background_do_not_wrap():
    dense = np.array([[[0, 1, 255]]], np.uint8)
    volume = SparseVolume.from_dense(dense, background=1, tolerance=1)
    assert volume.to_dense_mask((0, 0, 0), (3, 1, 1)).ravel().tolist() == [False, False, True]


@pytest.mark.parametrize("channels", [(), (3,)], ids=["scalar", "vector"])
def test_listed_voxels(channels):
    coordinates = RNG.integers(-(2**31), 2**31 - 1, size=(500, 3), dtype=np.int64)
    values = RNG.normal(size=(500, *channels)).astype(np.float32)
    volume = SparseVolume.from_voxels(coordinates, values, background=9.0)
    found, active = volume.values_at(coordinates)
    assert np.array_equal(found, values)
    assert active.all()
    assert volume.active_count == 500
    listed, listed_values = volume.active_voxels()
    order, expected = np.lexsort(listed.T), np.lexsort(coordinates.T)
    assert np.array_equal(listed[order], coordinates[expected])
    assert np.array_equal(listed_values[order], values[expected])
    elsewhere, states = volume.values_at(coordinates ^ 1 << 20)
    assert (elsewhere == 9.0).all()
    assert not states.any()


def test_memory_follows_blocks_not_extent():
    far = np.array([[-(2**31), -(2**31), -(2**31)], [2**31 - 1, 2**31 - 1, 2**31 - 1]])
    volume = SparseVolume.from_voxels(far, np.ones(2, np.float32))
    assert volume.nbytes < 10_000
    assert volume.active_bounds[1].tolist() == [2**31] * 3
    with pytest.raises(InputError, match="at most"):
        volume.to_dense()


def test_blocks_stand_in_the_order_of_the_tree():
    origins = np.array([[0, 0, 128], [0, 8, 0], [0, 0, 0], [-8, 0, 0], [4096, 0, 0], [0, 128, 0]])
    block = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((6, 8, 8, 8), np.float32)
    volume = SparseVolume.from_blocks(origins, block, block >= 0)
    expected = [[-8, 0, 0], [0, 0, 0], [0, 8, 0], [0, 0, 128], [0, 128, 0], [4096, 0, 0]]
    assert volume.origins.tolist() == expected
    assert volume.values[:, 0, 0, 0].tolist() == [3, 2, 1, 0, 5, 4]


def test_tiles_count_and_are_found():
    volume = volume_with_tiles()
    assert volume.active_count == 412 + 512 + 4096**3
    lower, upper = volume.active_bounds
    assert (lower.tolist(), upper.tolist()) == ([-7, 0, 0], [8192, 4096, 4096])
    places = np.array([[-1, 7, 7], [7, 7, 7], [200, 100, 3], [5000, 4095, 0], [8, 0, 0], [-9, 0, 0]])
    values, active = volume.values_at(places)
    assert values.tolist() == [511, 1, 2, 3, 0, 0]
    assert active.tolist() == [True, True, False, True, False, False]
    assert [float(one) for one in volume.active_range()] == [1.0, 511.0]
    dense = volume.to_dense((-8, 0, 0), (136, 8, 8))
    assert dense[3, 2].tolist() == volume.values_at(np.array([[x, 2, 3] for x in range(-8, 136)]))[0].tolist()


def test_nothing():
    volume = SparseVolume.from_dense(np.zeros((4, 4, 4), np.float32))
    assert volume.active_bounds is None
    assert volume.active_range() is None
    assert volume.active_count == 0
    assert volume.to_dense().shape == (0, 0, 0)
    assert volume.values_at(np.zeros((1, 3), np.int64))[0].tolist() == [0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_interpolation_is_exact_on_linear_functions(axis):
    z, y, x = np.meshgrid(*[np.arange(16.0)] * 3, indexing="ij")
    volume = SparseVolume.from_dense(2.0 + (x, y, z)[axis])
    positions = RNG.uniform(0, 15, size=(50, 3))
    np.testing.assert_allclose(volume.interpolate(positions), 2.0 + positions[:, axis], rtol=1e-14)
    with pytest.raises(InputError, match="finite"):
        volume.interpolate(np.array([[np.nan, 0, 0]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseVolume.from_dense(np.zeros((2, 2))), r"\(D, H, W\)"),
        (lambda: SparseVolume.from_dense(np.zeros((2, 2, 2)), origin=(2**31, 0, 0)), "coordinates"),
        (lambda: SparseVolume.from_voxels(np.zeros((2, 2), int), np.zeros(2)), r"\(M, 3\)"),
        (lambda: SparseVolume.from_voxels(np.zeros((2, 3), int), np.zeros(3)), r"values: expected \(2,\)"),
        (lambda: SparseVolume.from_voxels(np.full((1, 3), 2**31), np.zeros(1)), "coordinates"),
        (lambda: from_origins([[4, 0, 0]]), "multiples of 8"),
        (lambda: from_origins([[0, 0, 0], [0, 0, 0]]), "same origin"),
        (lambda: from_origins([[2**31, 0, 0]]), "coordinates"),
        (lambda: from_tile([4, 0, 0], 8), "multiples of them"),
        (lambda: from_tile([0, 0, 0], 16), "sides of 8, 128 or 4096"),
        (lambda: SparseVolume.from_dense(np.zeros((2, 2, 2))).to_dense((0, 0, 0), (-1, 1, 1)), "box"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def from_origins(origins):
    blocks = np.zeros((len(origins), 8, 8, 8))
    return SparseVolume.from_blocks(np.array(origins, np.int64), blocks, blocks > 0)


def from_tile(origin, side):
    nothing = np.zeros((0, 8, 8, 8))
    tiles = Tiles(
        origins=np.array([origin], np.int32),
        sides=np.array([side], np.int32),
        values=np.ones(1),
        active=np.ones(1, bool),
    )
    return SparseVolume.from_blocks(np.zeros((0, 3), int), nothing, nothing > 0, tiles=tiles)
