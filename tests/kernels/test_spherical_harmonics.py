import numpy as np
import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.spherical_harmonics import spherical_harmonics

IMPLEMENTATIONS = ["numba", "triton"]
# Band 4 sums products of up to four factors with constants up to 140: a few hundred roundings of 6e-8.
TOLERANCE = {"rtol": 0.0, "atol": 2e-5}


def unit_directions(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(directions, dim=1)


def evaluate(directions: torch.Tensor, degree: int, grad: torch.Tensor, implementation: str):
    directions = directions.detach().requires_grad_()
    values = spherical_harmonics(directions, degree, implementation=implementation)
    (grad_directions,) = torch.autograd.grad(values, directions, grad)
    return values.detach(), grad_directions


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("count", [0, 1, 137])
def test_matches_the_reference(implementation, degree, count, device):
    directions = unit_directions(count)
    grad = torch.randn(count, (degree + 1) ** 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = evaluate(directions, degree, grad, "reference")
    actual = evaluate(directions.float().to(device), degree, grad.float().to(device), implementation)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.cpu().double(), theirs, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    directions, grad = unit_directions(33).float().to(device), torch.randn(33, 16).to(device)
    plain = evaluate(directions, 3, grad, implementation)
    strided = torch.zeros(6, 66, device=device)
    strided[::2, ::2] = directions.T
    spread = torch.zeros(33, 32, device=device)
    spread[:, ::2] = grad
    for actual, expected in zip(evaluate(strided[::2, ::2].T, 3, spread[:, ::2], implementation), plain, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_a_broadcast_gradient(implementation, device):
    directions = unit_directions(5).float().to(device).requires_grad_()
    spherical_harmonics(directions, 2, implementation=implementation).sum().backward()
    expected = unit_directions(5).requires_grad_()
    spherical_harmonics(expected, 2, implementation="reference").sum().backward()
    torch.testing.assert_close(directions.grad.cpu().double(), expected.grad, **TOLERANCE)


def test_reference_is_orthonormal_on_the_sphere():
    # Gauss-Legendre in z times equal angles: exact for polynomials of degree 8 + 8 in z and 16 in the angle.
    z, weight = np.polynomial.legendre.leggauss(12)
    angle = 2 * np.pi * (np.arange(20) + 0.5) / 20
    z, angle = np.meshgrid(z, angle, indexing="ij")
    radius = np.sqrt(1 - z * z)
    directions = torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1).reshape(-1, 3))
    area = torch.from_numpy(np.repeat(weight, 20)) * 2 * np.pi / 20
    values = spherical_harmonics(directions, 4, implementation="reference")
    gram = values.T @ (values * area[:, None])
    torch.testing.assert_close(gram, torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-12)


def test_reference_matches_scipy_up_to_the_documented_signs():
    special = pytest.importorskip("scipy.special")
    directions = unit_directions(50)
    x, y, z = directions.numpy().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    values = spherical_harmonics(directions, 4, implementation="reference").numpy()
    for band in range(5):
        for order in range(-band, band + 1):
            # SciPy's complex harmonics carry the Condon-Shortley phase, as the basis here does.
            harmonic = special.sph_harm_y(band, abs(order), polar, azimuth)
            part = harmonic.real if order >= 0 else harmonic.imag
            expected = part * (np.sqrt(2) if order else 1)
            np.testing.assert_allclose(values[:, band * band + band + order], expected, atol=1e-12)


def test_band_one_has_the_signs_of_plenoxels():
    values = spherical_harmonics(torch.tensor([[0.2, 0.3, 0.6]]), 1, implementation="reference")
    expected = torch.tensor([[0.28209479, -0.48860251 * 0.3, 0.48860251 * 0.6, -0.48860251 * 0.2]])
    torch.testing.assert_close(values, expected)


def test_each_degree_extends_the_one_below():
    directions = unit_directions(9)
    highest = spherical_harmonics(directions, 4, implementation="reference")
    for degree in range(4):
        lower = spherical_harmonics(directions, degree, implementation="reference")
        assert torch.equal(lower, highest[:, : (degree + 1) ** 2])


@pytest.mark.parametrize("degree", range(5))
def test_reference_gradient_by_finite_differences(degree):
    directions = unit_directions(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: spherical_harmonics(d, degree, implementation="reference"), (directions,))


@pytest.mark.parametrize(
    ("directions", "degree", "message"),
    [
        (torch.zeros(3), 2, r"directions: expected shape \(N, 3\), got \(3,\)"),
        (torch.zeros(4, 3), 5, "degree: unknown value 5. Known: 0, 1, 2, 3, 4."),
        (torch.zeros(4, 3, dtype=torch.int64), 2, "directions: expected dtype torch.float32 or torch.float64"),
    ],
)
def test_errors_teach(directions, degree, message):
    with pytest.raises(InputError, match=message):
        spherical_harmonics(directions, degree)
