"""``grid-ngp``: photographs to a hash-grid field; the fast default."""

import math
from dataclasses import dataclass
from typing import Final

from voxfield.data.capture import CaptureOptions
from voxfield.data.posed_images import PosedImages
from voxfield.errors import InputError
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.occupancy import OccupancyConfig
from voxfield.models.footprints import check_pixels_widen
from voxfield.models.grid_ngp import GridNgp
from voxfield.models.grid_ngp_config import GridNgpConfig
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig

FULL_STEPS: Final = 16_000
"""Steps of the full recipe: an hour or more on two cores. Lego still gains 0.8 dB each time they double."""


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe for a training of ``minutes`` on a CPU's few cores; None is the full one, for the best picture.

    A short training gets a small table (it stays in cache and every entry is seen often), small batches (steps count)
    and long ray steps (rays count); a long one gets the detail it has time to learn. See docs/decisions/0008.
    """
    limit = math.inf if minutes is None else minutes
    size = next(size for size in _SIZES if limit <= size.up_to_minutes)
    return PhotographExperiment(
        recipe="grid-ngp",
        model=GridNgpConfig(
            field=HashFieldConfig(log2_table_size=size.log2_table_size, colour_layers=size.colour_layers),
            samples_per_batch=size.samples_per_batch,
            final_samples_per_batch=size.final_factor * size.samples_per_batch,
            steps_across=size.steps_across,
            coarse_until=size.coarse_until,
        ),
        capture=CaptureOptions(),
        trainer=TrainerConfig(
            steps=FULL_STEPS,
            beta2=size.beta2,
            learning_rate=LearningRate(
                initial=size.learning_rate, decay_from=size.decay_from, final_factor=size.decay_to
            ),
        ),
        evaluation=EvaluateConfig(),
    )


@dataclass(frozen=True, kw_only=True)
class _Size:
    """Settings for trainings of up to so many minutes."""

    up_to_minutes: float
    log2_table_size: int
    colour_layers: int
    samples_per_batch: int
    final_factor: int
    steps_across: int
    coarse_until: float
    learning_rate: float
    decay_from: float
    """Progress at which the learning rate starts to fall: late in a short training, which never gets to where the rate
    is what limits it."""
    decay_to: float
    """Share of the rate that is left at the end."""
    beta2: float = 0.99
    """Decay of the gradients' squares in Adam: while a field changes fast, its old gradients say little."""


_SIZES = (
    _Size(
        up_to_minutes=2,
        log2_table_size=18,
        colour_layers=1,
        samples_per_batch=1 << 15,
        final_factor=1,
        steps_across=384,
        coarse_until=0.0,
        learning_rate=1.5e-2,
        decay_from=0.7,
        decay_to=0.2,
        beta2=0.95,
    ),
    _Size(
        up_to_minutes=10,
        log2_table_size=18,
        colour_layers=2,
        samples_per_batch=1 << 15,
        final_factor=4,
        steps_across=512,
        coarse_until=0.0,
        learning_rate=1.5e-2,
        decay_from=0.5,
        decay_to=0.1,
    ),
    _Size(
        up_to_minutes=40,
        log2_table_size=19,
        colour_layers=2,
        samples_per_batch=3 << 14,
        final_factor=4,
        steps_across=768,
        coarse_until=0.0,
        learning_rate=1.5e-2,
        decay_from=0.4,
        decay_to=0.05,
    ),
    _Size(
        up_to_minutes=math.inf,
        log2_table_size=19,
        colour_layers=2,
        samples_per_batch=3 << 14,
        final_factor=4,
        steps_across=1024,
        coarse_until=0.3,
        learning_rate=1.5e-2,
        decay_from=0.4,
        decay_to=0.03,
    ),
)


def smallest_model() -> GridNgpConfig:
    """Settings of a model that uses all kernels in next to no time."""
    return GridNgpConfig(
        field=HashFieldConfig(log2_table_size=8, max_resolution=64),
        occupancy=OccupancyConfig(resolution=16),
        samples_per_batch=512,
        final_samples_per_batch=512,
    )


def build_model(config: GridNgpConfig, captures: PosedImages, seed: int) -> GridNgp:
    """A fresh model for the scene of ``captures``.

    Raises:
        InputError: the capture is to be learnt in normalised device coordinates, or its cameras do not suit a pyramid.
    """
    if captures.ndc is not None:
        raise InputError(
            "capture.space: grid-ngp knows no normalised device coordinates. Train nerfacto, or set world."
        )
    if config.pyramid is not None:
        check_pixels_widen(captures.cameras)
    return GridNgp(
        config,
        captures.bounds,
        unbounded=captures.unbounded,
        near=captures.near,
        has_alpha=captures.has_alpha,
        tone=captures.tone,
        seed=seed,
    )
