from dataclasses import replace

import pytest
import torch

from voxfield.errors import FormatError, InputError
from voxfield.kernels.adam import AdamRule
from voxfield.models.base import ParameterGroup, RowsMoved
from voxfield.training.optimisers import Adam, make_optimiser

RULE = AdamRule(beta1=0.9, beta2=0.99, epsilon=1e-8)


def groups(*sizes: int) -> list[ParameterGroup]:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.rand(size, 3, generator=generator)) for size in sizes]
    return [
        ParameterGroup(name="all", parameters=parameters[:1]),
        ParameterGroup(name="slow", parameters=parameters[1:], learning_rate_factor=0.5),
    ]


def loss_of(held: list[ParameterGroup]) -> torch.Tensor:
    return sum(((p - 1) ** 2 * (1 + torch.arange(3.0))).sum() for g in held for p in g.parameters)  # type: ignore[return-value]


def test_it_is_torchs_adam() -> None:
    ours, theirs = groups(70, 5), groups(70, 5)
    adam = Adam(ours, RULE)
    oracle = torch.optim.Adam(
        [{"params": list(group.parameters), "lr": 0.1 * group.learning_rate_factor} for group in theirs],
        betas=(0.9, 0.99),
        eps=1e-8,
    )
    for _ in range(5):
        loss_of(ours).backward()
        adam.step(0.1)
        oracle.zero_grad()
        loss_of(theirs).backward()
        oracle.step()
    for own, other in zip(ours, theirs, strict=True):
        for a, b in zip(own.parameters, other.parameters, strict=True):
            # Five float32 updates of size 0.1, differently rounded.
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_with_decay_it_is_torchs_adamw() -> None:
    ours, theirs = groups(70, 5), groups(70, 5)
    adam = Adam([replace(group, weight_decay=0.1) for group in ours], RULE)
    oracle = torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": 0.1 * group.learning_rate_factor} for group in theirs],
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=0.1,
    )
    for _ in range(5):
        loss_of(ours).backward()
        adam.step(0.1)
        oracle.zero_grad()
        loss_of(theirs).backward()
        oracle.step()
    for own, other in zip(ours, theirs, strict=True):
        for a, b in zip(own.parameters, other.parameters, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_gradients_are_cleared_and_their_buffers_stay() -> None:
    held = groups(10, 2)
    adam = Adam(held, RULE)
    buffer = held[0].parameters[0].grad
    loss_of(held).backward()
    assert buffer is not None
    assert held[0].parameters[0].grad is buffer
    assert bool(buffer.any())
    adam.step(0.1)
    assert not bool(buffer.any())


def test_skip_zero_leaves_untouched_entries_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(40))
    adam = Adam([ParameterGroup(name="table", parameters=[parameter], skip_zero=True)], RULE)
    for touched in (slice(0, 20), slice(0, 3)):
        parameter[touched].sum().backward()
        held = parameter.detach().clone()
        adam.step(0.1)
        changed = parameter != held
        assert changed.nonzero()[:, 0].tolist() == list(range(40))[touched]


def test_state_goes_there_and_back() -> None:
    one, other = groups(10, 2), groups(10, 2)
    first, second = Adam(one, RULE), Adam(other, RULE)
    for _ in range(3):
        loss_of(one).backward()
        first.step(0.1)
    second.load_state_dict(first.state_dict())
    for own, copy in zip(one, other, strict=True):
        for a, b in zip(own.parameters, copy.parameters, strict=True):
            b.data.copy_(a.data)
    for adam, held in ((first, one), (second, other)):
        loss_of(held).backward()
        adam.step(0.1)
    assert torch.equal(one[0].parameters[0], other[0].parameters[0])


def test_a_state_of_other_parameters_is_refused() -> None:
    with pytest.raises(FormatError, match="another size"):
        Adam(groups(10, 2), RULE).load_state_dict(Adam(groups(11, 2), RULE).state_dict())


