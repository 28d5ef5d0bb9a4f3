"""``raynet``: traced rays of a voxel dataset to a network that sees a block and says what any ray through it meets."""

from dataclasses import dataclass
from typing import Final

from voxfield.data.shape_batches import ShapeRayOptions
from voxfield.models.raynet import RaynetConfig
from voxfield.training.experiment import Experiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig

TRAINS_ON: Final = "shape rays"


@dataclass(frozen=True, kw_only=True)
class ShapeExperiment(Experiment):
    """What decides a run on traced rays.

    Attributes:
        data: which blocks and rays.
    """

    data: ShapeRayOptions


def experiment(minutes: float | None = None) -> ShapeExperiment:  # noqa: ARG001  (the network is small as it is)
    """The recipe, whatever the time."""
    return ShapeExperiment(
        recipe="raynet",
        model=RaynetConfig(),
        trainer=TrainerConfig(
            steps=20_000,
            learning_rate=LearningRate(initial=2e-3, final_factor=0.02, decay_from=0.2, warm_up_steps=100),
            beta2=0.999,
            epsilon=1e-10,
            ema_decay=0.995,
        ),
        data=ShapeRayOptions(),
    )
