"""``plenoxels-fast``: a sparse voxel grid in minutes on a CPU's few cores."""

import dataclasses

from voxfield.data.capture import CaptureOptions
from voxfield.kernels.sh_grid import MarchRule
from voxfield.models.plenoxels_config import PlenoxelsConfig, VoxelRate
from voxfield.recipes.plenoxels import VOXEL_TRAINER, build_model, smallest_model
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]

FULL_STEPS = 6000
"""Steps of the full recipe."""


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe for a training of ``minutes``; None is the full one.

    A dense grid costs several times what is left of it once empty space is known: it starts coarse, and drops what no
    ray sees long before the published recipe does. Learning rates are higher, for there are fewer steps. A ray ends
    where a thousandth of its light is left: a quarter of the samples lies behind that (lego, 4000 steps: 28.17 dB
    after 737 s with the published 1e-7, 28.18 dB after 638 s). The backdrop is white from 30% of the run on: before,
    random colours have dropped the fog that white would keep (lego, 4000 steps, two pictures of ``val``: 29.26 dB
    random, 29.66 dB so, 29.65 dB white throughout with a tenth more samples a ray). At 80% voxels go that no ray sees
    by then, most of them within what is solid: 30% of lego's, for 0.01 dB, and steps are a sixth faster from there on.
    """
    sides: tuple[int, ...] = (64, 128, 256, 256)
    begins: tuple[float, ...] = (0.05, 0.25, 0.8)
    if minutes is not None and minutes <= 2:
        sides, begins = (64, 128, 192), (0.15, 0.5)
    return PhotographExperiment(
        recipe="plenoxels-fast",
        model=dataclasses.replace(
            PlenoxelsConfig(),
            resolutions=tuple((side, side, side) for side in sides),
            refine_at=begins,
            least_steps=100,
            march=MarchRule(early_stop=1e-3),
            density_rate=VoxelRate(initial=10.0, final=0.3, reach=1.0, delay=0.05),
            sh_rate=VoxelRate(initial=3e-2, final=1e-3, reach=1.0),
            tv_until=0.5,
            weight_threshold=1.28,
            dilate=1,
            pruning_rays=1_000_000,
            max_bytes=2_000_000_000,
        ),
        capture=CaptureOptions(),
        trainer=dataclasses.replace(VOXEL_TRAINER, steps=FULL_STEPS),
        evaluation=EvaluateConfig(),
    )
