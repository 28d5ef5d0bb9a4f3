"""A training that is looked at."""

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import pytest

from voxfield.training.trainer import Moment
from voxfield.viewer.training_view import LONGEST_PICTURE, MOST_SAVED, SHARE, TrainingView


class Control:
    """A control of the page, as viser's handles are."""

    def __init__(self) -> None:
        self.content, self.label, self.data = "", "", ()

    def on_click(self, call: Any) -> None:
        self.click = call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        pass


class Page:
    """viser's controls, kept by their label."""

    def __init__(self) -> None:
        self.controls: dict[str, Control] = {}
        self.plots: dict[str, Control] = {}

    def add_uplot(self, *, series: Any, **_options: Any) -> Control:
        return self.plots.setdefault(series[0]["label"], Control())

    def __getattr__(self, _kind: str) -> Any:
        def add(label: str, **_options: Any) -> Control:
            return self.controls.setdefault(label, Control())

        return add


class Stage:
    """A viewer whose painting takes as long as it is given, and a little more; time is the test's."""

    def __init__(self) -> None:
        self.now = self.painted = 0.0
        self.browsers, self.again, self.limit = 1, 0, 0.0
        self.server = SimpleNamespace(gui=Page())
        self.during: Any = lambda: None

    def work(self, seconds: float) -> bool:
        self.now += seconds + 0.03
        self.painted += seconds + 0.03
        self.during()
        return True

    def paint_again(self) -> None:
        self.again += 1

    def limit_pictures(self, seconds: float | None) -> None:
        self.limit = seconds


def moment(step: int, step_seconds: float = 0.1, stopping: threading.Event | None = None) -> Moment:
    return Moment(
        step=step,
        seconds=step * step_seconds,
        step_seconds=step_seconds,
        progress=0.5,
        psnr=20.0,
        loss=0.01,
        stopping=stopping or threading.Event(),
    )


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def view(stage: Stage) -> TrainingView:
    return TrainingView(stage, clock=lambda: stage.now)


@pytest.mark.parametrize("step_seconds", [0.01, 0.1, 2.0])
def test_pictures_take_their_share_of_the_time_and_no_more(view, stage, step_seconds: float) -> None:
    for step in range(1, 2001):
        stage.now += step_seconds
        assert view(moment(step, step_seconds))
    assert stage.painted / (2000 * step_seconds) < SHARE + 0.001 < 0.1
    assert stage.painted / (2000 * step_seconds) > SHARE / 2
    assert stage.again > 0


def test_what_is_saved_up_is_bounded(view, stage) -> None:
    stage.browsers = 0
    for step in range(1, 1001):
        view(moment(step, 1.0))
    assert stage.painted == 0
    stage.browsers = 1
    view(moment(1001, 0.0))
    assert stage.painted <= MOST_SAVED + 0.04


def test_the_curve_has_few_points_however_long_the_training(view, stage) -> None:
    stage.browsers = 0
    for step in range(1, 30_000):
        view(moment(step))
    stage.browsers, stage.now = 1, 1e6
    view(moment(30_000))
    steps, psnr = stage.server.gui.plots["step"].data
    assert 100 < len(steps) == len(psnr) <= 400
    assert (psnr == 20.0).all()
    assert (steps[1:] > steps[:-1]).all()
    assert "Step 30,000" in stage.server.gui.controls["Starting."].content


def test_the_curve_is_drawn_over_time_too(view, stage) -> None:
    stage.browsers = 0
    # The second half of the steps takes ten times as long.
    seconds = 0.0
    for step in range(1, 201):
        seconds += 0.1 if step <= 100 else 1.0
        view(replace(moment(step, 0.1 if step <= 100 else 1.0), seconds=seconds, psnr=step / 10))
    stage.browsers, stage.now = 1, 1e6
    view(replace(moment(201, 1.0), seconds=seconds + 1.0, psnr=20.1))
    (steps, by_step), (minutes, by_minute) = (stage.server.gui.plots[name].data for name in ("step", "minutes"))
    assert by_step.tolist() == by_minute.tolist()
    expected = [min(step, 100) * 0.1 + max(step - 100, 0) * 1.0 for step in steps.tolist()]
    assert (60 * minutes).tolist() == pytest.approx(expected)
    assert minutes[-1] == pytest.approx(111.0 / 60)
    pace = 1000 * (1 - 0.9 * 0.95**101)
    assert f"111 s · {pace:.1f} ms a step" in stage.server.gui.controls["Starting."].content


def test_pause_holds_the_training_and_lets_pictures_be_fine(view, stage) -> None:
    pause = stage.server.gui.controls["Pause"]
    limits = []

    def during() -> None:
        limits.append(stage.limit)
        if len(limits) == 3:
            assert pause.label == "Resume"
            pause.click(None)

    pause.click(None)
    stage.during = during
    stage.browsers = 0
    assert view(moment(1)) is True
    assert limits == [None] * 3
    assert (stage.limit, pause.label) == (LONGEST_PICTURE, "Pause")


def test_stop_ends_the_training_also_while_it_is_paused(view, stage) -> None:
    controls = stage.server.gui.controls
    controls["Pause"].click(None)
    stage.during = lambda: controls["Stop and save"].click(None)
    assert view(moment(1)) is False


def test_a_signal_ends_a_pause(view, stage) -> None:
    stopping = threading.Event()
    stage.server.gui.controls["Pause"].click(None)
    stage.during = stopping.set
    assert view(moment(1, stopping=stopping)) is True
