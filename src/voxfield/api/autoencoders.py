"""Voxel autoencoders: training them, and what volumes lose in them."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch

from voxfield.api.books import TrainingTask, train_model
from voxfield.api.places import anywhere
from voxfield.api.trained_run import TrainedRun
from voxfield.api.training_memory import check_network
from voxfield.data.volume_batches import (
    Split,
    VolumeBatch,
    VolumeOptions,
    VolumeSampler,
    VolumeSet,
    held_bytes,
    open_volumes,
    split_indices,
)
from voxfield.distributed.memory import MemoryPart
from voxfield.errors import InputError
from voxfield.export.volume_samples import write_samples
from voxfield.models.diffusion import VoxelDiffusion
from voxfield.models.voxel_autoencoder import VoxelAutoencoder
from voxfield.recipes.voxel_autoencoder import AutoencoderExperiment
from voxfield.storage.atomic import write_json
from voxfield.storage.json_values import json_values
from voxfield.storage.remote import local
from voxfield.storage.skipped import Skipped
from voxfield.training.evaluate_volumes import reconstruction_measures

_VALIDATED: Final = 64
"""Held-out volumes that are looked at while training."""
_SHOWN: Final = 12
"""Volumes on an evaluation's contact sheet, each followed by what came back."""


def data_of(experiment: AutoencoderExperiment) -> str | None:
    """The volumes that the settings name."""
    return experiment.data.path


def open_run(path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> "AutoencoderRun":
    """Open a run."""
    return AutoencoderRun(path, outcome=outcome, left_out=left_out)


def train_on(task: TrainingTask) -> "AutoencoderRun":
    """Read the volumes and train on them."""
    experiment = cast(AutoencoderExperiment, task.experiment)
    volumes = open_volumes(task.data, experiment.data)
    experiment = dataclasses.replace(experiment, model=experiment.model.of_volumes(volumes.shape))
    learnt, held_out = divided(task, volumes, experiment.data)
    device = task.placement.device
    model = VoxelAutoencoder(experiment.model, seed=task.seed)
    check_network(task, model, volumes_part(volumes), "Set a smaller model.batch_size, and trainer.accumulate for it")
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
    return AutoencoderRun(task.run_dir, outcome=outcome, left_out=left_out)


def volumes_part(volumes: VolumeSet) -> MemoryPart:
    """What a set of volumes keeps of memory."""
    return MemoryPart(what="volumes", size=held_bytes(volumes))


def divided(task: TrainingTask, volumes: VolumeSet, options: VolumeOptions) -> tuple[list[int], list[int]]:
    """Which volumes are learnt from and which validate while training; what there is to know of them is said."""
    if task.recorded_hash not in (None, volumes.fingerprint):
        task.notes.append("The volumes changed since the run was started: it does not continue as it would have.")
    learnt, held_out = (split_indices(len(volumes), split, options) for split in ("train", "val"))
    task.notes.append(
        f"{len(learnt)} volumes of {'x'.join(map(str, volumes.shape))} voxels, {len(volumes) - len(learnt)} held out."
    )
    for note in task.notes:
        task.progress.say(note)
    return learnt, held_out


@torch.no_grad()
def held_out_loss(
    volumes: VolumeSet, held_out: Sequence[int], device: torch.device, model: VoxelAutoencoder | VoxelDiffusion
) -> dict[str, Any]:
    """The loss on held-out volumes, at most 64 of them, with the same noise every time."""
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


class AutoencoderRun(TrainedRun):
    """A voxel autoencoder. The networks are loaded when first needed."""

    @property
    def experiment(self) -> AutoencoderExperiment:
        """The settings the run was made with."""
        return cast(AutoencoderExperiment, self.record.experiment)

    def _build_model(self) -> torch.nn.Module:
        return VoxelAutoencoder(self.experiment.model, seed=self.record.seed)

    @property
    def model(self) -> VoxelAutoencoder:
        """The newest weights, averaged if the run kept an average."""
        return cast(VoxelAutoencoder, self._loaded[0])

    def reconstruct(self, volumes: torch.Tensor) -> torch.Tensor:
        """Volumes (N, D, H, W), 0 to 1, as they come back, float32 on the CPU."""
        device = self.placement.device
        with self.placement.autocast():
            made = [self.model.reconstruct(one[None, None].to(device))[0, 0].float().cpu() for one in volumes]
        return torch.stack(made)

    @anywhere("data", back="self")
    def evaluate(
        self, *, split: str = "test", data: str | os.PathLike[str] | None = None, quiet: bool = False
    ) -> dict[str, Any]:
        """Send a split's volumes through the networks and measure what comes back.

        Args:
            split: ``train``, ``val`` or ``test``.
            data: other data than the run's.
            quiet: nothing is shown in any case.

        Returns:
            ``mae``, ``psnr`` and ``iou`` with their ``_std``, ``compression``: numbers of a volume over those of its
            latents; written as ``eval/<split>/metrics.json`` beside a contact sheet of pairs.

        Raises:
            InputError: the split has no volumes.
            MissingFileError, FormatError: the data are absent or damaged.
        """
        del quiet
        volumes = open_volumes(local(self.record.data_path if data is None else data), self.experiment.data)
        chosen = split_indices(len(volumes), cast(Split, split), self.experiment.data)
        if not chosen:
            raise InputError(f"split {split}: has no volumes. Lower data.train_ratio.")
        real = torch.stack([volumes.volume(index) for index in chosen])
        made = self.reconstruct(real)
        config = self.experiment.model
        metrics = {
            "split": split,
            **reconstruction_measures(made, real),
            "compression": config.stride**3 / config.latent_channels,
        }
        folder = self.path / "eval" / split
        pairs = torch.stack([real[:_SHOWN], made[:_SHOWN]], 1).flatten(0, 1)
        write_samples(folder, pairs, formats=("sheet",), about={})
        write_json(folder / "metrics.json", json_values(metrics))
        return metrics
