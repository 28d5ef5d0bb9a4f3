"""``grid-ngp``: photographs to a hash-grid field; the fast default."""

from voxfield.data.posed_images import CaptureOptions, PosedImages
from voxfield.models.grid_ngp import GridNgp, GridNgpConfig
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import Experiment
from voxfield.training.trainer import TrainerConfig


def experiment() -> Experiment:
    """The full recipe; docs/results.md has its curve of PSNR against minutes."""
    return Experiment(
        recipe="grid-ngp",
        model=GridNgpConfig(),
        capture=CaptureOptions(),
        trainer=TrainerConfig(),
        evaluation=EvaluateConfig(),
    )


def build_model(config: GridNgpConfig, captures: PosedImages, seed: int) -> GridNgp:
    """A fresh model for the scene of ``captures``."""
    return GridNgp(
        config,
        captures.bounds,
        unbounded=captures.unbounded,
        near=captures.near,
        has_alpha=captures.has_alpha,
        seed=seed,
    )
