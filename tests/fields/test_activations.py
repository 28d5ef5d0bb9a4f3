import math

import torch

from voxfield.fields.activations import density_and_features, truncated_exp


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
