import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.composite import composite
from voxfield.kernels.dense_composite import DenseComposited, dense_composite, dense_weights

IMPLEMENTATIONS = ["numba", "triton"]
# Sums of up to 300 terms of order 1 in float32; gradients to density are differences of two such sums.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
OUTPUTS = ("rgb", "opacity", "depth", "weights")

SIZES = {
    "no rays": (0, 5),
    "no samples": (3, 0),
    "one sample": (1, 1),
    "fewer than a chunk": (5, 19),
    "a chunk": (2, 32),
    "across chunks": (3, 65),
    "long": (2, 300),
}


def random_rays(rays: int, samples: int, channels: int = 3, thickness: float = 20.0) -> dict[str, torch.Tensor]:
    """Rays in float64; densities such that longer rays become opaque part of the way."""
    generator = torch.Generator().manual_seed(rays + samples + channels)
    steps = 0.02 * torch.rand(rays, samples + 1, generator=generator, dtype=torch.float64)
    return {
        "density": torch.rand(rays, samples, generator=generator, dtype=torch.float64) ** 3 * thickness,
        "colour": torch.rand(rays, samples, channels, generator=generator, dtype=torch.float64),
        "edges": 2 + steps.cumsum(1),
    }


def output_gradients(rays: int, samples: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(rays, channels), (rays,), (rays,), (rays, samples)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def evaluate(rays, implementation, *, device="cpu", dtype=torch.float64, grads=None):
    """The four outputs, then the gradients to density and colour, all as float64 on the CPU."""
    rays = {name: tensor.detach().to(device, dtype) for name, tensor in rays.items()}
    inputs = rays["density"].requires_grad_(), rays["colour"].requires_grad_()
    result = dense_composite(**rays, implementation=implementation)
    outputs = [getattr(result, name) for name in OUTPUTS]
    if grads is None:
        grads = output_gradients(*rays["colour"].shape)
    found = torch.autograd.grad(outputs, inputs, [grad.to(device, dtype) for grad in grads])
    return [tensor.detach().cpu().double() for tensor in (*outputs, *found)]


def evaluate_weights(rays, implementation, *, device="cpu", dtype=torch.float64):
    """The weights and the gradient to density, as float64 on the CPU."""
    density, edges = (rays[name].detach().to(device, dtype) for name in ("density", "edges"))
    weights = dense_weights(density.requires_grad_(), edges, implementation=implementation)
    gradient = output_gradients(*rays["colour"].shape)[3].to(device, dtype)
    found = torch.autograd.grad(weights, density, gradient)[0]
    return [tensor.detach().cpu().double() for tensor in (weights, found)]


def assert_all_close(actual, expected):
    for name, ours, theirs in zip((*OUTPUTS, "grad density", "grad colour"), actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("rays", "samples"), SIZES.values(), ids=SIZES)
def test_matches_the_reference(implementation, rays, samples, device):
    batch = random_rays(rays, samples)
    actual = evaluate(batch, implementation, device=device, dtype=torch.float32)
    assert_all_close(actual, evaluate(batch, "reference"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("rays", "samples"), SIZES.values(), ids=SIZES)
def test_weights_alone_match_the_reference(implementation, rays, samples, device):
    batch = random_rays(rays, samples)
    actual = evaluate_weights(batch, implementation, device=device, dtype=torch.float32)
    for ours, theirs in zip(actual, evaluate_weights(batch, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_any_number_of_channels(implementation, channels, device):
    batch = random_rays(2, 35, channels)
    actual = evaluate(batch, implementation, device=device, dtype=torch.float32)
    assert_all_close(actual, evaluate(batch, "reference"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("output", range(4), ids=OUTPUTS)
def test_gradient_from_each_output_alone(implementation, output, device):
    batch = random_rays(2, 40)
    grads = [grad if i == output else grad * 0 for i, grad in enumerate(output_gradients(2, 40, 3))]
    actual = evaluate(batch, implementation, device=device, dtype=torch.float32, grads=grads)
    assert_all_close(actual, evaluate(batch, "reference", grads=grads))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["spread", "feature by feature"])
def test_takes_any_strides(implementation, layout, device):
    batch = {name: tensor.to(device, torch.float32) for name, tensor in random_rays(4, 37).items()}
    grads = output_gradients(4, 37, 3)
    strided = {name: torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0] for name, tensor in batch.items()}
    if layout == "feature by feature":
        # As the fields give it: the rows of all points, one after another.
        strided["colour"] = batch["colour"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    spread = [torch.stack([grad, grad], dim=-1)[..., 0] for grad in grads]
    actual = evaluate(strided, implementation, device=device, dtype=torch.float32, grads=spread)
    expected = evaluate(batch, implementation, device=device, dtype=torch.float32, grads=grads)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_output_nobody_uses_sends_no_gradient(implementation, device):
    batch = random_rays(2, 8)
    found = []
    for name, dtype, where in ((implementation, torch.float32, device), ("reference", torch.float64, "cpu")):
        inputs = {k: v.to(where, dtype) for k, v in batch.items()}
        inputs["density"].requires_grad_()
        dense_composite(**inputs, implementation=name).rgb.sum().backward()
        found.append(inputs["density"].grad.cpu().double())
    torch.testing.assert_close(*found, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_an_opaque_wall_hides_what_is_behind(implementation, device):
    density = torch.tensor([[0.0, 1e6, 5.0]], device=device, requires_grad=True)
    edges = torch.tensor([[1.0, 2.0, 3.0, 4.0]], device=device)
    result = dense_composite(density, torch.eye(3, device=device)[None], edges, implementation=implementation)
    assert result.rgb[0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-12)
    assert result.opacity.tolist() == [1.0]
    assert result.depth.tolist() == [2.5]
    assert result.weights[0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-12)
    gradient = torch.autograd.grad(result.rgb.sum() + result.depth.sum(), density)[0]
    # More of the empty sample would hide the wall at 2.5 by its own 1.5: nothing else changes anything.
    torch.testing.assert_close(gradient.cpu(), torch.tensor([[-1.0, 0.0, 0.0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_thin_samples_keep_their_digits(implementation, device):
    optical = torch.logspace(-12, 0, 40).double()
    density = optical.to(device, torch.float32)[:, None]
    edges = torch.tensor([[0.0, 1.0]], device=device).expand(40, 2)
    weights = dense_weights(density, edges, implementation=implementation)
    torch.testing.assert_close(weights[:, 0].cpu().double(), -torch.expm1(-optical), rtol=1e-5, atol=0)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_weights_obey_their_laws(implementation, device):
    batch = {name: tensor.to(device, torch.float32) for name, tensor in random_rays(4, 90, thickness=200.0).items()}
    result = dense_composite(**batch, implementation=implementation)
    assert isinstance(result, DenseComposited)
    assert result.weights.min() >= 0
    assert result.opacity.min() >= 0
    assert result.opacity.max() <= 1 + 1e-6
    torch.testing.assert_close(result.opacity, result.weights.sum(1), rtol=0, atol=1e-6)
    alone = dense_weights(batch["density"], batch["edges"], implementation=implementation)
    assert torch.equal(alone, result.weights)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_density_reaches_its_ray_and_no_other(implementation, device):
    density = torch.tensor([[1.0, math.nan, 1.0], [2.0, 1.0, 0.5]], device=device)
    edges = torch.arange(4.0, device=device).expand(2, 4)
    result = dense_composite(density, torch.ones(2, 3, 3, device=device), edges, implementation=implementation)
    assert result.opacity.isnan().tolist() == [True, False]


def test_reference_agrees_with_packed_compositing():
    batch = random_rays(3, 50)
    dense = dense_composite(**batch, implementation="reference")
    edges, offsets = batch["edges"], torch.arange(4) * 50
    ends = edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1)
    flat = batch["density"].reshape(-1), batch["colour"].reshape(-1, 3)
    packed = composite(*flat, *ends, offsets, early_stop=0.0, implementation="reference")
    for name in OUTPUTS:
        torch.testing.assert_close(getattr(dense, name).reshape(-1), getattr(packed, name).reshape(-1))


def test_reference_of_a_homogeneous_slab_is_beer_lambert():
    edges = torch.linspace(0, 2, 101, dtype=torch.float64)[None]
    density = torch.full((1, 100), 0.7, dtype=torch.float64)
    result = dense_composite(density, torch.full((1, 100, 1), 0.25).double(), edges, implementation="reference")
    opacity = 1 - math.exp(-1.4)
    assert float(result.opacity) == pytest.approx(opacity, abs=1e-12)
    assert float(result.rgb) == pytest.approx(0.25 * opacity, abs=1e-12)


def test_reference_gradient_by_finite_differences():
    batch = random_rays(2, 5, channels=2)

    def outputs(density, colour):
        result = dense_composite(density, colour, batch["edges"], implementation="reference")
        return tuple(getattr(result, name) for name in OUTPUTS)

    assert torch.autograd.gradcheck(outputs, (batch["density"].requires_grad_(), batch["colour"].requires_grad_()))


def test_errors_teach():
    batch = {name: tensor.float() for name, tensor in random_rays(2, 5).items()}
    wrong = {
        "colour": (torch.zeros(2, 5, 9), "colour's channels: expected a value at least 1 and at most 8, got 9"),
        "density": (torch.zeros(5), r"density: expected shape \(R, S\), got \(5,\)"),
        "edges": (torch.zeros(2, 5), r"edges: expected shape \(2, 6\), got \(2, 5\)"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(InputError, match=message):
            dense_composite(**{**batch, name: value})
    with pytest.raises(InputError, match=r"colour: expected shape \(2, 5, C\), got \(2, 4, 3\)"):
        dense_composite(batch["density"], torch.zeros(2, 4, 3), batch["edges"])
    with pytest.raises(InputError, match=r"edges: no gradient flows to them; pass edges.detach\(\)"):
        dense_weights(batch["density"], batch["edges"].requires_grad_())
    with pytest.raises(InputError, match=r"edges: expected dtype torch.float32, got torch.float64"):
        dense_weights(batch["density"], batch["edges"].detach().double())
