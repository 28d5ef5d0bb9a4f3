"""Compiling the kernels before the clock starts: a tiny scene is trained and rendered once, and thrown away."""

import dataclasses
import time
from pathlib import Path

import torch

from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.distributed.devices import Placement
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.recipes.grid_ngp import build_model, experiment
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer


def compile_kernels(placement: Placement, progress: Progress, *, training: bool = True) -> float:
    """Have the kernels compiled (the first time) or loaded from their cache, so that no measured time goes into it.

    Args:
        placement: where they will run.
        progress: shows what is done.
        training: also those that only training needs.

    Returns:
        Seconds it took.
    """
    began = time.perf_counter()
    scene = posed_images(count=2, resolution=16)
    recipe = experiment()
    small = dataclasses.replace(
        recipe.model,
        field=dataclasses.replace(recipe.model.field, log2_table_size=8, max_resolution=64),
        occupancy=dataclasses.replace(recipe.model.occupancy, resolution=16),
        samples_per_batch=512,
        final_samples_per_batch=512,
    )
    stages = 2 if training else 1
    with (
        progress.stage("Preparing kernels (compiled once, then cached)", stages) as stage,
        kernels_own_the_cores(),
        RaySampler(scene, 0, device=placement.device) as batches,
    ):
        model = build_model(small, scene, 0).to(placement.device)
        with torch.inference_mode():
            model.render_image(scene.cameras, 0, background=torch.ones(3))
        stage.advance(1)
        if training:
            trainer = Trainer(model, batches, recipe.trainer, run_dir=Path(), placement=placement, seed=0)
            trainer.rehearse()
            stage.advance(1)
    return time.perf_counter() - began
