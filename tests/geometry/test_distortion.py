import math

import pytest
import torch

from voxfield.geometry.distortion import (
    Coefficients,
    distort,
    distort_angle,
    largest_radius,
    undistort,
    undistort_angle,
)

LENSES = {
    "none": (0, 0, 0, 0, 0, 0),
    "phone": (0.0578421, -0.0805099, 0, 0, -0.000980296, 0.00015575),
    "barrel": (-0.3, 0.08, -0.01, 0, 0.002, -0.003),
    "pincushion": (0.2, 0.05, 0.01, 0.002, -0.001, 0.002),
    "rational": (0.5, -2.6, 1.5, 0, 0.0006, -0.0002, 0.38, -2.45, 1.44),
    "rational wide": (2.0, 0.5, 0.02, 0, -0.001, 0.002, 2.3, 1.0, 0.1),
}


def lens_of(name: str, dtype: torch.dtype = torch.float64) -> Coefficients:
    return Coefficients(*torch.tensor(LENSES[name], dtype=dtype)[:, None].unbind(0))


def grid(reach: float, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    line = torch.linspace(-reach, reach, 21, dtype=dtype)
    x, y = torch.meshgrid(line, line, indexing="xy")
    return x.reshape(-1), y.reshape(-1)


@pytest.mark.parametrize("name", LENSES)
def test_undistort_inverts_distort(name):
    lens = lens_of(name)
    x, y = grid(0.7)
    there = distort(x, y, lens)
    back = undistort(there.x, there.y, lens)
    torch.testing.assert_close(torch.stack(back), torch.stack([x, y]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", LENSES)
def test_distort_inverts_undistort_in_single_precision(name):
    lens = lens_of(name, torch.float32)
    x, y = grid(0.6, torch.float32)
    back = distort(*undistort(x, y, lens), lens)
    # 1e-6 of the focal length is a thousandth of a pixel.
    torch.testing.assert_close(torch.stack([back.x, back.y]), torch.stack([x, y]), atol=1e-6, rtol=0)


def test_distort_follows_the_formula_of_opencv():
    k1, k2, k3, _, p1, p2 = LENSES["barrel"]
    x, y = 0.31, -0.42
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    came = distort(torch.tensor([x]).double(), torch.tensor([y]).double(), lens_of("barrel"))
    assert float(came.x) == pytest.approx(x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), abs=1e-7)
    assert float(came.y) == pytest.approx(y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y, abs=1e-7)


@pytest.mark.parametrize("name", ["rational", "rational wide"])
def test_rational_lenses_follow_the_formula_of_opencv(name):
    k1, k2, k3, _, p1, p2, k4, k5, k6 = LENSES[name]
    x, y = 0.31, -0.42
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    came = distort(torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64), lens_of(name))
    assert float(came.x) == pytest.approx(x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), abs=1e-12)
    assert float(came.y) == pytest.approx(y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y, abs=1e-12)


def test_a_denominator_of_one_changes_nothing():
    x, y = grid(0.7)
    plain, lens = lens_of("barrel"), Coefficients(*lens_of("barrel")[:6], *torch.zeros(3, 1).double().unbind(0))
    torch.testing.assert_close(torch.stack(distort(x, y, lens)), torch.stack(distort(x, y, plain)), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["barrel", "rational", "rational wide"])
def test_the_jacobian_is_the_derivative(name):
    x, y = (value.requires_grad_() for value in grid(0.6))
    there = distort(x, y, lens_of(name))
    dxx, dxy = torch.autograd.grad(there.x.sum(), (x, y), retain_graph=True)
    dyx, dyy = torch.autograd.grad(there.y.sum(), (x, y), retain_graph=True)
    for came, expected in ((there.dxx, dxx), (there.dxy, dxy), (there.dxy, dyx), (there.dyy, dyy)):
        torch.testing.assert_close(came, expected)


def test_beyond_the_fold_results_stay_finite():
    lens = Coefficients(*torch.tensor([-0.9, 0, 0, 0, 0, 0.0])[:, None].unbind(0))
    x, y = grid(3.0, torch.float32)
    assert all(bool(value.isfinite().all()) for value in undistort(x, y, lens))


def test_fisheye_angles_invert():
    lens = Coefficients(*torch.tensor([0.05, -0.02, 0.004, -0.0005, 0, 0]).double()[:, None].unbind(0))
    theta = torch.linspace(0, math.radians(100), 50, dtype=torch.float64)
    radius, slope = distort_angle(theta, lens)
    torch.testing.assert_close(undistort_angle(radius, lens), theta, atol=1e-10, rtol=0)
    step = 1e-6
    numeric = (distort_angle(theta + step, lens)[0] - distort_angle(theta - step, lens)[0]) / (2 * step)
    torch.testing.assert_close(slope, numeric, atol=1e-8, rtol=0)


def test_the_largest_radius_is_where_the_fisheye_model_turns_back():
    # r = t - t^3 / 3 turns at t = 1, where r = 2 / 3; without coefficients r = t up to pi; with a positive k1 as well.
    k1 = torch.tensor([-1 / 3, 0.0, 0.1], dtype=torch.float64)
    none = torch.zeros_like(k1)
    came = largest_radius(Coefficients(k1, none, none, none, none, none))
    expected = torch.tensor([2 / 3, math.pi, math.pi + 0.1 * math.pi**3], dtype=torch.float64)
    torch.testing.assert_close(came, expected, atol=1e-4, rtol=0)


def test_a_model_that_turns_back_and_forth_counts_up_to_its_first_turn():
    k1, k2 = torch.tensor([-0.5], dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    none = torch.zeros_like(k1)
    lens = Coefficients(k1, k2, none, none, none, none)
    reach = largest_radius(lens)
    inside = torch.linspace(0.0, float(reach), 50, dtype=torch.float64)
    back = distort_angle(undistort_angle(inside, lens, steps=30), lens)[0]
    torch.testing.assert_close(back, inside, atol=1e-9, rtol=0)
    assert bool(distort_angle(torch.linspace(0, math.pi, 500, dtype=torch.float64), lens)[0].max() > reach)
