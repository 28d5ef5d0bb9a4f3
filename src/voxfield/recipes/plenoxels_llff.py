"""``plenoxels-llff``: forward-facing photographs to a sparse voxel grid in normalised device coordinates."""

import dataclasses

from voxfield.data.capture import CaptureOptions
from voxfield.models.plenoxels_config import PlenoxelsConfig
from voxfield.recipes.plenoxels import VOXEL_TRAINER, build_model, smallest_model
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:  # noqa: ARG001  (the published run, whatever the time)
    """svox2's settings for forward-facing scenes, but for the background: random, so that every ray ends somewhere."""
    return PhotographExperiment(
        recipe="plenoxels-llff",
        model=dataclasses.replace(
            PlenoxelsConfig(),
            resolutions=((256, 256, 128), (512, 512, 128), (1408, 1156, 128)),
            refine_at=(0.3, 0.6),
            tv_density=5e-4,
            tv_sh=5e-3,
            tv_until=1.0,
            sparsity=1e-12,
            prune="density",
        ),
        capture=CaptureOptions(space="ndc"),
        trainer=VOXEL_TRAINER,
        evaluation=EvaluateConfig(),
    )
