import math

import torch

from voxfield.fields.activations import truncated_exp


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
