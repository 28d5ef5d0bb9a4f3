"""``nerfacto-huge``: the largest nerfacto, for one sharp picture of a large place and a GPU of 24 GB or more."""

from dataclasses import replace

from voxfield.recipes import nerfacto_big
from voxfield.recipes.nerfacto import build_model, smallest_model
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:  # noqa: ARG001  (every recipe is told)
    """The recipe of that name of nerfstudio; its sizes are what is asked for, whatever the ``minutes``."""
    base = nerfacto_big.experiment()
    model = base.model
    return replace(
        base,
        recipe="nerfacto-huge",
        model=replace(
            model,
            field=replace(model.field, max_resolution=8192, hidden=256, appearance=32),
            coarse_proposal=replace(model.coarse_proposal, max_resolution=512),
            fine_proposal=replace(model.fine_proposal, num_samples=512, num_levels=7, max_resolution=2048),
            num_samples=64,
            rays_per_batch=16_384,
        ),
    )
