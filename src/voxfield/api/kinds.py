"""The kinds of data that recipes train on, each with a module beside this one that knows them."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from voxfield.api.books import TrainingTask
from voxfield.api.trained_run import TrainedRun
from voxfield.recipes import data_kind
from voxfield.storage.skipped import Skipped


class Kind(Protocol):
    """What the module of a kind offers."""

    def data_of(self, experiment: Any) -> str | None:
        """The data that the settings themselves name; None where a person has to."""

    def train_on(self, task: TrainingTask) -> TrainedRun:
        """Read the data, train on them, and keep the run directory's books."""

    def open_run(self, path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> TrainedRun:
        """Open a run; ``outcome`` and ``left_out`` of one trained in this process."""


_MODULES = {"photographs": "photographs", "shape rays": "shape_runs", "volumes": "diffusion"}
_OF_RECIPES = {"voxel-autoencoder": "autoencoders"}
"""Recipes that learn something else of such data than the rest do."""


def kind_of(recipe: str) -> Kind:
    """The module that trains ``recipe`` and opens its runs; loaded only when asked for."""
    module: Any = importlib.import_module(f"voxfield.api.{_OF_RECIPES.get(recipe) or _MODULES[data_kind(recipe)]}")
    kind: Kind = module
    return kind
