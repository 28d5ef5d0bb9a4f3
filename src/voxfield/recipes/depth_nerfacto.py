"""``depth-nerfacto``: nerfacto that also learns from observed distances: depth images, or a reconstruction's points."""

from dataclasses import replace

from voxfield.recipes import nerfacto
from voxfield.recipes.nerfacto import build_model, smallest_model
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """The recipe of nerfacto for a training of ``minutes``, with depths read and learned from."""
    base = nerfacto.experiment(minutes)
    return replace(
        base,
        recipe="depth-nerfacto",
        model=replace(base.model, depth=replace(base.model.depth, loss="ds_nerf")),
        capture=replace(base.capture, depth=replace(base.capture.depth, source="auto")),
    )
