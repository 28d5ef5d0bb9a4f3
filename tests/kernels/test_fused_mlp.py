import pytest
import torch

from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.fused_mlp import fused_mlp

# Float32 sums of up to 64 products of order 1 a layer, three layers deep; weight gradients sum over all rows, so their
# absolute error grows with the root of that number and is judged against the largest entry.
RELATIVE = 2e-5

SHAPES = {
    "the fields' own": [32, 64, 64, 4],
    "a single layer": [5, 7],
    "narrow": [3, 1, 1],
    "nothing whole": [31, 17, 33, 5],
    "wide": [48, 128, 16],
    "deep": [8, 16, 16, 16, 16, 16, 3],
}


def example(rows: int, widths: list[int], seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Inputs, weights that keep activations of order 1, and output gradients, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn
    inputs = draw(rows, widths[0], generator=generator, dtype=torch.float64)
    weights = [
        draw(out, into, generator=generator, dtype=torch.float64) * (2 / into) ** 0.5
        for into, out in zip(widths[:-1], widths[1:], strict=True)
    ]
    return inputs, weights, draw(rows, widths[-1], generator=generator, dtype=torch.float64)


def evaluate(inputs, weights, grad, implementation, dtype):
    """Output, gradient to the inputs, gradients to the weights; float64."""
    inputs = inputs.to(dtype).detach().requires_grad_()
    weights = [weight.to(dtype).detach().requires_grad_() for weight in weights]
    output = fused_mlp(inputs, weights, implementation=implementation)
    found = torch.autograd.grad(output, (inputs, *weights), grad.to(dtype))
    return [tensor.detach().double() for tensor in (output, *found)]


def assert_matches(inputs, weights, grad):
    actual = evaluate(inputs, weights, grad, "numba", torch.float32)
    expected = evaluate(inputs, weights, grad, "reference", torch.float64)
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.shape == theirs.shape
        scale = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=RELATIVE,
            atol=RELATIVE * max(scale, 1e-3),
            msg=lambda text, i=index: f"tensor {i}: {text}",
        )


@pytest.mark.parametrize("widths", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", [1, 129])
def test_matches_the_reference(widths, rows):
    assert_matches(*example(rows, widths))


@pytest.mark.parametrize("rows", [0, 2, 15, 127, 128, 256, 1000])
def test_any_number_of_rows(rows):
    assert_matches(*example(rows, SHAPES["the fields' own"]))


@pytest.mark.parametrize("layout", ["feature-major", "every second", "expanded"])
def test_any_strides(layout):
    inputs, weights, grad = example(130, [6, 16, 3])
    if layout == "feature-major":
        inputs = inputs.T.contiguous().T
    elif layout == "every second":
        inputs = inputs.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]
    else:
        inputs = inputs[:1].expand(130, 6)
    assert_matches(inputs, weights, grad)


def test_strides_of_gradients_and_weights():
    inputs, weights, grad = example(130, [6, 16, 3])
    assert_matches(inputs, [weight.T.contiguous().T for weight in weights], grad[:, :1].expand(130, 3))


def test_the_output_is_feature_major():
    inputs, weights, _ = example(200, [6, 16, 3])
    output = fused_mlp(inputs.float(), [weight.float() for weight in weights])
    assert output.shape == (200, 3)
    assert output.stride(0) == 1


