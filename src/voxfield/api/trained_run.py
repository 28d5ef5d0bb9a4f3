"""What all trained runs share, whatever they learnt from: settings, newest weights, report, facts."""

import dataclasses
import functools
import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from voxfield.api.places import anywhere
from voxfield.distributed.devices import Placement, cpu_name, device_name, place
from voxfield.errors import FormatError
from voxfield.export.report import write_report
from voxfield.kernels.threads import kernel_threads
from voxfield.recipes import load_recipe
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.storage.remote import shown
from voxfield.storage.run_log import read_log
from voxfield.storage.skipped import Skipped
from voxfield.training.experiment import Experiment, RunRecord, read_experiment


class TrainedRun(ABC):
    """A run directory that `voxfield.train` wrote. The model is loaded when first needed."""

    def __init__(
        self, path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = (), device: str = "auto"
    ) -> None:
        """Open ``path``; ``outcome`` is how a training in this process ended, ``left_out`` what it did without."""
        self.path, self.outcome, self.left_out = path, outcome, tuple(left_out)
        self.record: RunRecord[Experiment] = read_experiment(path, load_recipe)
        self.placement: Placement = place(device, "auto")

    @abstractmethod
    def _build_model(self) -> torch.nn.Module:
        """The run's model as it was before its first step, on any device."""

    @abstractmethod
    def evaluate(
        self, *, split: str = "test", data: str | os.PathLike[str] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """Measure the run on a split and write ``eval/<split>/metrics.json``, whose content is returned."""

    @functools.cached_property
    def _loaded(self) -> tuple[torch.nn.Module, dict[str, Any]]:
        """The model of the newest readable checkpoint, averaged if the run kept an average, and which that is."""
        path, state, _ = load_latest(self.path)
        module = self._build_model().to(self.placement.device)
        try:
            module.load_state_dict(state["model"])
            if state.get("average") is not None:
                with torch.no_grad():
                    for parameter, value in zip(module.parameters(), state["average"]["values"], strict=True):
                        parameter.copy_(value)
            about = {"step": int(state["step"]), "train_seconds": float(state["seconds"]), "checkpoint": path.name}
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:240]
            raise FormatError(f"{path}: does not fit {self.path / 'experiment.json'} ({reason}).") from None
        return module.eval(), about

    @property
    def weights(self) -> dict[str, Any]:
        """Which weights are loaded: ``step``, ``train_seconds`` and the name of the ``checkpoint``."""
        return self._loaded[1]

    @anywhere(back="self")
    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        return write_report(self.path)

    def info(self) -> dict[str, Any]:
        """What the run is: recipe, data, settings, progress, checkpoints, last measures of training."""
        log = read_log(self.path / "log.jsonl")
        last: dict[str, Any] = next((entry for entry in reversed(log) if entry.get("kind") == "train"), {})
        end: dict[str, Any] = next((entry for entry in reversed(log) if entry.get("kind") in ("start", "end")), {})
        told = ("kind", "step", "train_seconds", "loss", "lr")
        measures = {
            name if name.endswith("_per_second") else f"train_{name}": value
            for name, value in last.items()
            if name not in told and not name.startswith("num_")
        }
        return {
            "path": shown(self.path),
            "recipe": self.record.experiment.recipe,
            "data": self.record.data_path,
            "created": self.record.created,
            "state": end.get("reason", "running or killed"),
            "step": last.get("step"),
            "train_minutes": round(last["train_seconds"] / 60, 2) if "train_seconds" in last else None,
            **measures,
            "checkpoints": [path.name for path in list_checkpoints(self.path)],
            "settings": dataclasses.asdict(self.record.experiment),
            "versions": dict(self.record.versions),
        }


def machine(device: torch.device | None = None) -> str:
    """One line that names the processor, its threads, torch and an accelerator in use, for logs and results."""
    accelerator = "" if device is None or device.type == "cpu" else f", {device_name(device)}"
    return f"{cpu_name()}, {kernel_threads()} threads{accelerator}, {platform.system()}, torch {torch.__version__}"
