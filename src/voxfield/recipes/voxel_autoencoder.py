"""``voxel-autoencoder``: volumes to few numbers and back, for diffusions over volumes too large as they are."""

from dataclasses import dataclass, replace
from typing import Final

from voxfield.data.volume_batches import VolumeOptions
from voxfield.models.voxel_autoencoder import AutoencoderConfig
from voxfield.recipes import diffusion
from voxfield.training.experiment import Experiment

TRAINS_ON: Final = "volumes"


@dataclass(frozen=True, kw_only=True)
class AutoencoderExperiment(Experiment):
    """What decides a run.

    Attributes:
        data: which volumes.
    """

    data: VolumeOptions


def experiment(minutes: float | None = None) -> AutoencoderExperiment:  # noqa: ARG001  (one size, however long it trains)
    """The recipe; schedules follow the limits."""
    return AutoencoderExperiment(
        recipe="voxel-autoencoder",
        model=AutoencoderConfig(),
        data=VolumeOptions(),
        trainer=replace(diffusion.experiment().trainer, steps=10_000),
    )


def smallest_model() -> AutoencoderConfig:
    """Settings of a model that trains in next to no time."""
    return AutoencoderConfig(channels=(8, 8), norm_groups=4, latent_channels=2, batch_size=2)
