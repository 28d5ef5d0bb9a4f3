"""Differences of volumes against closed forms and dense arrays."""

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.voxels.sparse import SparseVolume, Tiles
from voxfield.voxels.volume_difference import MOST_PLACES, PlacedVolume, volume_difference


def placed(dense, pitch=1.0, at=(0.0, 0.0, 0.0), **options):
    """A dense array whose first voxel's middle lies at ``at``."""
    matrix = np.diag([pitch, pitch, pitch, 1.0])
    matrix[:3, 3] = at
    return PlacedVolume(volume=SparseVolume.from_dense(np.asarray(dense, np.float32)), index_to_world=matrix, **options)


def test_a_volume_is_itself():
    some = placed(np.random.default_rng(0).random((5, 6, 7)))
    found = volume_difference(some, some)
    assert (found.compared, found.rmse, found.largest_error, found.psnr, found.iou) == (210, 0.0, 0.0, None, 1.0)
    assert found.voxels == (210, 210)


def test_differences_are_those_of_the_dense_arrays():
    random = np.random.default_rng(1)
    one, two = (np.where(random.random((9, 10, 11)) < 0.3, random.random((9, 10, 11)), 0) for _ in range(2))
    found = volume_difference(placed(one), placed(two))
    either = (one != 0) | (two != 0)
    apart = (one - two).astype(np.float32)[either].astype(np.float64)
    assert found.compared == either.sum()
    assert found.rmse == pytest.approx(np.sqrt(np.mean(apart**2)), rel=1e-5)
    assert found.largest_error == pytest.approx(np.abs(apart).max(), rel=1e-5)
    inside = (one >= 0.5) & (two >= 0.5)
    assert found.iou == pytest.approx(inside.sum() / ((one >= 0.5) | (two >= 0.5)).sum())
    extent = np.ptp(one[one != 0])
    assert found.psnr == pytest.approx(20 * np.log10(extent / found.rmse), rel=1e-4)


def test_a_shifted_box_overlaps_by_what_it_should():
    box = np.ones((4, 4, 4))
    found = volume_difference(placed(box), placed(box, at=(1.0, 0.0, 0.0)))
    assert found.iou == pytest.approx(48 / 80)


@pytest.mark.parametrize("order", [1, -1])
def test_a_coarser_volume_is_interpolated_between(order):
    # Linear along x at both resolutions: interpolation is exact within.
    fine = np.broadcast_to(np.arange(1, 17, dtype=np.float64), (16, 16, 16)).copy()
    coarse = fine.reshape(8, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    pair = [placed(fine, level=6.0), placed(coarse, pitch=2.0, at=(0.5, 0.5, 0.5), level=6.0)][::order]
    found = volume_difference(*pair)
    # Only where the coarser one meets its background are they apart.
    assert found.compared >= 16**3
    assert found.iou > 0.6
    inner = volume_difference(*(placed(fine, level=1.0), placed(fine, level=1.0, at=(1e-6, 0, 0)))[::order])
    assert inner.rmse < 1e-3
    assert inner.iou == pytest.approx(1.0, abs=0.1)


def test_turned_volumes_are_compared_where_they_stand():
    box = np.zeros((6, 6, 6))
    box[1:5, 2:4, 1:4] = 1.0
    # Index (x', y', z) of the turned array holds what stands at x = 5 - y', y = x'.
    turned = SparseVolume.from_dense(box.transpose(0, 2, 1)[:, ::-1].astype(np.float32))
    matrix = np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    found = volume_difference(placed(box), PlacedVolume(volume=turned, index_to_world=matrix))
    assert (found.voxels, found.compared, found.iou) == ((24, 24), 24, 1.0)
    assert found.rmse == pytest.approx(0.0, abs=1e-9)
    straight = volume_difference(placed(box), PlacedVolume(volume=turned, index_to_world=np.eye(4)))
    assert straight.iou < 0.8


def test_level_sets_are_inside_below_their_level():
    x = np.arange(-4, 5)
    distance = np.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2) - 3.0
    ball = PlacedVolume(
        volume=SparseVolume.from_dense(distance.astype(np.float32), background=3.0),
        index_to_world=np.eye(4),
        level=0.0,
        inverted=True,
    )
    solid = placed((distance <= 0).astype(float))
    assert volume_difference(ball, solid).iou == 1.0


def test_tiles_count():
    empty = SparseVolume.from_dense(np.zeros((1, 1, 1), np.float32))
    tiles = Tiles(
        origins=np.zeros((1, 3), np.int32),
        sides=np.array([8], np.int32),
        values=np.ones(1, np.float32),
        active=np.ones(1, np.bool_),
    )
    tiled = SparseVolume.from_blocks(empty.origins, empty.values, empty.active, background=0.0, tiles=tiles)
    found = volume_difference(PlacedVolume(volume=tiled, index_to_world=np.eye(4)), placed(np.ones((8, 8, 4))))
    assert found.voxels == (512, 256)
    assert found.iou == pytest.approx(0.5)
    assert found.compared == 512


def test_values_that_are_not_finite_are_left_out():
    one = np.ones((3, 3, 3))
    one[0, 0, 0], one[1, 1, 1] = np.nan, np.inf
    found = volume_difference(placed(one), placed(np.ones((3, 3, 3))))
    assert (found.compared, found.rmse) == (25, 0.0)


def test_nothing_has_no_shape():
    found = volume_difference(placed(np.zeros((2, 2, 2))), placed(np.zeros((3, 3, 3)), pitch=0.5))
    assert (found.compared, found.rmse, found.psnr, found.iou) == (0, 0.0, None, None)


def test_vectors_have_errors_but_no_inside():
    one, two = np.ones((3, 4, 4, 4)), np.full((3, 4, 4, 4), 1.5)
    found = volume_difference(placed(one), placed(two))
    assert (found.rmse, found.iou) == (0.5, None)
    with pytest.raises(InputError, match="one length"):
        volume_difference(placed(one), placed(np.ones((4, 4, 4))))


def test_what_spans_too_much_is_refused():
    one = placed(np.ones((2, 2, 2)))
    with pytest.raises(InputError, match=f"at most {MOST_PLACES:,}"):
        volume_difference(one, placed(np.ones((2, 2, 2)), at=(1e4, 1e4, 1e4 + 0.5)))
    with pytest.raises(InputError, match="too far apart"):
        volume_difference(one, placed(np.ones((2, 2, 2)), at=(1e30, 0.5, 0.0)))