@pytest.mark.parametrize("wanted", ["inputs", "weights", "second weight"])
def test_gradients_are_only_those_asked_for(wanted):
    inputs, weights, grad = (example(130, [6, 16, 3])[0].float(), *example(130, [6, 16, 3])[1:])
    weights, grad = [weight.float() for weight in weights], grad.float()
    inputs.requires_grad_(wanted == "inputs")
    for index, weight in enumerate(weights):
        weight.requires_grad_(wanted == "weights" or (wanted == "second weight" and index == 1))
    leaves = [tensor for tensor in (inputs, *weights) if tensor.requires_grad]
    actual = torch.autograd.grad(fused_mlp(inputs, weights), leaves, grad)
    expected = torch.autograd.grad(fused_mlp(inputs, weights, implementation="reference"), leaves, grad)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_nothing_is_kept_without_gradients():
    inputs, weights, _ = example(300, [6, 16, 3])
    with torch.no_grad():
        output = fused_mlp(inputs.float(), [weight.float().requires_grad_() for weight in weights])
    assert output.grad_fn is None
    expected = fused_mlp(inputs, weights, implementation="reference")
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_broken_row_reaches_no_other():
    inputs, weights, _ = example(260, [6, 16, 3])
    inputs, weights = inputs.float(), [weight.float() for weight in weights]
    clean = fused_mlp(inputs, weights)
    inputs[77] = torch.nan
    broken = fused_mlp(inputs, weights)
    rest = torch.arange(260) != 77
    assert torch.equal(clean[rest], broken[rest])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_call_gives_the_same_bits(threads):
    inputs, weights, grad = example(3000, [32, 64, 64, 4])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first = evaluate(inputs, weights, grad, "numba", torch.float32)
        again = evaluate(inputs, weights, grad, "numba", torch.float32)
        assert_matches(inputs, weights, grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_backward_twice_through_two_graphs():
    # Recycled memory must not be handed out while a graph still needs it.
    inputs, weights, grad = example(500, [8, 64, 4])
    inputs, weights, grad = inputs.float(), [weight.float().requires_grad_() for weight in weights], grad.float()
    first = fused_mlp(inputs, weights)
    second = fused_mlp(inputs * 2, weights)
    found = torch.autograd.grad(first, weights, grad), torch.autograd.grad(second, weights, grad)
    for actual, scale in zip(found, (1, 2), strict=True):
        reference = fused_mlp(inputs * scale, weights, implementation="reference")
        for ours, theirs in zip(actual, torch.autograd.grad(reference, weights, grad), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_autocast_is_honoured_and_the_dtype_kept():
    inputs, weights, grad = example(20_000, [8, 16, 4])
    inputs = inputs.float().requires_grad_()
    weights = [weight.float().requires_grad_() for weight in weights]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = fused_mlp(inputs, weights)
    assert output.dtype == torch.float32
    assert output.shape == (20_000, 4)
    found = torch.autograd.grad(output, (inputs, *weights), grad.float())
    exact = fused_mlp(inputs, weights, implementation="reference")
    difference = (output - exact).detach().abs().max() / exact.detach().abs().max()
    # bfloat16 has 8 bits: different from float32, and not by much.
    assert 1e-5 < float(difference) < 0.05
    assert all(bool(tensor.isfinite().all()) and tensor.dtype == torch.float32 for tensor in found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused_mlp(inputs[:0], weights).shape == (0, 4)


@pytest.mark.parametrize(
    ("inputs", "shapes", "message"),
    [
        ((4,), [(3, 4)], "inputs: expected shape"),
        ((5, 4), [], "at least one layer"),
        ((5, 4), [(3, 5)], r"weights\[0\]"),
        ((5, 4), [(3, 4), (2, 4)], r"weights\[1\]"),
    ],
)
def test_shapes_are_checked(inputs, shapes, message):
    with pytest.raises(InputError, match=message):
        fused_mlp(torch.zeros(inputs), [torch.zeros(shape) for shape in shapes])


def test_dtypes_are_checked():
    with pytest.raises(InputError, match="float32"):
        fused_mlp(torch.zeros(2, 3), [torch.zeros(4, 3, dtype=torch.float64)])
    with pytest.raises(UnavailableError, match="float32"):
        fused_mlp(
            torch.zeros(2, 3, dtype=torch.float64), [torch.zeros(4, 3, dtype=torch.float64)], implementation="numba"
        )


@pytest.mark.parametrize(
    ("rows", "rays", "channels", "common"), [(0, 2, 4, 3), (1, 1, 4, 3), (300, 7, 16, 16), (129, 40, 1, 5)]
)
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_shared_inputs(rows, rays, channels, common, index_dtype):
    generator = torch.Generator().manual_seed(rows)
    _, weights, grad = example(rows, [channels + common, 64, 3])
    inputs = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    shared = torch.randn(rays, common, generator=generator, dtype=torch.float64)
    index = torch.randint(rays, (rows,), generator=generator).sort().values.to(index_dtype)

    def run(implementation, dtype):
        leaves = [tensor.to(dtype).detach().requires_grad_() for tensor in (inputs, shared, *weights)]
        output = fused_mlp(leaves[0], leaves[2:], shared=leaves[1], shared_index=index, implementation=implementation)
        found = torch.autograd.grad(output, leaves, grad.to(dtype))
        return [tensor.detach().double() for tensor in (output, *found)]

    for number, (ours, theirs) in enumerate(
        zip(run("numba", torch.float32), run("reference", torch.float64), strict=True)
    ):
        assert ours.shape == theirs.shape
        scale = max(float(theirs.abs().max()) if theirs.numel() else 1.0, 1e-3)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=RELATIVE * scale, msg=lambda t, n=number: f"{n}: {t}")


def test_shared_inputs_are_checked():
    weights = [torch.zeros(2, 7)]
    with pytest.raises(InputError, match="shared_index"):
        fused_mlp(torch.zeros(5, 4), weights, shared=torch.zeros(2, 3))
    with pytest.raises(InputError, match="shared_index"):
        fused_mlp(torch.zeros(5, 4), weights, shared=torch.zeros(2, 3), shared_index=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"weights\[0\]"):
        fused_mlp(torch.zeros(5, 4), weights, shared=torch.zeros(2, 2), shared_index=torch.zeros(5, dtype=torch.int64))
