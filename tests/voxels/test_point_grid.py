import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from voxfield.errors import InputError
from voxfield.voxels.point_grid import (
    PointGridSettings,
    cut_values,
    finite_points,
    fitted,
    normalise_values,
    point_grid,
)

DIMS = (280.0, 280.0, 16.0)


def cloud(count: int = 500) -> np.ndarray:
    return (np.random.default_rng(count).random((count, 3)) * 1.1 * DIMS - 5).astype(np.float32)


def compatible_formula(points, size, sigma, dims, padding, method):
    """The document's program, as it computes: clamped onto V - 1 steps, scipy's filter, each sample to [0, 1]."""
    low, high = -np.array(padding), np.array(dims) + padding
    cells = np.floor(np.clip((points - low) / (high - low) * (size - 1), 0, size - 1)).astype(int)
    grid = np.zeros((size,) * 3, np.float32)
    np.add.at(grid, tuple(cells.T[::-1]), 1)
    if method == "occupancy":
        grid = (grid > 0).astype(np.float32)
    if method == "gaussian":
        grid = gaussian_filter(grid, sigma)
    return (grid - grid.min()) / (grid.max() - grid.min())


@pytest.mark.parametrize("method", ["occupancy", "density", "gaussian"])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 2.5])
def test_compatible_mode_is_the_formula_in_every_bit(method, sigma):
    settings = PointGridSettings(
        voxel_size=17, voxelization_method=method, sigma=sigma, volume_dims=DIMS, padding=(0, 0, 10), mode="compatible"
    )
    points = cloud()
    values = point_grid(points, settings).values
    normalise_values(values, settings)
    expected = compatible_formula(points, 17, sigma, DIMS, (0.0, 0.0, 10.0), method)
    assert np.array_equal(values, expected)
    rounded = PointGridSettings(volume_dims=DIMS, threshold=0.01, precision=4)
    cut_values(values, rounded)
    expected[expected < np.float32(0.01)] = 0
    assert np.array_equal(values, np.round(expected.astype(np.float64), 4).astype(np.float32))


def test_corrected_cells_are_equal_and_points_outside_are_dropped():
    settings = PointGridSettings(voxel_size=(4, 2, 1), voxelization_method="density", volume_dims=(4.0, 4.0, 4.0))
    points = np.array([[0.5, 0.5, 1], [3.9, 3.9, 1], [4.0, 4.0, 4.0], [4.1, 0, 0], [math.nan, 0, 0]], np.float32)
    grid = point_grid(points, settings)
    assert grid.values.shape == (1, 2, 4)
    assert grid.values[0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 2]]
    assert (grid.points, grid.not_finite, grid.outside) == (5, 1, 1)
    assert grid.value_range == (0, 2)


def test_physical_sigma_follows_the_pitch():
    settings = PointGridSettings(
        voxel_size=(28, 28, 16), sigma=(20.0, 10.0, 1.5), sigma_units="physical", volume_dims=DIMS
    )
    assert settings.pitch == (10, 10, 1)
    assert settings.sigma_voxels == (2, 1, 1.5)
    padded = PointGridSettings(voxel_size=10, volume_dims=DIMS, padding=(10, 0, 2), volume_origin=(1, 2, 3))
    assert padded.low == (-9, 2, 1)
    assert padded.high == (291, 282, 21)
    assert padded.pitch == (30, 28, 2)
    compatible = PointGridSettings(voxel_size=15, volume_dims=DIMS, mode="compatible")
    assert compatible.pitch[0] == 20


def test_a_sigma_that_blurs_nothing_is_known():
    assert not PointGridSettings(sigma=0.05, volume_dims=DIMS).blurs
    assert PointGridSettings(sigma=(0.05, 0.05, 0.2), volume_dims=DIMS).blurs
    assert not PointGridSettings(voxelization_method="density", volume_dims=DIMS).blurs


