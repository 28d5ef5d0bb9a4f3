"""Looking at a training while it runs.

The thread that trains calls `TrainingView` between two steps, so that nobody else ever touches the model. A share of
the training's time is set aside for pictures; what a call takes is paid out of it, also when it took longer than meant.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from voxfield.viewer.viewer import Viewer

SHARE: Final = 0.07
"""Seconds of painting for a second of training. With what the server's own threads take it stays below a tenth."""
MOST_SAVED: Final = 0.3
"""Seconds of painting that may be saved up while nobody moves: the longest that a step is put off."""
LONGEST_PICTURE: Final = 0.4
"""Seconds of painting for the finest picture while training: one in about six seconds."""
_STATUS_EVERY, _PLOT_EVERY = 1.0, 3.0
_MOST_POINTS: Final = 400
_PAUSED_TURN: Final = 0.05


class Moment(Protocol):
    """Where a training is; `voxfield.training.trainer.Moment` is one."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def seconds(self) -> float:
        """Training seconds."""

    @property
    def step_seconds(self) -> float:
        """Of the last step."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""

    @property
    def psnr(self) -> float:
        """Of the last batch, dB."""

    @property
    def loss(self) -> float:
        """Of the last batch."""

    @property
    def stopping(self) -> threading.Event:
        """Set when the training is asked to stop."""


class TrainingView:
    """Shows a training in a viewer; what a trainer calls between its steps."""

    def __init__(self, viewer: Viewer, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Show it in ``viewer``, which must not have been started; ``clock`` is replaced in tests."""
        self._viewer, self._clock = viewer, clock
        self._saved = 0.0
        self._paused, self._stopped = threading.Event(), False
        self._told = self._plotted = -1e9
        self._painted_step = 0
        self._points: list[tuple[float, float, float]] = []
        """Steps, minutes and smoothed PSNR."""
        self._smooth: float | None = None
        self._step_seconds: float | None = None
        viewer.limit_pictures(LONGEST_PICTURE)
        self._add_controls(viewer.server.gui)

    def __call__(self, moment: Moment) -> bool:
        """Show what there is time for. Returns whether to go on; while paused, only when no longer."""
        self._note(moment)
        self._saved = min(self._saved + SHARE * moment.step_seconds, MOST_SAVED)
        if self._saved > 0 and self._viewer.browsers:
            began = self._clock()
            self._tell(moment)
            if moment.step != self._painted_step:
                self._painted_step = moment.step
                self._viewer.paint_again()
            self._viewer.work(self._saved)
            self._saved -= self._clock() - began
        if self._paused.is_set():
            self._wait_while_paused(moment)
        return not self._stopped

    def _add_controls(self, gui: Any) -> None:
        with gui.add_folder("Training", order=-1.0):
            self._status = gui.add_markdown("Starting.")
            self._by_step, self._by_minute = (
                gui.add_uplot(
                    data=(np.zeros(1), np.zeros(1)),
                    series=({"label": along}, {"label": "PSNR of rays, dB", "stroke": "#0f766e", "width": 2}),
                    scales={"x": {"time": False}},
                    aspect=2.0,
                )
                for along in ("step", "minutes")
            )
            self._pause = gui.add_button("Pause")
            stop = gui.add_button("Stop and save")
        self._pause.on_click(lambda _: self._switch_pause())
        stop.on_click(lambda _: self._stop())

    def _switch_pause(self) -> None:
        if self._paused.is_set():
            self._paused.clear()
            self._pause.label = "Pause"
        else:
            self._paused.set()
            self._pause.label = "Resume"

    def _stop(self) -> None:
        self._stopped = True
        self._paused.clear()

    def _note(self, moment: Moment) -> None:
        """Keep a point of the curves: at most so many, evenly spread."""
        self._smooth = _smoothed(self._smooth, moment.psnr)
        self._step_seconds = _smoothed(self._step_seconds, moment.step_seconds)
        if len(self._points) >= _MOST_POINTS:
            self._points = self._points[::2]
        since = self._points[-1][0] if self._points else 0.0
        if moment.step - since >= max(1.0, moment.step / (0.7 * _MOST_POINTS)):
            self._points.append((float(moment.step), moment.seconds / 60, self._smooth))

    def _tell(self, moment: Moment) -> None:
        """Bring the figures up to date, now and then."""
        now = self._clock()
        if now - self._told >= _STATUS_EVERY:
            self._told = now
            state = "paused" if self._paused.is_set() else f"{100 * moment.progress:.0f}% done"
            psnr = self._smooth if self._smooth is not None else moment.psnr
            pace = 1000 * (self._step_seconds if self._step_seconds is not None else moment.step_seconds)
            self._status.content = (
                f"Step {moment.step:,} · {moment.seconds:,.0f} s · {pace:,.1f} ms a step · {state}\n\n"
                f"PSNR of rays {psnr:.2f} dB · loss {moment.loss:.4g}"
            )
        if now - self._plotted >= _PLOT_EVERY and len(self._points) > 1:
            self._plotted = now
            steps, minutes, psnrs = np.array(self._points).T
            self._by_step.data, self._by_minute.data = (steps, psnrs), (minutes, psnrs)

    def _wait_while_paused(self, moment: Moment) -> None:
        """Paint at leisure until training is to go on or to stop."""
        self._told = -1e9
        self._tell(moment)
        self._viewer.limit_pictures(None)
        while self._paused.is_set() and not moment.stopping.is_set():
            if not self._viewer.work(_PAUSED_TURN):
                moment.stopping.wait(_PAUSED_TURN)
        self._viewer.limit_pictures(LONGEST_PICTURE)


def _smoothed(before: float | None, value: float) -> float:
    """The mean of about the last twenty values."""
    return value if before is None else 0.95 * before + 0.05 * value
