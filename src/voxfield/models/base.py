"""What models offer: every one to the trainer, those of posed photographs also to the evaluation and the renderer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from voxfield.data.ray_batches import RayBatch
from voxfield.distributed.ranks import Ranks
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.render.metrics import psnr_from_mse

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class StepOutcome(Protocol):
    """What the trainer needs to know of a step."""

    @property
    def loss(self) -> torch.Tensor:
        """Scalar; differentiable."""

    @property
    def num_examples(self) -> int:
        """Examples of the batch, whose rate is logged."""

    @property
    def counted_in(self) -> str:
        """What the examples are, as the log names them: ``rays``, ``volumes``."""

    @property
    def measures(self) -> Mapping[str, float]:
        """What the log says of the step besides: names to numbers. The first few are shown while training."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """What one training step computed, whatever the data; a `StepOutcome`."""

    loss: torch.Tensor
    """Scalar; differentiable."""
    num_examples: int
    """Examples of the batch."""
    counted_in: str
    """What they are, as the log names them."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """What the log says of the step besides."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one training step on photographs computed; a `StepOutcome`."""

    loss: torch.Tensor
    """Scalar; differentiable."""
    squared_error: float
    """Mean squared error of the batch's colours in the space they are compared in, for its PSNR."""
    num_rays: int
    """Rays of the batch."""
    num_samples: int
    """Samples placed along them."""

    @property
    def num_examples(self) -> int:
        """The rays."""
        return self.num_rays

    @property
    def counted_in(self) -> str:
        """Photographs are learnt by rays."""
        return "rays"

    @property
    def measures(self) -> Mapping[str, float]:
        """PSNR of the batch in dB, and how many samples a ray took."""
        return {
            "psnr": psnr_from_mse(self.squared_error),
            "samples_per_ray": self.num_samples / max(1, self.num_rays),
        }


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
    weight_decay: float = 0.0
    """Share of the learning rate by which parameters shrink at every step (Loshchilov and Hutter 2019), at least 0;
    not of groups of which a batch touches rows."""
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


class Trainable(Protocol[BatchT_contra]):
    """What can be trained on batches: a `torch.nn.Module` with these methods; all its state is in ``state_dict()``."""

    config: Any
    """Its settings, with a value for every ``auto``: what runs record, so that they mean the same when defaults change.
    """

    def batch_size(self) -> int:
        """Examples (rays, volumes, ...) of the next batch."""

    def step_bytes(self) -> int:
        """Memory of the largest training step at most, beside the parameters, their gradients and moments."""

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:
        """Called before step ``step`` (from 0) at ``progress`` (0 to 1) of the run: occupancy, schedules.

        Returns:
            How the rows of parameters moved, where some did.
        """

    def training_step(self, batch: BatchT_contra, step: int, generator: torch.Generator, /) -> StepOutcome:
        """The loss of the batch of step ``step`` (from 0).

        Of a batch shared by ranks: such that the mean over all of them is the loss of the whole batch.
        """

    def accumulate_gradients_in_place(self) -> None:
        """Called once the parameters have gradient buffers: kernels may add to those directly."""

    def merge(self, ranks: Ranks) -> None:
        """Make the same on all ``ranks``, whose models are at the same step, what each noted of its own batches.

        Called before state is saved or rendered, where there are several.
        """

    def parameter_groups(self) -> list[ParameterGroup]:
        """What is optimised."""


class Model(Trainable[RayBatch], Protocol):
    """A model of posed photographs.

    Its colours, and the backgrounds it is given, are those of its batches: sRGB in [0, 1], or for linear captures
    exposed linear light, at least 0.
    """

    renders_normals: ClassVar[bool]
    """Whether ``render_image`` takes ``normals=True``."""

    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (R, 3), ``opacity`` (R,), ``depth`` (R,) without gradients."""

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of ``render_rays``, differentiable with respect to the rays' origins and directions."""

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """The training cameras' poses (N, 3, 4) as training corrected them; as they came where it did not."""

    def render_image(self, cameras: Cameras, i: int, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W) on the CPU."""


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
