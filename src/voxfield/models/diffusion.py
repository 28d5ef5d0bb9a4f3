"""Voxel diffusion: a 3D U-Net learns to take noise from volumes, and so to make volumes of noise alone.

Volumes have values from 0 to 1 outside, -1 to 1 inside. The U-Net is MONAI's, from the extra ``diffusion``. On request
it sees volumes as patches: the voxels of ``patch``^3 as that many channels, which costs ``patch``^3 times less and
suits small machines. Of the schedulers MONAI has (1.6), that of DDIM steps to other times than it visits and that of
DPM-Solver++ is missing; see `voxfield.models.diffusion_samplers` for ours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch.utils.checkpoint import checkpoint

from voxfield.checks import check_choice, check_range
from voxfield.data.volume_batches import VolumeBatch
from voxfield.distributed.ranks import Ranks
from voxfield.errors import InputError
from voxfield.models.base import MeasuredStep, ParameterGroup
from voxfield.models.diffusion_samplers import SamplingConfig, draw
from voxfield.models.monai_networks import monai_network
from voxfield.models.noise_schedule import NoiseSchedule, NoiseScheduleConfig, Prediction
from voxfield.models.step_memory import pass_bytes, step_bytes
from voxfield.models.voxel_autoencoder import AutoencoderConfig, VoxelAutoencoder

Projection = Literal["none", "z", "y", "x"]
CHANNELS: Final = (32, 64, 128)
"""Of a U-Net whose settings name none."""
_SAMPLED: Final = 5
"""Volumes beside the network for each that is drawn: noise, what it was a step before, what it becomes."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """A voxel diffusion."""

    channels: tuple[int, ...] = ()
    """Of the U-Net's levels, each half as wide as the one before; multiples of ``norm_groups``. None named: as many of
    `CHANNELS` as the volumes can be halved for."""
    attention: tuple[bool, ...] = ()
    """Which levels attend to all of their voxels: memory grows with the square of their number. None named: all but the
    first."""
    residual_blocks: int = 1
    """A level, 1 to 8."""
    head_channels: int = 32
    """Channels of an attention head; divides those of the levels that attend."""
    norm_groups: int = 8
    """Of group normalisation."""
    patch: int = 4
    """Voxels along the side of a patch that the U-Net sees as one, 1 to 8."""
    prediction: Prediction = "x0"
    """What the network says of a noisy volume. ``x0`` suits patches: a shape takes fewer numbers than its patches have,
    noise takes them all (Li and He 2025, https://arxiv.org/abs/2511.13720)."""
    schedule: NoiseScheduleConfig = NoiseScheduleConfig()
    """How volumes are drowned in noise."""
    min_snr_gamma: float = 5.0
    """Cut-off of the weights of nearly clean volumes, see `NoiseSchedule.loss_weights`; 0: plain squared error."""
    classes: int = 0
    """Classes that the network is told, 0: none. Data give them as labels from 0."""
    projection: Projection = "none"
    """The axis along which the mean of a volume is shown to the network."""
    drop_condition: float = 0.1
    """Share of volumes whose condition is withheld while training, which guidance needs; 0 to 1."""
    batch_size: int = 8
    """Volumes of a batch, at least 1."""
    recompute: bool = False
    """Compute the U-Net's blocks once more in the backward pass instead of keeping them: a third slower, in a fraction
    of the memory (gradient checkpointing)."""
    weight_decay: float = 0.01
    """Share of the learning rate by which weights shrink at every step (AdamW), at least 0."""
    volume_shape: tuple[int, int, int] | None = None
    """Voxels along z, y, x; None: those of the data."""
    latent: AutoencoderConfig | None = None
    """The autoencoder whose latents are learnt in place of voxels; filled in from ``data.autoencoder``."""

    def __post_init__(self) -> None:
        if self.attention and len(self.channels) != len(self.attention):
            raise InputError(
                f"channels and attention: expected as many of each, got {len(self.channels)} and {len(self.attention)}."
            )
        check_range("norm_groups", self.norm_groups, minimum=1)
        for width, attends in zip(self.channels, self.attending, strict=True):
            if width < 1 or width % self.norm_groups:
                raise InputError(f"channels: expected multiples of norm_groups={self.norm_groups}, got {width}.")
            if attends and (self.head_channels < 1 or width % self.head_channels):
                raise InputError(f"head_channels: {self.head_channels} does not divide the level's {width} channels.")
        check_range("residual_blocks", self.residual_blocks, minimum=1, maximum=8)
        check_range("patch", self.patch, minimum=1, maximum=8)
        check_choice("prediction", self.prediction, get_args(Prediction))
        check_choice("projection", self.projection, get_args(Projection))
        check_range("min_snr_gamma", self.min_snr_gamma, minimum=0.0)
        check_range("classes", self.classes, minimum=0, maximum=100_000)
        check_range("drop_condition", self.drop_condition, minimum=0.0, maximum=1.0)
        check_range("batch_size", self.batch_size, minimum=1)
        check_range("weight_decay", self.weight_decay, minimum=0.0)
        if self.latent is not None and self.projection != "none":
            raise InputError("projection: volumes are shown by their voxels, not by latents. Leave one of them out.")

    @property
    def attending(self) -> tuple[bool, ...]:
        """Which levels attend, as many as there are channels."""
        return self.attention or tuple(level > 0 for level in range(len(self.channels)))

    @property
    def stride(self) -> int:
        """What the sides of volumes must be multiples of."""
        return self._stride(max(1, len(self.channels)))

    def _stride(self, levels: int) -> int:
        latents = 1 if self.latent is None else self.latent.stride
        return int(latents * self.patch * 2 ** (levels - 1))

    @property
    def channels_in(self) -> int:
        """Numbers of a voxel, or of a latent, that are made of noise."""
        return 1 if self.latent is None else self.latent.latent_channels

    def of_volumes(self, shape: tuple[int, int, int]) -> "DiffusionConfig":
        """These settings for volumes of ``shape``.

        Raises:
            InputError: the U-Net cannot halve such volumes, or the settings are for others.
        """
        if self.volume_shape is not None and self.volume_shape != shape:
            raise InputError(f"data: expected volumes of {self.volume_shape} voxels as the settings say, got {shape}.")
        if not self.channels:
            fitting = [n for n in range(1, len(CHANNELS) + 1) if not any(side % self._stride(n) for side in shape)]
            return dataclasses.replace(self, channels=CHANNELS[: max(fitting, default=1)]).of_volumes(shape)
        if any(side % self.stride for side in shape):
            raise InputError(
                f"data: volumes of {shape} voxels, but patch={self.patch} and {len(self.channels)} level(s)"
                f"{'' if self.latent is None else ' over latents'} need multiples of {self.stride}. Make them such, or "
                "set fewer model.channels or another model.patch."
            )
        schedule = self.schedule.of_voxels(math.prod(shape) if self.latent is None else 1)
        return dataclasses.replace(self, volume_shape=shape, schedule=schedule)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is known of volumes before they are made."""

    labels: torch.Tensor | None = None
    """(B,) int64, classes."""
    projection: torch.Tensor | None = None
    """(B, D, H), (B, D, W) or (B, H, W) float32, means along the model's axis, 0 to 1."""

    def __getitem__(self, part: slice) -> "Condition":
        """That of some of the volumes."""
        held = (None if one is None else one[part] for one in (self.labels, self.projection))
        labels, projection = held
        return Condition(labels=labels, projection=projection)


class VoxelDiffusion(torch.nn.Module):
    """A diffusion over volumes; a `Trainable` on `VolumeBatch`."""

    latent_mean: torch.Tensor
    """(C,): of the latents, where those are learnt."""
    latent_deviation: torch.Tensor
    """(C,): likewise."""

    def __init__(self, config: DiffusionConfig, *, seed: int) -> None:
        """Make the network.

        Args:
            config: with a ``volume_shape``.
            seed: of the initial weights.

        Raises:
            MissingExtraError: MONAI is not installed.
        """
        super().__init__()
        if config.volume_shape is None:
            raise InputError("volume_shape: expected voxels along z, y, x; None is for settings without data.")
        self.config = config
        self.schedule = NoiseSchedule(config.schedule)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _make_network(config)
        self.codec: VoxelAutoencoder | None = None
        if config.latent is not None:
            self.codec = VoxelAutoencoder(config.latent, seed=seed).eval().requires_grad_(False)
            self.register_buffer("latent_mean", torch.zeros(config.latent.latent_channels))
            self.register_buffer("latent_deviation", torch.ones(config.latent.latent_channels))

    @torch.no_grad()
    def take_codec(self, codec: VoxelAutoencoder, volumes: Iterable[torch.Tensor]) -> None:
        """Learn latents of a trained autoencoder, brought to mean 0 and deviation 1 in each channel.

        Args:
            codec: of the settings ``latent``.
            volumes: (D, H, W) some to measure the latents of, at least one.
        """
        assert self.codec is not None
        self.codec.load_state_dict(codec.state_dict())
        device = next(self.parameters()).device
        latents = torch.stack([self.codec.encode(one[None, None].to(device))[0][0] for one in volumes])
        channels = latents.transpose(0, 1).flatten(1)
        self.latent_mean.copy_(channels.mean(1))
        self.latent_deviation.copy_(channels.std(1).clamp(min=1e-6))

    def learnt_of(self, volumes: torch.Tensor) -> torch.Tensor:
        """What of volumes (B, 1, D, H, W) is made of noise: (B, C, ...), voxels from -1 to 1, or latents."""
        if self.codec is None:
            return 2.0 * volumes - 1.0
        with torch.no_grad():
            means = self.codec.encode(volumes)[0]
        return (means - _by_channel(self.latent_mean)) / _by_channel(self.latent_deviation)

    def volumes_of(self, learnt: torch.Tensor) -> torch.Tensor:
        """The inverse of `learnt_of`, (B, 1, D, H, W), 0 to 1."""
        if self.codec is None:
            return ((learnt + 1.0) / 2.0).clamp(0.0, 1.0)
        return self.codec.decode(learnt * _by_channel(self.latent_deviation) + _by_channel(self.latent_mean))

    def batch_size(self) -> int:
        """Volumes of the next batch."""
        return self.config.batch_size

    def step_bytes(self) -> int:
        """See `voxfield.models.step_memory`."""
        noisy, times, condition = self._without_memory(self.config.batch_size)
        return step_bytes(self, lambda model: model.predict(noisy, times, condition, times > 0).square().mean())

    def sampling_bytes(self, count: int) -> int:
        """Memory of drawing ``count`` volumes at once, the network's weights aside; see `pass_bytes`."""
        noisy, times, condition = self._without_memory(count)
        most = pass_bytes(self, lambda model: model.predict(noisy, times, condition, times > 0))
        if self.codec is not None:
            most = max(most, pass_bytes(self, lambda model: model.volumes_of(noisy[:1])))
        return most + _SAMPLED * noisy.nbytes

    def _without_memory(self, count: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
        """What `predict` is asked of ``count`` volumes, on torch's ``meta`` device."""
        config = self.config
        noisy = torch.empty(count, *self._shape, device="meta")
        times = torch.zeros(count, dtype=torch.int64, device="meta")
        shown = None
        if config.projection != "none":
            shown = project(torch.empty(count, 1, *self._shape[1:], device="meta"), config.projection)
        return noisy, times, Condition(labels=times if config.classes else None, projection=shown)

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Nothing changes between steps."""

    def accumulate_gradients_in_place(self) -> None:
        """Torch adds to the buffers itself."""

    def merge(self, ranks: Ranks) -> None:
        """Nothing is noted of batches."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """All weights; matrices and convolutions decay, biases and norms do not."""
        decaying = [one for one in self.network.parameters() if one.ndim > 1]
        others = [one for one in self.network.parameters() if one.ndim <= 1]
        return [
            ParameterGroup(name="weights", parameters=decaying, weight_decay=self.config.weight_decay),
            ParameterGroup(name="biases", parameters=others),
        ]

    def training_step(self, batch: VolumeBatch, step: int, generator: torch.Generator) -> MeasuredStep:  # noqa: ARG002
        """The weighted squared error of the prediction at random times."""
        count, shape, drawn = len(batch.volumes), self._shape, batch.ranks.drawn
        times = drawn(lambda rows: torch.randint(self.schedule.timesteps, (rows,), generator=generator), count)
        known = drawn(lambda rows: torch.rand(rows, generator=generator), count) >= self.config.drop_condition
        noise = drawn(lambda rows: torch.randn((rows, *shape), generator=generator), count)
        device = batch.volumes.device
        return MeasuredStep(
            loss=self.denoising_loss(batch, times.to(device), noise.to(device), known.to(device)),
            num_examples=count,
            counted_in="volumes",
        )

    def denoising_loss(
        self, batch: VolumeBatch, times: torch.Tensor, noise: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """Mean over the batch of the prediction's weighted squared error; differentiable.

        Args:
            batch: B volumes.
            times: (B,) int64.
            noise: (B, 1, D, H, W), or as latents are.
            known: (B,) bool: of which the network is told the condition.
        """
        config = self.config
        clean = self.learnt_of(batch.volumes)
        noisy = self.schedule.noised(clean, noise, times)
        condition = Condition(
            labels=batch.labels if config.classes else None,
            projection=project(batch.volumes, config.projection) if config.projection != "none" else None,
        )
        predicted = self.predict(noisy, times, condition, known)
        wanted = self.schedule.target(config.prediction, clean, noise, times)
        errors = (predicted - wanted).square().mean((1, 2, 3, 4))
        return (errors * self.schedule.loss_weights(config.prediction, times, config.min_snr_gamma)).mean()

    def predict(
        self, noisy: torch.Tensor, times: torch.Tensor, condition: Condition, known: torch.Tensor
    ) -> torch.Tensor:
        """What the network says of ``noisy`` (B, C, ...), float32 of the same shape.

        Raises:
            InputError: the model wants a condition that is not given.
        """
        config = self.config
        seen = noisy
        if config.projection != "none":
            if condition.projection is None:
                raise InputError(f"projection: this model was trained with means along {config.projection}. Give some.")
            shown = _spread(condition.projection, config.projection, noisy) * 2.0 - 1.0
            told = known.reshape(-1, 1, 1, 1, 1).to(noisy.dtype).expand_as(noisy)
            seen = torch.cat([noisy, shown * told, told], 1)
        labels = None
        if config.classes:
            if condition.labels is None:
                raise InputError(f"labels: this model was trained on {config.classes} classes. Say which to make.")
            labels = torch.where(known, condition.labels, config.classes)
        out = self.network(_to_patches(seen, config.patch), timesteps=times, class_labels=labels)
        return _from_patches(out.float(), config.patch)

    @torch.no_grad()
    def generate(
        self,
        count: int,
        sampling: SamplingConfig,
        *,
        seed: int,
        condition: Condition | None = None,
        after_step: Callable[[int], None] = lambda _: None,
    ) -> torch.Tensor:
        """Draw volumes.

        Args:
            count: how many, at least 1; all at once, so memory grows with it.
            sampling: how.
            seed: of all noise.
            condition: what they are to be, ``count`` of each; None: anything.
            after_step: told how many steps are done.

        Returns:
            (count, D, H, W) float32 on the CPU, 0 to 1.

        Raises:
            InputError: guidance or a condition that the model was not trained for.
        """
        check_range("count", count, minimum=1)
        self._check_condition(sampling, condition, count)
        generator = torch.Generator().manual_seed(seed)
        device = next(self.parameters()).device
        start = torch.randn((count, *self._shape), generator=generator).to(device)
        was_training = self.training
        self.eval()
        cleaner = functools.partial(self._clean, sampling.guidance, condition)
        drawn = draw(cleaner, self.schedule, start, sampling, generator, after_step=after_step)
        self.train(was_training)
        return torch.cat([self.volumes_of(one[None])[:, 0].cpu() for one in drawn])

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        assert self.config.volume_shape is not None
        return self.config.volume_shape

    @property
    def _shape(self) -> tuple[int, ...]:
        """(C, ...) of what is made of noise, for one volume."""
        stride = 1 if self.config.latent is None else self.config.latent.stride
        return (self.config.channels_in, *(side // stride for side in self.volume_shape))

    def _clean(self, guidance: float, condition: Condition | None, noisy: torch.Tensor, time: int) -> torch.Tensor:
        """x0, of voxels clamped; guided by the condition (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598)."""
        count = len(noisy)
        times = torch.full((count,), time, dtype=torch.int64, device=noisy.device)
        nothing = self._no_condition(noisy)
        unknown = torch.zeros(count, dtype=torch.bool, device=noisy.device)
        if condition is None:
            said = self.predict(noisy, times, nothing, unknown)
        else:
            given = Condition(
                labels=nothing.labels if condition.labels is None else condition.labels.to(noisy.device),
                projection=nothing.projection if condition.projection is None else condition.projection.to(noisy),
            )
            said = self.predict(noisy, times, given, ~unknown)
            if guidance != 1.0:
                plain = self.predict(noisy, times, nothing, unknown)
                said = plain + guidance * (said - plain)
        clean = self.schedule.clean_of(self.config.prediction, said, noisy, times)
        return clean.clamp(-1.0, 1.0) if self.codec is None else clean

    def _no_condition(self, noisy: torch.Tensor) -> Condition:
        """Stands where no condition is known."""
        config, count = self.config, len(noisy)
        labels = torch.zeros(count, dtype=torch.int64, device=noisy.device) if config.classes else None
        shown = project(torch.zeros_like(noisy), config.projection) if config.projection != "none" else None
        return Condition(labels=labels, projection=shown)

    def _check_condition(self, sampling: SamplingConfig, condition: Condition | None, count: int) -> None:
        config = self.config
        if sampling.guidance != 1.0 and condition is None:
            raise InputError("guidance: needs a condition (a class or projections) to guide by.")
        if condition is None:
            return
        if (condition.labels is None) == bool(config.classes) or (condition.projection is None) == (
            config.projection != "none"
        ):
            wanted = [f"labels of {config.classes} classes"] if config.classes else []
            wanted += [f"projections along {config.projection}"] if config.projection != "none" else []
            raise InputError(f"condition: this model takes {' and '.join(wanted) or 'none'}.")
        if condition.labels is not None:
            labels = condition.labels
            if labels.shape != (count,) or labels.min() < 0 or labels.max() >= config.classes:
                raise InputError(f"labels: expected {count} from 0 to {config.classes - 1}, got {labels.tolist()[:8]}.")
        if condition.projection is not None:
            volume = torch.empty((count, 1, *(config.volume_shape or ())), device="meta")
            expected = project(volume, config.projection).shape
            if condition.projection.shape != expected:
                raise InputError(f"projection: expected {tuple(expected)}, got {tuple(condition.projection.shape)}.")


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    """(C,) to (C, 1, 1, 1)."""
    return values.reshape(-1, 1, 1, 1)


def project(volumes: torch.Tensor, axis: Projection) -> torch.Tensor:
    """Means (B, ...) of volumes (B, 1, D, H, W) along ``axis``."""
    return volumes[:, 0].mean(dim={"z": 1, "y": 2, "x": 3}[axis])


def _spread(means: torch.Tensor, axis: Projection, like: torch.Tensor) -> torch.Tensor:
    """Means along ``axis`` repeated along it, (B, 1, D, H, W)."""
    return means.unsqueeze({"z": 1, "y": 2, "x": 3}[axis]).unsqueeze(1).expand_as(like).to(like.dtype)


def _to_patches(volumes: torch.Tensor, side: int) -> torch.Tensor:
    """(B, C, D, H, W) to (B, C side^3, D / side, H / side, W / side)."""
    if side == 1:
        return volumes
    batch, channels, *shape = volumes.shape
    depth, height, width = (one // side for one in shape)
    parted = volumes.reshape(batch, channels, depth, side, height, side, width, side)
    return parted.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * side**3, depth, height, width)


def _from_patches(patches: torch.Tensor, side: int) -> torch.Tensor:
    """The inverse of `_to_patches`."""
    if side == 1:
        return patches
    batch, channels, depth, height, width = patches.shape
    parted = patches.reshape(batch, channels // side**3, side, side, side, depth, height, width)
    whole = parted.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return whole.reshape(batch, channels // side**3, depth * side, height * side, width * side)


def _make_network(config: DiffusionConfig) -> torch.nn.Module:
    unet = monai_network("diffusion_model_unet", "DiffusionModelUNet", "Voxel diffusion")
    inputs = config.channels_in if config.projection == "none" else 3
    network: torch.nn.Module = unet(
        spatial_dims=3,
        in_channels=inputs * config.patch**3,
        out_channels=config.channels_in * config.patch**3,
        num_res_blocks=config.residual_blocks,
        channels=config.channels,
        attention_levels=config.attending,
        norm_num_groups=config.norm_groups,
        num_head_channels=config.head_channels,
        num_class_embeds=config.classes + 1 if config.classes else None,
    )
    if config.recompute:
        blocks: Mapping[str, Any] = dict(network.named_children())
        for block in (*blocks["down_blocks"], blocks["middle_block"], *blocks["up_blocks"]):
            # On the instance: the weights keep their names.
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return network
