"""``pynerf-synthetic``: the published PyNeRF for bounded scenes whose pictures were all taken alike."""

from dataclasses import replace

from voxfield.recipes import pynerf
from voxfield.recipes.nerfacto import build_model
from voxfield.recipes.pynerf import smallest_model
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe of pynerf without appearances, with twice the samples and the authors' rates for synthetic scenes."""
    base = pynerf.experiment(minutes)
    rate = LearningRate(
        initial=5e-3, decay_from=0.0, final_factor=0.02, warm_up_steps=base.trainer.learning_rate.warm_up_steps
    )
    model = replace(
        base.model,
        field=replace(base.model.field, appearance=0),
        coarse_proposal=replace(base.model.coarse_proposal, num_samples=256),
        fine_proposal=replace(base.model.fine_proposal, num_samples=96),
        num_samples=96,
    )
    return replace(
        base,
        recipe="pynerf-synthetic",
        model=model,
        trainer=replace(base.trainer, steps=50_000, learning_rate=rate),
    )
