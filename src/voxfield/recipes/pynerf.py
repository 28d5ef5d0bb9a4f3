"""``pynerf``: photographs of any place to a field that looks right from near and far, the published way.

Trained on a CPU it stands for ``pynerf-occupancy-grid``, which learns the same there in a fraction of the time, unless
``model.sampling`` is set (see `voxfield.recipes.for_device`).
"""

from dataclasses import replace
from typing import Final

from voxfield.data.capture import CaptureOptions
from voxfield.fields.pyramid_field import PyramidConfig
from voxfield.models.nerfacto_config import NerfactoConfig
from voxfield.recipes import nerfacto
from voxfield.recipes.nerfacto import build_model
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate

__all__ = ["build_model", "experiment", "smallest_model"]

_SHORT_MINUTES: Final = 30
"""Trainings up to so many minutes get the smaller table."""


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe for a training of ``minutes`` on a CPU's few cores; None is the authors', for the best picture.

    The full one has their tables, proposal networks and warm-up; their cosine is an exponential decay here. A short one
    has the tables of nerfacto's.
    """
    base = nerfacto.experiment(minutes)
    model = replace(base.model, pyramid=PyramidConfig())
    warm_up = 100
    if minutes is None or minutes > _SHORT_MINUTES:
        warm_up = 512
        model = replace(
            model,
            field=replace(model.field, features=4, log2_table_size=20, sh_degree=4),
            coarse_proposal=replace(model.coarse_proposal, num_levels=6, log2_table_size=19, max_resolution=512),
            fine_proposal=replace(model.fine_proposal, num_levels=8, log2_table_size=19, max_resolution=2048),
            rays_per_batch=8192,
        )
    rate = LearningRate(initial=1e-2, decay_from=0.0, final_factor=0.01, warm_up_steps=warm_up)
    trainer = replace(base.trainer, learning_rate=rate)
    return replace(base, recipe="pynerf", model=model, capture=several_scales(base.capture), trainer=trainer)


def several_scales(capture: CaptureOptions) -> CaptureOptions:
    """``capture`` with each picture at the authors' four scales: of one scale alone most levels learn nothing."""
    return replace(capture, scales=(1, 2, 4, 8), uneven_scales="crop")


def smallest_model() -> NerfactoConfig:
    """Settings of a model that uses all kernels in next to no time."""
    return replace(nerfacto.smallest_model(), pyramid=PyramidConfig(num_levels=4, trained_resolution=16))
