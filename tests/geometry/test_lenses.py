import math

import pytest
import torch

from voxfield.geometry.lenses import COEFFICIENTS, PRISM, ROUND, angle_of, fault, move, radius_of, reach, unmove

LENSES = {
    "fov": [(0.9,), (-0.9,), (2.0,), (1e-3,), (0.0,)],
    "division": [(-0.3,), (0.0,), (0.2,)],
    "eucm": [(0.6, 1.1), (0.0, 1.0), (0.5, 0.8), (0.9, 1.5), (1.0, 1.0)],
    "thin_prism_fisheye": [(-0.03, 0.01, 0.001, -0.002, 0.003, -0.001, 0.004, -0.003), (0.0,) * 8],
    "rad_tan_thin_prism_fisheye": [
        (0.4, -0.5, 0.2, 0.1, -0.1, 0.02, 0.002, -0.001, 0.003, 0.001, -0.002, 0.004),
        (0.0,) * 12,
    ],
}
EACH_ROUND = [(model, row) for model in ROUND for row in LENSES[model]]
EACH_PRISM = [(model, row) for model in PRISM for row in LENSES[model]]


def table(row) -> torch.Tensor:
    return torch.tensor(row, dtype=torch.float64)[:, None]


def shown(model, row, most=3.0) -> torch.Tensor:
    """Angles a round lens shows, from 0 to a little before its last."""
    theta = torch.linspace(0, most, 400, dtype=torch.float64)
    return theta[radius_of(model, theta, table(row))[0].isfinite()][:-8]


def disc(radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    far = torch.linspace(0, radius, 15, dtype=torch.float64)[:, None]
    turn = torch.linspace(0, 2 * math.pi, 24, dtype=torch.float64)
    return (far * turn.cos()).reshape(-1), (far * turn.sin()).reshape(-1)


def test_every_lens_is_tried():
    assert set(LENSES) == set(COEFFICIENTS) == {*ROUND, *PRISM}


@pytest.mark.parametrize(("model", "row"), EACH_ROUND)
def test_angle_of_inverts_radius_of(model, row):
    theta = shown(model, row)
    assert float(theta.max()) > 0.7
    radius, slope = radius_of(model, theta, table(row))
    back, there = angle_of(model, radius, table(row))
    torch.testing.assert_close(back, theta, atol=1e-9, rtol=0)
    torch.testing.assert_close(there, slope, atol=0, rtol=1e-6)


@pytest.mark.parametrize(("model", "row"), EACH_ROUND)
def test_the_slope_is_the_derivative(model, row):
    theta = shown(model, row, most=1.4).requires_grad_()
    radius, slope = radius_of(model, theta, table(row))
    torch.testing.assert_close(slope, torch.autograd.grad(radius.sum(), theta)[0])
    assert bool((slope > 0).all())


@pytest.mark.parametrize(("model", "row"), [("fov", (0.0,)), ("division", (0.0,)), ("eucm", (0.0, 1.0))])
def test_without_curvature_they_are_perspective(model, row):
    theta = torch.linspace(0, 1.5, 50, dtype=torch.float64)
    torch.testing.assert_close(radius_of(model, theta, table(row))[0], theta.tan())


def test_an_eucm_lens_of_alpha_and_beta_1_has_its_centre_on_the_sphere():
    # sin(theta) / sqrt(1): what is left of the model is the orthographic fisheye.
    theta = torch.linspace(0, 1.5, 50, dtype=torch.float64)
    torch.testing.assert_close(radius_of("eucm", theta, table((1.0, 1.0)))[0], theta.sin())


@pytest.mark.parametrize(("model", "row"), EACH_ROUND)
def test_a_round_lens_reaches_as_far_as_it_shows_angles_once(model, row):
    theta = torch.linspace(0, math.pi - 1e-3, 200_001, dtype=torch.float64)
    radius = radius_of(model, theta, table(row))[0]
    first = int((~radius.isfinite()).long().argmax()) if not bool(radius.isfinite().all()) else len(radius)
    assert bool((radius[:first].diff() > 0).all())
    end = reach(model, row)
    if end > 100:
        assert float(radius[:first].max()) > 50
    else:
        assert float(radius[first - 1]) == pytest.approx(end, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("model", "row"), EACH_ROUND)
def test_beyond_their_reach_results_stay_finite(model, row, dtype):
    radius = torch.linspace(0, 40, 1000, dtype=dtype)
    theta, slope = angle_of(model, radius, table(row).to(dtype))
    assert bool((theta.isfinite() & slope.isfinite()).all())
    assert float(theta.min()) >= 0
    assert float(theta.max()) <= math.pi + 1e-6


@pytest.mark.parametrize(("model", "row"), EACH_PRISM)
def test_unmove_inverts_move(model, row):
    u, v = disc(1.5)
    there = move(model, u, v, table(row))
    back = unmove(model, there.x, there.y, table(row))
    torch.testing.assert_close(torch.stack(back), torch.stack([u, v]), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("model", "row"), EACH_PRISM)
def test_the_jacobian_is_the_derivative(model, row):
    u, v = (value.requires_grad_() for value in disc(1.5))
    there = move(model, u, v, table(row))
    xu, xv = torch.autograd.grad(there.x.sum(), (u, v), retain_graph=True)
    yu, yv = torch.autograd.grad(there.y.sum(), (u, v), retain_graph=True)
    for came, expected in ((there.xu, xu), (there.xv, xv), (there.yu, yu), (there.yv, yv)):
        torch.testing.assert_close(came, expected)


def test_a_prism_lens_ends_where_it_folds():
    # x = u - u^3 / 3 (and as much around the axis) turns at 1, where it is 2 / 3.
    assert reach("thin_prism_fisheye", (-1 / 3, *[0.0] * 7)) == pytest.approx(2 / 3, abs=1e-4)
    assert reach("thin_prism_fisheye", (0.0,) * 8) == pytest.approx(math.pi)
    # A prism term pulls the fold nearer on one side: that side counts.
    row = (-1 / 3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0)
    end = reach("thin_prism_fisheye", row)
    assert 0.5 < end < 2 / 3 - 0.01
    x, y = disc(0.99 * end)
    there = move("thin_prism_fisheye", *unmove("thin_prism_fisheye", x, y, table(row), steps=40), table(row))
    torch.testing.assert_close(torch.stack([there.x, there.y]), torch.stack([x, y]), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("model", "row", "message"),
    [
        ("fov", (4.0,), "omega between -pi and pi, got 4"),
        ("eucm", (1.2, 1.0), "alpha from 0 to 1"),
        ("eucm", (0.5, 0.0), "beta above 0"),
        ("division", (-5.0,), None),
    ],
)
def test_coefficients_that_make_no_lens_are_named(model, row, message):
    found = fault(model, row)
    assert found is None if message is None else message in found
