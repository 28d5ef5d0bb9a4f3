"""The loop itself, on a model of one parameter: what is logged, saved, measured, and how it stops."""

import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from voxfield.data.ray_batches import RayBatch
from voxfield.distributed.devices import place
from voxfield.errors import FormatError, InputError, TrainingDivergedError
from voxfield.geometry.rays import Rays
from voxfield.models.base import ParameterGroup, StepResult
from voxfield.storage.checkpoint import list_checkpoints, load_latest, save_checkpoint
from voxfield.storage.run_log import read_log
from voxfield.training import trainer as trainer_module
from voxfield.training.log import RunLog
from voxfield.training.moving_average import MovingAverage
from voxfield.training.progress import Progress
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import Moment, Trainer, TrainerConfig

RATE = LearningRate(initial=0.1, final_factor=1.0, warm_up_steps=0)


class Batches:
    def sample(self, num_rays: int, step: int) -> RayBatch:
        rays = Rays(
            origins=torch.zeros(num_rays, 3),
            directions=torch.eye(3)[2].expand(num_rays, 3),
            pixel_area=torch.ones(num_rays),
            camera_index=torch.zeros(num_rays, dtype=torch.int64),
        )
        return RayBatch(rays=rays, pixels=torch.full((num_rays, 2), 0.5), rgba=torch.ones(num_rays, 4))


class Dial(torch.nn.Module):
    """Learns the number 3. ``before`` is called with the step, to make things happen."""

    def __init__(self, before: Callable[[int], None] = lambda step: None) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(4))
        self.before = before
        self.seen: list[tuple[int, float]] = []
        self.loss_factor = 1.0

    def batch_size(self) -> int:
        return 8

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        self.seen.append((step, progress))
        self.before(step)

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        noise = torch.rand(4, generator=generator)
        loss = ((self.value - 3.0 - 0.1 * noise) ** 2).mean() * self.loss_factor
        return StepResult(loss=loss, squared_error=0.01, num_rays=len(batch.rays), num_samples=40)

    def accumulate_gradients_in_place(self) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(name="dial", parameters=[self.value])]


def make(model: Dial, run_dir: Path, *, evaluation: Any = None, **settings: Any) -> Trainer:
    config = TrainerConfig(**{"steps": 20, "log_every": 5, "learning_rate": RATE, "tensorboard": False, **settings})
    return Trainer(model, Batches(), config, run_dir=run_dir, placement=place("cpu"), seed=0, evaluation=evaluation)


def run(trainer: Trainer, resume_step: int | None = None) -> str:
    with (
        RunLog(trainer.run_dir, resume_step=resume_step, tensorboard=False) as log,
        Progress(quiet=True) as progress,
    ):
        return trainer.train(log, progress)


