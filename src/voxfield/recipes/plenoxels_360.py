"""``plenoxels-360``: scenes that surround or go on beyond a middle, with svox2's settings for Tanks and Temples."""

import dataclasses
from typing import Final

from voxfield.data.capture import CaptureOptions
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig, VoxelRate
from voxfield.recipes.plenoxels import VOXEL_TRAINER, build_model, smallest_model
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]

FULL_STEPS: Final = 102_400
"""Eight epochs of 12,800 batches."""
REACH: Final = 250_000 / FULL_STEPS
"""Where the published fall of the learning rates ends, as progress of the run."""


def experiment(minutes: float | None = None) -> PhotographExperiment:  # noqa: ARG001  (the published run, whatever the time)
    """svox2's settings but for the background, which is random behind the last sphere: every ray ends somewhere."""
    return PhotographExperiment(
        recipe="plenoxels-360",
        model=dataclasses.replace(
            PlenoxelsConfig(),
            resolutions=((128, 128, 128), (256, 256, 256), (512, 512, 512), (640, 640, 640)),
            refine_at=(0.25, 0.5, 0.75),
            density_rate=VoxelRate(initial=30.0, final=0.05, reach=REACH, delay=15_000 / FULL_STEPS),
            sh_rate=VoxelRate(initial=1e-2, final=5e-6, reach=REACH),
            tv_density=5e-5,
            tv_sh=5e-3,
            tv_until=1.0,
            sparsity=1e-11,
            beta=1e-5,
            weight_threshold=1.28,
            spheres=SpheresConfig(layers=64, height=1024),
        ),
        capture=CaptureOptions(),
        trainer=dataclasses.replace(VOXEL_TRAINER, steps=FULL_STEPS),
        evaluation=EvaluateConfig(),
    )
