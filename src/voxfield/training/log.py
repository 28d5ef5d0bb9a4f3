"""The record of a run: ``log.jsonl``, always, and TensorBoard beside it when that is installed.

The log has one JSON object a line. ``kind`` says which:

- ``start``: recipe, data, seed, device, machine; first line, and again at every resume.
- ``train``: step, train_seconds, loss, psnr, rays_per_second, samples_per_ray, lr, num_rays.
- ``eval``: step, train_seconds, split, psnr, ssim.
- ``event``: message.
- ``end``: reason, step, train_seconds, peak_memory_bytes (most that the process held), on an accelerator also
  peak_device_memory_bytes; last line of a run that was not killed.

``train_seconds`` leaves out compilation and evaluation, so that curves against time are honest. NaN and infinities,
which JSON does not have, are written as null. Reading is `voxfield.storage.run_log.read_log`.
"""

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from voxfield.errors import InputError, MissingExtraError
from voxfield.storage.atomic import write_text
from voxfield.storage.json_values import json_values
from voxfield.storage.run_log import LOG_NAME, read_log

_NOT_CURVES = frozenset({"step", "train_seconds", "split"})


class RunLog:
    """Appends to a run's log, line by line, each flushed before the call returns.

    Args:
        run_dir: the run directory, made when absent. The log is ``log.jsonl`` in it, TensorBoard's ``tensorboard/``.
        resume_step: None for a new run. For a resumed one, the step it continues after: ``train`` and ``eval`` lines
            of later steps and any ``end`` are dropped (the steps will be done again), so that curves do not double
            back. Other lines, also of ``start`` and ``event``, stay.
        tensorboard: True writes TensorBoard files too, False does not, None does when TensorBoard is installed.
            Importing it takes 2 to 3 seconds, spent in this constructor.

    Raises:
        InputError: when a new run would write over the log of another.
        FormatError: when the log to resume cannot be read at all.
        MissingExtraError: when ``tensorboard=True`` and it is not installed.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        resume_step: int | None = None,
        tensorboard: bool | None = None,
    ) -> None:
        self.path = Path(run_dir) / LOG_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            _drop_after(self.path, resume_step)
        elif self.path.exists() and self.path.stat().st_size > 0:
            raise InputError(f"{self.path}: a run is recorded here already. Resume it, or choose another folder.")
        self._board = _open_tensorboard(self.path.parent / "tensorboard", resume_step, tensorboard)
        # The stream lives as long as the log: close() or the with statement ends it.
        self._stream = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, **fields: Any) -> None:
        """Record the start or resumption of a run: recipe, data, seed, device, machine. The time is added."""
        self._write("start", {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields})

    def train(self, step: int, train_seconds: float, **values: float | None) -> None:
        """Record a point of the training curves.

        Args:
            step: optimisation steps done.
            train_seconds: seconds spent on them since the first step of the run, without compilation and evaluation.
            **values: loss, psnr (dB), rays_per_second, samples_per_ray, lr, num_rays.
        """
        self._write("train", {"step": step, "train_seconds": train_seconds, **values})
        self._curves("train", step, values)

    def evaluation(self, step: int, train_seconds: float, split: str, **values: float | None) -> None:
        """Record a measurement on held-out images: psnr (dB), ssim, lpips."""
        self._write("eval", {"step": step, "train_seconds": train_seconds, "split": split, **values})
        self._curves(f"eval/{split}", step, values)

    def event(self, message: str, **fields: Any) -> None:
        """Record something a reader of the run should know, in one sentence."""
        self._write("event", {"message": message, **fields})

    def end(self, reason: str, **fields: Any) -> None:
        """Record why the run ended: ``finished``, ``interrupted``, ``diverged``."""
        self._write("end", {"reason": reason, **fields})

    def image(self, tag: str, image: torch.Tensor, step: int) -> None:
        """Show a picture in TensorBoard; without TensorBoard, do nothing.

        Args:
            tag: its name, e.g. ``"eval/test"``.
            image: (H, W, 3) float in [0, 1] or uint8.
            step: optimisation steps done.
        """
        if self._board is not None:
            self._board.add_image(tag, image.detach().cpu(), step, dataformats="HWC")

    def close(self) -> None:
        """Close the files. Further lines raise ValueError; closing twice is harmless."""
        self._stream.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        line = json.dumps({"kind": kind, **json_values(fields)}, allow_nan=False)
        # One write a line: a kill between two calls leaves whole lines.
        self._stream.write(line + "\n")
        self._stream.flush()

    def _curves(self, group: str, step: int, values: Mapping[str, float | None]) -> None:
        if self._board is None:
            return
        for name, value in values.items():
            plain = json_values(value)
            if name not in _NOT_CURVES and isinstance(plain, int | float):
                self._board.add_scalar(f"{group}/{name}", plain, step)


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [
        entry
        for entry in read_log(path)
        if entry.get("kind") != "end" and not (entry.get("kind") in ("train", "eval") and _step_of(entry) > step)
    ]
    # Written anew even when no entry goes: a line cut short by a kill would swallow the next one.
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def _step_of(entry: Mapping[str, Any]) -> float:
    step = entry.get("step")
    return step if isinstance(step, int | float) else math.inf


def _open_tensorboard(folder: Path, resume_step: int | None, wanted: bool | None) -> Any:
    if wanted is False:
        return None
    if importlib.util.find_spec("tensorboard") is None:
        if wanted:
            raise MissingExtraError(
                'TensorBoard was asked for and is not installed. Install it with: pip install "voxfield[tensorboard]".'
            )
        return None
    from torch.utils.tensorboard import SummaryWriter

    # purge_step hides what an interrupted run wrote after the step that is resumed from.
    purge = None if resume_step is None else resume_step + 1
    return SummaryWriter(log_dir=str(folder), purge_step=purge)
