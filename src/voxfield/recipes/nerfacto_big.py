"""``nerfacto-big``: nerfacto with wider networks, larger tables and more samples, for machines with much memory."""

from dataclasses import replace

from voxfield.recipes import nerfacto
from voxfield.recipes.nerfacto import build_model, smallest_model
from voxfield.training.experiment import PhotographExperiment
from voxfield.training.schedules import LearningRate

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:  # noqa: ARG001  (every recipe is told)
    """The recipe of that name of nerfstudio; its sizes are what is asked for, whatever the ``minutes``."""
    base = nerfacto.experiment()
    model = base.model
    return replace(
        base,
        recipe="nerfacto-big",
        model=replace(
            model,
            field=replace(model.field, log2_table_size=21, max_resolution=4096, hidden=128, appearance=128),
            coarse_proposal=replace(model.coarse_proposal, num_samples=512),
            fine_proposal=replace(model.fine_proposal, num_samples=256),
            num_samples=128,
            rays_per_batch=8192,
            annealing_steps=5000,
        ),
        trainer=replace(
            base.trainer,
            steps=100_000,
            optimiser="radam",
            learning_rate=LearningRate(initial=1e-2, decay_from=0.0, decay_until=0.5, final_factor=0.01),
        ),
    )
