import pytest
import torch

from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.kernels.dispatch import Implementation

# Three float32 updates, each of a few roundings of values of order 1.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}

RULES = {
    "plain": AdamRule(learning_rate=0.05, epsilon=1e-8),
    "the trainer's": AdamRule(learning_rate=0.01, beta2=0.99, epsilon=1e-15, skip_zero=True),
    "no momentum": AdamRule(learning_rate=0.1, beta1=0.0, beta2=0.0, epsilon=1e-3),
    "still": AdamRule(learning_rate=0.0),
    "rectified": AdamRule(learning_rate=0.01, beta2=0.9, epsilon=1e-8, rectified=True),
    "rectified, before it is": AdamRule(learning_rate=0.01, beta2=0.999, rectified=True, skip_zero=True),
}
SIZES = [0, 1, 7, 8, 15, 16, 17, 1000, 40_001]


def state(size: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    parameter = torch.randn(size, generator=generator, dtype=torch.float64)
    return [parameter, torch.zeros_like(parameter), torch.zeros_like(parameter)]


def gradients(size: int, step: int) -> torch.Tensor:
    """Half of the entries zero, in runs longer and shorter than a vector; sizes from 1e-6 to 1."""
    generator = torch.Generator().manual_seed(1000 * step + size)
    values = torch.randn(size, generator=generator, dtype=torch.float64)
    values *= 10 ** (-6 * torch.rand(size, generator=generator, dtype=torch.float64))
    index = torch.arange(size)
    return torch.where((index // 20 + step) % 2 == 0, values, 0) * (index % 5 != 3)


def run(size, rule, implementation, dtype):
    held = [tensor.to(dtype) for tensor in state(size)]
    for step in (4, 5, 6) if rule.rectified else (1, 2, 3):  # with a beta2 of 0.9 the sixth is the first rectified one
        gradient = gradients(size, step).to(dtype)
        adam_step(held[0], gradient, held[1], held[2], step=step, rule=rule, implementation=implementation)
        assert not bool(gradient.any())
    return [tensor.double() for tensor in held]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("size", SIZES)
def test_matches_the_reference(size, rule):
    actual = run(size, rule, "numba", torch.float32)
    expected = run(size, rule, "reference", torch.float64)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_the_reference_is_torchs_adam():
    parameter, first, second = state(50)
    other = torch.nn.Parameter(parameter.clone())
    oracle = torch.optim.Adam([other], lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for step in (1, 2, 3):
        gradient = gradients(50, step)
        other.grad = gradient.clone()
        oracle.step()
        adam_step(parameter, gradient, first, second, step=step, rule=RULES["plain"], implementation="reference")
    torch.testing.assert_close(parameter, other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta2", [0.9, 0.99])
def test_the_rectified_reference_is_torchs_radam(beta2):
    rule = AdamRule(learning_rate=0.05, beta2=beta2, epsilon=1e-3, rectified=True)
    parameter, first, second = state(50)
    other = torch.nn.Parameter(parameter.clone())
    oracle = torch.optim.RAdam([other], lr=0.05, betas=(0.9, beta2), eps=1e-3)
    for step in range(1, 12):
        gradient = gradients(50, step)
        other.grad = gradient.clone()
        oracle.step()
        adam_step(parameter, gradient, first, second, step=step, rule=rule, implementation="reference")
    torch.testing.assert_close(parameter, other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_skip_zero_leaves_moments_alone(implementation):
    rule = RULES["the trainer's"]
    parameter, first, second = torch.ones(33), torch.full((33,), 0.5), torch.full((33,), 0.25)
    gradient = torch.zeros(33)
    gradient[20] = 1.0
    adam_step(parameter, gradient, first, second, step=5, rule=rule, implementation=implementation)
    rest = torch.arange(33) != 20
    assert bool((parameter[rest] == 1).all() & (first[rest] == 0.5).all() & (second[rest] == 0.25).all())
    assert parameter[20] != 1
    assert first[20] != 0.5


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_a_broken_gradient_reaches_no_other_entry(implementation):
    parameter, first, second = torch.zeros(33), torch.zeros(33), torch.zeros(33)
    gradient = torch.ones(33)
    gradient[9] = torch.nan
    adam_step(parameter, gradient, first, second, step=1, rule=RULES["plain"], implementation=implementation)
    assert parameter.isnan().nonzero()[:, 0].tolist() == [9]


def test_matrices_are_updated_in_place():
    parameter = torch.ones(5, 7)
    address = parameter.data_ptr()
    adam_step(parameter, torch.ones(5, 7), torch.zeros(5, 7), torch.zeros(5, 7), step=1, rule=RULES["plain"])
    assert parameter.data_ptr() == address
    torch.testing.assert_close(parameter, torch.full((5, 7), 0.95))


def test_arguments_are_checked():
    three, rule = [torch.zeros(4) for _ in range(3)], RULES["plain"]
    with pytest.raises(InputError, match="gradient: expected shape"):
        adam_step(torch.zeros(4), torch.zeros(5), *three[:2], step=1, rule=rule)
    with pytest.raises(InputError, match="second_moment: expected dtype"):
        adam_step(*three, torch.zeros(4, dtype=torch.float64), step=1, rule=rule)
    with pytest.raises(InputError, match="parameter: expected a contiguous tensor"):
        adam_step(torch.zeros(8)[::2], *three, step=1, rule=rule)
    with pytest.raises(InputError, match="step"):
        adam_step(torch.zeros(4), *three, step=0, rule=rule)
    with pytest.raises(UnavailableError, match="float32"):
        adam_step(*(torch.zeros(4, dtype=torch.float64) for _ in range(4)), step=1, rule=rule, implementation="numba")


@pytest.mark.parametrize("bad", [{"learning_rate": -1.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": -1e-9}])
def test_rules_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        AdamRule(**bad)


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_a_negative_zero_is_a_zero_gradient(implementation: Implementation) -> None:
    tensors = [torch.ones(40), torch.full((40,), -0.0), torch.ones(40), torch.ones(40)]
    adam_step(*tensors, step=3, rule=AdamRule(skip_zero=True), implementation=implementation)
    for tensor in (tensors[0], tensors[2], tensors[3]):
        assert torch.equal(tensor, torch.ones(40))


def test_there_is_no_triton_kernel_to_ask_for(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    values = [torch.zeros(3) for _ in range(4)]
    with pytest.raises(UnavailableError, match="there is no Triton kernel"):
        adam_step(*values, step=1, rule=AdamRule(learning_rate=0.1), implementation="triton")
