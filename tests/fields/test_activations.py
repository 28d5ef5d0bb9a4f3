import math

import pytest
import torch
from torch.nn import functional as F

from voxfield.fields.activations import (
    density_and_features,
    recovering_sigmoid,
    recovering_softplus,
    truncated_exp,
)


def test_the_value_is_the_exponential() -> None:
    exponent = torch.linspace(-30, 30, 61, dtype=torch.float64)
    torch.testing.assert_close(truncated_exp(exponent), exponent.exp())


def test_the_gradient_stays_finite() -> None:
    exponent = torch.tensor([-100.0, -15.0, 0.0, 3.0, 15.0, 50.0, 1000.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(truncated_exp(exponent).sum(), exponent)
    expected = torch.tensor([-15.0, -15.0, 0.0, 3.0, 15.0, 15.0, 15.0]).exp()
    torch.testing.assert_close(gradient, expected)


def test_inside_the_limits_the_gradient_is_exact() -> None:
    exponent = torch.linspace(-10, 10, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(truncated_exp, (exponent,))


def test_a_huge_exponent_is_infinite_not_nan() -> None:
    assert float(truncated_exp(torch.tensor(1000.0))) == math.inf


def test_density_and_features_are_those_of_their_parts() -> None:
    outputs = (30 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_(True)
    to_density, to_features = torch.randn(7, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    parts = truncated_exp(outputs[:, 0]), outputs
    both = density_and_features(outputs)
    for together, alone in zip(both, parts, strict=True):
        torch.testing.assert_close(together, alone)
    weights = ((to_density, to_features), (to_density, None), (None, to_features))
    for weight in weights:
        sums = [
            sum((value * w).sum() for value, w in zip(values, weight, strict=True) if w is not None)
            for values in (both, parts)
        ]
        (together,), (alone,) = (torch.autograd.grad(s, outputs, retain_graph=True) for s in sums)
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("recovering", "plain"), [(recovering_sigmoid, torch.sigmoid), (recovering_softplus, F.softplus)]
)
def test_recovering_activations_are_the_plain_ones_away_from_their_ends(recovering, plain) -> None:
    raw = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(41, dtype=torch.float64)
    torch.testing.assert_close(recovering(raw), plain(raw))
    (got,) = torch.autograd.grad((weights * recovering(raw)).sum(), raw)
    (expected,) = torch.autograd.grad((weights * plain(raw)).sum(), raw)
    torch.testing.assert_close(got, expected)


def test_a_saturated_colour_finds_its_way_back_and_goes_no_farther() -> None:
    raw = torch.tensor([-200.0, -200.0, 200.0, 200.0], requires_grad=True)
    gradient = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    (sigmoid,) = torch.autograd.grad((gradient * recovering_sigmoid(raw)).sum(), raw)
    torch.testing.assert_close(sigmoid, torch.tensor([-0.002, 0.0, 0.0, 0.002]))
    (softplus,) = torch.autograd.grad((gradient * recovering_softplus(raw)).sum(), raw)
    torch.testing.assert_close(softplus, torch.tensor([-0.002, 0.0, -1.0, 1.0]))
