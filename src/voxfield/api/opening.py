"""Opening a run directory."""

import os
from pathlib import Path

from voxfield.api.kinds import kind_of
from voxfield.api.trained_run import TrainedRun
from voxfield.recipes import load_recipe
from voxfield.training.experiment import read_experiment


def open(run: str | os.PathLike[str]) -> TrainedRun:  # noqa: A001  (voxfield.open reads well and shadows nothing here)
    """Open a run directory that `train` wrote.

    Returns:
        What suits its recipe: of photographs a `Run`.

    Raises:
        MissingFileError, FormatError: it is none, or damaged.
    """
    path = Path(run)
    return kind_of(read_experiment(path, load_recipe).experiment.recipe).open_run(path)
