"""The document's settings of models, data and training, and what they are in Voxfield's."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from voxfield.checks import check_range
from voxfield.data.capture import CaptureOptions, FormatName
from voxfield.errors import InputError
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig, VoxelRate
from voxfield.training.trainer import TrainerConfig
from voxfield.voxels.voxel_grid import Resolution

DENSITY_RATE = 100.0
SH_RATE = 0.3
"""Factors from the document's one rate to those of densities and coefficients: 0.1 is then `plenoxels-fast`."""
PRUNING_RAYS = 200_000


@dataclass
class PlenoxelConfig:
    """The model: the document's settings, by its names, with its defaults."""

    grid_resolution: Resolution = (256, 256, 256)
    """Voxels along x, y, z at the end."""
    scene_bounds: tuple[float, float, float, float, float, float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)
    """The box, minimum and maximum, world units."""
    sh_degree: int = 2
    """Highest band of the harmonics, 0 to 3."""
    use_coarse_to_fine: bool = True
    """Begin with fewer voxels."""
    coarse_resolutions: tuple[Resolution, ...] = ((64, 64, 64), (128, 128, 128), (256, 256, 256))
    """The stages; those with fewer voxels than ``grid_resolution`` come before it."""
    coarse_epochs: tuple[int, ...] = (2000, 5000, 10000)
    """The epoch that each stage ends at, rising."""
    near_plane: float = 0.1
    """Least distance sampled, world units."""
    far_plane: float = 10.0
    """Greatest; rays end where the box does, so it only has to lie beyond ``near_plane``."""


@dataclass
class PlenoxelDatasetConfig:
    """The data: a capture of any layout."""

    data_dir: str | Path
    """Its folder."""
    dataset_type: str = "auto"
    """``blender``, ``colmap``, ``llff`` or another layout; ``auto`` looks at the files."""
    white_background: bool = True
    """What pictures are measured over; training sees a random colour behind what is transparent."""
    downsample_factor: int = 1
    """Whole factor that pictures are reduced by."""
    num_rays_train: int = 1024
    """Rays of an epoch, which is one step."""


@dataclass
class PlenoxelTrainerConfig:
    """The training: the document's settings, by its names, with its defaults. An epoch is a step."""

    max_epochs: int = 10000
    """Steps."""
    learning_rate: float = 0.1
    """Rate: times 100 for densities, times 0.3 for coefficients."""
    lr_decay: float = 0.1
    """What the rates are multiplied by in the course of the training."""
    use_adam: bool = False
    """Adam in place of RMSprop."""
    weight_decay: float = 0.0
    """Only 0: voxels are held small by ``tv_loss_weight`` and ``l1_loss_weight``."""
    color_loss_weight: float = 1.0
    """Weight of the colours' squared error, above 0."""
    tv_loss_weight: float = 1e-6
    """Weight of the total variation of densities and coefficients."""
    l1_loss_weight: float = 1e-8
    """Weight of the sparsity penalty, log(1 + 2 density^2) along rays."""
    pruning_threshold: float = 0.01
    """Voxels go whose largest share in a training ray's colour is below this; 0 to 1."""
    pruning_interval: int = 1000
    """Epochs between prunings."""
    eval_interval: int = 1000
    """Epochs between measurements on two held-out pictures."""
    save_interval: int = 5000
    """Epochs between Voxfield's own checkpoints, which resume exactly."""
    log_interval: int = 100
    """Epochs between lines of the log."""
    experiment_name: str = "plenoxel_experiment"
    """Folder of the run, within ``output_dir``."""
    output_dir: str | Path = "outputs"
    resume_from: str | Path | None = None
    """A ``.vdb`` checkpoint, or one of Voxfield's own (``.pt``)."""
    device: str = "auto"
    """Or a torch device."""
    seed: int = 42
    """Of every random choice."""


def capture_options(model: PlenoxelConfig, data: PlenoxelDatasetConfig) -> CaptureOptions:
    """How the data are read."""
    check_range("far_plane", model.far_plane, above=model.near_plane)
    return CaptureOptions(
        format=cast(FormatName, data.dataset_type),
        downscale=data.downsample_factor,
        scene_bounds=model.scene_bounds,
        near=model.near_plane,
    )


