import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.composite import Composited, composite

IMPLEMENTATIONS = ["numba", "triton"]
# Sums of up to 300 terms of order 1 in float32; gradients to density take the difference of two such sums.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
OUTPUTS = ("rgb", "opacity", "depth", "weights")

LENGTHS = {
    "no rays": [],
    "one ray, no samples": [0],
    "one sample": [1],
    "empty rays around": [0, 0, 5, 0, 33, 0],
    "across chunks": [31, 32, 33, 64, 65],
    "many": [7, 1, 0, 300, 2, 19, 40, 0, 3, 11],
}


def random_samples(lengths: list[int], channels: int = 3, thickness: float = 20.0) -> dict[str, torch.Tensor]:
    """Samples in float64; densities such that longer rays become opaque part of the way."""
    generator = torch.Generator().manual_seed(len(lengths) + channels)
    count = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    slot = torch.arange(count) - offsets[:-1].repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    t_start = 2 + 0.03 * slot.double() + 0.02 * torch.rand(count, generator=generator, dtype=torch.float64)
    return {
        "density": torch.rand(count, generator=generator, dtype=torch.float64) ** 3 * thickness,
        "colour": torch.rand(count, channels, generator=generator, dtype=torch.float64),
        "t_start": t_start,
        "t_end": t_start + 0.01,
        "ray_offsets": offsets,
    }


