"""``nerfacto``: photographs of any place to a field with proposal networks, as nerfstudio's method of that name."""

from voxfield.data.posed_images import CaptureOptions, PosedImages
from voxfield.models.nerfacto import Nerfacto, NerfactoConfig
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import Experiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig


def experiment(minutes: float | None = None) -> Experiment:
    """The recipe; ``minutes`` does not change it but for the schedules, which follow progress."""
    return Experiment(
        recipe="nerfacto",
        model=NerfactoConfig(),
        capture=CaptureOptions(),
        trainer=TrainerConfig(
            steps=30_000, beta2=0.999, learning_rate=LearningRate(initial=1e-2, decay_from=0.3, final_factor=0.05)
        ),
        evaluation=EvaluateConfig(),
    )


def build_model(config: NerfactoConfig, captures: PosedImages, seed: int) -> Nerfacto:
    """A fresh model for the scene of ``captures``."""
    return Nerfacto(
        config,
        captures.bounds,
        unbounded=captures.unbounded,
        near=captures.near,
        has_alpha=captures.has_alpha,
        num_cameras=len(captures.cameras),
        seed=seed,
    )
