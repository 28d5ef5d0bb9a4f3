"""A voxel autoencoder: volumes to few numbers and back, so that a diffusion can learn large ones.

A variational autoencoder (Kingma and Welling 2013, https://arxiv.org/abs/1312.6114) as latent diffusion has it (Rombach
et al. 2022, https://arxiv.org/abs/2112.10752): the encoder says a mean m and a deviation s of each latent number, the
decoder the logit of each voxel x. With cross-entropy, whose least value is where the decoder says x itself,

    L = mean over voxels BCE(decode(m + s e), x) + kl_weight * mean over latents (m^2 + s^2 - 1 - ln s^2) / 2

The networks are MONAI's ``AutoencoderKL``, from the extra ``diffusion``.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from voxfield.checks import check_range
from voxfield.data.volume_batches import VolumeBatch
from voxfield.distributed.ranks import Ranks
from voxfield.errors import InputError
from voxfield.models.base import MeasuredStep, ParameterGroup
from voxfield.models.monai_networks import monai_network
from voxfield.models.step_memory import step_bytes


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """A voxel autoencoder."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Of the networks' levels, each half as wide as the one before; multiples of ``norm_groups``. A latent stands for
    2^(levels - 1) voxels along each axis."""
    latent_channels: int = 4
    """Numbers of a latent, 1 to 256."""
    residual_blocks: int = 1
    """A level, 1 to 8."""
    norm_groups: int = 8
    """Of group normalisation."""
    kl_weight: float = 1e-4
    """How strongly latents are drawn to a standard normal distribution, at least 0."""
    batch_size: int = 4
    """Volumes of a batch, at least 1."""
    volume_shape: tuple[int, int, int] | None = None
    """Voxels along z, y, x; None: those of the data."""

    def __post_init__(self) -> None:
        if not self.channels:
            raise InputError("channels: expected at least one level, got none.")
        check_range("norm_groups", self.norm_groups, minimum=1)
        for width in self.channels:
            if width < 1 or width % self.norm_groups:
                raise InputError(f"channels: expected multiples of norm_groups={self.norm_groups}, got {width}.")
        check_range("latent_channels", self.latent_channels, minimum=1, maximum=256)
        check_range("residual_blocks", self.residual_blocks, minimum=1, maximum=8)
        check_range("kl_weight", self.kl_weight, minimum=0.0)
        check_range("batch_size", self.batch_size, minimum=1)

    @property
    def stride(self) -> int:
        """Voxels along each axis that a latent stands for."""
        return int(2 ** (len(self.channels) - 1))

    def of_volumes(self, shape: tuple[int, int, int]) -> "AutoencoderConfig":
        """These settings for volumes of ``shape``.

        Raises:
            InputError: the networks cannot halve such volumes, or the settings are for others.
        """
        if self.volume_shape is not None and self.volume_shape != shape:
            raise InputError(f"data: expected volumes of {self.volume_shape} voxels as the settings say, got {shape}.")
        if any(side % self.stride for side in shape):
            raise InputError(
                f"data: volumes of {shape} voxels, but {len(self.channels)} levels need multiples of {self.stride}. "
                "Make them such, or set fewer model.channels."
            )
        return dataclasses.replace(self, volume_shape=shape)


class VoxelAutoencoder(torch.nn.Module):
    """The two networks; a `Trainable` on `VolumeBatch`."""

    def __init__(self, config: AutoencoderConfig, *, seed: int) -> None:
        """Make them.

        Args:
            config: of any volumes.
            seed: of the initial weights.

        Raises:
            MissingExtraError: MONAI is not installed.
        """
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _make_network(config)

    def encode(self, volumes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations of the latents.

        Args:
            volumes: (B, 1, D, H, W) float32, 0 to 1, sides multiples of the stride.

        Returns:
            Two of (B, C, D / stride, H / stride, W / stride) float32.
        """
        mean, deviation = self.network.encode(2.0 * volumes - 1.0)
        return mean.float(), deviation.float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Volumes (B, 1, D, H, W) float32, 0 to 1, of latents (B, C, ...)."""
        return torch.sigmoid(self.logits(latents))

    def logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Of `decode`."""
        logits: torch.Tensor = self.network.decode(latents)
        return logits.float()

    def batch_size(self) -> int:
        """Volumes of the next batch."""
        return self.config.batch_size

    def step_bytes(self) -> int:
        """See `voxfield.models.step_memory`."""
        assert self.config.volume_shape is not None
        volumes = torch.empty(self.config.batch_size, 1, *self.config.volume_shape, device="meta")

        def loss(model: "VoxelAutoencoder") -> torch.Tensor:
            mean, deviation = model.encode(volumes)
            return F.binary_cross_entropy_with_logits(model.logits(mean + deviation), volumes)

        return step_bytes(self, loss)

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Nothing changes between steps."""

    def accumulate_gradients_in_place(self) -> None:
        """Torch adds to the buffers itself."""

    def merge(self, ranks: Ranks) -> None:
        """Nothing is noted of batches."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """All weights."""
        return [ParameterGroup(name="weights", parameters=list(self.parameters()))]

    def training_step(self, batch: VolumeBatch, step: int, generator: torch.Generator) -> MeasuredStep:  # noqa: ARG002
        """The loss of the module's text, at latents drawn at random."""
        mean, deviation = self.encode(batch.volumes)
        noise = batch.ranks.drawn(lambda rows: torch.randn((rows, *mean.shape[1:]), generator=generator), len(mean))
        noise = noise.to(mean.device)
        cross_entropy = F.binary_cross_entropy_with_logits(self.logits(mean + deviation * noise), batch.volumes)
        variance = deviation.square()
        divergence = 0.5 * (mean.square() + variance - 1.0 - variance.clamp(min=1e-30).log()).mean()
        return MeasuredStep(
            loss=cross_entropy + self.config.kl_weight * divergence,
            num_examples=len(batch.volumes),
            counted_in="volumes",
        )

    @torch.no_grad()
    def reconstruct(self, volumes: torch.Tensor) -> torch.Tensor:
        """Volumes (B, 1, D, H, W), 0 to 1, as they come back from their mean latents."""
        return self.decode(self.encode(volumes)[0])


def _make_network(config: AutoencoderConfig) -> Any:
    network = monai_network("autoencoderkl", "AutoencoderKL", "A voxel autoencoder")
    return network(
        spatial_dims=3,
        channels=config.channels,
        attention_levels=[False] * len(config.channels),
        num_res_blocks=config.residual_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
