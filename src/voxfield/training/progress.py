"""What a person sees while something long runs: a bar on a terminal, now and then a plain line elsewhere.

Everything is written to standard error, so that standard output keeps only results. ``quiet`` writes nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_INTERVAL = 30.0
"""Seconds between two plain lines where there is no terminal."""

_RATE_WINDOW = 30.0
"""Seconds of training over which the rate behind the estimated time is measured: batches grow, so old steps mislead."""


class Progress:
    """The progress display of one command. Used in a ``with`` statement; one stage runs at a time.

    Args:
        quiet: write nothing at all.
        console: where to write; standard error when absent.
        interval: seconds between plain lines where the console is no terminal.
        clock: seconds from an arbitrary start, replaced in tests.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: "Console | None" = None,
        interval: float = PLAIN_INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet = quiet
        self._clock = clock
        self._interval = interval
        self._console = console
        self._bars: Any = None
        if quiet:
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = console or RichConsole(stderr=True, highlight=False)
        if self._console.is_terminal:
            self._bars = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[status]}", markup=False),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, message: str) -> None:
        """Write one line that stays, above the bar. Nothing when quiet."""
        if self._console is not None and not self._quiet:
            self._console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, description: str, total: int, unit: str = "") -> "Iterator[Stage]":
        """Show work made of ``total`` like pieces, e.g. images to render or kernels to compile.

        Args:
            description: what is done, e.g. ``"Evaluating"``.
            total: how many pieces.
            unit: what a piece is called, in the plural.

        Yields:
            The stage: call ``advance()`` after each piece.
        """
        with self._display(description) as show:
            yield Stage(description, total, unit, show, self._clock)

    @contextmanager
    def transfer(self, description: str, total_bytes: int, total_files: int) -> "Iterator[Callable[[int, int], None]]":
        """Show files that are transferred.

        Args:
            description: what is done, e.g. ``"Fetching"``.
            total_bytes: of all files, those that are there from an earlier transfer included.
            total_files: how many.

        Yields:
            Call it with the bytes and the files that are there so far.
        """
        with self._display(description) as show:
            yield _Transfer(total_bytes, total_files, show, self._clock).update

    @contextmanager
    def training(self, *, total_steps: int | None, total_seconds: float | None = None) -> "Iterator[TrainingStage]":
        """Show a training that ends after a number of steps or of seconds, whichever comes first.

        Args:
            total_steps: steps at which training ends; None for no such limit.
            total_seconds: training seconds (without compilation and evaluation) at which it ends; None for no limit.

        Yields:
            The stage: call ``update(...)`` at every step, or as often as the figures are known.
        """
        with self._display("Training") as show:
            yield TrainingStage(total_steps, total_seconds, show)

    @contextmanager
    def _display(self, description: str) -> "Iterator[_Show]":
        if self._quiet:
            yield _show_nothing
        elif self._bars is not None:
            task = self._bars.add_task(description, total=1.0, status="")
            try:
                yield lambda fraction, status: self._bars.update(task, completed=fraction, status=status)
            finally:
                self._bars.remove_task(task)
        else:
            last = self._clock()

            def show(fraction: float, status: str) -> None:
                nonlocal last
                now = self._clock()
                if now - last >= self._interval:
                    last = now
                    self.say(f"{description} {fraction:4.0%}  {status}")

            yield show


_Show = Callable[[float, str], None]


def _show_nothing(fraction: float, status: str) -> None:
    del fraction, status


