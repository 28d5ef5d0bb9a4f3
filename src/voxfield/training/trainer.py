"""The training loop: batches, steps, schedules, checkpoints, evaluations, and what to do when something goes wrong."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast

import torch

from voxfield.checks import check_choice, check_range
from voxfield.data.batches import Batches
from voxfield.distributed.devices import Placement, release_cached_memory, synchronise
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError, LostRankError, TrainingDivergedError, VoxfieldError
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import RowsMoved, StepOutcome, Trainable
from voxfield.storage.checkpoint import list_checkpoints, save_checkpoint
from voxfield.training.exchange import GradientExchange
from voxfield.training.log import RunLog
from voxfield.training.moving_average import MovingAverage
from voxfield.training.optimisers import make_optimiser
from voxfield.training.progress import Progress
from voxfield.training.schedules import LearningRate

_LONG_SAVE: Final = 3.0
"""Seconds that writing a checkpoint may take, a twentieth of what is between them; those of large voxel grids have
gigabytes, and are written as much more rarely."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long and how a model is trained."""

    steps: int | None = 20_000
    """Stop after this many steps, at least 1; None: no limit."""
    minutes: float | None = None
    """Stop after this many minutes of training (compilation and evaluation do not count), above 0; None: no limit.
    Schedules follow whichever limit is nearer."""
    learning_rate: LearningRate = LearningRate()
    """Schedule of the learning rate."""
    optimiser: Literal["adam", "radam", "rmsprop", "sgd"] = "adam"
    """``radam`` weighs early steps by how little is known of the gradients' size (Liu et al. 2020). Voxel grids know
    ``rmsprop``, ``sgd`` and ``adam``, on the voxels a batch touches; other models ``adam`` and ``radam``."""
    beta1: float = 0.9
    """Decay of Adam's first moment, 0 to below 1."""
    beta2: float = 0.99
    """Decay of Adam's second moment, 0 to below 1."""
    epsilon: float = 1e-15
    """Adam's epsilon, at least 0."""
    accumulate: int = 1
    """Batches whose mean gradient makes one step, at least 1: large batches in the memory of small ones."""
    clip_gradient: float | None = None
    """Longest gradient of a step, over all parameters, above 0; longer ones are shortened. None: no limit."""
    ema_decay: float = 0.0
    """Decay a step of the moving average of the parameters that is evaluated and rendered, 0 (off) to below 1."""
    evaluate_every: float = 60.0
    """Seconds of training between evaluations on a few held-out images, above 0; the waits grow by half each time."""
    evaluation_images: int = 2
    """Images of such an evaluation; 0 leaves them out."""
    checkpoint_every: float = 60.0
    """Seconds of training between checkpoints, above 0; as many times more as writing one takes more than 3 s."""
    keep_checkpoints: int = 2
    """Checkpoints kept, at least 1."""
    log_every: int = 25
    """Steps between lines of the log, at least 1."""
    tensorboard: bool | None = None
    """Write TensorBoard files: True, False, or None if it is installed."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InputError("trainer: give a limit, steps or minutes.")
        if self.steps is not None:
            check_range("steps", self.steps, minimum=1)
        if self.minutes is not None:
            check_range("minutes", self.minutes, above=0.0)
        check_choice("optimiser", self.optimiser, ("adam", "radam", "rmsprop", "sgd"))
        check_range("accumulate", self.accumulate, minimum=1)
        if self.clip_gradient is not None:
            check_range("clip_gradient", self.clip_gradient, above=0.0)
        check_range("ema_decay", self.ema_decay, minimum=0.0, maximum=1.0 - 1e-9)
        check_range("evaluate_every", self.evaluate_every, above=0.0)
        check_range("evaluation_images", self.evaluation_images, minimum=0)
        check_range("checkpoint_every", self.checkpoint_every, above=0.0)
        check_range("keep_checkpoints", self.keep_checkpoints, minimum=1)
        check_range("log_every", self.log_every, minimum=1)

    def progress(self, step: int, seconds: float) -> float:
        """The finished share of the run, 0 to 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


