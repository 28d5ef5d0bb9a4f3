"""Slices: every active voxel of a plane where it belongs, of volumes that reach far too."""

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.sparse_slice import SHADES, as_text, shades, slice_of


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_slices_against_a_dense_array(axis):
    draw = np.random.default_rng(0)
    dense = np.where(draw.random((9, 11, 13)) < 0.5, draw.integers(1, 50, (9, 11, 13)), 0).astype(np.float32)
    dense[0, 0, 0] = dense[-1, -1, -1] = 1
    volume = SparseVolume.from_dense(dense, origin=(-5, 3, -2))
    through = "zyx".index(axis)
    first = {"x": -5, "y": 3, "z": -2}[axis]
    for at in (first, first + 4):
        cut = slice_of(volume, axis, at)
        expected = np.take(dense, at - first, axis=through).astype(float)
        expected[expected == 0] = np.nan
        np.testing.assert_array_equal(cut.values, expected[::-1])
        assert cut.voxels_per_pixel == 1
        assert cut.across == {"x": ("y", "z"), "y": ("x", "z"), "z": ("x", "y")}[axis]
    assert slice_of(volume, axis).at == first + (np.take(dense.shape, through) - 1) // 2


def test_pixels_of_many_voxels_show_the_greatest():
    dense = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10)
    cut = slice_of(SparseVolume.from_dense(dense), longest=5)
    assert cut.voxels_per_pixel == 2
    np.testing.assert_array_equal(cut.values, dense[0].reshape(5, 2, 5, 2).max(axis=(1, 3))[::-1])


def test_far_apart_voxels_and_vectors():
    volume = SparseVolume.from_voxels(
        np.array([[-(2**30), 0, 0], [2**30, 1, 0]]), np.array([[3, 4, 0], [0, 0, -2]], np.float32)
    )
    cut = slice_of(volume, longest=8)
    assert cut.values.shape == (1, 8)
    assert cut.values[0, [0, -1]].tolist() == [5, 2]
    assert np.isnan(cut.values[0, 1:-1]).all()


def test_tiles_are_painted():
    tiles = Tiles(
        origins=np.array([[0, 0, 0], [128, 0, 0]], np.int32),
        sides=np.array([8, 128], np.int32),
        values=np.array([2, 7], np.float32),
        active=np.array([True, True]),
    )
    nothing = np.zeros((0, 8, 8, 8), np.float32)
    volume = SparseVolume.from_blocks(np.zeros((0, 3), np.int32), nothing, nothing > 0, tiles=tiles)
    cut = slice_of(volume, "z", 4, longest=256)
    assert np.array_equal(cut.values[-8:, :8], np.full((8, 8), 2.0))
    assert np.isnan(cut.values[:-8, :8]).all()
    assert np.array_equal(cut.values[:, 128:], np.full((128, 128), 7.0))


def test_characters_and_shades():
    values = np.array([[np.nan, 0.0], [5.0, 10.0]])
    assert shades(values).tolist() == [[0, 0.15], [0.15 + 0.85 / 2, 1]]
    lines = as_text(values).splitlines()
    assert lines[0] == "  " + 2 * SHADES[2]
    assert lines[1].endswith("@@")
    assert shades(np.full((2, 2), np.nan)).max() == 0
    assert shades(np.ones((1, 1))).tolist() == [[1]]


@pytest.mark.parametrize("options", [{"axis": "w"}, {"longest": 0}, {"at": 99}])
def test_slices_that_are_none(options):
    volume = SparseVolume.from_dense(np.ones((2, 2, 2), np.float32))
    with pytest.raises(InputError):
        slice_of(volume, **options)
    with pytest.raises(InputError, match="nothing in this volume is active"):
        slice_of(SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32)))
