"""The document's trainer, over the recipe ``plenoxels`` and `voxfield.training`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from voxfield.checks import check_range
from voxfield.compat.plenoxel_settings import (
    PlenoxelConfig,
    PlenoxelDatasetConfig,
    PlenoxelTrainerConfig,
    capture_options,
    model_settings,
    trainer_settings,
)
from voxfield.compat.plenoxel_volumes import NeuralVDBConfig, NeuralVDBManager
from voxfield.data.batches import Batches
from voxfield.data.capture_reading import read_capture
from voxfield.data.posed_images import PosedImages
from voxfield.data.ray_batches import RayBatch, RaySampler
from voxfield.distributed.devices import place
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.models.plenoxels import Plenoxels
from voxfield.recipes.plenoxels import build_model
from voxfield.storage.checkpoint import list_checkpoints, load_checkpoint
from voxfield.storage.voxel_vdb import read_voxel_vdb
from voxfield.training.evaluate import EvaluateConfig, evaluate
from voxfield.training.log import RunLog
from voxfield.training.progress import Progress
from voxfield.training.trainer import Trainer

EVALUATION_IMAGES: Final = 2


@dataclass
class NeuralVDBTrainerConfig(PlenoxelTrainerConfig):
    """The same, with what is written as OpenVDB files on the way."""

    save_neuralvdb: bool = True
    """Write such files at all."""
    neuralvdb_config: NeuralVDBConfig | None = None
    """How; made of the next three where left out."""
    neuralvdb_save_interval: int = 10000
    """Epochs between ``checkpoint_epoch_N.vdb``."""
    neuralvdb_compression_level: int = 8
    """See `NeuralVDBConfig`."""
    neuralvdb_half_precision: bool = True
    """See `NeuralVDBConfig`."""
    neuralvdb_tolerance: float = 1e-5
    """See `NeuralVDBConfig`."""
    create_lod: bool = False
    """Write levels of detail, in ``lod_epoch_N``."""
    lod_levels: int = 3
    """How many, the finest included."""
    lod_save_interval: int = 50000
    """Epochs between them."""
    optimize_storage: bool = True
    """Also write every file packed with the greatest effort: ``checkpoint_epoch_N_optimized.vdb``."""
    storage_stats_interval: int = 5000
    """Epochs between notes of what the newest file takes, in `storage_stats`."""


class NeuralVDBPlenoxelTrainer:
    """Trains a voxel grid, and keeps it as OpenVDB files.

    Attributes:
        run_dir: ``output_dir/experiment_name``: files, checkpoints, log.
        manager: what writes the files.
        evaluations: epoch, split, psnr and ssim of each measurement on the way.
        storage_stats: epoch and `NeuralVDBManager.get_storage_stats` of the newest file.
        epoch: steps done.
    """

    def __init__(
        self,
        model_config: PlenoxelConfig,
        trainer_config: NeuralVDBTrainerConfig,
        dataset_config: PlenoxelDatasetConfig,
    ) -> None:
        """Read the data and make a fresh model, or that of ``trainer_config.resume_from``.

        Raises:
            InputError: settings that make no sense, or a checkpoint that does not fit them.
            MissingFileError, FormatError: the data or the checkpoint is absent or damaged.
        """
        config = self.config = trainer_config
        for name in ("neuralvdb_save_interval", "lod_save_interval", "storage_stats_interval"):
            check_range(name, getattr(config, name), minimum=1)
        self.model_config, self.dataset_config = model_config, dataset_config
        self.run_dir = Path(config.output_dir) / config.experiment_name
        self.manager = NeuralVDBManager(
            config.neuralvdb_config
            or NeuralVDBConfig(
                compression_level=config.neuralvdb_compression_level,
                half_precision=config.neuralvdb_half_precision,
                tolerance=config.neuralvdb_tolerance,
            )
        )
        self.manager.config.checked()
        self.captures = self._read("train")
        self.placement = place(config.device, "auto")
        settings = model_settings(model_config, config, dataset_config)
        self.model: Plenoxels = build_model(settings, self.captures, config.seed).to(self.placement.device)
        self._settings = trainer_settings(config)
        self.evaluations: list[dict[str, Any]] = []
        self.storage_stats: list[dict[str, Any]] = []
        self.epoch = 0
        self._state: dict[str, Any] | None = None
        if config.resume_from is not None:
            self._resume(Path(config.resume_from))

    def train(self) -> dict[str, Any]:
        """Train up to ``max_epochs``; Ctrl-C saves and stops.

        Returns:
            ``outcome``: ``finished`` or ``interrupted``; ``step``; and where files are written ``final``, what
            `export_final_vdb` says of ``final_model.vdb``.

        Raises:
            InputError: the folder holds a run already, and there is nothing to resume from.
            TrainingDivergedError: the loss became NaN or infinite.
        """
        config = self.config
        if list_checkpoints(self.run_dir) and config.resume_from is None:
            raise InputError(
                f"{self.run_dir}: holds a run already. Set resume_from to one of its files, or another experiment_name."
            )
        held_out = self._held_out()
        resume_step = None if config.resume_from is None else self.epoch
        with (
            Progress(quiet=True) as progress,
            RaySampler(self.captures, config.seed, device=self.placement.device) as rays,
            RunLog(self.run_dir, resume_step=resume_step, tensorboard=False) as log,
        ):
            trainer = Trainer(
                self.model,
                _Watched(rays, lambda step: self._between_steps(trainer, log, held_out, step)),
                self._settings,
                run_dir=self.run_dir,
                placement=self.placement,
                seed=config.seed,
            )
            if self._state is not None:
                trainer.restore(self._state)
            trainer.step = self.epoch
            outcome = trainer.train(log, progress)
            self._between_steps(trainer, log, held_out, trainer.step)
        result: dict[str, Any] = {"outcome": outcome, "step": trainer.step}
        if outcome == "finished" and config.save_neuralvdb:
            result["final"] = self.export_final_vdb(self.run_dir / "final_model.vdb", create_lod=config.create_lod)
        return result

    def export_final_vdb(self, output_path: str | Path, create_lod: bool = True) -> dict[str, Any]:
        """Write the model's grid, in world units.

        Args:
            output_path: the ``.vdb`` file.
            create_lod: also write levels of detail, in a folder beside it named after it.

        Returns:
            ``main_file``, ``file_size_mb``, ``num_grids``, ``total_active_voxels``, and ``lod_files``.
        """
        path = self._save(Path(output_path))
        lod_files: list[Path] = []
        if create_lod:
            folder = path.with_name(f"{path.stem}_lod")
            grid = self.model.world_grid().cpu()
            lod_files = self.manager.create_hierarchical_lod(grid, folder, self.config.lod_levels)
        stats = self.manager.get_storage_stats(path)
        return {
            "main_file": str(path),
            "lod_files": [str(one) for one in lod_files],
            **{name: stats[name] for name in ("file_size_mb", "num_grids", "total_active_voxels")},
        }

    def _between_steps(self, trainer: Trainer[RayBatch], log: RunLog, held_out: PosedImages | None, step: int) -> None:
        """What is due once ``step`` steps are done; once only."""
        if step == self.epoch:
            return
        self.epoch, config = step, self.config
        if held_out is not None and step % config.eval_interval == 0:
            self._evaluate(held_out, step)
        if step % config.save_interval == 0:
            trainer.save(log)
        if not config.save_neuralvdb:
            return
        if step % config.neuralvdb_save_interval == 0:
            self._save(self.run_dir / f"checkpoint_epoch_{step}.vdb")
        if config.create_lod and step % config.lod_save_interval == 0:
            grid = self.model.world_grid().cpu()
            self.manager.create_hierarchical_lod(grid, self.run_dir / f"lod_epoch_{step}", config.lod_levels)
        if step % config.storage_stats_interval == 0:
            saved = sorted(self.run_dir.glob("checkpoint_epoch_*.vdb"), key=lambda one: one.stat().st_mtime_ns)
            if saved:
                self.storage_stats.append({"epoch": step, **self.manager.get_storage_stats(saved[-1])})

    def _save(self, path: Path) -> Path:
        """Write the grid, and by option once more, packed as well as can be."""
        about = {"epoch": self.epoch, "stage": int(self.model.stage), "begun": int(self.model.begun)}
        model_config = replace(self.model_config, grid_resolution=self.model.grid.resolution)
        saved = self.manager.export_plenoxel_to_vdb(
            self.model.world_grid().cpu(), path, model_config, training_info={**about, "trainer": _plain(self.config)}
        )
        if self.config.optimize_storage:
            self.manager.optimize_vdb_storage(saved, saved.with_name(f"{saved.stem}_optimized.vdb"))
        return saved

    def _resume(self, path: Path) -> None:
        """Take grid and epoch from a file, named from here or from the run's folder."""
        if not path.exists() and (self.run_dir / path).exists():
            path = self.run_dir / path
        if path.suffix != ".vdb":
            self._state = load_checkpoint(path)
            self.epoch = int(self._state["step"])
            return
        stored = read_voxel_vdb(path)
        try:
            self.model.start_from(stored.grid)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        said = stored.configuration.get("training", {})
        counts = {name: said.get(name, 0) for name in ("epoch", "stage", "begun")}
        if not all(type(count) is int and count >= 0 for count in counts.values()):
            raise FormatError(f"{path}: says nonsense of its training: {counts}.")
        self.epoch = counts["epoch"]
        # Stages of one resolution are told apart by what the file says, if it is of this schedule.
        stages, stage = self.model.config.resolutions, counts["stage"]
        if stage < len(stages) and stages[stage] == self.model.grid.resolution:
            self.model.stage.fill_(stage)
            self.model.begun.fill_(counts["begun"])

    def _evaluate(self, held_out: PosedImages, step: int) -> None:
        measured = evaluate(
            self.model.render_image,
            held_out,
            output=self.run_dir / "eval" / held_out.split,
            settings=EvaluateConfig(background=self._background, max_images=EVALUATION_IMAGES, focus=False),
            device=self.placement.device,
        )
        found = {"psnr": measured["psnr"], "ssim": measured["ssim"]}
        self.evaluations.append({"epoch": step, "split": held_out.split, **found})

    @property
    def _background(self) -> str:
        return "white" if self.dataset_config.white_background else "black"

    def _read(self, split: str) -> PosedImages:
        options = capture_options(self.model_config, self.dataset_config)
        captures = read_capture(Path(self.dataset_config.data_dir), split=cast(Any, split), options=options)
        if captures.tone is not None:
            raise InputError(f"{self.dataset_config.data_dir}: holds linear pictures: voxfield train plenoxels.")
        return captures

    def _held_out(self) -> PosedImages | None:
        """The validation split, else the test split, else none: the training then measures nothing."""
        for split in ("val", "test"):
            try:
                return self._read(split)
            except (FormatError, MissingFileError):
                continue
        return None


class _Watched:
    """Batches that tell how many steps are done before each is drawn."""

    def __init__(self, batches: Batches[RayBatch], due: Callable[[int], None]) -> None:
        self._batches, self._due = batches, due

    def sample(self, count: int, step: int, ranks: Ranks = ALONE, /) -> RayBatch:
        self._due(step)
        return self._batches.sample(count, step, ranks)


def _plain(config: NeuralVDBTrainerConfig) -> dict[str, Any]:
    """Settings as JSON has them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