def test_gradients_that_overflowed_are_dropped() -> None:
    held = groups(4, 2)
    adam = Adam(held, RULE)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(loss_of(held)).backward()
    expected = [p.grad.clone() / 8 for g in held for p in g.parameters if p.grad is not None]
    assert adam.unscale(scaler)
    gradients = [p.grad for g in held for p in g.parameters]
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)
    held[0].parameters[0].grad = torch.full((4, 3), torch.inf)
    scale = scaler.get_scale()
    assert not adam.unscale(scaler)
    assert scaler.get_scale() == scale / 2
    assert not any(bool(p.grad.any()) for g in held for p in g.parameters if p.grad is not None)


def rows(count: int = 40) -> ParameterGroup:
    parameter = torch.nn.Parameter(torch.rand(count, 3, generator=torch.Generator().manual_seed(1)))
    return ParameterGroup(
        name="rows", parameters=[parameter], touched=torch.zeros(count, dtype=torch.uint8), rate=lambda p: 0.1 * (1 - p)
    )


def touch(group: ParameterGroup, which: slice) -> None:
    assert group.parameters[0].grad is not None
    assert group.touched is not None
    group.parameters[0].grad[which] = 2.0
    group.touched[which] = 1


@pytest.mark.parametrize("name", ["rmsprop", "sgd", "adam"])
def test_touched_rows_move_at_the_groups_own_rate(name: str) -> None:
    group = rows()
    optimiser = make_optimiser(name, [group], beta1=0.9, beta2=0.95, epsilon=1e-8)
    before = group.parameters[0].detach().clone()
    touch(group, slice(0, 7))
    optimiser.step(1e6, 0.5)
    moved = before - group.parameters[0].detach()
    torch.testing.assert_close(moved[:7], torch.full((7, 3), 0.1 if name == "sgd" else 0.05))
    assert moved[7:].eq(0).all()
    assert group.touched is not None
    assert group.touched.eq(0).all()
    assert group.parameters[0].grad is not None
    assert group.parameters[0].grad.eq(0).all()


@pytest.mark.parametrize("name", ["rmsprop", "sgd", "adam"])
def test_state_follows_rows_that_moved(name: str) -> None:
    group = rows()
    optimiser = make_optimiser(name, [group], beta1=0.9, beta2=0.95, epsilon=1e-8)
    touch(group, slice(0, 20))
    optimiser.step(0.0, 0.0)
    before = optimiser.state_dict()["moments"][0]
    kept = torch.tensor([3, 25, -1, 19])
    after = rows(4)
    optimiser.follow(RowsMoved(source=kept, groups=("rows",)), [after])
    moments = optimiser.state_dict()["moments"][0]
    assert len(moments) == {"rmsprop": 1, "sgd": 0, "adam": 2}[name]
    for now, then in zip(moments, before, strict=True):
        assert torch.equal(now[[0, 1, 3]], then[[3, 25, 19]])
        assert bool(now[0].ne(0).all())
        assert now[2].eq(0).all()
    touch(after, slice(0, 4))
    optimiser.step(0.0, 0.0)


def test_groups_that_stay_keep_their_state() -> None:
    held = groups(10, 2)
    adam = Adam(held, RULE)
    loss_of(held).backward()
    adam.step(0.1)
    before = [moment.clone() for pair in adam.state_dict()["moments"] for moment in pair]
    buffer = held[0].parameters[0].grad
    adam.follow(None, held)
    assert held[0].parameters[0].grad is buffer
    for now, then in zip((m for pair in adam.state_dict()["moments"] for m in pair), before, strict=True):
        assert torch.equal(now, then)


def test_optimisers_suit_their_models() -> None:
    options = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}
    with pytest.raises(InputError, match="rmsprop is for voxel grids"):
        make_optimiser("rmsprop", groups(3, 2), **options)
    with pytest.raises(InputError, match="radam does not update single rows"):
        make_optimiser("radam", [rows()], **options)
