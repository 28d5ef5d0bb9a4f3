import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.interlevel import interlevel_loss

IMPLEMENTATIONS = ["numba", "triton"]
# Sums of up to 140 quotients of order 1/S, in float32.
TOLERANCE = {"rtol": 5e-5, "atol": 2e-6}

SIZES = {
    "no rays": (0, 5, 4),
    "one of everything": (1, 1, 1),
    "one proposal": (2, 7, 1),
    "one sample": (2, 1, 7),
    "fewer than a chunk": (5, 19, 11),
    "across chunks": (3, 48, 65),
    "finer than the proposal": (2, 70, 32),
    "long": (1, 140, 130),
}


def random_histograms(rays: int, samples: int, proposals: int) -> list[torch.Tensor]:
    """Edges and weights, fine then proposal, in float64; some edges equal each other, within and across."""
    generator = torch.Generator().manual_seed(rays + samples + proposals)

    def histogram(count):
        steps = torch.rand(rays, count + 1, generator=generator, dtype=torch.float64)
        steps[:, 2::5] = 0
        # On a grid of 1/1024, so that float32 and float64 agree on which edges are equal.
        edges = (steps.cumsum(1) / steps.sum(1, keepdim=True) * 1024).round() / 1024
        weights = torch.rand(rays, count, generator=generator, dtype=torch.float64) ** 4
        return edges, weights / (weights.sum(1, keepdim=True) + 0.05)

    return [*histogram(samples), *histogram(proposals)]


