import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.pdf_resample import pdf_resample

IMPLEMENTATIONS = ["numba", "triton"]
# Cumulative sums of up to 300 weights in float32, divided by weights of at least 0.01 and scaled by interval lengths.
TOLERANCE = {"rtol": 0, "atol": 5e-6}

SIZES = {
    "no rays": (0, 5, 7),
    "one of everything": (1, 1, 1),
    "fewer than a chunk": (3, 13, 6),
    "across chunks": (4, 33, 70),
    "more new than old": (2, 5, 97),
    "long": (2, 300, 31),
}


def random_histogram(rays: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges in [0, 1] of uneven intervals, and weights of which most are nearly 0, in float64."""
    generator = torch.Generator().manual_seed(rays + samples)
    steps = torch.rand(rays, samples + 1, generator=generator, dtype=torch.float64) + 0.1
    edges = steps.cumsum(1) / (steps.sum(1, keepdim=True) + 0.1)
    return edges, torch.rand(rays, samples, generator=generator, dtype=torch.float64) ** 6


def random_jitter(rays: int, columns: int) -> torch.Tensor:
    return torch.rand(rays, columns, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def evaluate(implementation, edges, weights, new, jitter=None, device="cpu", **options):
    moved = (None if tensor is None else tensor.to(device, torch.float32) for tensor in (edges, weights, jitter))
    edges, weights, jitter = moved
    return pdf_resample(edges, weights, new, jitter=jitter, implementation=implementation, **options).cpu().double()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("rays", "samples", "new"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("jitters", ["none", "one a ray", "one an edge"])
def test_matches_the_reference(implementation, rays, samples, new, jitters, device):
    edges, weights = random_histogram(rays, samples)
    jitter = {"none": None, "one a ray": random_jitter(rays, 1), "one an edge": random_jitter(rays, new + 1)}[jitters]
    actual = evaluate(implementation, edges, weights, new, jitter, device)
    expected = pdf_resample(edges, weights, new, jitter=jitter, implementation="reference")
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    edges, weights = (tensor.to(device, torch.float32) for tensor in random_histogram(5, 9))
    jitter = random_jitter(5, 8).to(device, torch.float32)
    strided = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in (edges, weights, jitter)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    actual = pdf_resample(strided[0], strided[1], 7, jitter=strided[2], implementation=implementation)
    assert torch.equal(actual, pdf_resample(edges, weights, 7, jitter=jitter, implementation=implementation))


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("padding", [0.0, 0.01])
def test_edges_obey_their_laws(implementation, padding, device):
    edges, weights = random_histogram(4, 20)
    weights[0] = 0
    weights[1, 3:] = 0
    weights[2, :-3] = 0
    for jitter in (None, random_jitter(4, 35), torch.full((4, 1), 1 - 2.0**-24)):
        new = evaluate(implementation, edges, weights, 34, jitter, device, padding=padding)
        assert new.shape == (4, 35)
        assert new.isfinite().all()
        assert (new.diff(dim=1) >= -1e-7).all()
        assert (new >= edges[:, :1] - 1e-7).all()
        assert (new <= edges[:, -1:] + 1e-7).all()


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_all_samples_go_where_the_only_weight_is(implementation, device):
    edges = torch.linspace(0, 1, 11)[None]
    weights = torch.zeros(1, 10)
    weights[0, 6] = 0.3
    new = evaluate(implementation, edges, weights, 4, None, device, padding=0.0)
    # Midpoints of 5 equal parts of [0.6, 0.7].
    torch.testing.assert_close(new, 0.6 + 0.1 * (torch.arange(5.0)[None].double() + 0.5) / 5, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("weight", [0.0, 1e-9, 0.2])
def test_equal_weights_keep_an_even_spacing_even(implementation, weight, device):
    edges = torch.linspace(0, 1, 8)[None]
    new = evaluate(implementation, edges, torch.full((1, 7), weight), 20, torch.zeros(1, 1), device, padding=0.0)
    torch.testing.assert_close(new[0], torch.arange(21.0).double() / 21, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_weight_reaches_its_ray_and_no_other(implementation, device):
    edges, weights = random_histogram(3, 40)
    weights[1, 20] = math.nan
    new = evaluate(implementation, edges, weights, 6, None, device)
    assert new.isnan().all(1).tolist() == [False, True, False]
    assert new.isnan().any(1).tolist() == [False, True, False]


def test_reference_agrees_with_numpys_interpolation():
    import numpy as np

    edges, weights = random_histogram(4, 23)
    jitter = random_jitter(4, 13)
    new = pdf_resample(edges, weights, 12, jitter=jitter, implementation="reference")
    for ray in range(4):
        padded = weights[ray].numpy() + 0.01
        cumulative = np.concatenate([[0.0], np.cumsum(padded / padded.sum())])
        drawn = np.linspace(0, 1 - 1 / 13, 13) + jitter[ray].numpy() / 13
        expected = torch.from_numpy(np.interp(drawn, cumulative, edges[ray].numpy()))
        torch.testing.assert_close(new[ray], expected, rtol=0, atol=1e-12)


def test_samples_are_distributed_like_the_weights():
    edges = torch.linspace(0, 1, 5, dtype=torch.float64)[None]
    weights = torch.tensor([[0.1, 0.4, 0.0, 0.5]], dtype=torch.float64)
    new = pdf_resample(edges, weights, 9999, padding=0.0, implementation="reference")
    share = torch.histogram(new[0], edges[0]).hist / 10000
    torch.testing.assert_close(share, weights[0], rtol=0, atol=1e-3)


def test_is_not_differentiable():
    edges, weights = random_histogram(2, 4)
    new = pdf_resample(edges.requires_grad_(), weights.requires_grad_(), 3)
    assert not new.requires_grad


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edges": torch.zeros(2, 4)}, r"edges: expected shape \(2, 5\), got \(2, 4\)"),
        ({"edges": torch.zeros(2, 5).double()}, "edges: expected dtype torch.float32, got torch.float64"),
        ({"weights": torch.zeros(2, 0)}, "weights' samples a ray: expected a value at least 1, got 0"),
        ({"weights": torch.zeros(4)}, r"weights: expected shape \(R, S\), got \(4,\)"),
        ({"num_samples": 0}, "num_samples: expected a value at least 1, got 0"),
        ({"jitter": torch.zeros(2, 3)}, r"jitter: expected shape \(2, 1\) or \(2, 4\), got \(2, 3\)"),
        ({"padding": -0.1}, "padding: expected a value at least 0"),
        ({"padding": math.nan}, "padding: expected a value at least 0"),
        ({"eps": 0.0}, "eps: expected a value above 0"),
    ],
)
def test_errors_teach(changed, message):
    arguments = {"edges": torch.zeros(2, 5), "weights": torch.zeros(2, 4), "num_samples": 3, **changed}
    with pytest.raises(InputError, match=message):
        pdf_resample(**arguments)