def model_settings(
    model: PlenoxelConfig, trainer: PlenoxelTrainerConfig, data: PlenoxelDatasetConfig
) -> PlenoxelsConfig:
    """The model as Voxfield has it.

    Raises:
        InputError: settings out of range, or epochs of stages that do not rise.
    """
    check_range("color_loss_weight", trainer.color_loss_weight, above=0.0)
    check_range("pruning_threshold", trainer.pruning_threshold, minimum=0.0, maximum=1.0)
    check_range("pruning_interval", trainer.pruning_interval, minimum=1)
    check_range("learning_rate", trainer.learning_rate, above=0.0)
    check_range("lr_decay", trainer.lr_decay, above=0.0, maximum=1.0)
    stages = _stages(model, trainer.max_epochs, trainer.pruning_interval)
    weight = 1.0 / trainer.color_loss_weight

    def rate(factor: float, delay: float = 0.0) -> VoxelRate:
        initial = factor * trainer.learning_rate
        return VoxelRate(initial=initial, final=initial * trainer.lr_decay, reach=1.0, delay=delay)

    return PlenoxelsConfig(
        resolutions=tuple(resolution for _, resolution in stages),
        refine_at=tuple(epoch / trainer.max_epochs for epoch, _ in stages[1:]),
        sh_degree=model.sh_degree,
        rays_per_batch=data.num_rays_train,
        density_rate=rate(DENSITY_RATE, 0.05),
        sh_rate=rate(SH_RATE),
        tv_density=trainer.tv_loss_weight * weight,
        tv_sh=trainer.tv_loss_weight * weight,
        tv_until=1.0,
        sparsity=trainer.l1_loss_weight * weight,
        weight_threshold=trainer.pruning_threshold * model.grid_resolution[2],
        dilate=1,
        pruning_rays=PRUNING_RAYS,
        # ``scene_bounds`` is all there is.
        spheres=SpheresConfig(layers=0),
    )


def trainer_settings(trainer: PlenoxelTrainerConfig) -> TrainerConfig:
    """The training as Voxfield has it.

    Raises:
        InputError: settings out of range, or weight decay.
    """
    if trainer.weight_decay != 0:
        raise InputError("weight_decay: voxels have none. Raise l1_loss_weight or tv_loss_weight instead.")
    for name in ("eval_interval", "save_interval", "log_interval"):
        check_range(name, getattr(trainer, name), minimum=1)
    return TrainerConfig(
        steps=trainer.max_epochs,
        optimiser="adam" if trainer.use_adam else "rmsprop",
        beta2=0.95,
        epsilon=1e-8,
        evaluation_images=0,
        checkpoint_every=1e9,
        log_every=trainer.log_interval,
        tensorboard=False,
    )


def _stages(model: PlenoxelConfig, epochs: int, pruning_interval: int) -> list[tuple[int, Resolution]]:
    """The epoch that each stage begins at, and its resolution: a pruning is a stage like the one before."""
    check_range("max_epochs", epochs, minimum=1)
    final = model.grid_resolution
    refined = [(0, final)]
    if model.use_coarse_to_fine:
        if len(model.coarse_epochs) != len(model.coarse_resolutions):
            raise InputError(
                f"coarse_epochs: expected one for each of {len(model.coarse_resolutions)} coarse_resolutions, got "
                f"{len(model.coarse_epochs)}."
            )
        if any(one >= other for one, other in itertools.pairwise(model.coarse_epochs)):
            raise InputError(f"coarse_epochs: expected rising epochs, got {model.coarse_epochs}.")
        coarse = [
            (end, one)
            for end, one in zip(model.coarse_epochs, model.coarse_resolutions, strict=True)
            if one[0] * one[1] * one[2] < final[0] * final[1] * final[2]
        ]
        begins = [0, *(end for end, _ in coarse)]
        refined = list(zip(begins, [*(one for _, one in coarse), final], strict=True))
    refined = [(begin, one) for begin, one in refined if begin < epochs]
    marks = sorted({*range(0, epochs, pruning_interval), *(begin for begin, _ in refined)})
    return [(mark, [one for begin, one in refined if begin <= mark][-1]) for mark in marks]
