"""``nerfacto``: photographs of any place to a field with proposal networks, as nerfstudio's method of that name."""

from dataclasses import replace
from typing import Final

from voxfield.data.capture import CaptureOptions
from voxfield.data.posed_images import PosedImages
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.proposal import ProposalConfig
from voxfield.models.footprints import check_pixels_widen
from voxfield.models.nerfacto import Nerfacto
from voxfield.models.nerfacto_config import NerfactoConfig
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig

_SHORT_MINUTES: Final = 30
"""Trainings up to so many minutes get the smaller table."""


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe for a training of ``minutes`` on a CPU's few cores; None is nerfstudio's, for the best picture.

    A short training gets a smaller table: it stays in cache and every entry is seen often. Its proposals, which are to
    rest after a sixth of nerfstudio's 30,000 steps, rest after about as much of its few thousand, and it passes over
    more of what matters little. See docs/decisions/0008.
    """
    model = NerfactoConfig()
    if minutes is not None and minutes <= _SHORT_MINUTES:
        model = replace(
            model,
            field=replace(model.field, log2_table_size=17),
            schedule=replace(model.schedule, warmup=500),
            negligible_weight=1e-3,
        )
    return PhotographExperiment(
        recipe="nerfacto",
        model=model,
        capture=CaptureOptions(),
        trainer=TrainerConfig(
            steps=30_000, beta2=0.999, learning_rate=LearningRate(initial=1e-2, decay_from=0.3, final_factor=0.05)
        ),
        evaluation=EvaluateConfig(),
    )


def smallest_model() -> NerfactoConfig:
    """Settings of a model that uses all kernels in next to no time."""
    proposal = ProposalConfig(num_samples=16, num_levels=2, log2_table_size=8, max_resolution=32)
    return NerfactoConfig(
        field=HashFieldConfig(log2_table_size=8, max_resolution=64, appearance=4),
        coarse_proposal=proposal,
        fine_proposal=proposal,
        num_samples=8,
        rays_per_batch=64,
        distortion_weight=0.002,
    )


def build_model(config: NerfactoConfig, captures: PosedImages, seed: int) -> Nerfacto:
    """A fresh model for the scene of ``captures``.

    Raises:
        InputError: its cameras, or normalised device coordinates, do not suit a pyramid.
    """
    if config.pyramid is not None:
        check_pixels_widen(captures.cameras)
    return Nerfacto(
        config,
        captures.bounds,
        unbounded=captures.unbounded,
        near=captures.near,
        has_alpha=captures.has_alpha,
        tone=captures.tone,
        num_cameras=captures.num_images,
        seed=seed,
        ndc=captures.ndc,
    )