Evaluation = Callable[[Any], dict[str, Any]]
"""Measures the model it is given on a few held-out examples: names to numbers for the log (psnr, ssim, ...), and the
name of the split under ``split``."""

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a training is, between two steps."""

    step: int
    """Steps done."""
    seconds: float
    """Training seconds."""
    step_seconds: float
    """Of the last step."""
    progress: float
    """Share of the run that is done, 0 to 1."""
    psnr: float
    """Of the last batch, dB."""
    loss: float
    """Of the last batch."""
    stopping: threading.Event
    """Set when the training is asked to stop: who keeps it waiting must then return."""


Onlooker = Callable[[Moment], bool]
"""Looks at the model from the thread that trains, between two steps; returns whether to go on. The time it takes is not
training time."""


class Trainer(Generic[BatchT]):
    """Trains one model into one run directory."""

    def __init__(
        self,
        model: Trainable[BatchT],
        batches: Batches[BatchT],
        config: TrainerConfig,
        *,
        run_dir: Path,
        placement: Placement,
        seed: int,
        evaluation: Evaluation | None = None,
        threads_for_torch: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare to train ``model``, which is on ``placement.device`` already, from step 0.

        Args:
            model: what learns.
            batches: what it learns from.
            config: how long and how.
            run_dir: where checkpoints go.
            placement: device and precision.
            seed: of every random choice.
            evaluation: measures the model now and then.
            threads_for_torch: torch's operators are what takes the time, and may use all cores.
            ranks: who trains together: all with the same model and settings, each with its share of every batch, which
                is as many times as large as there are ranks. Only rank 0 writes files and evaluates.
        """
        self._cores: Callable[[], contextlib.AbstractContextManager[None]] = (
            contextlib.nullcontext if threads_for_torch else kernels_own_the_cores
        )
        self.model, self.batches, self.config = model, batches, config
        self.run_dir, self.placement, self.seed, self.evaluation = run_dir, placement, seed, evaluation
        self.step, self.seconds = 0, 0.0
        self.onlooker: Onlooker | None = None
        self.ranks = ranks
        self.optimiser = make_optimiser(
            config.optimiser,
            model.parameter_groups(),
            beta1=config.beta1,
            beta2=config.beta2,
            epsilon=config.epsilon,
        )
        self._exchange = GradientExchange(ranks, self.optimiser.groups)
        model.accumulate_gradients_in_place()
        self._scaler = placement.gradient_scaler()
        self._average = MovingAverage(self._module, config.ema_decay) if config.ema_decay else None
        self._stop_requested = threading.Event()
        self._all_stop = self._updated = False
        self._next_evaluation, self._wait = config.evaluate_every, config.evaluate_every
        self._next_checkpoint = config.checkpoint_every

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint: the same steps follow as if training had not stopped.

        Raises:
            FormatError: the checkpoint belongs to a model of another size.
        """
        try:
            self._module.load_state_dict(state["model"])
            # Voxel grids take the size of what they load.
            self._follow(None)
            self.optimiser.load_state_dict(state["optimiser"])
            if self._average is not None:
                if state.get("average") is not None:
                    self._average.load_state_dict(state["average"])
                else:  # averaging was switched on since: it starts here, not at the parameters of a fresh model
                    self._average = MovingAverage(self._module, self.config.ema_decay)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:240]
            raise FormatError(
                f"{self.run_dir}: the checkpoint does not fit the settings ({reason}).\n"
                "Resume with the settings the run was made with, or train into another --output."
            ) from None
        self._next_checkpoint = self.seconds + self.config.checkpoint_every
        while self._next_evaluation <= self.seconds:
            self._schedule_evaluation()

    def train(self, log: RunLog | None, progress: Progress) -> str:
        """Train until a limit is reached or a signal asks to stop, on any rank.

        Args:
            log: what happens is recorded there; None: nowhere, as on all ranks but one.
            progress: shows it.

        Returns:
            ``"finished"`` or ``"interrupted"``; a checkpoint of the last step is written either way.

        Raises:
            TrainingDivergedError: the loss or a parameter became NaN or infinite. Checkpoints written before stay.
            LostRankError: another rank is gone; the last whole step is saved.
        """
        with self._stopping_on_signals():
            try:
                return self._train(log, progress)
            except LostRankError:
                # A launcher asks those that are left to stop: not before the last whole step is saved.
                self.step += self._updated
                if self.ranks.leads and self.step and self._finite():
                    self._write_checkpoint()
                raise

    def _train(self, log: RunLog | None, progress: Progress) -> str:
        config = self.config
        total_seconds = 60.0 * config.minutes if config.minutes else None
        with (
            self._cores(),
            progress.training(total_steps=config.steps, total_seconds=total_seconds) as bar,
        ):
            logged_examples, logged_seconds = 0, self.seconds
            while config.progress(self.step, self.seconds) < 1.0 and not self._stops():
                began = time.perf_counter()
                line, examples, unit = self._one_step(log)
                if (self.step + 1) % config.log_every == 0:
                    synchronise(self.placement.device)
                step_seconds = self._agreed(time.perf_counter() - began)
                self.seconds += step_seconds
                self.step, self._updated = self.step + 1, False
                if self.onlooker is not None and log is not None:
                    self._be_looked_at(self.onlooker, line, step_seconds, log)
                logged_examples += examples
                if self.step % config.log_every == 0:
                    # Over all steps since the last line: a single one may have met an occupancy update or none.
                    rate = logged_examples / max(self.seconds - logged_seconds, 1e-9)
                    logged_examples, logged_seconds = 0, self.seconds
                    counts = {f"num_{unit}": float(examples), f"{unit}_per_second": rate}
                    line = self._over_ranks(line)
                    if log is not None:
                        log.train(self.step, self.seconds, **line, **counts)
                    bar.update(self.step, self.seconds, measures=line, rate=rate, unit=unit)
                if self.seconds >= self._next_evaluation:
                    self._evaluate(log)
                if self.seconds >= self._next_checkpoint:
                    self.save(log)
            self.save(log)
            if config.progress(self.step, self.seconds) < 1.0:
                return "interrupted"
            self._evaluate(log)
        return "finished"

    def rehearse(self) -> None:
        """Do one step, so that every kernel has been compiled. For a model that is then thrown away."""
        self._before_step(0.0, torch.Generator().manual_seed(0))
        self._one_step(None)

    def save(self, log: RunLog | None = None) -> Path | None:
        """Write a checkpoint of the present step, and return its path; None on ranks that do not write it.

        Raises:
            TrainingDivergedError: a parameter is NaN or infinite: such a state must not push out a good one.
        """
        if not self._finite():
            self._diverged(log, "A parameter became NaN or infinite")
        if self.ranks.size > 1:
            self.model.merge(self.ranks)
        began = time.perf_counter()
        path = self._write_checkpoint() if self.ranks.leads else None
        # Ranks wait here for the one that writes, and agree on when to save next.
        taken = self._agreed(time.perf_counter() - began)
        self._next_checkpoint = self.seconds + self.config.checkpoint_every * max(1.0, taken / _LONG_SAVE)
        return path

    def _finite(self) -> bool:
        # What is not finite makes its sum so too. A sum that overflowed is no proof, and takes a third of the time.
        parameters = (parameter.detach() for parameter in self._module.parameters())
        return all(bool(torch.isfinite(one.sum())) or bool(torch.isfinite(one).all()) for one in parameters)

    def _write_checkpoint(self) -> Path:
        state = {
            "seconds": self.seconds,
            "model": self._module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
        }
        return save_checkpoint(self.run_dir, self.step, state, keep=self.config.keep_checkpoints)

    @property
    def _module(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self.model)

    def _one_step(self, log: RunLog | None) -> tuple[dict[str, float], int, str]:
        """Step ``self.step``; returns what the log says of it, and how many examples of what it learnt from."""
        progress = self.config.progress(self.step, self.seconds)
        # Seeded by the step alone: a resumed run draws what an uninterrupted one would.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + self.step) % 2**63)
        self._before_step(progress, generator)
        results = [self._one_batch(log, part, generator) for part in range(self.config.accumulate)]
        if self.ranks.size > 1:
            # Asked here, where ranks wait for each other anyway. Broken on one is broken on all: they stop together.
            broken = not all(math.isfinite(float(result.loss.detach())) for result in results)
            if self.ranks.greatest_(torch.tensor([float(broken)])):
                self._diverged(log, "The loss became NaN or infinite on a rank")
            self._exchange.add_up(self.optimiser.groups)
        rate = self.config.learning_rate.at(self.step, progress)
        if self.optimiser.unscale(self._scaler):
            if self.config.clip_gradient is not None:
                self.optimiser.clip(self.config.clip_gradient)
            self.optimiser.step(rate, progress)
        if self._average is not None:
            self._average.update(self.step)
        self._updated = True
        loss = sum(float(result.loss.detach()) for result in results) / len(results)
        examples = sum(result.num_examples for result in results) * self.ranks.size
        return {"loss": loss, **results[-1].measures, "lr": rate}, examples, results[-1].counted_in

    def _one_batch(self, log: RunLog | None, part: int, generator: torch.Generator) -> StepOutcome:
        """Add the gradient of a step's batch ``part`` (from 0), divided by how many there are, over all ranks."""
        parts, ranks = self.config.accumulate, self.ranks
        batch = self.batches.sample(*self._wanted(self.step * parts + part))
        with self.placement.autocast():
            result = self.model.training_step(batch, self.step, generator)
        loss = float(result.loss.detach())
        if not math.isfinite(loss) and ranks.size == 1:
            self._diverged(log, f"The loss became {loss}")
        scaled = result.loss if parts * ranks.size == 1 else result.loss / (parts * ranks.size)
        if self._scaler is not None:
            scaled = self._scaler.scale(scaled)
        scaled.backward()  # type: ignore[no-untyped-call]
        return result

    def _wanted(self, number: int) -> tuple[Any, ...]:
        """What batch ``number`` is asked for by."""
        count = self.model.batch_size()
        return (count, number) if self.ranks.size == 1 else (count * self.ranks.size, number, self.ranks)

    def _stops(self) -> bool:
        """Whether to go no further: with several ranks what they agreed on, so that all stop after the same step."""
        return self._stop_requested.is_set() if self.ranks.size == 1 else self._all_stop

    def _agreed(self, seconds: float) -> float:
        """What something took on the slowest rank, so that all follow one clock; and whether any was asked to stop."""
        if self.ranks.size == 1:
            return seconds
        told = torch.tensor([seconds, float(self._stop_requested.is_set())], dtype=torch.float64)
        slowest, stop = self.ranks.greatest_(told).tolist()
        self._all_stop = stop > 0
        return slowest

    def _over_ranks(self, line: dict[str, float]) -> dict[str, float]:
        """Means of a line of the log over ranks, and what they exchanged for a step."""
        if self.ranks.size == 1:
            return line
        values = self.ranks.mean(torch.tensor(list(line.values()), dtype=torch.float64)).tolist()
        received, self._exchange.received = self._exchange.received / self.config.log_every, 0
        return {**dict(zip(line, values, strict=True)), "exchanged_bytes": received}

    def _be_looked_at(self, onlooker: Onlooker, line: dict[str, float], step_seconds: float, log: RunLog) -> None:
        moment = Moment(
            step=self.step,
            seconds=self.seconds,
            step_seconds=step_seconds,
            progress=self.config.progress(self.step, self.seconds),
            psnr=line["psnr"],
            loss=line["loss"],
            stopping=self._stop_requested,
        )
        try:
            go_on = onlooker(moment)
        except Exception as error:  # noqa: BLE001  (a training must not end because somebody looks at it)
            log.event(f"Nobody looks on any more: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            self.onlooker = None
            return
        if not go_on:
            self._stop_requested.set()

    def _before_step(self, progress: float, generator: torch.Generator) -> None:
        moved = self.model.before_step(self.step, progress, generator)
        if moved is not None:
            self._follow(moved)

    def _follow(self, moved: RowsMoved | None) -> None:
        """Let optimiser and average go on with the model's parameters as they are now."""
        self.optimiser.follow(moved, self.model.parameter_groups())
        self.model.accumulate_gradients_in_place()
        if self._average is not None:
            self._average = MovingAverage(self._module, self.config.ema_decay)

    def _diverged(self, log: RunLog | None, what: str) -> NoReturn:
        saved = list_checkpoints(self.run_dir)
        kept = f"The checkpoint {saved[-1].name} was kept" if saved else "No checkpoint had been written yet"
        message = (
            f"{what} at step {self.step}. {kept}.\n"
            f"Try a lower rate: --set trainer.learning_rate.initial={self.config.learning_rate.initial / 4:g}"
        )
        if log is not None:
            log.event(message)
            log.end("diverged", step=self.step, train_seconds=self.seconds)
        raise TrainingDivergedError(message)

    def _evaluate(self, log: RunLog | None) -> None:
        """Measure the model, on one rank; the time this takes is not training time."""
        self._schedule_evaluation()
        if self.ranks.size > 1:
            self.model.merge(self.ranks)
        if self.evaluation is not None and log is not None:
            self._measure(self.evaluation, log)
        self.ranks.wait()

    def _measure(self, evaluation: Evaluation, log: RunLog) -> None:
        # Rendering whole pictures wants other blocks of memory than training, and training its own again.
        release_cached_memory(self.placement.device)
        try:
            with self.averaged():
                measured = evaluation(self.model)
        except VoxfieldError as error:
            # Held-out pictures that cannot be read are no reason to lose a training.
            log.event(f"Evaluation while training was given up: {error}")
            self.evaluation = None
            return
        finally:
            release_cached_memory(self.placement.device)
        split = str(measured.pop("split", "val"))
        log.evaluation(self.step, self.seconds, split, **measured)

    def _schedule_evaluation(self) -> None:
        self._wait *= 1.5
        self._next_evaluation += self._wait

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averaged parameters, if an average is kept."""
        if self._average is None:
            yield
            return
        with self._average.swapped_in():
            yield

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for a clean stop after the step under way; a second one acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers; the caller's own thread has other ways to stop
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, _frame: object) -> None:
            self._stop_requested.set()
            signal.signal(number, previous[signal.Signals(number)])

        for number in previous:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
