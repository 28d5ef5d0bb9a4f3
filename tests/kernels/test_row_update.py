import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.row_update import RowRule, row_update

IMPLEMENTATIONS = ["numba", "triton"]
KINDS = ["rmsprop", "sgd", "adam"]
SHAPES = {"no rows": (0, 4), "one": (1,), "densities": (1001,), "coefficients": (57, 3, 9)}


def state(shape, rule, share=0.4, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(len(shape))
    parameter, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    moments = tuple(torch.rand(shape, generator=generator).to(dtype) for _ in range(rule.moments))
    touched = (torch.rand(shape[0], generator=generator) < share).to(torch.uint8)
    # As in training: rows without a mark have no gradient.
    gradient[touched == 0] = 0
    if moments:
        moments[-1][: shape[0] // 2] = 0
    moments = tuple(moment.to(device) for moment in moments)
    return parameter.to(device), gradient.to(device), moments, touched.to(device)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_matches_the_reference(implementation, kind, shape, share, device):
    rule = RowRule(kind=kind, learning_rate=0.3)
    expected = state(shape, rule, share)
    actual = state(shape, rule, share, torch.float32, device)
    row_update(*expected, step=3, rule=rule, implementation="reference")
    row_update(*actual, step=3, rule=rule, implementation=implementation)
    for ours, theirs in zip((*actual[:2], *actual[2]), (*expected[:2], *expected[2]), strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_mark_stay_as_they_are(kind, implementation, device):
    rule = RowRule(kind=kind)
    parameter, gradient, moments, touched = state((300, 3, 4), rule, dtype=torch.float32, device=device)
    before = [tensor.clone() for tensor in (parameter, *moments)]
    row_update(parameter, gradient, moments, touched, step=1, rule=rule, implementation=implementation)
    assert gradient.eq(0).all()
    for now, then in zip((parameter, *moments), before, strict=True):
        assert torch.equal(now[touched == 0], then[touched == 0])
    assert not torch.equal(parameter[touched == 1], before[0][touched == 1])


def test_the_first_step_of_rmsprop_is_as_long_as_the_rate():
    parameter, gradient = torch.zeros(4, dtype=torch.float64), torch.tensor([1e-3, -2.0, 50.0, 0.0]).double()
    rule = RowRule(learning_rate=0.25)
    row_update(parameter, gradient, (torch.zeros(4).double(),), torch.ones(4, dtype=torch.uint8), step=1, rule=rule)
    torch.testing.assert_close(parameter, torch.tensor([-0.25, 0.25, -0.25, 0.0]).double(), rtol=1e-4, atol=0)


def test_rmsprop_agrees_with_torch_where_the_second_moment_is_known():
    parameter, gradient, moments, _ = state((50,), RowRule(), share=1.0)
    moments[0].add_(1.0)
    theirs = torch.nn.Parameter(parameter.clone())
    optimiser = torch.optim.RMSprop([theirs], lr=0.01, alpha=0.95, eps=1e-8)
    optimiser.state[theirs] = {"step": torch.tensor(0.0), "square_avg": moments[0].clone()}
    theirs.grad = gradient.clone()
    optimiser.step()
    row_update(parameter, gradient, moments, torch.ones(50, dtype=torch.uint8), step=1, rule=RowRule())
    torch.testing.assert_close(parameter, theirs.detach())


def test_errors_teach():
    rows = torch.zeros(5, 3)
    touched = torch.ones(5, dtype=torch.uint8)
    with pytest.raises(InputError, match="moments: rmsprop needs 1, got 0"):
        row_update(rows, rows.clone(), (), touched, step=1, rule=RowRule())
    with pytest.raises(InputError, match=r"touched: expected shape \(5\), got \(4,\)"):
        row_update(rows, rows.clone(), (rows.clone(),), touched[:4], step=1, rule=RowRule())
    with pytest.raises(InputError, match="gradient: expected a contiguous tensor"):
        row_update(rows, torch.zeros(3, 5).T, (rows.clone(),), touched, step=1, rule=RowRule())
    with pytest.raises(InputError, match="unknown value 'rmsporp'"):
        RowRule(kind="rmsporp")