def evaluate(histograms, implementation, *, device="cpu", dtype=torch.float64):
    """The losses and the gradient to the proposal's weights, as float64 on the CPU."""
    *constants, offered = (tensor.detach().to(device, dtype) for tensor in histograms)
    loss = interlevel_loss(*constants, offered.requires_grad_(), implementation=implementation)
    gradient = torch.randn(len(loss), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = torch.autograd.grad(loss, offered, gradient.to(device, dtype))[0]
    return [tensor.detach().cpu().double() for tensor in (loss, found)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("rays", "samples", "proposals"), SIZES.values(), ids=SIZES)
def test_matches_the_reference(implementation, rays, samples, proposals, device):
    histograms = random_histograms(rays, samples, proposals)
    actual = evaluate(histograms, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(actual, evaluate(histograms, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    histograms = random_histograms(3, 20, 35)
    spread = [torch.stack([tensor, tensor], dim=-1).float().to(device)[..., 0] for tensor in histograms]
    assert not any(tensor.is_contiguous() for tensor in spread)
    actual = evaluate(spread, implementation, device=device, dtype=torch.float32)
    expected = evaluate(histograms, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_histogram_bounds_itself(implementation, device):
    edges, weights, _, _ = random_histograms(4, 30, 1)
    weights = torch.where(edges.diff(dim=1) > 0, weights, 0)  # an interval without length absorbs nothing
    dtype = torch.float64 if implementation == "reference" else torch.float32
    loss, gradient = evaluate([edges, weights, edges, weights], implementation, device=device, dtype=dtype)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_more_proposal_never_costs(implementation, device):
    *constants, offered = random_histograms(3, 20, 13)
    constants = [tensor.float().to(device) for tensor in constants]
    losses = [
        interlevel_loss(*constants, (offered * factor).float().to(device), implementation=implementation)
        for factor in (0.0, 0.5, 1.0, 100.0)
    ]
    for less, more in zip(losses[:-1], losses[1:], strict=True):
        assert (more <= less).all()
    assert losses[-1].eq(0).all()
    # Nothing is offered: what is lacking is all there is.
    torch.testing.assert_close(losses[0], constants[1].mean(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_which_intervals_overlap(implementation, device):
    proposal_edges = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    fine = {
        "inside one": ([0.2, 0.8], [1, 0, 0]),
        "across an edge": ([0.2, 1.5], [1, 1, 0]),
        "ends on an edge": ([0.2, 1.0], [1, 1, 0]),
        "begins on an edge": ([1.0, 1.5], [0, 1, 0]),
        "all": ([0.0, 3.0], [1, 1, 1]),
        "before the first": ([-2.0, -1.0], [1, 0, 0]),
        "past the last": ([4.0, 5.0], [0, 0, 1]),
    }
    for name, (edges, overlapped) in fine.items():
        histograms = [torch.tensor([edges]), torch.ones(1, 1), proposal_edges, torch.zeros(1, 3)]
        _, gradient = evaluate(histograms, implementation, device=device, dtype=torch.float32)
        assert gradient[0].ne(0).int().tolist() == overlapped, name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_bound_of_a_faint_interval_keeps_its_digits(implementation, device):
    edges = torch.tensor([[0.0, 1.0, 1.8, 2.8]])
    weights, offered = torch.tensor([[0.5, 4e-8, 0.4]]), torch.tensor([[0.9, 2e-8, 0.7]])
    proposal_edges = torch.tensor([[0.0, 1.0, 1.9, 2.8]])
    actual = evaluate([edges, weights, proposal_edges, offered], implementation, device=device, dtype=torch.float32)
    lack = 2e-8
    torch.testing.assert_close(float(actual[0]), lack**2 / 1.4e-7 / 3, rtol=1e-4, atol=0)
    upstream = torch.randn(1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(float(actual[1][0, 1] / upstream), -2 * lack / 1.4e-7 / 3, rtol=1e-4, atol=0)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_weight_reaches_its_ray_and_no_other(implementation, device):
    histograms = random_histograms(2, 6, 5)
    histograms[3][0, 3] = math.nan
    loss, _ = evaluate(histograms, implementation, device=device, dtype=torch.float32)
    assert loss.isnan().tolist() == [True, False]


def test_reference_agrees_with_the_sum_in_the_contract():
    edges, weights, proposal_edges, offered = random_histograms(3, 20, 13)
    loss = interlevel_loss(edges, weights, proposal_edges, offered, implementation="reference")
    for ray in range(3):
        total = 0.0
        for i in range(20):
            bound = sum(
                float(offered[ray, j])
                for j in range(13)
                if (j == 12 or proposal_edges[ray, j + 1] > edges[ray, i])
                and (j == 0 or proposal_edges[ray, j] <= edges[ray, i + 1])
            )
            weight = float(weights[ray, i])
            total += max(0.0, weight - bound) ** 2 / (weight + 1e-7)
        assert float(loss[ray]) == pytest.approx(total / 20, rel=1e-9)


def test_reference_gradient_by_finite_differences():
    *constants, offered = random_histograms(3, 9, 6)
    offered = (0.5 * offered).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: interlevel_loss(*constants, w, implementation="reference"), offered)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edges": torch.zeros(2, 4)}, r"edges: expected shape \(2, 5\), got \(2, 4\)"),
        ({"weights": torch.zeros(2, 0), "edges": torch.zeros(2, 1)}, "weights' samples a ray: expected a value at"),
        ({"proposal_weights": torch.zeros(3, 3)}, r"proposal_weights: expected shape \(2, P\), got \(3, 3\)"),
        ({"proposal_edges": torch.zeros(2, 3)}, r"proposal_edges: expected shape \(2, 4\), got \(2, 3\)"),
        ({"proposal_edges": torch.zeros(2, 4).double()}, "proposal_edges: expected dtype torch.float32"),
        ({"weights": torch.zeros(2, 4, requires_grad=True)}, r"to proposal_weights only; pass weights.detach\(\)"),
        ({"eps": 0.0}, "eps: expected a value above 0"),
    ],
)
def test_errors_teach(changed, message):
    arguments = {
        "edges": torch.zeros(2, 5),
        "weights": torch.zeros(2, 4),
        "proposal_edges": torch.zeros(2, 4),
        "proposal_weights": torch.zeros(2, 3),
        **changed,
    }
    with pytest.raises(InputError, match=message):
        interlevel_loss(**arguments)
