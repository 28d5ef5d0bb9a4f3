import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.depth_losses import DepthSupervisionConfig, depth_loss, ds_nerf_loss, urf_loss

KINDS = ["ds_nerf", "urf"]


def some_rays(rays: int = 6, samples: int = 9, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Weights, edges and distances; the second ray's distance is unknown, the third's weights are all 0."""
    generator = torch.Generator().manual_seed(rays + samples)
    edges = torch.rand(rays, samples + 1, generator=generator, dtype=torch.float64).cumsum(1)
    weights = torch.rand(rays, samples, generator=generator, dtype=torch.float64)
    weights = weights / (weights.sum(1, keepdim=True) + 0.2)
    distances = edges[:, samples // 2] + 0.05
    distances[1] = 0.0
    weights[2] = 0.0
    return weights.to(dtype), edges.to(dtype), distances.to(dtype)


def written_out(kind: str, weights: list[float], edges: list[float], distance: float, sigma: float) -> float:
    """One ray's loss, sample by sample."""
    if distance == 0:
        return 0.0
    middles = [0.5 * (low + high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    if kind == "ds_nerf":
        return -sum(
            math.log(w + 1e-7) * math.exp(-((m - distance) ** 2) / (2 * sigma**2)) * (high - low)
            for w, m, low, high in zip(weights, middles, edges[:-1], edges[1:], strict=True)
        )
    expected = sum(w * m for w, m in zip(weights, middles, strict=True)) / max(sum(weights), 1e-10)
    total = (expected - distance) ** 2
    for w, m in zip(weights, middles, strict=True):
        if m < distance - sigma:
            total += w**2
        elif m <= distance + sigma:
            peak = math.exp(-0.5 * ((m - distance) / (sigma / 3)) ** 2) / (sigma / 3 * math.sqrt(2 * math.pi))
            total += (w - peak) ** 2
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sigma", [0.3, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_formula_written_out(kind: str, sigma: float, dtype: torch.dtype) -> None:
    rays = some_rays()
    expected = [
        written_out(kind, w.tolist(), e.tolist(), float(d), sigma) for w, e, d in zip(*rays, strict=True)
    ]  # fmt: skip
    found = depth_loss(kind, *some_rays(dtype=dtype), sigma)  # type: ignore[arg-type]
    # Sums of nine terms up to 16, in the rays' own precision.
    torch.testing.assert_close(
        found.double(),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-12 if dtype == torch.float64 else 2e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    weights, edges, distances = some_rays()
    weights = (weights + 0.01).requires_grad_()

    def loss(w: torch.Tensor) -> torch.Tensor:
        return depth_loss(kind, w, edges, distances, 0.7)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (weights,))
    (gradient,) = torch.autograd.grad(loss(weights).sum(), weights)
    assert not bool(gradient[1].any())  # nothing is known of it


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_where_no_light_comes_from(kind: str) -> None:
    weights, edges, distances = some_rays(dtype=torch.float32)
    weights = torch.zeros_like(weights).requires_grad_()
    depth_loss(kind, weights, edges, distances, 0.5).sum().backward()  # type: ignore[arg-type,no-untyped-call]
    assert weights.grad is not None
    assert bool(weights.grad.isfinite().all())


@pytest.mark.parametrize("loss", [ds_nerf_loss, urf_loss])
def test_light_from_the_observed_distance_costs_least(loss) -> None:  # type: ignore[no-untyped-def]
    edges = torch.linspace(0, 3, 31, dtype=torch.float64).expand(30, -1)
    distances = torch.full((30,), 1.55, dtype=torch.float64)
    costs = loss(torch.eye(30, dtype=torch.float64), edges, distances, 0.2)
    assert int(costs.argmin()) == 15


@pytest.mark.parametrize("loss", [ds_nerf_loss, urf_loss])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_costs_nothing(loss, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    rays, samples = shape
    found = loss(torch.zeros(shape), torch.zeros(rays, samples + 1), torch.zeros(rays), 0.1)
    assert torch.equal(found, torch.zeros(rays))


def test_sigma_falls_to_its_least() -> None:
    config = DepthSupervisionConfig()
    assert config.sigma_at(0) == 0.2
    assert config.sigma_at(1000) == pytest.approx(0.2 * 0.99985**1000)
    assert config.sigma_at(100_000) == 0.01
    assert DepthSupervisionConfig(initial_sigma=0.05, sigma=0.05).sigma_at(7) == 0.05


def test_arguments_are_checked() -> None:
    weights, edges, distances = some_rays()
    with pytest.raises(InputError, match="edges: expected shape"):
        ds_nerf_loss(weights, edges[:, 1:], distances, 0.1)
    with pytest.raises(InputError, match="distances: expected shape"):
        urf_loss(weights, edges, distances[1:], 0.1)
    with pytest.raises(InputError, match="distances: expected dtype"):
        urf_loss(weights, edges, distances.float(), 0.1)
    with pytest.raises(InputError, match="sigma"):
        ds_nerf_loss(weights, edges, distances, 0.0)
    with pytest.raises(InputError, match="kind"):
        depth_loss("sparse", weights, edges, distances, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [{"loss": "dsnerf"}, {"weight": -1.0}, {"sigma": 0.0}, {"initial_sigma": 0.0}, {"sigma_decay": 1.1}]
)
def test_settings_are_checked(bad: dict) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        DepthSupervisionConfig(**bad)
