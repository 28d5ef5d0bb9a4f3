import pytest

from voxfield.errors import InputError
from voxfield.training.schedules import LearningRate


def test_warm_up_then_constant_then_decay() -> None:
    rate = LearningRate(initial=1.0, final_factor=0.01, decay_from=0.5, warm_up_steps=10)
    assert rate.at(0, 0.0) == pytest.approx(0.1)
    assert rate.at(9, 0.1) == pytest.approx(1.0)
    assert rate.at(100, 0.5) == 1.0
    assert rate.at(150, 0.75) == pytest.approx(0.1)
    assert rate.at(200, 1.0) == pytest.approx(0.01)


def test_decay_never_rises() -> None:
    rate = LearningRate()
    values = [rate.at(1000, step / 100) for step in range(101)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(rate.initial * rate.final_factor)


def test_no_decay_at_all() -> None:
    assert LearningRate(decay_from=1.0, warm_up_steps=0).at(5, 1.0) == LearningRate().initial


@pytest.mark.parametrize("bad", [{"initial": 0.0}, {"final_factor": 0.0}, {"decay_from": 1.5}, {"warm_up_steps": -1}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        LearningRate(**bad)  # type: ignore[arg-type]


def test_a_decay_that_ends_early_stays_where_it_ended() -> None:
    rate = LearningRate(initial=1.0, final_factor=0.01, decay_from=0.0, decay_until=0.5, warm_up_steps=0)
    assert rate.at(0, 0.0) == 1.0
    assert rate.at(1, 0.25) == pytest.approx(0.1)
    assert rate.at(2, 0.5) == rate.at(3, 0.9) == pytest.approx(0.01)
    step = LearningRate(initial=1.0, final_factor=0.1, decay_from=0.5, decay_until=0.5, warm_up_steps=0)
    assert (step.at(0, 0.5), step.at(1, 0.51)) == (1.0, pytest.approx(0.1))
    with pytest.raises(InputError, match="decay_until"):
        LearningRate(decay_from=0.5, decay_until=0.4)
