"""Training on traced rays, and runs that did: measuring, pictures."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch

from voxfield.api.books import Aftermath, TrainingTask, train_model
from voxfield.api.places import anywhere
from voxfield.api.trained_run import TrainedRun
from voxfield.api.training_memory import check_network
from voxfield.checks import check_choice
from voxfield.data.shape_batches import ShapeRayBatches, open_ray_split, resolve_options
from voxfield.data.shape_rays import HierarchicalVoxelRayDataset
from voxfield.distributed.devices import reset_peak_memory
from voxfield.distributed.memory import MemoryPart
from voxfield.errors import InputError, MissingFileError
from voxfield.export.shape_pictures import beside_truth, predicted_view, shape_cameras, traced_view
from voxfield.models.raynet import Raynet
from voxfield.recipes.raynet import ShapeExperiment
from voxfield.render.image import write_png
from voxfield.storage.atomic import write_json
from voxfield.storage.remote import local
from voxfield.storage.shape_dataset import ShapeDataset, open_shapes
from voxfield.storage.shape_rays import RayBlock
from voxfield.storage.shape_splits import read_splits
from voxfield.storage.skipped import Skipped
from voxfield.training.evaluate_rays import evaluate_rays
from voxfield.training.progress import Progress

_BATCHES: Final = MemoryPart(what="batches", size=200_000_000)
"""Rays are read as they are drawn, a few batches ahead."""
_QUICK_BLOCKS, _QUICK_RAYS = 64, 256
"""What is measured while training."""


def data_of(experiment: ShapeExperiment) -> str | None:  # noqa: ARG001  (settings never name the dataset)
    """None: a person names the dataset."""
    return None


def open_run(path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> "ShapeRun":
    """Open a run on traced rays."""
    return ShapeRun(path, outcome=outcome, left_out=left_out)


def train_on(task: TrainingTask) -> "ShapeRun":
    """Open the dataset and its rays, and train on them."""
    experiment = cast(ShapeExperiment, task.experiment)
    options = resolve_options(task.data, experiment.data)
    experiment = dataclasses.replace(experiment, data=options)
    device = task.placement.device
    dataset = open_ray_split(task.data, options, "train", held_out=False)
    held_out = open_ray_split(task.data, options, "train", held_out=True) if options.held_out else None
    reset_peak_memory(device)
    model = Raynet(experiment.model, _resolution(dataset, options.level), task.seed)
    check_network(task, model, _BATCHES, "Set a smaller model.blocks_per_batch or model.rays_per_batch")
    content = _content(open_shapes(task.data))
    notes = [*task.notes, f"{len(dataset):,} blocks of {model.resolution} voxels along each axis."]
    if task.recorded_hash not in (None, content):
        notes.append("The dataset changed since the run was started: it does not continue as it would have.")
    for note in notes:
        task.progress.say(note)
    blocks = _spread(len(dataset), _QUICK_BLOCKS)

    def measure(trained: Raynet) -> dict[str, Any]:
        assert held_out is not None
        measured = evaluate_rays(trained, held_out, blocks=blocks, rays_per_block=_QUICK_RAYS, device=device)
        names = ("hit_f1", "depth_mae", "chord_mae", "chord_mae_diagonal")
        return {"split": "held-out rays", **{name: measured[name] for name in names}}

    outcome, left_out = train_model(
        task,
        experiment,
        model,
        ShapeRayBatches(dataset, experiment.model.blocks_per_batch, task.seed, device),
        data_hash=content,
        notes=notes,
        evaluation=measure if held_out is not None else None,
        aftermath=Aftermath,
    )
    return ShapeRun(task.run_dir, outcome=outcome, left_out=left_out)


class ShapeRun(TrainedRun):
    """A network trained on traced rays. The model is loaded when first needed."""

    @property
    def experiment(self) -> ShapeExperiment:
        """The settings the run was made with."""
        return cast(ShapeExperiment, self.record.experiment)

    @property
    def model(self) -> Raynet:
        """The model of the newest readable checkpoint, averaged if the run kept an average."""
        return cast(Raynet, self._loaded[0])

    _moved_to: Path | None = None
    """Where the dataset is, when it is no longer where the run found it."""

    def _dataset(self) -> Path:
        folder = self._moved_to or local(self.record.data_path)
        if not folder.exists():
            raise MissingFileError(f"{folder}: the dataset of this run is not there. Name it with --data.")
        return folder

    def _build_model(self) -> torch.nn.Module:
        about, level = open_shapes(self._dataset()).about, self.experiment.data.level
        assert level is not None
        return Raynet(self.experiment.model, about.base_resolution >> level, self.record.seed)

    @anywhere("data", back="self")
    def evaluate(
        self, *, split: str = "test", data: str | os.PathLike[str] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """Measure the network on rays it never saw; writes ``eval/<split>/metrics.json``.

        Args:
            split: whose blocks count as unseen: those of ``val`` or ``test`` that no object for training has. Of
                ``train`` only the held-out rays of its own blocks are measured.
            data: the dataset, when it is no longer where the run found it.
            quiet: no progress bar.

        Returns:
            ``seen``: figures on held-out rays of the blocks trained on, and ``unseen``: on all rays of others; each as
            `voxfield.training.evaluate_rays.evaluate_rays` says, or None where there are no such rays.

        Raises:
            InputError: a split that there is not. MissingFileError, FormatError: as opening the dataset.
        """
        check_choice("split", split, ("train", "val", "test"))
        if data is not None:
            self._moved_to = Path(data)
        folder, options = self._dataset(), self.experiment.data
        if options.rays is None or not local(options.rays).is_dir():
            options = resolve_options(folder, dataclasses.replace(options, rays=None))
        model, about = self.model, self._loaded[1]
        seen = open_ray_split(folder, options, "train", held_out=True) if options.held_out else None
        unseen, blocks = None, []
        if split != "train" and split in read_splits(folder).objects.values():
            unseen = open_ray_split(folder, options, split)
            known: set[RayBlock] = set(open_ray_split(folder, options, "train").blocks)
            blocks = [index for index, block in enumerate(unseen.blocks) if block not in known]
        total = (len(seen) if seen is not None else 0) + len(blocks)
        device = self.placement.device
        with Progress(quiet=quiet) as progress, progress.stage(f"Evaluating {split}", total, "blocks") as stage:
            metrics: dict[str, Any] = {
                "seen": None if seen is None else evaluate_rays(model, seen, device=device, on_progress=stage.advance),
                "unseen": evaluate_rays(model, unseen, blocks=blocks, device=device, on_progress=stage.advance)
                if unseen is not None and blocks
                else None,
                **about,
                "device": str(self.placement),
            }
        write_json(self.path / "eval" / split / "metrics.json", metrics)
        return metrics

    @anywhere(folder="output", back="self")
    def render_shapes(
        self,
        *,
        objects: Sequence[str] = (),
        split: str = "test",
        views: int = 1,
        size: int = 256,
        output: str | os.PathLike[str] | None = None,
        quiet: bool = False,
    ) -> list[Path]:
        """Pictures of whole objects as the network sees them, beside the traced truth.

        Each shows depth as traced, depth by the network, length within the shape as traced, and by the network.

        Args:
            objects: ids; none: the first four of ``split``, or of the dataset if that has none.
            split: see ``objects``.
            views: cameras around each, at least 1.
            size: pixels along each side of each of the four pictures.
            output: folder; None: ``renders/shapes`` of the run.
            quiet: no progress bar.

        Returns:
            The PNG files.

        Raises:
            InputError: ids that the dataset does not have.
        """
        folder, level = self._dataset(), self.experiment.data.level
        assert level is not None
        shapes = open_shapes(folder)
        places = {str(shapes.info(index)["object_id"]): index for index in range(len(shapes))}
        chosen = list(objects) or _some_objects(folder, places, split)
        for name in chosen:
            if name not in places:
                raise InputError(f"objects: {folder} has no object {name!r}, only {', '.join(list(places)[:6])}, ...")
        cameras = shape_cameras(shapes.about.base_resolution, views, size)
        home = Path(output) if output is not None else self.path / "renders" / "shapes"
        written = []
        with Progress(quiet=quiet) as progress:
            with progress.stage("Rendering", len(chosen) * views, "pictures") as stage:
                for name in chosen:
                    shape = shapes.read(places[name])
                    for view in range(views):
                        truth = traced_view(shape.tree.levels[0].words[0], shape.tree.resolution, cameras, view)
                        seen = predicted_view(self.model, shape.tree, level, cameras, view)
                        written.append(write_png(home / f"{name}_{view:03d}.png", beside_truth(seen, truth)))
                        stage.advance(1)
        return written


def _resolution(dataset: HierarchicalVoxelRayDataset, level: int | None) -> int:
    assert level is not None
    return dataset.base_resolution >> level


def _spread(count: int, most: int) -> list[int]:
    """At most so many of ``count`` numbers, evenly."""
    return sorted({index * count // min(count, most) for index in range(min(count, most))})


def _some_objects(folder: Path, places: dict[str, int], split: str) -> list[str]:
    named = [name for name, of in read_splits(folder).objects.items() if of == split and name in places]
    return sorted(named or places)[:4]


def _content(shapes: ShapeDataset) -> str:
    """What changes when the dataset does."""
    about = shapes.about
    return f"{about.created_at} {len(shapes)} objects, {about.base_resolution} to {about.min_resolution}"
