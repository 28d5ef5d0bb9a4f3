import io

import pytest
from rich.console import Console

from voxfield.training.progress import Progress, format_duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def plain(interval=30.0, quiet=False):
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=False, width=60)
    return clock, stream, Progress(quiet=quiet, console=console, interval=interval, clock=clock)


def train(stage, step, seconds):
    measures = {"loss": 0.0123456, "psnr": 21.987, "samples_per_ray": 9.0, "lr": 0.1}
    stage.update(step, seconds, measures=measures, rate=61234.5, unit="rays")


def test_without_a_terminal_one_line_every_interval():
    clock, stream, progress = plain()
    with progress, progress.training(total_steps=100) as stage:
        for step in range(1, 101):
            clock.now += 1
            train(stage, step, step * 0.9)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "Training  30%  step 30/100 · loss 0.01235 · PSNR 21.99 dB · 61,234 rays/s · 1:03 min left"


def test_quiet_writes_nothing(capsys):
    clock, stream, progress = plain(interval=0.0, quiet=True)
    with progress:
        progress.say("hello")
        with progress.training(total_steps=3) as stage:
            train(stage, 1, 1.0)
        with progress.stage("Rendering", 2, "frames") as work:
            clock.now += 100
            work.advance()
    assert stream.getvalue() == ""
    with Progress(quiet=True) as silent:
        silent.say("hello")
    assert capsys.readouterr() == ("", "")


def test_default_console_is_standard_error(capsys):
    with Progress() as progress:
        progress.say("a [bold] message that is longer than eighty characters and must not be wrapped in two lines " * 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "[bold]" in err


def test_on_a_terminal_the_bar_shows_and_goes():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140, color_system=None)
    with Progress(console=console) as progress, progress.training(total_steps=10) as stage:
        train(stage, 4, 2.0)
        train(stage, 5, 2.5)
        progress._bars.refresh()
        progress.say("an event")
        shown = stream.getvalue()
    assert "step 5/10" in shown
    assert "50%" in shown
    assert "2 s left" in shown
    assert "an event" in shown


def test_stage_counts_and_estimates():
    clock, stream, progress = plain(interval=0.0)
    with progress, progress.stage("Evaluating", 4, "images") as stage:
        clock.now += 10
        stage.advance(note="r_0")
        clock.now += 10
        stage.advance(3)
    assert stream.getvalue().splitlines() == [
        "Evaluating   0%  0/4 images",
        "Evaluating  25%  1/4 images · 30 s left · r_0",
        "Evaluating 100%  4/4 images",
    ]


def test_stage_of_nothing_and_overshoot():
    _, stream, progress = plain(interval=0.0)
    with progress, progress.stage("Compiling", 0) as stage:
        stage.advance(5)
    assert stream.getvalue().splitlines()[-1] == "Compiling 100%  5/0"


def test_time_left_follows_the_recent_rate():
    _, _, progress = plain()
    with progress.training(total_steps=1000) as stage:
        for step in range(1, 101):
            train(stage, step, step * 0.1)  # the first 10 s: 10 steps a second
        for step in range(101, 201):
            train(stage, step, 10 + (step - 100) * 1.0)  # batches grew: 1 step a second
        assert stage.seconds_left(200, 110.0) == pytest.approx(800, rel=0.01)


def test_limit_by_time():
    _, stream, progress = plain(interval=0.0)
    with progress.training(total_steps=None, total_seconds=600.0) as stage:
        train(stage, 50, 150.0)
        assert stage.seconds_left(50, 150.0) == 450.0
        train(stage, 51, 700.0)
        assert stage.seconds_left(51, 700.0) == 0.0
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("Training  25%  step 50 · ")
    assert lines[0].endswith("7:30 min left")
    assert lines[1].startswith("Training 100%")


def test_the_nearer_of_two_limits_counts():
    _, _, progress = plain()
    with progress.training(total_steps=100, total_seconds=1000.0) as stage:
        train(stage, 10, 10.0)
        train(stage, 20, 20.0)
        assert stage.seconds_left(20, 20.0) == pytest.approx(80.0)


def test_nothing_is_promised_before_anything_is_known():
    _, _, progress = plain()
    with progress.training(total_steps=100) as stage:
        assert stage.seconds_left(0, 0.0) is None
        train(stage, 1, 0.0)
        train(stage, 1, 0.0)
        assert stage.seconds_left(1, 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (7.6, "8 s"), (59.6, "1:00 min"), (185, "3:05 min"), (3600, "1:00 h"), (7650, "2:07 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_transfer_shows_files_bytes_rate_and_time_left():
    clock, stream, progress = plain()
    with progress, progress.transfer("Fetching", 2_000_000_000, 300) as watch:
        watch(500_000_000, 0)  # from an earlier transfer
        clock.now += 31
        watch(1_120_000_000, 120)
    assert stream.getvalue() == "Fetching  56%  120/300 files · 1.12/2.00 GB · 20.0 MB/s · 44 s left\n"