class Clock:
    """Stands for the trainer's clock: moves by ``tick`` a reading, and by whatever a test adds."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(trainer_module, "time", held)
    return held


def test_it_learns_and_its_log_is_complete(tmp_path: Path) -> None:
    model = Dial()
    assert run(make(model, tmp_path, steps=200, log_every=50)) == "finished"
    assert torch.allclose(model.value, torch.full((4,), 3.05), atol=0.15)
    lines = [line for line in read_log(tmp_path) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [50, 100, 150, 200]
    for line in lines:
        assert set(line) == {
            "kind", "step", "train_seconds", "loss", "psnr", "rays_per_second", "samples_per_ray", "lr", "num_rays",
        }  # fmt: skip
        assert line["psnr"] == pytest.approx(20.0)
        assert line["samples_per_ray"] == 5.0
        assert line["num_rays"] == 8
        assert line["rays_per_second"] > 0
    assert lines[0]["loss"] > lines[-1]["loss"]
    assert lines[0]["train_seconds"] < lines[-1]["train_seconds"]


def test_progress_goes_from_0_to_1(tmp_path: Path) -> None:
    model = Dial()
    run(make(model, tmp_path, steps=4))
    assert model.seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_a_time_limit_counts_training_alone(tmp_path: Path, clock: Clock) -> None:
    def evaluation(model: Dial) -> dict[str, Any]:
        clock.now += 1000.0
        return {"split": "val", "psnr": 30.0, "ssim": 0.9, "lpips": None}

    def a_step(step: int) -> None:
        clock.now += 1.0

    trainer = make(Dial(a_step), tmp_path, evaluation=evaluation, steps=None, minutes=1.0, evaluate_every=10.0)
    assert run(trainer) == "finished"
    assert trainer.step == 60
    assert trainer.seconds == pytest.approx(60.0)
    measured = [line for line in read_log(tmp_path) if line["kind"] == "eval"]
    # Waits of 10, 15, 22.5 seconds, and once more at the end.
    assert [line["train_seconds"] for line in measured] == [10.0, 25.0, 48.0, 60.0]
    assert measured[0] | {"step": 0} == {
        "kind": "eval", "step": 0, "train_seconds": 10.0, "split": "val", "psnr": 30.0, "ssim": 0.9, "lpips": None,
    }  # fmt: skip


def test_jumps_of_the_machines_clock_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, itertools.cycle((0.0, 900.0, -900.0, 3600.0))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    began = time.perf_counter()

    def a_step(step: int) -> None:
        time.sleep(0.01)

    trainer = make(Dial(a_step), tmp_path, steps=None, minutes=0.5 / 60, checkpoint_every=0.2, keep_checkpoints=9)
    assert run(trainer) == "finished"
    assert 0.5 <= trainer.seconds <= time.perf_counter() - began
    lines = [line for line in read_log(tmp_path) if line["kind"] == "train"]
    assert lines
    assert all(0 < line["train_seconds"] < 60 for line in lines)
    assert 2 <= len(list_checkpoints(tmp_path)) <= 9


def test_rates_are_those_of_all_steps_since_the_last_line(tmp_path: Path, clock: Clock) -> None:
    def a_step(step: int) -> None:
        clock.now += 4.0 if step % 5 == 4 else 1.0

    run(make(Dial(a_step), tmp_path, steps=10))
    rates = [line["rays_per_second"] for line in read_log(tmp_path) if line["kind"] == "train"]
    assert rates == pytest.approx([5 * 8 / 8.0] * 2)


def test_checkpoints_rotate(tmp_path: Path, clock: Clock) -> None:
    def a_step(step: int) -> None:
        clock.now += 1.0

    run(make(Dial(a_step), tmp_path, steps=20, checkpoint_every=4.0, keep_checkpoints=3))
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-000000012.pt", "step-000000016.pt", "step-000000020.pt",
    ]  # fmt: skip


def test_checkpoints_that_take_long_are_written_more_rarely(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_step(step: int) -> None:
        clock.now += 1.0

    def slow(*parts: Any, **options: Any) -> Path:
        clock.now += 6.0
        return save_checkpoint(*parts, **options)

    monkeypatch.setattr("voxfield.training.trainer.save_checkpoint", slow)
    run(make(Dial(a_step), tmp_path, steps=20, checkpoint_every=4.0, keep_checkpoints=9))
    # Writing does not count as training; twice as long as it may take, it is done half as often.
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-000000004.pt", "step-000000012.pt", "step-000000020.pt",
    ]  # fmt: skip


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, ema_decay: float) -> None:
    whole = make(Dial(), tmp_path / "whole", steps=20, ema_decay=ema_decay)
    run(whole)
    stopped: list[Trainer] = []

    def stop(step: int) -> None:
        if step == 10:
            stopped[0]._stop_requested.set()

    first = make(Dial(stop), tmp_path / "parts", steps=20, ema_decay=ema_decay)
    stopped.append(first)
    assert run(first) == "interrupted"
    second = make(Dial(), tmp_path / "parts", steps=20, ema_decay=ema_decay)
    second.restore(load_latest(tmp_path / "parts")[1])
    assert second.step == 11
    assert run(second, resume_step=second.step) == "finished"
    _, one, _ = load_latest(tmp_path / "whole")
    _, other, _ = load_latest(tmp_path / "parts")
    assert one["step"] == other["step"] == 20
    assert torch.equal(one["model"]["value"], other["model"]["value"])
    for pair, same in zip(one["optimiser"]["moments"], other["optimiser"]["moments"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, same, strict=True))
    if ema_decay:
        assert torch.equal(one["average"]["values"][0], other["average"]["values"][0])
    else:
        assert one["average"] is other["average"] is None
    steps = [line["step"] for line in read_log(tmp_path / "parts") if line["kind"] == "train"]
    assert steps == [5, 10, 15, 20]


def test_an_average_is_evaluated_and_training_goes_on_without_it(tmp_path: Path) -> None:
    values: list[torch.Tensor] = []

    def evaluation(model: Dial) -> dict[str, Any]:
        values.append(model.value.detach().clone())
        return {"split": "val", "psnr": 1.0, "ssim": 1.0}

    model = Dial()
    run(make(model, tmp_path, steps=40, ema_decay=0.99, evaluation=evaluation))
    assert not torch.equal(values[-1], model.value)
    assert torch.equal(values[-1], load_latest(tmp_path)[1]["average"]["values"][0])


def test_an_average_switched_on_later_starts_from_the_checkpoint(tmp_path: Path) -> None:
    run(make(Dial(), tmp_path, steps=20))
    later = make(Dial(), tmp_path, steps=40, ema_decay=0.99)
    later.restore(load_latest(tmp_path)[1])
    with later.averaged():
        assert later.model.value.mean() > 1.0  # type: ignore[attr-defined]


def test_moving_average_swaps_and_swaps_back() -> None:
    module = torch.nn.Linear(2, 2, bias=False)
    before = module.weight.detach().clone()
    average = MovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight += 1
    with average.swapped_in():
        assert torch.equal(module.weight, before)
    assert torch.equal(module.weight, before + 1)
    for step in range(MovingAverage.EVERY):
        average.update(step)
    with average.swapped_in():
        assert bool((module.weight > before).all())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    held = signal.getsignal(number)
    trainer = make(Dial(lambda step: os.kill(os.getpid(), number) if step == 7 else None), tmp_path)
    assert run(trainer) == "interrupted"
    assert trainer.step == 8
    assert list_checkpoints(tmp_path)[-1].name == "step-000000008.pt"
    assert signal.getsignal(number) == held


def test_a_second_interrupt_acts_at_once(tmp_path: Path) -> None:
    def twice(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # two that are pending together would be one
            os.kill(os.getpid(), signal.SIGINT)

    # Where a shell started the tests in the background, interrupts are ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(make(Dial(twice), tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_broken_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, clock: Clock, factor: float) -> None:
    model = Dial()

    def spoil(step: int) -> None:
        clock.now += 1.0
        if step == 12:
            model.loss_factor = factor

    model.before = spoil
    with pytest.raises(TrainingDivergedError, match=r"at step 12\. The checkpoint step-000000010\.pt was kept"):
        run(make(model, tmp_path, checkpoint_every=5.0))
    _, state, problems = load_latest(tmp_path)
    assert state["step"] == 10
    assert not problems
    assert bool(state["model"]["value"].isfinite().all())
    event, end = read_log(tmp_path)[-2:]
    assert "--set trainer.learning_rate.initial=0.025" in event["message"]
    assert (end["kind"], end["reason"], end["step"]) == ("end", "diverged", 12)


def test_broken_parameters_are_never_saved(tmp_path: Path, clock: Clock) -> None:
    model = Dial()

    def spoil(step: int) -> None:
        clock.now += 1.0
        if step == 9:
            # The gradient becomes NaN while the loss still is finite.
            model.value.register_hook(lambda gradient: gradient * math.nan)

    model.before = spoil
    with pytest.raises(TrainingDivergedError, match="A parameter became NaN or infinite at step 10"):
        run(make(model, tmp_path, checkpoint_every=5.0))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000005.pt"]


def test_parameters_whose_sum_overflows_are_saved(tmp_path: Path) -> None:
    trainer = make(Dial(), tmp_path, steps=1)
    trainer.model.register_parameter("large", torch.nn.Parameter(torch.full((4,), 3e38), requires_grad=False))
    assert run(trainer) == "finished"
    assert len(list_checkpoints(tmp_path)) == 1


def test_without_a_checkpoint_the_message_says_so(tmp_path: Path) -> None:
    model = Dial()
    model.loss_factor = math.nan
    with pytest.raises(TrainingDivergedError, match="No checkpoint had been written yet"):
        run(make(model, tmp_path))


def test_an_evaluation_that_fails_does_not_stop_training(tmp_path: Path) -> None:
    calls = []

    def evaluation(model: Dial) -> dict[str, Any]:
        calls.append(model)
        raise InputError("None of the 2 val images can be read.")

    assert run(make(Dial(), tmp_path, evaluation=evaluation, evaluate_every=1e-9)) == "finished"
    assert len(calls) == 1
    (event,) = [line for line in read_log(tmp_path) if line["kind"] == "event"]
    assert "None of the 2 val images can be read." in event["message"]


def test_who_looks_on_is_told_of_every_step_at_no_cost_of_training_time(tmp_path: Path, clock: Clock) -> None:
    def tick(seconds: float) -> None:
        clock.now += seconds

    trainer = make(Dial(lambda step: tick(1.0)), tmp_path, steps=4)
    told = []

    def look(moment: Moment) -> bool:
        tick(100.0)
        told.append((moment.step, moment.seconds, moment.step_seconds, moment.progress))
        return True

    trainer.onlooker = look
    assert run(trainer) == "finished"
    assert told == [(step, float(step), 1.0, step / 4) for step in (1, 2, 3, 4)]


def test_who_looks_on_can_stop_the_training(tmp_path: Path) -> None:
    trainer = make(Dial(), tmp_path)
    trainer.onlooker = lambda moment: moment.step < 7
    assert run(trainer) == "interrupted"
    assert trainer.step == 7
    assert len(list_checkpoints(tmp_path)) == 1


def test_a_fault_of_who_looks_on_does_not_end_the_training(tmp_path: Path) -> None:
    trainer, calls = make(Dial(), tmp_path), []

    def look(moment: Moment) -> bool:
        calls.append(moment.step)
        raise RuntimeError("the browser went away")

    trainer.onlooker = look
    assert run(trainer) == "finished"
    assert calls == [1]
    events = [line["message"] for line in read_log(tmp_path) if line["kind"] == "event"]
    assert any("the browser went away" in message for message in events)


@pytest.mark.parametrize("fails", [False, True])
def test_cached_memory_is_released_around_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    happened: list[str] = []
    monkeypatch.setattr(trainer_module, "release_cached_memory", lambda device: happened.append(device.type))

    def evaluation(model: Dial) -> dict[str, Any]:
        happened.append("evaluation")
        if fails:
            raise FormatError("eval/r_0.png: damaged")
        return {"psnr": 20.0}

    run(make(Dial(), tmp_path, evaluation=evaluation))
    assert happened == ["cpu", "evaluation", "cpu"]


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    run(make(Dial(), tmp_path))
    other = Dial()
    other.value = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(FormatError, match="does not fit the settings") as caught:
        make(other, tmp_path).restore(load_latest(tmp_path)[1])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": None, "minutes": None}, "limit"),
        ({"steps": 0}, "steps"),
        ({"minutes": 0.0}, "minutes"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"accumulate": 0}, "accumulate"),
        ({"clip_gradient": 0.0}, "clip_gradient"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"log_every": 0}, "log_every"),
        ({"checkpoint_every": 0.0}, "checkpoint_every"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        TrainerConfig(**settings)


def test_accumulated_batches_make_the_step_of_their_mean(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Counted(Batches):
        def sample(self, num_rays: int, step: int) -> RayBatch:
            asked.append((num_rays, step))
            return super().sample(num_rays, step)

    class Exact(Dial):
        def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
            # A gradient that differs from batch to batch: 1, 2, 3 within a step.
            part = float(asked[-1][1] % 3 + 1)
            return StepResult(
                loss=(self.value * part).sum(), squared_error=0.01, num_rays=len(batch.rays), num_samples=40
            )

    model, gradients = Exact(), []
    trainer = make(model, tmp_path, steps=2, log_every=1, accumulate=3)
    trainer.batches = Counted()
    step = trainer.optimiser.step

    def watched(rate: float, progress: float) -> None:
        assert model.value.grad is not None
        gradients.append(model.value.grad.tolist())
        step(rate, progress)

    trainer.optimiser.step = watched  # type: ignore[method-assign]
    run(trainer)
    assert asked == [(8, number) for number in range(6)]
    assert gradients == [[2.0] * 4] * 2
    assert {line["num_rays"] for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "train"} == {24}


def test_long_gradients_are_shortened(tmp_path: Path) -> None:
    model = Dial()
    trainer = make(model, tmp_path, clip_gradient=0.5)
    assert model.value.grad is not None
    model.value.grad.copy_(torch.tensor([3.0, 0.0, 4.0, 0.0]))
    trainer.optimiser.clip(0.5)
    torch.testing.assert_close(model.value.grad, torch.tensor([0.3, 0.0, 0.4, 0.0]), rtol=1e-5, atol=0.0)
    trainer.optimiser.clip(10.0)
    torch.testing.assert_close(model.value.grad, torch.tensor([0.3, 0.0, 0.4, 0.0]), rtol=1e-5, atol=0.0)
    assert run(trainer) == "finished"


def test_the_nearer_limit_counts() -> None:
    config = TrainerConfig(steps=100, minutes=1.0)
    assert config.progress(50, 6.0) == 0.5
    assert config.progress(10, 30.0) == 0.5
    assert config.progress(1000, 0.0) == 1.0