class Stage:
    """Work made of like pieces; made by `Progress.stage`."""

    def __init__(self, description: str, total: int, unit: str, show: _Show, clock: Callable[[], float]) -> None:
        self.description = description
        self.done = 0
        self.total = total
        self._unit = unit
        self._show = show
        self._clock = clock
        self._began = clock()
        show(0.0, self._status(""))

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that ``count`` more pieces are done; ``note`` is shown beside them."""
        self.done += count
        self._show(min(self.done / max(self.total, 1), 1.0), self._status(note))

    def _status(self, note: str) -> str:
        parts = [f"{self.done}/{self.total} {self._unit}".rstrip()]
        elapsed = self._clock() - self._began
        if 0 < self.done < self.total and elapsed > 0:
            parts.append(f"{format_duration((self.total - self.done) * elapsed / self.done)} left")
        if note:
            parts.append(note)
        return " · ".join(parts)


class _Transfer:
    """Bytes and files that arrive."""

    def __init__(self, total_bytes: int, total_files: int, show: _Show, clock: Callable[[], float]) -> None:
        self._total_bytes = total_bytes
        self._total_files = total_files
        self._show = show
        self._clock = clock
        self._recent: deque[tuple[float, int]] = deque()

    def update(self, done_bytes: int, done_files: int) -> None:
        """Show the newest figures; rate and time left are those of the last half minute."""
        now = self._clock()
        self._recent.append((now, done_bytes))
        while len(self._recent) > 2 and now - self._recent[0][0] > _RATE_WINDOW:
            self._recent.popleft()
        parts = [
            f"{done_files}/{self._total_files} files",
            f"{_gigabytes(done_bytes)}/{_gigabytes(self._total_bytes)} GB",
        ]
        seconds, arrived = now - self._recent[0][0], done_bytes - self._recent[0][1]
        if seconds > 0 and arrived > 0:
            rate = arrived / seconds
            parts += [f"{rate / 1e6:.1f} MB/s", f"{format_duration((self._total_bytes - done_bytes) / rate)} left"]
        self._show(min(done_bytes / max(self._total_bytes, 1), 1.0), " · ".join(parts))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f}"


class TrainingStage:
    """The figures of a training; made by `Progress.training`."""

    def __init__(self, total_steps: int | None, total_seconds: float | None, show: _Show) -> None:
        self._total_steps = total_steps
        self._total_seconds = total_seconds
        self._show = show
        self._recent: deque[tuple[float, int]] = deque()

    def update(self, step: int, train_seconds: float, *, measures: Mapping[str, float], rate: float, unit: str) -> None:
        """Show the newest figures.

        Args:
            step: optimisation steps done.
            train_seconds: seconds spent on them, without compilation and evaluation.
            measures: names to numbers; of those besides ``loss`` the first is shown (``psnr`` in dB).
            rate: examples a second.
            unit: what these are, such as ``rays``.
        """
        self._recent.append((train_seconds, step))
        while len(self._recent) > 2 and train_seconds - self._recent[0][0] > _RATE_WINDOW:
            self._recent.popleft()
        steps = f"step {step:,}" + (f"/{self._total_steps:,}" if self._total_steps else "")
        left = self.seconds_left(step, train_seconds)
        parts = [steps] + [_measure(name, value) for name, value in list(measures.items())[:2] if name != "lr"]
        parts += [
            f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s",
            f"{format_duration(left)} left" if left is not None else format_duration(train_seconds),
        ]
        self._show(self._fraction(step, train_seconds), " · ".join(parts))

    def seconds_left(self, step: int, train_seconds: float) -> float | None:
        """Estimated training seconds until the end, from the rate of the last half minute; None when not known yet."""
        estimates = []
        if self._total_seconds is not None:
            estimates.append(self._total_seconds - train_seconds)
        if self._total_steps is not None and self._recent:
            seconds, steps = train_seconds - self._recent[0][0], step - self._recent[0][1]
            if seconds > 0 and steps > 0:
                estimates.append((self._total_steps - step) * seconds / steps)
        return max(min(estimates), 0.0) if estimates else None

    def _fraction(self, step: int, train_seconds: float) -> float:
        fraction = 0.0
        if self._total_steps:
            fraction = step / self._total_steps
        if self._total_seconds:
            fraction = max(fraction, train_seconds / self._total_seconds)
        return min(fraction, 1.0)


def _measure(name: str, value: float) -> str:
    return f"PSNR {value:.2f} dB" if name == "psnr" else f"{name.replace('_', ' ')} {value:.4g}"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: ``"8 s"``, ``"3:05 min"``, ``"2:07 h"``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
