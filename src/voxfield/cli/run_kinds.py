"""What verbs do that know only some kinds of runs, or some options only for one kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxfield import Run, Scene
    from voxfield.api.trained_run import TrainedRun


def require_run(opened: "TrainedRun | Scene", what: str) -> "TrainedRun":
    """``opened``, which has to be a run to ``what`` ("have reports").

    Raises:
        InputError: it is a scene.
    """
    import voxfield
    from voxfield.errors import InputError

    if isinstance(opened, voxfield.Scene):
        raise InputError(f"{opened.path}: is a scene, and only runs {what}. Name one of its members.")
    return opened


def require_photographs(run: "TrainedRun | Scene", what: str) -> "Run":
    """``run``, which has to be one on photographs to ``what`` ("export cameras").

    Raises:
        InputError: it learnt from other data.
    """
    import voxfield
    from voxfield.errors import InputError

    run = require_run(run, what)
    if not isinstance(run, voxfield.Run):
        raise InputError(
            f"{run.path}: is a run of {run.record.experiment.recipe}, and only runs on photographs {what}. "
            "Name one of those."
        )
    return run


def refuse_photographic(run: "TrainedRun", options: Mapping[str, object]) -> None:
    """Refuse the options that are given (name to value) and that only runs on photographs know.

    Raises:
        InputError: naming them.
    """
    from voxfield.errors import InputError

    given = [name for name, value in options.items() if value]
    if given:
        raise InputError(
            f"{', '.join(given)}: for runs on photographs, and {run.path} is one of "
            f"{run.record.experiment.recipe}. Leave {'it' if len(given) == 1 else 'them'} out."
        )
