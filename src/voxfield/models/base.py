"""What a model of posed photographs offers to the trainer, the evaluation and the renderer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from voxfield.data.ray_batches import RayBatch
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one training step computed."""

    loss: torch.Tensor
    """Scalar; differentiable."""
    squared_error: float
    """Mean squared error of the batch's colours in the space they are compared in, for its PSNR."""
    num_rays: int
    """Rays of the batch."""
    num_samples: int
    """Samples placed along them."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that are optimised alike."""

    name: str
    """For logs and checkpoints."""
    parameters: Sequence[torch.nn.Parameter]
    """Leaves of the model."""
    learning_rate_factor: float = 1.0
    """Factor on the trainer's learning rate, at least 0."""
    skip_zero: bool = False
    """Leave entries without a gradient alone, see `voxfield.kernels.adam.AdamRule`."""
    rate: Callable[[float], float] | None = None
    """Learning rate at a progress (0 to 1) of the run, in place of the trainer's schedule."""
    touched: torch.Tensor | None = None
    """(N,) uint8: the rows of the parameters (N, ...) that the batch's backward reached; only those are updated, and
    the optimiser clears it. None: all are. A tensor may be that of several groups."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowsMoved:
    """A model's parameters have other rows than before: voxels were dropped or refined."""

    source: torch.Tensor
    """(N,) int64: for every row the one it was before; -1 for new rows, whose optimiser state starts afresh."""
    groups: Sequence[str]
    """Names of the parameter groups it is true of; their parameters are new tensors."""


class Model(Protocol):
    """A model is a `torch.nn.Module` with these methods; all its state is in ``state_dict()``.

    Its colours, and the backgrounds it is given, are those of its batches: sRGB in [0, 1], or for linear captures
    exposed linear light, at least 0.
    """

    config: Any
    """Its settings, with a value for every ``auto``: what runs record, so that they mean the same when defaults change.
    """

    def rays_per_batch(self) -> int:
        """Rays of the next batch."""

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:
        """Called before step ``step`` (from 0) at ``progress`` (0 to 1) of the run: occupancy, schedules.

        Returns:
            How the rows of parameters moved, where some did.
        """

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        """The loss of the batch of step ``step`` (from 0)."""

    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (R, 3), ``opacity`` (R,), ``depth`` (R,) without gradients."""

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of ``render_rays``, differentiable with respect to the rays' origins and directions."""

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """The training cameras' poses (N, 3, 4) as training corrected them; as they came where it did not."""

    def render_image(self, cameras: Cameras, i: int, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W) on the CPU."""

    def accumulate_gradients_in_place(self) -> None:
        """Called once the parameters have gradient buffers: kernels may add to those directly."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is optimised."""


@runtime_checkable
class VolumetricModel(Protocol):
    """A model whose density and colours can be asked for anywhere, not only along rays."""

    def sample_field(
        self, points: torch.Tensor, directions: torch.Tensor, width: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is at world ``points`` within the region of interest, as rendering sees it. No gradient.

        Args:
            points: (N, 3), on the model's device.
            directions: (K, 3) unit vectors to look along.
            width: of the detail that is wanted, world units, above 0: fields of several levels are asked at its level.

        Returns:
            Density (N,) per world unit, and colours (N, K, 3).

        Raises:
            InputError: a model whose space is not the world's.
        """


def render_camera(
    render_rays: Callable[[Rays], dict[str, torch.Tensor]], cameras: Cameras, i: int, rays_per_chunk: int
) -> dict[str, torch.Tensor]:
    """What camera ``i`` sees, at most ``rays_per_chunk`` rays at a time.

    Args:
        render_rays: rays to named values, (R, ...) each.
        cameras, i: the camera.
        rays_per_chunk: bounds the memory, at least 1.

    Returns:
        The same names, (H, W, ...) each, on the CPU.
    """
    rays = cameras.image_rays(i)
    height, width = int(cameras.height[i]), int(cameras.width[i])
    parts = [render_rays(rays[at : at + rays_per_chunk]) for at in range(0, len(rays), rays_per_chunk)]
    return {
        name: torch.cat([part[name] for part in parts]).cpu().reshape(height, width, *parts[0][name].shape[1:])
        for name in parts[0]
    }
