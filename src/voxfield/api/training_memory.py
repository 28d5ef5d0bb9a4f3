"""What a training needs of memory: said and checked once its model is known, before anything is written."""

import dataclasses
from typing import Any, Final, cast

import torch

from voxfield.api.books import TrainingTask
from voxfield.api.run_memory import MEASURED_BYTES, NETWORK_LIBRARIES, RAY_BYTES, USUAL_RAYS
from voxfield.data.image_store import ImageStore
from voxfield.data.posed_images import PosedImages
from voxfield.data.sliding_pool import SlidingPlan
from voxfield.distributed.memory import MemoryNeed, MemoryPart, need_of, process_part
from voxfield.kernels.workspace import keep_at_most
from voxfield.models.base import Trainable
from voxfield.models.plenoxels_config import PlenoxelsConfig
from voxfield.training.experiment import Experiment, PhotographExperiment

_BOOKS_BYTES: Final = 120_000_000
"""TensorBoard's writer, and pictures of the report."""
_COPIES: Final = 5
"""A parameter, its gradient and two moments, and one that the run's books make of it."""
_REFINING: Final = 1.5
"""Times the voxels' own memory while they are divided: those before and those after, in parts."""
_DECODING: Final = 20
"""Bytes of a pixel of a picture's file while it is decoded, on all threads that do."""


def training_process(device: torch.device) -> MemoryPart:
    """This process before it trains on ``device``, with what keeps the run's books."""
    process = process_part(device)
    return dataclasses.replace(process, size=process.size + _BOOKS_BYTES)


def check_network(task: TrainingTask, model: Trainable[Any], data: MemoryPart, remedy: str) -> None:
    """Say what training a network of torch's operators needs, and raise InputError where that is beyond the bound."""
    parts = [data, MemoryPart(what="libraries of networks", size=NETWORK_LIBRARIES)]
    if task.placement.device.type == "cpu":
        parts += _model_parts(task, model, task.experiment)
    _state(task, need_of(*parts, process=task.process), remedy)


def within_memory(
    task: TrainingTask, experiment: PhotographExperiment, captures: PosedImages, held_out: PosedImages | None
) -> PhotographExperiment:
    """Settings with an image cache, and voxels, that fit the bound beside what else training on photographs needs.

    What a model of voxels may take is known before it is built; `check_photographs` does the rest for all.
    """
    config = experiment.model
    if not isinstance(config, PlenoxelsConfig) or task.placement.device.type != "cpu":
        return experiment
    store = captures.images
    others = [task.process, *_parts_beside_pictures(captures, held_out, experiment)]
    others.append(MemoryPart(what="a step", size=config.step_bytes()))
    left = task.bound.left(*others)
    if left is None:
        return experiment
    # Pictures first, but never so many that voxels have less than twice as much.
    pictures = min(_pictures_bytes(store), store.cache_bytes, left // 3)
    most = max(1, int((left - pictures) / _REFINING))
    if _most_voxels(config) > most:
        config = dataclasses.replace(config, max_bytes=most)
    return dataclasses.replace(experiment, model=config)


def check_photographs(
    task: TrainingTask,
    experiment: PhotographExperiment,
    captures: PosedImages,
    held_out: PosedImages | None,
    model: Trainable[Any],
) -> PhotographExperiment:
    """Settings with an image cache that fits the bound; what training needs is said.

    Raises:
        InputError: even with the smallest cache it needs more than the bound.
    """
    pictures, others = _pictures_part(captures.images), _parts_beside_pictures(captures, held_out, experiment)
    if task.placement.device.type == "cpu":
        others += _model_parts(task, model, experiment)
    process, store = task.process, captures.images
    left = task.bound.left(process, *others)
    if left is not None and pictures.size > left:
        store.cache_bytes = max(1, min(store.cache_bytes, left))
        capture = dataclasses.replace(experiment.capture, cache_bytes=store.cache_bytes)
        experiment = dataclasses.replace(experiment, capture=capture)
        pictures = _pictures_part(store)
    keep_at_most(model.step_bytes() + USUAL_RAYS * RAY_BYTES)
    remedy = "Train a smaller model or smaller batches (see the recipe's settings, --set), or --set capture.downscale=2"
    _state(task, need_of(pictures, *others, process=process), remedy)
    return experiment


def _state(task: TrainingTask, need: MemoryNeed, remedy: str) -> None:
    with task.ranks.all_or_none():
        task.bound.check(need, remedy)
    task.progress.say(str(need))


def _model_parts(task: TrainingTask, model: Trainable[Any], experiment: Experiment) -> list[MemoryPart]:
    """The field and what a step takes."""
    module = cast(torch.nn.Module, model)
    average = 1 if experiment.trainer.ema_decay else 0
    # What a checkpoint holds is there until it is taken over.
    resumed = 0 if task.state is None else _COPIES - 1
    held = sum(one.nbytes for one in module.parameters()) * (_COPIES + average + resumed)
    held += sum(one.nbytes for one in module.buffers())
    name = "field and optimiser"
    if isinstance(model.config, PlenoxelsConfig):
        held, name = _voxel_bytes(task, model.config), "voxels and their optimiser, at most"
    return [MemoryPart(what=name, size=held), MemoryPart(what="a step", size=model.step_bytes())]


def _voxel_bytes(task: TrainingTask, config: PlenoxelsConfig) -> int:
    """Of voxels that may yet be divided, and of those that a run in its last stage goes on with."""
    weights = {} if task.state is None else task.state["model"]
    density, stage = weights.get("grid.density"), weights.get("stage")
    if density is not None and stage is not None and int(stage) == len(config.resolutions) - 1:
        spheres = config.spheres.bytes_of(config.spheres.height)
        # Twice: what the checkpoint holds is there until it is taken over.
        return 2 * config.bytes_of(config.resolutions[-1], len(density)) + spheres
    return int(_REFINING * _most_voxels(config))


def _pictures_part(store: ImageStore) -> MemoryPart:
    """Pictures that are kept to be drawn from."""
    return MemoryPart(what="pictures", size=_pictures_bytes(store))


def _parts_beside_pictures(
    captures: PosedImages, held_out: PosedImages | None, experiment: PhotographExperiment
) -> list[MemoryPart]:
    """What decoding pictures and measuring takes."""
    store = captures.images
    decoding = max(store.pixels_to_decode(index) for index in range(len(store))) * _DECODING
    parts = [MemoryPart(what="decoding", size=decoding)]
    count = experiment.trainer.evaluation_images
    if held_out is not None and count:
        sizes = [height * width for height, width, _ in map(held_out.images.shape, range(len(held_out.images)))]
        kept = min(held_out.images.cache_bytes, min(count, len(sizes)) * max(sizes) * held_out.images.bytes_per_pixel)
        parts.append(
            MemoryPart(
                what="pictures that are measured", size=kept + max(sizes) * MEASURED_BYTES + USUAL_RAYS * RAY_BYTES
            )
        )
    return parts


def _pictures_bytes(store: ImageStore) -> int:
    """Memory of the pixels that are drawn from."""
    if store.fits:
        return store.total_bytes
    return SlidingPlan.within_cache(store).bytes_of(store)


def _most_voxels(config: PlenoxelsConfig) -> int:
    """Bytes of the voxels at most: if no stage dropped any, and of the spheres; or what the settings allow."""
    grids = [config.bytes_of(size, size[0] * size[1] * size[2]) for size in config.resolutions]
    most = max(grids) + config.spheres.bytes_of(config.spheres.height)
    return most if config.max_bytes is None else min(config.max_bytes, most)
