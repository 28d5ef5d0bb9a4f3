"""Diffusions over volumes: training them, and the volumes they make."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast, get_args

import torch

from voxfield.api.autoencoders import AutoencoderRun, divided, held_out_loss, volumes_part
from voxfield.api.books import TrainingTask, train_model
from voxfield.api.places import anywhere
from voxfield.api.run_memory import NETWORK_LIBRARIES, check_memory, field_part
from voxfield.api.trained_run import TrainedRun
from voxfield.api.training_memory import check_network
from voxfield.checks import check_choice, check_range
from voxfield.data.projections import read_projections
from voxfield.data.seeds import mix
from voxfield.data.volume_batches import Split, VolumeSampler, open_volumes, split_indices
from voxfield.distributed.memory import MemoryPart
from voxfield.errors import InputError
from voxfield.export.volume_samples import check_formats, write_samples
from voxfield.models.diffusion import Condition, VoxelDiffusion, project
from voxfield.models.diffusion_samplers import Sampler, SamplingConfig
from voxfield.models.voxel_autoencoder import VoxelAutoencoder
from voxfield.recipes.diffusion import DiffusionExperiment
from voxfield.storage.atomic import write_json
from voxfield.storage.json_values import json_values
from voxfield.storage.remote import local
from voxfield.storage.skipped import Skipped
from voxfield.training.evaluate_volumes import evaluate_volumes
from voxfield.training.progress import Progress
from voxfield.voxels.isosurface import SurfaceMethod

_MEASURED: Final = 64
"""Volumes whose latents say what is usual of them."""
_EVALUATED: Final = 100
"""Volumes of a split that are measured against."""
_SHOWN: Final = 25
"""Volumes on an evaluation's contact sheet."""
_KEPT: Final = 2
"""Times a volume that was drawn: while all are put together."""
_COMPARED: Final = 3
"""Times a volume that is measured, or measured against: read, in one set, and as shapes."""


def data_of(experiment: DiffusionExperiment) -> str | None:
    """The volumes that the settings name."""
    return experiment.data.path


