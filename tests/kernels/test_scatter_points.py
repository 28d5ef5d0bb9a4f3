import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.scatter_points import scatter_points

IMPLEMENTATIONS = ["reference", "numba", "triton"]
FAST = ["numba", "triton"]
LOW, HIGH = (-1.0, 0.0, 2.0), (1.0, 3.0, 2.5)


def cloud(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Around the box; some on its faces and corners, some on faces of voxels, some far outside."""
    generator = torch.Generator().manual_seed(count)
    unit = torch.rand(count, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    unit[::5] = (unit[::5] * 4).round() / 4
    unit[3::7] = unit[3::7].round()
    unit[6::11] = unit[6::11] * 100
    return (unit * (torch.tensor(HIGH) - torch.tensor(LOW)) + torch.tensor(LOW)).to(dtype)


def histogram(points: torch.Tensor, shape: tuple[int, int, int], *, compatible: bool) -> np.ndarray:
    """The formula in numpy, as a person would write it."""
    low, high, sides = np.array(LOW), np.array(HIGH), np.array(shape[::-1])
    p = points.double().numpy()
    if compatible:
        cells = np.floor(np.clip((p - low) / (high - low) * (sides - 1), 0, sides - 1)).astype(int)
    else:
        p = p[((p >= low) & (p <= high)).all(1)]
        cells = np.minimum(np.floor((p - low) / (high - low) * sides), sides - 1).astype(int)
    counts = np.zeros(shape, np.float32)
    np.add.at(counts, tuple(cells.T[::-1]), 1)
    return counts


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("sigma", [(1.0, 1.0, 1.0), (0.05, 2.3, 0.7), (0.0, 0.0, 6.0)])
def test_gaussian_equals_scipy_in_every_bit(implementation, device, compatible, sigma):
    points, shape = cloud(300), (5, 6, 7)
    found = scatter_points(
        points.to(device),
        shape,
        LOW,
        HIGH,
        sigma=sigma,
        cells="compatible" if compatible else "equal",
        implementation=implementation,
    )
    counts = histogram(points, shape, compatible=compatible)
    assert np.array_equal(found.grid.cpu().numpy(), gaussian_filter(counts, sigma[::-1]))
    inside = ((points.double() >= torch.tensor(LOW)) & (points.double() <= torch.tensor(HIGH))).all(1)
    assert found.outside == int((~inside).sum()) > 0


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("method", ["occupancy", "density", "gaussian", "trilinear"])
@pytest.mark.parametrize(("count", "shape"), [(0, (3, 2, 4)), (1, (1, 1, 1)), (257, (9, 4, 1)), (700, (4, 17, 5))])
@pytest.mark.parametrize("outside", ["drop", "clamp"])
def test_matches_the_reference(implementation, device, method, count, shape, outside):
    points = cloud(count).to(device)
    settings = {"method": method, "sigma": (0.8, 1.7, 0.3), "outside": outside}
    found = scatter_points(points, shape, LOW, HIGH, **settings, implementation=implementation)
    expected = scatter_points(points, shape, LOW, HIGH, **settings, implementation="reference")
    assert found.grid.device == points.device
    assert found.outside == expected.outside
    if method == "trilinear" and implementation == "triton":
        # Atomics add in any order, in float64.
        torch.testing.assert_close(found.grid, expected.grid, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(found.grid, expected.grid)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_axes_cells_and_faces(implementation, device):
    points = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 3.0, 2.5], [-0.9, 2.9, 2.3], [9.0, 1.0, 2.1]], device=device)
    grid, outside = scatter_points(points, (2, 3, 4), LOW, HIGH, method="density", implementation=implementation)
    assert grid.nonzero().tolist() == [[0, 0, 0], [1, 2, 0], [1, 2, 3]]
    assert outside == 1
    clamped = scatter_points(
        points, (2, 3, 4), LOW, HIGH, method="density", outside="clamp", implementation=implementation
    )
    assert clamped.grid[0, 1, 3] == 1
    assert clamped.outside == 1
    # The compatible rule leaves the last layer to points exactly on the face.
    near = torch.tensor([[0.999, 2.999, 2.4999]], device=device)
    rule = {"cells": "compatible", "method": "occupancy", "implementation": implementation}
    assert scatter_points(near, (2, 3, 4), LOW, HIGH, **rule).grid.nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("method", ["density", "gaussian", "trilinear"])
def test_no_point_is_lost(implementation, device, method):
    points = cloud(150).to(device)
    grid, _ = scatter_points(
        points, (6, 5, 4), LOW, HIGH, method=method, sigma=(2, 1, 3), outside="clamp", implementation=implementation
    )
    assert float(grid.double().sum()) == pytest.approx(150, rel=1e-5)
    inside = scatter_points(points, (6, 5, 4), LOW, HIGH, method=method, sigma=(2, 1, 3), implementation=implementation)
    assert float(inside.grid.double().sum()) == pytest.approx(150 - inside.outside, rel=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_trilinear_divides_by_distance_to_centres(implementation, device):
    # 0.25 voxels beyond the centre of voxel (1, 1, 1) along x, on it along the others.
    unit = torch.tensor([1.75 / 4, 1.5 / 3, 1.5 / 2], dtype=torch.float64)
    point = (unit * (torch.tensor(HIGH) - torch.tensor(LOW)) + torch.tensor(LOW))[None].to(device)
    grid, _ = scatter_points(point, (2, 3, 4), LOW, HIGH, method="trilinear", implementation=implementation)
    assert float(grid[1, 1, 1]) == pytest.approx(0.75)
    assert float(grid[1, 1, 2]) == pytest.approx(0.25)
    assert float(grid.sum()) == pytest.approx(1)


@pytest.mark.parametrize("implementation", FAST)
def test_takes_any_strides_and_float64(implementation, device):
    points = cloud(64, torch.float64).to(device)
    turned = points.T.contiguous().T
    expected = scatter_points(points, (4, 4, 4), LOW, HIGH, implementation="reference").grid
    for one in (points, turned, torch.cat([points, points], 1)[:, :3]):
        assert torch.equal(scatter_points(one, (4, 4, 4), LOW, HIGH, implementation=implementation).grid, expected)


def test_number_of_threads_changes_nothing():
    points = cloud(40_000)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for method in ("gaussian", "trilinear"):
                found.append(scatter_points(points, (16, 8, 8), LOW, HIGH, method=method))
    finally:
        torch.set_num_threads(threads)
    for one, other in ((found[0], found[2]), (found[1], found[3])):
        assert torch.equal(one.grid, other.grid)
        assert one.outside == other.outside


def test_large_finite_coordinates_are_finite():
    points = torch.full((8, 3), 3e38)
    assert scatter_points(points, (2, 2, 2), LOW, HIGH).outside == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(3)}, r"points: expected shape \(N, 3\)"),
        ({"points": torch.zeros(2, 3, dtype=torch.int64)}, "points: expected dtype"),
        ({"points": torch.tensor([[0.0, math.nan, 0.0]])}, "points: expected finite coordinates"),
        ({"points": torch.tensor([[0.0, math.inf, 0.0]])}, "points: expected finite coordinates"),
        ({"shape": (0, 4, 4)}, "shape along z: expected a value at least 1"),
        ({"shape": (4, 4, 1025)}, "shape along x"),
        ({"shape": (4, 4)}, "expected three values each"),
        ({"high": (-1.0, 3.0, 2.5)}, "high - low along x: expected a value above 0"),
        ({"low": (math.nan, 0.0, 2.0)}, "high - low along x"),
        ({"high": (math.inf, 3.0, 2.5)}, "high - low along x"),
        ({"method": "gauss"}, "method: unknown value 'gauss'. Did you mean gaussian"),
        ({"cells": "old"}, "cells: unknown value"),
        ({"outside": "keep"}, "outside: unknown value"),
        ({"sigma": (1.0,)}, "sigma: expected three values"),
        ({"sigma": (1.0, -1.0, 1.0)}, "sigma: expected a value at least 0"),
        ({"sigma": (1.0, math.nan, 1.0)}, "sigma: expected a value"),
        ({"method": "trilinear", "cells": "compatible"}, "'trilinear' needs cells='equal'"),
    ],
)
def test_says_what_is_wrong(change, message):
    arguments = {"points": cloud(4), "shape": (4, 4, 4), "low": LOW, "high": HIGH, **change}
    with pytest.raises(InputError, match=message):
        scatter_points(**arguments)


def test_an_explicit_request_does_not_fall_back():
    with pytest.raises(UnavailableError, match="numba"):
        scatter_points(cloud(4).to("meta"), (2, 2, 2), LOW, HIGH, implementation="numba")