def output_gradients(rays: int, samples: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(rays, channels), (rays,), (rays,), (samples,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def evaluate(samples, implementation, *, device="cpu", dtype=torch.float64, early_stop=1e-4, grads=None):
    """The four outputs, then the gradients to density and colour, all as float64 on the CPU."""
    samples = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in samples.items()
    }
    samples["density"] = samples["density"].detach().requires_grad_()
    samples["colour"] = samples["colour"].detach().requires_grad_()
    result = composite(**samples, early_stop=early_stop, implementation=implementation)
    outputs = [getattr(result, name) for name in OUTPUTS]
    if grads is None:
        grads = output_gradients(len(outputs[1]), len(outputs[3]), outputs[0].shape[1])
    inputs = samples["density"], samples["colour"]
    found = torch.autograd.grad(outputs, inputs, [grad.to(device, dtype) for grad in grads])
    return [tensor.detach().cpu().double() for tensor in (*outputs, *found)]


def assert_all_close(actual, expected):
    for name, ours, theirs in zip((*OUTPUTS, "grad density", "grad colour"), actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_matches_the_reference(implementation, lengths, device):
    samples = random_samples(lengths)
    actual = evaluate(samples, implementation, device=device, dtype=torch.float32)
    assert_all_close(actual, evaluate(samples, "reference"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8])
def test_any_number_of_channels(implementation, channels, device):
    samples = random_samples([4, 0, 40], channels)
    actual = evaluate(samples, implementation, device=device, dtype=torch.float32)
    assert_all_close(actual, evaluate(samples, "reference"))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("output", range(4), ids=OUTPUTS)
def test_gradient_from_each_output_alone(implementation, output, device):
    samples = random_samples([3, 50])
    grads = [grad if i == output else grad * 0 for i, grad in enumerate(output_gradients(2, 53, 3))]
    actual = evaluate(samples, implementation, device=device, dtype=torch.float32, grads=grads)
    assert_all_close(actual, evaluate(samples, "reference", grads=grads))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("early_stop", [0.0, 0.3])
def test_early_stop(implementation, early_stop, device):
    samples = random_samples([60, 5, 120], thickness=60.0)
    actual = evaluate(samples, implementation, device=device, dtype=torch.float32, early_stop=early_stop)
    expected = evaluate(samples, "reference", early_stop=early_stop)
    assert_all_close(actual, expected)
    if early_stop:
        behind = expected[3] == 0
        assert behind.sum() > 50
        assert actual[3][behind].eq(0).all()
        assert actual[4][behind].eq(0).all()
        assert actual[5][behind].eq(0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    samples = {
        name: tensor.to(device, torch.float32 if tensor.is_floating_point() else None)
        for name, tensor in random_samples([9, 0, 40]).items()
    }
    grads = output_gradients(3, 49, 3)
    strided = {
        name: torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0] for name, tensor in samples.items()
    }
    strided["colour"] = samples["colour"].T.contiguous().T
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    spread = [torch.stack([grad, grad], dim=-1)[..., 0] for grad in grads]
    actual = evaluate(strided, implementation, device=device, dtype=torch.float32, grads=spread)
    expected = evaluate(samples, implementation, device=device, dtype=torch.float32, grads=grads)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_output_nobody_uses_sends_no_gradient(implementation, device):
    samples = random_samples([5, 8])
    found = []
    for name, dtype, where in ((implementation, torch.float32, device), ("reference", torch.float64, "cpu")):
        inputs = {k: v.to(where, dtype if v.is_floating_point() else None) for k, v in samples.items()}
        inputs["density"].requires_grad_()
        composite(**inputs, implementation=name).rgb.sum().backward()
        found.append(inputs["density"].grad.cpu().double())
    torch.testing.assert_close(*found, **TOLERANCE)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_an_opaque_wall_hides_what_is_behind(implementation, device):
    wall = torch.tensor([0.0, 1e6, 5.0], device=device)
    t = torch.tensor([1.0, 2.0, 3.0], device=device)
    colour = torch.eye(3, device=device)
    offsets = torch.tensor([0, 3], device=device)
    result = composite(wall, colour, t, t + 1, offsets, implementation=implementation)
    assert result.rgb.tolist() == [[0.0, 1.0, 0.0]]
    assert result.opacity.tolist() == [1.0]
    assert result.depth.tolist() == [2.5]
    assert result.weights.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_weights_obey_their_laws(implementation, device):
    samples = random_samples(LENGTHS["many"], thickness=200.0)
    dtype = torch.float64 if implementation == "reference" else torch.float32
    result = composite(
        **{k: v.to(device, dtype if v.is_floating_point() else None) for k, v in samples.items()},
        implementation=implementation,
    )
    assert isinstance(result, Composited)
    assert result.weights.min() >= 0
    assert result.opacity.min() >= 0
    assert result.opacity.max() <= 1 + 1e-6
    sums = [float(part.double().sum()) for part in result.weights.cpu().split(LENGTHS["many"])]
    torch.testing.assert_close(
        result.opacity.cpu().double(), torch.tensor(sums, dtype=torch.float64), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_a_nan_density_reaches_its_ray_and_no_other(implementation, device):
    density = torch.tensor([1.0, math.nan, 1.0, 2.0], device=device)
    t = torch.arange(4.0, device=device)
    offsets = torch.tensor([0, 3, 4], device=device)
    result = composite(density, torch.ones(4, 3, device=device), t, t + 1, offsets, implementation=implementation)
    assert result.opacity.isnan().tolist() == [True, False]


def test_reference_agrees_with_the_loop_in_the_contract():
    samples = random_samples(LENGTHS["many"])
    result = composite(**samples, implementation="reference")
    density, colour, t_start, t_end, offsets = samples.values()
    for ray in range(len(offsets) - 1):
        transmittance, rgb, depth = 1.0, torch.zeros(3, dtype=torch.float64), 0.0
        for i in range(int(offsets[ray]), int(offsets[ray + 1])):
            alpha = 1 - math.exp(-float(density[i]) * float(t_end[i] - t_start[i]))
            weight = alpha * transmittance if transmittance >= 1e-4 else 0.0
            transmittance *= 1 - alpha
            rgb, depth = rgb + weight * colour[i], depth + weight * float(t_start[i] + t_end[i]) / 2
            assert float(result.weights[i]) == pytest.approx(weight, abs=1e-12)
        torch.testing.assert_close(result.rgb[ray], rgb)
        assert float(result.depth[ray]) == pytest.approx(depth, abs=1e-12)


def test_reference_of_a_homogeneous_slab_is_beer_lambert():
    edges = torch.linspace(0, 2, 101, dtype=torch.float64)
    density = torch.full((100,), 0.7, dtype=torch.float64)
    colour = torch.full((100, 1), 0.25, dtype=torch.float64)
    offsets = torch.tensor([0, 100])
    result = composite(density, colour, edges[:-1], edges[1:], offsets, early_stop=0, implementation="reference")
    opacity = 1 - math.exp(-1.4)
    assert float(result.opacity) == pytest.approx(opacity, abs=1e-12)
    assert float(result.rgb) == pytest.approx(0.25 * opacity, abs=1e-12)


@pytest.mark.parametrize("early_stop", [0.0, 0.5])
def test_reference_gradient_by_finite_differences(early_stop):
    samples = random_samples([4, 0, 6], channels=2)
    rest = samples["t_start"], samples["t_end"], samples["ray_offsets"]

    def outputs(density, colour):
        result = composite(density, colour, *rest, early_stop=early_stop, implementation="reference")
        return tuple(getattr(result, name) for name in OUTPUTS)

    inputs = samples["density"].requires_grad_(), samples["colour"].requires_grad_()
    assert torch.autograd.gradcheck(outputs, inputs)


def test_errors_teach():
    samples = {k: v.float() if v.is_floating_point() else v for k, v in random_samples([2, 3]).items()}
    wrong = {
        "colour": (torch.zeros(5, 9), "colour's channels: expected a value at least 1 and at most 8, got 9"),
        "density": (torch.zeros(5, 1), r"density: expected shape \(S\), got \(5, 1\)"),
        "t_end": (torch.zeros(4), r"t_end: expected shape \(5\), got \(4,\)"),
        "t_start": (torch.zeros(5, requires_grad=True), r"no gradient flows to interval ends; pass t_start.detach\(\)"),
        "ray_offsets": (torch.zeros(3), "ray_offsets: expected dtype torch.int64, got torch.float32"),
        "early_stop": (math.nan, "early_stop: expected a value at least 0 and at most 1, got nan"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(InputError, match=message):
            composite(**{**samples, name: value})
