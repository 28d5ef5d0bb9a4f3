"""What one of several ranks does in the tests of `test_ranks`: every scenario of `SCENARIOS`, its results in a folder.

Started as a process of its own: ``python rank_worker.py FOLDER``, with the variables that a launcher sets.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from voxfield.data.ray_batches import RaySampler
from voxfield.data.shape_batches import ShapeRayBatches, open_ray_split, resolve_options
from voxfield.data.synthetic import posed_images
from voxfield.data.volume_batches import VolumeSampler, open_volumes
from voxfield.distributed.devices import place
from voxfield.distributed.ranks import ALONE, Ranks, joined, launched
from voxfield.errors import VoxfieldError
from voxfield.models.base import ParameterGroup
from voxfield.models.diffusion import VoxelDiffusion
from voxfield.models.raynet import Raynet
from voxfield.recipes import build_model, load_recipe, smallest_model
from voxfield.storage.checkpoint import load_latest
from voxfield.storage.shape_dataset import open_shapes
from voxfield.training.exchange import SPARSE_FROM, GradientExchange
from voxfield.training.experiment import apply_overrides
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer

SIZE = 2
SHAPES, RAYS = "shapes", "rays"
"""A dataset of voxels and its traced rays, beside the folders of trainings."""
STEPS = 8
OVERRIDES = {
    "grid-ngp": [
        "model.field.log2_table_size=14",
        "model.samples_per_batch=4096",
        "model.final_samples_per_batch=4096",
    ],
    "pynerf-occupancy-grid": ["model.samples_per_batch=2048", "model.final_samples_per_batch=2048"],
    "nerfacto": ["model.field.log2_table_size=14", "model.rays_per_batch=256", "model.poses=SO3xR3"],
    "plenoxels": ["model.least_steps=3", "model.rays_per_batch=256", "model.background=random"],
    "raynet": [
        "model.features=8",
        "model.layers=1",
        "model.width=16",
        "model.intervals=8",
        "model.rays_per_batch=64",
        "model.blocks_per_batch=2",
        "data.level=1",
    ],
    "diffusion": [
        "model.channels=8,8",
        "model.norm_groups=4",
        "model.head_channels=8",
        "model.batch_size=2",
        "model.schedule.timesteps=10",
        "data.procedural_count=16",
        "data.procedural_resolution=16",
    ],
}


def trainer_of(recipe: str, run_dir: Path, ranks: Ranks, *overrides: str, steps: int = STEPS) -> Trainer[Any]:
    """A small training: with ranks, or of one process on batches as large as those of ranks together."""
    experiment = load_recipe(recipe)
    if recipe not in ("raynet", "diffusion"):
        experiment = replace(experiment, model=smallest_model(recipe))
    experiment = apply_overrides(
        experiment,
        [*OVERRIDES[recipe], f"trainer.steps={steps}", "trainer.minutes=none", "trainer.log_every=1", *overrides],
    )
    times = SIZE if ranks.size == 1 else 1
    model, batches = _subject(experiment, run_dir.parent / SHAPES, times)
    if ranks.size == 1:
        own = model.batch_size
        model.batch_size = lambda: SIZE * own()
    return Trainer(
        model,
        batches,
        experiment.trainer,
        run_dir=run_dir,
        placement=place("cpu"),
        seed=0,
        ranks=ranks,
    )


def _subject(experiment: Any, shapes: Path, times: int) -> tuple[Any, Any]:
    """The model and what it learns from: photographs, rays through blocks (``times`` as many), or volumes."""
    cpu = torch.device("cpu")
    if experiment.recipe == "raynet":
        options = resolve_options(shapes, replace(experiment.data, rays=str(shapes.with_name(RAYS))))
        dataset = open_ray_split(shapes, options, "train", held_out=False)
        resolution = open_shapes(shapes).about.base_resolution >> options.level
        blocks = times * experiment.model.blocks_per_batch
        return Raynet(experiment.model, resolution, 0), ShapeRayBatches(dataset, blocks, 0, cpu)
    if experiment.recipe == "diffusion":
        volumes = open_volumes(Path("procedural"), experiment.data)
        model = VoxelDiffusion(experiment.model.of_volumes(volumes.shape), seed=0)
        return model, VolumeSampler(volumes, range(len(volumes)), seed=0, augment=True, device=cpu)
    scene = posed_images(count=4, resolution=32)
    return build_model(experiment.recipe, experiment.model, scene, 0), RaySampler(scene, 0)


def run(trainer: Trainer[Any], log_dir: Path) -> str:
    """Train to the end, from wherever the trainer stands."""
    with Progress(quiet=True) as progress, RunLog(log_dir, resume_step=trainer.step, tensorboard=False) as log:
        return trainer.train(log if trainer.ranks.leads else None, progress)


def begin(run_dir: Path, ranks: Ranks, log_dir: Path) -> None:
    """The first half of a training, stopped by whom only rank 0 hears."""
    trainer = trainer_of("grid-ngp", run_dir, ranks)
    trainer.onlooker = lambda moment: moment.step < STEPS // 2
    assert run(trainer, log_dir) == "interrupted"


def train(recipe: str, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """A whole training; the gradients of its first step, and its parameters and buffers at the end."""
    trainer = trainer_of(recipe, folder / recipe, ranks)
    gradients: dict[str, torch.Tensor] = {}
    step = trainer.optimiser.step

    def watched(rate: float, progress: float) -> None:
        for group in trainer.optimiser.groups if not gradients else ():
            for number, parameter in enumerate(group.parameters):
                if parameter.grad is not None:
                    gradients[f"{group.name}.{number}"] = parameter.grad.clone()
        step(rate, progress)

    trainer.optimiser.step = watched  # type: ignore[method-assign]
    outcome = run(trainer, folder / recipe / f"log-{ranks.rank}")
    return {"outcome": outcome, "gradients": gradients, "state": trainer._module.state_dict()}


def stop_on_one(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """A signal reaches rank 1 alone."""
    trainer = trainer_of("nerfacto", folder / "stop", ranks, steps=1000)
    sample = trainer.batches.sample

    def watched(count: int, step: int, *rest: Any) -> Any:
        if ranks.rank == 1 and step == 3:
            trainer._stop_requested.set()
        return sample(count, step, *rest)

    trainer.batches.sample = watched  # type: ignore[method-assign]
    return {"outcome": run(trainer, folder / f"stop-log-{ranks.rank}"), "step": trainer.step}


def diverge_on_one(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """The loss is not a number on rank 1 alone."""
    trainer = trainer_of("nerfacto", folder / "diverge", ranks)
    own = trainer.model.training_step

    def spoilt(batch: Any, step: int, generator: torch.Generator) -> Any:
        result = own(batch, step, generator)
        if ranks.rank == 1 and step == 2:
            result = type(result)(**{**vars(result), "loss": result.loss * math.nan})
        return result

    trainer.model.training_step = spoilt  # type: ignore[method-assign]
    return _raised(lambda: run(trainer, folder / f"diverge-log-{ranks.rank}"))


def disagree(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Rank 1 was given other settings."""
    return _raised(lambda: ranks.check_same(settings=f"steps={ranks.rank}", seed="42"))


