import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.distortion import distortion_loss

IMPLEMENTATIONS = ["numba", "triton"]
# Prefix sums of up to 300 weights that add up to 1, in float32.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}

SIZES = {
    "no rays": (0, 5),
    "no samples": (3, 0),
    "one sample": (1, 1),
    "fewer than a chunk": (5, 19),
    "a chunk": (2, 32),
    "across chunks": (3, 65),
    "long": (2, 300),
}


def random_histogram(rays: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges in [0, 1], some of them equal, and weights that add up to less than 1, in float64."""
    generator = torch.Generator().manual_seed(rays + samples)
    steps = torch.rand(rays, samples + 1, generator=generator, dtype=torch.float64)
    steps[:, 2::5] = 0
    edges = steps.cumsum(1) / (steps.sum(1, keepdim=True) + 0.1)
    weights = torch.rand(rays, samples, generator=generator, dtype=torch.float64) ** 4
    return edges, weights / (weights.sum(1, keepdim=True) + 0.05)


def evaluate(edges, weights, implementation, *, device="cpu", dtype=torch.float64):
    """The losses and the gradient to the weights, as float64 on the CPU."""
    edges, weights = edges.to(device, dtype), weights.detach().to(device, dtype).requires_grad_()
    loss = distortion_loss(edges, weights, implementation=implementation)
    gradient = torch.randn(len(loss), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = torch.autograd.grad(loss, weights, gradient.to(device, dtype))[0]
    return [tensor.detach().cpu().double() for tensor in (loss, found)]


def double_sum(edges, weights):
    """Equation 15 as it is printed."""
    midpoints = 0.5 * (edges[:, :-1] + edges[:, 1:])
    apart = (midpoints[:, :, None] - midpoints[:, None, :]).abs()
    between = (weights[:, :, None] * weights[:, None, :] * apart).sum((1, 2))
    return between + (weights**2 * edges.diff(dim=1)).sum(1) / 3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("rays", "samples"), SIZES.values(), ids=SIZES)
def test_matches_the_reference(implementation, rays, samples, device):
    histogram = random_histogram(rays, samples)
    actual = evaluate(*histogram, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(actual, evaluate(*histogram, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    edges, weights = random_histogram(4, 37)
    spread = [torch.stack([tensor, tensor], dim=-1).float().to(device)[..., 0] for tensor in (edges, weights)]
    assert not any(tensor.is_contiguous() for tensor in spread)
    actual = evaluate(*spread, implementation, device=device, dtype=torch.float32)
    expected = evaluate(edges, weights, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_where_the_ray_begins_does_not_matter(implementation, device):
    edges, weights = random_histogram(3, 40)
    edges = (edges * 2**10).round() / 2**10  # so that adding 8 rounds nothing
    here = evaluate(edges, weights, implementation, device=device, dtype=torch.float32)
    there = evaluate(edges + 8, weights, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_known_cases(implementation, device):
    edges = torch.tensor([[0.0, 0.25, 0.5, 1.0]] * 3)
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.25, 0.25, 0.5]])
    loss, _ = evaluate(edges, weights, implementation, device=device, dtype=torch.float32)
    # One interval; two intervals 0.625 apart; an even spread over [0, 1], whose points are 1/3 apart in the mean.
    expected = [0.25 / 3, 2 * 0.25 * 0.625 + 0.25 * 0.75 / 3, 1 / 3]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_weight_reaches_its_ray_and_no_other(implementation, device):
    edges, weights = random_histogram(2, 6)
    weights[0, 3] = math.nan
    loss, gradient = evaluate(edges, weights, implementation, device=device, dtype=torch.float32)
    assert loss.isnan().tolist() == [True, False]
    assert gradient.isnan().any(1).tolist() == [True, False]


def test_reference_is_the_double_sum_of_the_paper():
    for rays, samples in SIZES.values():
        edges, weights = random_histogram(rays, samples)
        loss = distortion_loss(edges, weights, implementation="reference")
        torch.testing.assert_close(loss, double_sum(edges, weights), rtol=1e-12, atol=1e-15)


def test_is_the_mean_distance_of_two_points_of_the_histogram():
    edges, weights = random_histogram(1, 12)
    weights = weights / weights.sum()
    generator = torch.Generator().manual_seed(1)
    interval = torch.multinomial(weights.expand(2, -1), 200_000, replacement=True, generator=generator)
    along = torch.rand(interval.shape, generator=generator, dtype=torch.float64)
    points = edges[0, interval] + along * edges[0].diff()[interval]
    mean = (points[0] - points[1]).abs().mean()
    # The mean of 200,000 distances below 1 strays by 0.5 / sqrt(200,000) = 0.001.
    torch.testing.assert_close(distortion_loss(edges, weights)[0], mean, rtol=0, atol=3e-3)


def test_reference_gradient_by_finite_differences():
    edges, weights = random_histogram(3, 7)
    assert torch.autograd.gradcheck(
        lambda w: distortion_loss(edges, w, implementation="reference"), weights.requires_grad_()
    )


@pytest.mark.parametrize(
    ("edges", "weights", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(4), r"weights: expected shape \(R, S\), got \(4,\)"),
        (torch.zeros(2, 4), torch.zeros(2, 4), r"edges: expected shape \(2, 5\), got \(2, 4\)"),
        (torch.zeros(2, 5).double(), torch.zeros(2, 4), "edges: expected dtype torch.float32, got torch.float64"),
        (torch.zeros(2, 5, requires_grad=True), torch.zeros(2, 4), r"no gradient flows to them; pass edges.detach"),
        (torch.zeros(2, 5), torch.zeros(2, 4).int(), "weights: expected dtype torch.float32 or torch.float64"),
    ],
)
def test_errors_teach(edges, weights, message):
    with pytest.raises(InputError, match=message):
        distortion_loss(edges, weights)
