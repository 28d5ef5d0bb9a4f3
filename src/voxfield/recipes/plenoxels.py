"""``plenoxels``: photographs to a sparse voxel grid, with svox2's settings for bounded scenes on a plain background."""

from typing import Final

from voxfield.data.capture import CaptureOptions
from voxfield.data.posed_images import PosedImages
from voxfield.models.plenoxels import Plenoxels
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig, VoxelRate
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig

FULL_STEPS: Final = 128_000
"""Ten epochs of 12,800 batches."""

VOXEL_TRAINER: Final = TrainerConfig(
    steps=FULL_STEPS,
    optimiser="rmsprop",
    beta2=0.95,
    epsilon=1e-8,
    learning_rate=LearningRate(warm_up_steps=0),
)
"""RMSprop as published; the learning rates are the model's own."""


def experiment(minutes: float | None = None) -> PhotographExperiment:  # noqa: ARG001  (the published run, whatever the time)
    """The published recipe: 256^3 voxels for 30% of the run, then 512^3. Schedules follow the limits."""
    return PhotographExperiment(
        recipe="plenoxels",
        model=PlenoxelsConfig(),
        capture=CaptureOptions(),
        trainer=VOXEL_TRAINER,
        evaluation=EvaluateConfig(),
    )


def smallest_model() -> PlenoxelsConfig:
    """Settings of a model that uses all kernels in next to no time."""
    return PlenoxelsConfig(
        resolutions=((8, 8, 8), (12, 12, 12)),
        refine_at=(0.0,),
        rays_per_batch=64,
        density_rate=VoxelRate(initial=1.0, final=1.0, reach=1.0),
        sparsity=1e-11,
        # The kernels of the spheres too: the capture decides whether they are needed.
        spheres=SpheresConfig(layers=2, height=4),
    )


def build_model(config: PlenoxelsConfig, captures: PosedImages, seed: int) -> Plenoxels:  # noqa: ARG001
    """A fresh model for the scene of ``captures``; it starts alike whatever the seed."""
    return Plenoxels(
        config,
        captures.bounds,
        captures.cameras,
        near=captures.near,
        has_alpha=captures.has_alpha,
        unbounded=captures.unbounded,
        ndc=captures.ndc,
        tone=captures.tone,
    )