def fail_on_one(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Rank 0 finds something wrong."""

    def body() -> None:
        with ranks.all_or_none():
            if ranks.leads:
                raise VoxfieldError("runs/x: holds a run already.")

    return _raised(body)


def exchange(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Sums of gradients: of networks, of tables with few and with many rows touched, of voxels."""
    results = {}
    cases = (("few", 0.01, False), ("many", 0.9, False), ("none", 0.0, False), ("shared", 0.3, True))
    for name, share, shared in cases:
        generator = torch.Generator().manual_seed(10 + ranks.rank)
        network, table = torch.nn.Parameter(torch.zeros(3, 5)), torch.nn.Parameter(torch.zeros(SPARSE_FROM, 2))
        voxels, density = torch.nn.Parameter(torch.zeros(5000, 9)), torch.nn.Parameter(torch.zeros(5000))
        touched = (torch.rand(5000, generator=generator) < share).to(torch.uint8)
        network.grad = torch.randn(3, 5, generator=generator)
        table.grad = torch.randn(table.shape, generator=generator)
        table.grad = torch.where(torch.rand(len(table), 1, generator=generator) < share, table.grad, 0.0)
        voxels.grad = torch.where(touched[:, None] > 0, torch.randn(voxels.shape, generator=generator), 0.0)
        density.grad = torch.where(touched > 0, torch.randn(density.shape, generator=generator), 0.0)
        own = [parameter.grad.clone() for parameter in (network, table, voxels, density)] + [touched.clone()]
        groups = [
            ParameterGroup(name="network", parameters=[network]),
            ParameterGroup(name="table", parameters=[table], skip_zero=True),
            ParameterGroup(name="voxels", parameters=[voxels], touched=touched),
            ParameterGroup(name="density", parameters=[density], touched=touched),
        ]
        exchange = GradientExchange(ranks, groups)
        if not shared:
            exchange._board = None
        exchange.add_up(groups)
        sums = [parameter.grad for parameter in (network, table, voxels, density)] + [touched]
        results[name] = {"own": own, "sums": sums, "received": exchange.received}
    return results


def change_over(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Begin together what one continues, and continue what one began (`test_ranks` did)."""
    begin(folder / "begun-together", ranks, folder / f"begun-log-{ranks.rank}")
    trainer = trainer_of("grid-ngp", folder / "begun-alone", ranks)
    trainer.restore(load_latest(folder / "begun-alone")[1])
    run(trainer, folder / f"continued-log-{ranks.rank}")
    return {"state": trainer._module.state_dict()}


def lose_one(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Rank 1 dies in the middle of a step; the last scenario."""
    trainer = trainer_of("nerfacto", folder / "lost", ranks, steps=1000)
    sample = trainer.batches.sample

    def watched(count: int, step: int, *rest: Any) -> Any:
        if ranks.rank == 1 and step == 5:
            import os

            os._exit(9)
        return sample(count, step, *rest)

    trainer.batches.sample = watched  # type: ignore[method-assign]
    return {**_raised(lambda: run(trainer, folder / f"lost-log-{ranks.rank}")), "step": trainer.step}


SCENARIOS: dict[str, Callable[[Path, Ranks], dict[str, Any]]] = {
    **{
        recipe: (lambda folder, ranks, recipe=recipe: train(recipe, folder, ranks))  # type: ignore[misc]
        for recipe in OVERRIDES
    },
    "stop_on_one": stop_on_one,
    "diverge_on_one": diverge_on_one,
    "disagree": disagree,
    "fail_on_one": fail_on_one,
    "exchange": exchange,
    "change_over": change_over,
    "lose_one": lose_one,
}


def _raised(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except VoxfieldError as error:
        return {"kind": type(error).__name__, "said": str(error)}
    return {"kind": None, "said": ""}


def main(folder: Path) -> None:
    ranks = launched()
    assert ranks != ALONE
    with joined(ranks, torch.device("cpu")):
        for name, scenario in SCENARIOS.items():
            results = scenario(folder, ranks)
            torch.save(results, folder / f"{name}-{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