def test_normalisation():
    grid = np.array([2.0, 4.0, 10.0], np.float32)
    settings = PointGridSettings(volume_dims=DIMS)
    for normalise, value_range, expected in (
        ("sample", None, [0, 0.25, 1]),
        ("global", (0.0, 20.0), [0.1, 0.2, 0.5]),
        ("none", None, [2, 4, 10]),
    ):
        values = grid.copy()
        normalise_values(values, PointGridSettings(normalise=normalise), value_range)
        np.testing.assert_allclose(values, expected)
    equal = np.full(3, 4, np.float32)
    normalise_values(equal, settings)
    assert equal.tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="normalise='global' needs"):
        normalise_values(grid, PointGridSettings(normalise="global"))


def test_threshold_and_rounding():
    grid = np.array([0.0, 1e-12, 0.0009, 0.001, 0.12345678, 1.0], np.float32)
    values = grid.copy()
    cut_values(values, PointGridSettings(threshold=0.001, precision=10))
    assert values.tolist() == [0, 0, 0, *grid[3:].tolist()]
    values = grid.copy()
    cut_values(values, PointGridSettings(precision=3))
    np.testing.assert_allclose(values, [0, 0, 0.001, 0.001, 0.123, 1], rtol=1e-6)
    values = grid.copy()
    cut_values(values, PointGridSettings(precision=10))
    assert values.tolist() == [0, 0, *grid[2:].tolist()]


@pytest.mark.parametrize("precision", [2, 5, 8, 10])
def test_rounding_skips_only_what_it_would_not_change(precision):
    rng = np.random.default_rng(precision)
    values = (10 ** rng.uniform(-12, 0, 4000)).astype(np.float32)
    expected = np.round(values.astype(np.float64), precision).astype(np.float32)
    cut_values(values, PointGridSettings(precision=precision))
    assert np.array_equal(values, expected)


def test_a_volume_is_fitted_around_all_points():
    clouds = [cloud(50) + 500_000, cloud(70)]
    settings = fitted(PointGridSettings(voxel_size=8), [(one.min(0), one.max(0)) for one in clouds])
    for one in clouds:
        assert point_grid(one, settings).outside == 0
    flat = np.array([[0.0, 0, 5], [1, 2, 5]])
    settings = fitted(PointGridSettings(voxel_size=8), [(flat.min(0), flat.max(0))])
    assert settings.volume_dims == pytest.approx((1, 2, 0.002))
    assert point_grid(flat, settings).outside == 0
    with pytest.raises(InputError, match="no cloud could be read"):
        fitted(PointGridSettings(), [])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.empty((0, 3)), "the cloud is empty"),
        (np.full((4, 3), math.nan), "none of its 4 points is finite"),
        (np.full((4, 3), -1.0), r"none of its 4 points, -1 to -1 x .*, lies in the volume, 0 to 280 x"),
        (np.zeros((4, 2)), r"expected shape \(M, 3\)"),
    ],
)
def test_bad_clouds(points, message):
    with pytest.raises(InputError, match=message):
        point_grid(points, PointGridSettings(voxel_size=4, volume_dims=DIMS))


def test_read_only_points_are_taken():
    points = cloud(10)
    points.flags.writeable = False
    assert point_grid(points, PointGridSettings(voxel_size=4, volume_dims=DIMS)).points == 10
    assert finite_points(points) is points


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_size": 0}, "voxel_size: expected a value at least 1"),
        ({"voxel_size": 4096}, "voxel_size"),
        ({"voxel_size": (4, 4)}, "one value or three"),
        ({"voxelization_method": "gausian"}, "Did you mean gaussian"),
        ({"sigma": -1}, "sigma: expected a value at least 0"),
        ({"sigma": 300.0}, "sigma in voxels: expected a value at least 0 and at most 256"),
        ({"volume_dims": (0.0, 1.0, 1.0)}, "volume_dims: expected a value above 0"),
        ({"volume_dims": (1.0, math.nan, 1.0)}, "volume_dims"),
        ({"volume_dims": (1.0, 1.0)}, "volume_dims: expected three values"),
        ({"padding": (-1.0, 0.0, 0.0)}, "padding: expected a value at least 0"),
        ({"normalise": "min-max"}, "normalise: unknown value"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 2}, "one of 2 leaves nothing"),
        ({"precision": 18}, "precision"),
        ({"mode": "old"}, "mode: unknown value"),
        ({"mode": "compatible", "voxelization_method": "trilinear"}, "trilinear is not in the compatible formula"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        PointGridSettings(**{"volume_dims": DIMS, **change})
