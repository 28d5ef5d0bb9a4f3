"""Diffusions over volumes: training them, and the volumes they make."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch

from voxfield.api.books import TrainingTask, train_model
from voxfield.api.trained_run import TrainedRun
from voxfield.data.capture import Skipped
from voxfield.data.volume_batches import Split, VolumeBatch, VolumeSampler, VolumeSet, open_volumes, split_indices
from voxfield.errors import InputError
from voxfield.models.diffusion import VoxelDiffusion
from voxfield.recipes.diffusion import DiffusionExperiment
from voxfield.training.progress import Progress

_VALIDATED: Final = 64
"""Held-out volumes that are looked at while training."""


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
    if task.recorded_hash not in (None, volumes.fingerprint):
        task.notes.append("The volumes changed since the run was started: it does not continue as it would have.")
    config = experiment.model.of_volumes(volumes.shape)
    if config.classes > volumes.classes:
        raise InputError(f"model.classes: {config.classes}, but {task.data} has {volumes.classes}. Set as many.")
    if 0 < config.classes < volumes.classes:
        raise InputError(f"model.classes: {config.classes}, but {task.data} has labels up to {volumes.classes - 1}.")
    experiment = dataclasses.replace(experiment, model=config)
    learnt = split_indices(len(volumes), "train", experiment.data)
    held_out = split_indices(len(volumes), "val", experiment.data)
    task.notes.append(
        f"{len(learnt)} volumes of {'x'.join(map(str, volumes.shape))} voxels, {len(volumes) - len(learnt)} held out."
    )
    for note in task.notes:
        task.progress.say(note)
    device = task.placement.device
    model = VoxelDiffusion(config, seed=task.seed)
    outcome, left_out = train_model(
        task,
        experiment,
        model,
        VolumeSampler(volumes, learnt, seed=task.seed, augment=experiment.data.augment, device=device),
        data_hash=volumes.fingerprint,
        notes=task.notes,
        evaluation=functools.partial(_validation, volumes, held_out, device) if held_out else None,
        threads_for_torch=True,
    )
    return DiffusionRun(task.run_dir, outcome=outcome, left_out=left_out)


@torch.no_grad()
def _validation(
    volumes: VolumeSet, held_out: Sequence[int], device: torch.device, model: VoxelDiffusion
) -> dict[str, Any]:
    """The loss on held-out volumes, with the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for at in range(0, min(len(held_out), _VALIDATED), model.batch_size()):
        chosen = held_out[at : at + model.batch_size()]
        batch = VolumeBatch(
            volumes=torch.stack([volumes.volume(index) for index in chosen])[:, None].to(device),
            labels=torch.tensor([volumes.label(index) for index in chosen]).to(device),
        )
        losses.append(float(model.training_step(batch, 0, generator).loss))
    return {"split": "val", "loss": sum(losses) / len(losses)}


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
        """A split's volumes (D, H, W), of the run's data or of others."""
        source = Path(self.record.data_path if data is None else data)
        volumes = open_volumes(source, self.experiment.data)
        return [volumes.volume(index) for index in split_indices(len(volumes), split, self.experiment.data)]

    def generate(
        self,
        count: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch: int = 16,
        quiet: bool = False,
    ) -> torch.Tensor:
        """Draw volumes.

        Args:
            count: how many, at least 1.
            sampler, steps: in place of the run's own.
            seed: of all noise.
            batch: how many are made at once; memory grows with it.
            quiet: no progress bar.

        Returns:
            (count, D, H, W) float32 on the CPU, 0 to 1.
        """
        changes = {name: value for name, value in {"sampler": sampler, "steps": steps}.items() if value is not None}
        sampling = dataclasses.replace(self.experiment.sampling, **cast(dict[str, Any], changes))
        made = []
        with Progress(quiet=quiet) as progress, progress.stage("Sampling", total=count) as stage:
            for at in range(0, count, batch):
                part = min(batch, count - at)
                with self.placement.autocast():
                    made.append(self.model.generate(part, sampling, seed=seed + at))
                stage.advance(part)
        return torch.cat(made)

    def evaluate(
        self, *, split: str = "test", data: str | os.PathLike[str] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """Measure drawn volumes against a split."""
        raise NotImplementedError
