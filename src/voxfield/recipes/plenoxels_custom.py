"""``plenoxels-custom``: one's own photographs of a scene without bounds, with svox2's settings for such."""

import dataclasses

from voxfield.models.plenoxels_config import VoxelRate
from voxfield.recipes import plenoxels_360
from voxfield.recipes.plenoxels import build_model, smallest_model
from voxfield.recipes.plenoxels_360 import FULL_STEPS, REACH
from voxfield.training.experiment import PhotographExperiment

__all__ = ["build_model", "experiment", "smallest_model"]


def experiment(minutes: float | None = None) -> PhotographExperiment:
    """Smoother than ``plenoxels-360``: the spheres learn alone at first, and nothing is right before a camera."""
    base = plenoxels_360.experiment(minutes)
    model = dataclasses.replace(
        base.model,
        resolutions=((128, 128, 128), (256, 256, 256), (512, 512, 512)),
        refine_at=(0.25, 0.5),
        density_rate=VoxelRate(initial=30.0, final=0.05, reach=REACH),
        tv_density=5e-3,
        tv_decay=0.5,
        spheres=dataclasses.replace(base.model.spheres, camera_scale=0.9, tv_density=5e-3, tv_rgb=5e-3),
        spheres_alone_until=1000 / FULL_STEPS,
        near_clip=0.35,
    )
    return dataclasses.replace(base, recipe="plenoxels-custom", model=model)
