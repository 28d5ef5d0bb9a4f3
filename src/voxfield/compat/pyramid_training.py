"""The document's data sets and trainers, over `voxfield.data` and `voxfield.training`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from voxfield.compat.pyramid_model import PyNeRF, PyNeRFConfig
from voxfield.data.capture import CaptureOptions, Split
from voxfield.data.capture_reading import read_capture
from voxfield.data.posed_images import PosedImages
from voxfield.data.ray_batches import RaySampler
from voxfield.data.scales import check_schedule
from voxfield.distributed.devices import place
from voxfield.errors import InputError
from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import Trainer, TrainerConfig

SCALE_SCHEDULE = {0: 8, 2000: 4, 5000: 2, 10000: 1}
"""The document's, from coarse to fine."""
WARM_UP_STEPS = 512


class PyNeRFDataset(Dataset[dict[str, Any]]):
    """The pictures of a split, of any capture that `voxfield.data.capture_reading.read_capture` knows."""

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str = "train",
        img_downscale: int = 1,
        white_background: bool = False,
    ) -> None:
        """Read a split.

        Args:
            data_dir: the capture's folder.
            split: ``train``, ``val`` or ``test``.
            img_downscale: whole factor (>= 1) that pictures are reduced by.
            white_background: what transparent pixels are shown over: white, else black.

        Raises:
            InputError: linear pictures (EXR), which this model has no tone curve for.
            MissingFileError, FormatError: as ``read_capture``.
        """
        self.captures = self._read(data_dir, split, CaptureOptions(downscale=img_downscale))
        self.background = "white" if white_background else "black"

    def _read(self, data_dir: str | os.PathLike[str], split: str, options: CaptureOptions) -> PosedImages:
        captures = read_capture(Path(data_dir), split=cast(Split, split), options=options)
        if captures.tone is not None:
            raise InputError(f"{data_dir}: holds linear pictures. Train them with: voxfield train pynerf {data_dir}")
        return captures

    def __len__(self) -> int:
        """Pictures; those of several scales each count."""
        return len(self.captures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Picture ``index`` and its rays.

        Returns:
            ``image`` (H, W, 3) in [0, 1] over the background, ``pose`` (4, 4) camera-to-world with OpenGL axes,
            ``rays_o`` and ``rays_d`` (H, W, 3) with unit directions, ``pixel_area`` (H, W), ``image_index`` (copies of
            one image at several scales share it), ``scale`` and ``weight``.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        captures, index = self.captures, index % len(self)
        pixels = captures.images.read(index).float() / 255.0
        behind = 1.0 if self.background == "white" else 0.0
        image = pixels[..., :3]
        if pixels.shape[-1] == 4:
            image = image * pixels[..., 3:] + behind * (1.0 - pixels[..., 3:])
        rays, (height, width) = captures.cameras.image_rays(index), image.shape[:2]
        pose = torch.cat([captures.cameras.camera_to_world[index], torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        scales = captures.scales
        return {
            "image": image,
            "pose": pose,
            "rays_o": rays.origins.view(height, width, 3),
            "rays_d": rays.directions.view(height, width, 3),
            "pixel_area": rays.pixel_area.view(height, width),
            "image_index": index if scales is None else int(scales.image[index]),
            "scale": 1 if scales is None else int(scales.factor[index]),
            "weight": 1.0 if scales is None else float(scales.weight[index]),
        }


class MultiScaleDataset(PyNeRFDataset):
    """The same at several scales: every picture once for each of them, made by area filtering."""

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str = "train",
        scales: Sequence[int] = (1, 2, 4, 8),
        img_downscale: int = 1,
        white_background: bool = False,
    ) -> None:
        """Read a split; ``scales`` are whole, rising, and divide the pictures; the rest as `PyNeRFDataset`."""
        self.captures = self._read(data_dir, split, CaptureOptions(downscale=img_downscale, scales=tuple(scales)))
        self.background = "white" if white_background else "black"


class PyNeRFTrainer:
    """Trains a `PyNeRF`: Adam, warm-up, exponential decay."""

    def __init__(
        self,
        model: PyNeRF,
        config: PyNeRFConfig,
        train_dataset: PyNeRFDataset,
        val_dataset: PyNeRFDataset | None = None,
        *,
        run_dir: str | os.PathLike[str] = "runs/pyramid-nerf",
        seed: int = 42,
        device: str = "auto",
        quiet: bool = True,
    ) -> None:
        """Prepare to train ``model``, which stays the caller's.

        Args:
            model: made for the region of the data: ``PyNeRF(config)`` for NeRF-synthetic data, else
                ``PyNeRF.for_captures(config, train_dataset.captures)``.
            config: the settings the model was made with; steps and learning rate may differ.
            train_dataset: what to learn.
            val_dataset: what to measure on at the end, if anything.
            run_dir: where checkpoints and the log go.
            seed: of every random choice.
            device: ``auto``, or a torch device.
            quiet: no progress bar.

        Raises:
            InputError: a model of other settings or of another region than the data's.
        """
        if config.model_config() != model.config.model_config():
            raise InputError("config: expected the settings that the model was made with.")
        captures, own = train_dataset.captures, model.field_model
        if (captures.bounds, captures.unbounded) != (own.bounds, own.unbounded):
            raise InputError(
                "model: covers another region than the data. Make it with PyNeRF.for_captures(config, "
                "train_dataset.captures)."
            )
        self.model, self.config, self.train_dataset, self.val_dataset = model, config, train_dataset, val_dataset
        self.run_dir, self.seed, self.quiet = Path(run_dir), seed, quiet
        self.placement = place(device, "auto")
        self.scale_schedule: Mapping[int, int] | None = None

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        """Train up to ``config.max_steps``.

        Args:
            resume: continue from the newest checkpoint in the run directory.

        Returns:
            ``outcome``: ``finished`` or ``interrupted``; ``step``; and with a validation set ``metrics``, see
            `evaluate`.

        Raises:
            InputError: the run directory holds checkpoints already, and ``resume`` was not said.
            TrainingDivergedError: the loss became NaN or infinite.
        """
        if list_checkpoints(self.run_dir) and not resume:
            raise InputError(f"{self.run_dir}: holds checkpoints already. Say train(resume=True), or another run_dir.")
        field_model = self.model.field_model.to(self.placement.device)
        captures = self.train_dataset.captures
        with (
            Progress(quiet=self.quiet) as progress,
            RaySampler(
                captures, self.seed, device=self.placement.device, scale_schedule=self.scale_schedule
            ) as batches,
            RunLog(self.run_dir, tensorboard=False) as log,
        ):
            trainer = Trainer(
                field_model, batches, self._settings(), run_dir=self.run_dir, placement=self.placement, seed=self.seed
            )
            if resume and list_checkpoints(self.run_dir):
                trainer.restore(load_latest(self.run_dir)[1])
            outcome = trainer.train(log, progress)
        result: dict[str, Any] = {"outcome": outcome, "step": trainer.step}
        if self.val_dataset is not None and outcome == "finished":
            result["metrics"] = self.evaluate()
        return result

    def evaluate(self, dataset: PyNeRFDataset | None = None) -> dict[str, Any]:
        """Measure the model on a data set, the validation set by default; see `voxfield.training.evaluate.evaluate`.

        Raises:
            InputError: there is no data set to measure on.
        """
        dataset = dataset or self.val_dataset
        if dataset is None:
            raise InputError("evaluate: give a data set, or the trainer a val_dataset.")
        return evaluate(
            self.model.field_model.render_image,
            dataset.captures,
            output=self.run_dir / "eval" / dataset.captures.split,
            settings=EvaluateConfig(background=dataset.background),
            device=self.placement.device,
        )

    def _settings(self) -> TrainerConfig:
        return TrainerConfig(
            steps=self.config.max_steps,
            beta1=0.9,
            beta2=0.999,
            learning_rate=LearningRate(
                initial=self.config.learning_rate,
                decay_from=0.0,
                final_factor=0.1,
                warm_up_steps=min(WARM_UP_STEPS, self.config.max_steps // 10),
            ),
            tensorboard=False,
        )


class MultiScaleTrainer(PyNeRFTrainer):
    """Trains from coarse to fine."""

    def __init__(
        self,
        model: PyNeRF,
        config: PyNeRFConfig,
        train_dataset: MultiScaleDataset,
        val_dataset: PyNeRFDataset | None = None,
        *,
        scale_schedule: Mapping[int, int] | None = None,
        **options: Any,
    ) -> None:
        """Prepare; ``scale_schedule`` says from which step on which scale is the finest that is learnt from, the
        document's by default, coarser ones staying; the rest as `PyNeRFTrainer`.

        Raises:
            InputError: also for a schedule that the data set's scales do not serve.
        """
        super().__init__(model, config, train_dataset, val_dataset, **options)
        self.scale_schedule = dict(SCALE_SCHEDULE if scale_schedule is None else scale_schedule)
        scales = train_dataset.captures.scales
        check_schedule(self.scale_schedule, (1,) if scales is None else scales.values)
