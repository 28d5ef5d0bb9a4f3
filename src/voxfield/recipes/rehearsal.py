"""Compiling the kernels before the clock starts: a tiny scene is trained and rendered once, and thrown away."""

import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from voxfield.data.ray_batches import RaySampler
from voxfield.data.synthetic import posed_images
from voxfield.distributed.devices import Placement
from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.models.base import Model
from voxfield.recipes import build_model, load_recipe, smallest_model
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer


def compile_kernels(
    recipe: str, placement: Placement, progress: Progress, *, unbounded: bool = False, training: bool = True
) -> float:
    """Have the kernels compiled (the first time) or loaded from their cache, so that no measured time goes into it.

    Args:
        recipe: whose kernels.
        placement: where they will run.
        progress: shows what is done.
        unbounded: whether there is something around the scene they are for: rays then march through other kernels.
        training: also those that only training needs.

    Returns:
        Seconds it took.
    """
    began = time.perf_counter()
    scene = replace(posed_images(count=2, resolution=16), unbounded=unbounded)
    stages = 2 if training else 1
    with (
        progress.stage("Preparing kernels (compiled once, then cached)", stages) as stage,
        kernels_own_the_cores(),
        RaySampler(scene, 0, device=placement.device) as batches,
    ):
        module = cast(torch.nn.Module, build_model(recipe, smallest_model(recipe), scene, 0)).to(placement.device)
        model = cast(Model, module)
        with torch.inference_mode():
            model.render_image(scene.cameras, 0, background=torch.ones(3))
        stage.advance(1)
        if training:
            trainer = Trainer(model, batches, load_recipe(recipe).trainer, run_dir=Path(), placement=placement, seed=0)
            trainer.rehearse()
            stage.advance(1)
    return time.perf_counter() - began
