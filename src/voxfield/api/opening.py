"""Opening a run directory or a scene."""

import os
from pathlib import Path

from voxfield.api.kinds import kind_of
from voxfield.api.places import anywhere
from voxfield.api.scenes import Scene
from voxfield.api.trained_run import TrainedRun
from voxfield.data.scene_file import is_scene
from voxfield.recipes import load_recipe
from voxfield.training.experiment import read_experiment


@anywhere("run")
def open(run: str | os.PathLike[str]) -> TrainedRun | Scene:  # noqa: A001  (voxfield.open reads well and shadows nothing)
    """Open a run directory that `train` wrote, or a scene of several fields.

    Args:
        run: the directory; or a scene's ``.json`` file.

    Returns:
        What suits the recipe: of photographs a `Run`. Of a scene a `Scene`.

    Raises:
        MissingFileError, FormatError: it is none, or damaged. InputError: a scene with a member that none can hold.
    """
    path = Path(run)
    if is_scene(path):
        return Scene(path)
    return kind_of(read_experiment(path, load_recipe).experiment.recipe).open_run(path)