def open_run(path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> "DiffusionRun":
    """Open a run on volumes."""
    return DiffusionRun(path, outcome=outcome, left_out=left_out)


def train_on(task: TrainingTask) -> "DiffusionRun":
    """Read the volumes and train on them."""
    experiment = cast(DiffusionExperiment, task.experiment)
    volumes = open_volumes(task.data, experiment.data)
    codec = _codec(task, experiment, volumes.shape)
    latent = experiment.model.latent if codec is None else codec.config
    config = dataclasses.replace(experiment.model, latent=latent).of_volumes(volumes.shape)
    if config.classes > volumes.classes:
        raise InputError(f"model.classes: {config.classes}, but {task.data} has {volumes.classes}. Set as many.")
    if 0 < config.classes < volumes.classes:
        raise InputError(f"model.classes: {config.classes}, but {task.data} has labels up to {volumes.classes - 1}.")
    experiment = dataclasses.replace(experiment, model=config)
    learnt, held_out = divided(task, volumes, experiment.data)
    device = task.placement.device
    model = VoxelDiffusion(config, seed=task.seed)
    remedy = "Set a smaller model.batch_size, and trainer.accumulate for it, or model.recompute=true"
    check_network(task, model, volumes_part(volumes), remedy)
    if codec is not None:
        model.take_codec(codec, [volumes.volume(index) for index in learnt[:: max(1, len(learnt) // _MEASURED)]])
    outcome, left_out = train_model(
        task,
        experiment,
        model,
        VolumeSampler(volumes, learnt, seed=task.seed, augment=experiment.data.augment, device=device),
        data_hash=volumes.fingerprint,
        notes=task.notes,
        evaluation=functools.partial(held_out_loss, volumes, held_out, device) if held_out else None,
        threads_for_torch=True,
    )
    return DiffusionRun(task.run_dir, outcome=outcome, left_out=left_out)


def _codec(task: TrainingTask, experiment: DiffusionExperiment, shape: tuple[int, int, int]) -> VoxelAutoencoder | None:
    """The autoencoder that a fresh run is to learn latents of; one that goes on has it already."""
    named = experiment.data.autoencoder
    if named is None or task.resume:
        return None
    run = AutoencoderRun(local(named))
    recipe = run.record.experiment.recipe
    if recipe != "voxel-autoencoder":
        raise InputError(f"data.autoencoder: {named} is a run of {recipe}. Name one of voxel-autoencoder.")
    codec = run.model.cpu()
    codec.config.of_volumes(shape)
    return codec


class DiffusionRun(TrainedRun):
    """A diffusion trained on volumes. The network is loaded when first needed."""

    @property
    def experiment(self) -> DiffusionExperiment:
        """The settings the run was made with."""
        return cast(DiffusionExperiment, self.record.experiment)

    def _build_model(self) -> torch.nn.Module:
        return VoxelDiffusion(self.experiment.model, seed=self.record.seed)

    @property
    def model(self) -> VoxelDiffusion:
        """The newest weights, averaged if the run kept an average."""
        return cast(VoxelDiffusion, self._loaded[0])

    def volumes(self, split: Split, data: str | os.PathLike[str] | None = None) -> list[torch.Tensor]:
        """A split's volumes (D, H, W), 0 to 1, of the run's data or of others.

        Raises:
            MissingFileError, FormatError: there are none, or they are damaged.
        """
        source = local(self.record.data_path if data is None else data)
        volumes = open_volumes(source, self.experiment.data)
        return [volumes.volume(index) for index in split_indices(len(volumes), split, self.experiment.data)]

    def generate(
        self,
        count: int,
        sampling: SamplingConfig | None = None,
        *,
        seed: int = 0,
        condition: Condition | None = None,
        batch: int = 16,
        quiet: bool = False,
    ) -> torch.Tensor:
        """Draw volumes.

        Args:
            count: how many, at least 1.
            sampling: how; None: as the run's settings say.
            seed: of all noise; a longer set begins with the shorter one where batches are whole.
            condition: what they are to be, ``count`` of each.
            batch: how many are made at once; memory grows with it.
            quiet: no progress bar.

        Returns:
            (count, D, H, W) float32 on the CPU, 0 to 1.

        Raises:
            InputError: more steps than the run was trained with, or a condition it does not know.
        """
        check_range("num", count, minimum=1, maximum=1_000_000)
        check_range("batch", batch, minimum=1)
        sampling = self.experiment.sampling if sampling is None else sampling
        made = []
        with Progress(quiet=quiet) as progress, progress.stage("Sampling", count, "volumes") as stage:
            for at in range(0, count, batch):
                part = min(batch, count - at)
                chosen = None if condition is None else condition[at : at + part]
                with self.placement.autocast():
                    own_seed = mix(seed, "volumes", at)
                    made.append(self.model.generate(part, sampling, seed=own_seed, condition=chosen))
                stage.advance(part)
        return torch.cat(made)

    @anywhere("reference", "projection", folder="output")
    def sample(
        self,
        output: str | os.PathLike[str],
        count: int = 16,
        *,
        sampler: Sampler | None = None,
        steps: int | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        label: int | None = None,
        projection: str | os.PathLike[str] | None = None,
        seed: int = 0,
        batch: int = 16,
        formats: Sequence[str] = ("hdf5", "sheet"),
        threshold: float = 0.5,
        points: int = 4096,
        method: SurfaceMethod = "marching_cubes",
        reference: str | os.PathLike[str] | None = None,
        memory: int | str | None = None,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Draw volumes and write them, and how good they are.

        Args:
            output: folder, made when absent; files in it are replaced.
            count: volumes.
            sampler, steps, eta, guidance: see `SamplingConfig`; None: as the run's settings say.
            label: class of all of them, for a run with classes; None: any.
            projection: what they are to look like along the axis that the run was trained with, see
                `voxfield.data.projections.read_projections`; None: anything.
            seed: of all noise.
            batch: volumes made at once.
            formats: see `voxfield.export.volume_samples.FORMATS`.
            threshold: least value of what is inside, above 0 to 1: of surfaces, points, pictures and measures.
            points: of a point cloud.
            method: of meshes: ``marching_cubes``, or ``dual_contouring``, which keeps sharp edges and corners.
            reference: real volumes to measure against, which writes ``metrics.json``. Of the run's own data those
                that it was not trained on are taken.
            memory: most memory, in bytes or as ``"8GB"``; what there is to spare if None. What is needed is known
                before.
            quiet: no progress bar.

        Returns:
            ``files``, ``notes`` (sentences on what was not asked for), and ``metrics`` where they were measured.

        Raises:
            InputError: settings that do not fit each other or the run, too little memory, or a reference of fewer than
                two volumes.
            MissingFileError, FormatError: the reference is absent or damaged.
        """
        check_range("threshold", threshold, above=0.0, maximum=1.0)
        check_range("points", points, minimum=1, maximum=100_000_000)
        check_formats(formats)
        check_choice("method", method, get_args(SurfaceMethod))
        given = {"sampler": sampler, "steps": steps, "eta": eta, "guidance": guidance}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        sampling = dataclasses.replace(self.experiment.sampling, **changes)
        self._check_memory(count, min(batch, count), reference, memory, quiet)
        condition = self._condition(label, projection, count)
        real = None if reference is None else self._reference(reference)
        volumes = self.generate(count, sampling, seed=seed, condition=condition, batch=batch, quiet=quiet)
        folder = Path(output)
        about = {**dataclasses.asdict(sampling), "seed": seed, "run": str(self.path), "step": self._loaded[1]["step"]}
        if projection is not None:
            about["projection"] = str(projection)
        files = write_samples(
            folder, volumes, formats=formats, threshold=threshold, points=points, method=method, about=about
        )
        result: dict[str, Any] = {"files": files, "notes": self._unasked(condition)}
        if real is not None:
            metrics = evaluate_volumes(volumes, real, self.volumes("train"), threshold=threshold)
            write_json(folder / "metrics.json", json_values({**metrics, "sampling": about}))
            result.update(metrics=metrics, files=[*files, folder / "metrics.json"])
        return result

    def _check_memory(
        self, count: int, batch: int, reference: str | os.PathLike[str] | None, memory: int | str | None, quiet: bool
    ) -> None:
        """Say what drawing ``count`` volumes needs, ``batch`` at once; InputError where there is not as much."""
        check_range("num", count, minimum=1, maximum=1_000_000)
        check_range("batch", batch, minimum=1)
        with torch.device("meta"):
            drawn = cast(VoxelDiffusion, self._build_model()).sampling_bytes(batch)
        held = [field_part(self.path), MemoryPart(what="libraries of networks", size=NETWORK_LIBRARIES)]
        volume = 4 * math.prod(self.experiment.model.volume_shape or ())
        held.append(MemoryPart(what="volumes that were drawn", size=_KEPT * count * volume))
        if reference is not None:
            real = open_volumes(Path(reference), self.experiment.data)
            learnt = open_volumes(local(self.record.data_path), self.experiment.data)
            measured = len(real) + len(learnt) + 3 * count
            held.append(MemoryPart(what="volumes that are measured", size=_COMPARED * measured * volume))
        check_memory(
            memory,
            MemoryPart(what="volumes drawn together", size=drawn),
            held=held,
            device=self.placement.device,
            remedy="Take a smaller --batch or --num",
            quiet=quiet,
        )

    def _condition(self, label: int | None, projection: str | os.PathLike[str] | None, count: int) -> Condition | None:
        """What the volumes are to be; None: anything."""
        if label is None and projection is None:
            return None
        config, shown = self.experiment.model, None
        if projection is not None:
            if config.projection == "none":
                raise InputError(f"projection: {self.path} was trained without (model.projection). Leave it out.")
            empty = torch.empty((1, 1, *self.model.volume_shape), device="meta")
            rows, columns = project(empty, config.projection).shape[1:]
            shown = read_projections(Path(projection), (rows, columns), count)
        return Condition(labels=None if label is None else torch.full((count,), label), projection=shown)

    def _unasked(self, condition: Condition | None) -> tuple[str, ...]:
        """That the run could have been told what to make."""
        axis = self.experiment.model.projection
        if axis == "none" or (condition is not None and condition.projection is not None):
            return ()
        said = f"The run was trained with projections along {axis} and was given none (--projection FILE)"
        return (f"{said}, so the volumes are of any kind.",)

    def _reference(self, reference: str | os.PathLike[str]) -> list[torch.Tensor]:
        """Volumes that were not trained on: of other data than the run's all."""
        options = self.experiment.data
        volumes = open_volumes(Path(reference), options)
        count = len(volumes)
        if volumes.shape != self.model.volume_shape:
            raise InputError(f"reference: expected volumes of {self.model.volume_shape} voxels, got {volumes.shape}.")
        chosen = list(range(count))
        if volumes.fingerprint == self.record.data_hash:
            chosen = [*split_indices(count, "val", options), *split_indices(count, "test", options)]
            if len(chosen) < 2:
                raise InputError(
                    f"reference: {reference} is what the run was trained on, and {len(chosen)} of its {count} volumes "
                    "were held out; two are needed. Name other volumes, or train with a lower data.train_ratio."
                )
        elif count < 2:
            raise InputError(f"reference: {reference} holds {count} volumes; two are needed to measure against.")
        return [volumes.volume(index) for index in chosen]

    @anywhere("data", back="self")
    def evaluate(
        self, *, split: str = "test", data: str | os.PathLike[str] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """Draw as many volumes as a split has, at most 100, and measure them against it.

        Args:
            split: ``train``, ``val`` or ``test``.
            data: other data than the run's.
            quiet: no progress bar.

        Returns:
            See `voxfield.training.evaluate_volumes.evaluate_volumes`; written as ``eval/<split>/metrics.json`` beside
            a contact sheet.

        Raises:
            InputError: the split has fewer than two volumes.
            MissingFileError, FormatError: the data are absent or damaged.
        """
        chosen = cast(Split, split)
        real = self.volumes(chosen, data)[:_EVALUATED]
        if len(real) < 2:
            raise InputError(f"split {split}: has {len(real)} volumes, two are needed. Lower data.train_ratio.")
        volumes = self.generate(len(real), quiet=quiet)
        metrics = evaluate_volumes(volumes, real, self.volumes("train", data))
        folder = self.path / "eval" / split
        write_samples(folder, volumes[:_SHOWN], formats=("sheet",), about={})
        write_json(folder / "metrics.json", json_values(metrics))
        return metrics
