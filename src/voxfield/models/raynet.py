"""raynet: a network that sees a block of voxels and says what any ray through it meets.

An encoder of 3D convolutions turns a block of R voxels along each axis into features on a coarser lattice. A decoder
looks along a ray: its way through the block is cut into K equal intervals, the features at their middles are
interpolated, a small network that also sees the neighbouring intervals says of each the probability a_k that it holds
matter, the share f_k of it that is matter, and where in it matter begins, s_k. From these follow, with δ the intervals'
length, t_k their beginnings and T_k = ∏_{j<k} (1 - a_j) the probability that nothing came before:

    hit    = 1 - ∏ (1 - a_k)
    depth  = Σ T_k a_k (t_k + s_k δ) / hit
    chord  = Σ a_k f_k δ

Everything is computed in a cube from -1 to 1; what goes in and comes out is in voxels about the block's centre.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxfield.checks import check_range
from voxfield.data.shape_batches import ShapeRayBatch
from voxfield.distributed.ranks import Ranks
from voxfield.errors import InputError
from voxfield.models.base import MeasuredStep, ParameterGroup, RowsMoved
from voxfield.models.step_memory import step_bytes

_SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class RaynetConfig:
    """Sizes of the network and of its batches."""

    features: int = 32
    """Features of the lattice, 1 to 1024."""
    stride: int = 2
    """Voxels along each axis for one point of the lattice: 1, 2 or 4. The block must be divisible."""
    layers: int = 2
    """Residual layers of the encoder, 0 to 32."""
    width: int = 64
    """Width of the decoder, 1 to 1024."""
    intervals: int = 24
    """Intervals along a ray, 1 to 1024: about as many as the block has voxels along its diagonal."""
    rays_per_batch: int = 4096
    """Rays of a batch, at least 1."""
    blocks_per_batch: int = 16
    """Blocks of a batch, at least 1."""
    depth_weight: float = 1.0
    """Weight of the depth's error beside that of hits, at least 0."""
    chord_weight: float = 4.0
    """Weight of the chord's error, at least 0."""

    def __post_init__(self) -> None:
        check_range("features", self.features, minimum=1, maximum=1024)
        if self.stride not in (1, 2, 4):
            raise InputError(f"stride: expected 1, 2 or 4, got {self.stride}.")
        check_range("layers", self.layers, minimum=0, maximum=32)
        check_range("width", self.width, minimum=1, maximum=1024)
        check_range("intervals", self.intervals, minimum=1, maximum=1024)
        check_range("rays_per_batch", self.rays_per_batch, minimum=1)
        check_range("blocks_per_batch", self.blocks_per_batch, minimum=1)
        check_range("depth_weight", self.depth_weight, minimum=0.0)
        check_range("chord_weight", self.chord_weight, minimum=0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class RayPrediction:
    """What the network says of rays (B, N), lengths in voxels."""

    hit: Tensor
    """Probability in [0, 1] that matter is met."""
    depth: Tensor
    """Expected distance from the origin to the first matter, if there is some; meaningless where ``hit`` is small."""
    chord: Tensor
    """Expected length within matter."""
    log_miss: Tensor
    """Logarithm of the probability that nothing is met; exact where ``hit`` rounds to 1."""


class Raynet(nn.Module):
    """The network for blocks of ``resolution`` voxels along each axis."""

    def __init__(self, config: RaynetConfig, resolution: int, seed: int) -> None:
        """Fresh weights from ``seed``.

        Raises:
            InputError: blocks that the stride does not divide.
        """
        super().__init__()
        if resolution % config.stride:
            raise InputError(f"model.stride: {config.stride} does not divide blocks of {resolution} voxels.")
        self.config, self.resolution = config, resolution
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            features, stride = config.features, config.stride
            self.stem = nn.Conv3d(1, features, 3, padding=1)
            self.coarsen = nn.Conv3d(features, features, stride, stride) if stride > 1 else nn.Identity()
            self.residual = nn.ModuleList(
                nn.Sequential(
                    nn.ReLU(),
                    nn.Conv3d(features, features, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv3d(features, features, 3, padding=1),
                )
                for _ in range(config.layers)
            )
            # Feature, place within a lattice cell (sine and cosine), direction, length of the interval.
            self.look = nn.Linear(features + 10, config.width)
            self.along = nn.Conv1d(config.width, config.width, 3, padding=1)
            self.say = nn.Linear(config.width, 3)
            # Intervals begin as mostly empty: otherwise every ray is sure to hit, and the first steps undo that.
            with torch.no_grad():
                self.say.bias[0] = -3.0

    def encode(self, voxels: Tensor) -> Tensor:
        """Features (B, C, R/s, R/s, R/s) of blocks (B, 1, R, R, R)."""
        features: Tensor = self.coarsen(F.relu(self.stem(voxels)))
        for layer in self.residual:
            features = features + layer(features)
        return features

    def decode(self, features: Tensor, origins: Tensor, directions: Tensor) -> RayPrediction:
        """What rays meet.

        Args:
            features: (B, C, ...) as `encode` gives them.
            origins, directions: (B, N, 3) in voxels about the block's centre; rays that miss the block meet nothing.
        """
        half, config = self.resolution / 2, self.config
        start, end = _through_cube(origins / half, directions)
        delta = (end - start).clamp_min(0.0) / config.intervals
        begins = start[..., None] + delta[..., None] * torch.arange(config.intervals, device=delta.device)
        points = origins[..., None, :] / half + (begins + delta[..., None] / 2)[..., None] * directions[..., None, :]
        seen = F.grid_sample(features.float(), points[:, :, :, None], align_corners=False)
        phase = torch.pi * points * (self.resolution / (2 * config.stride))
        whole = torch.cat(
            [
                seen[..., 0].permute(0, 2, 3, 1),
                phase.sin(),
                phase.cos(),
                directions[:, :, None].expand_as(points),
                (delta * config.intervals)[..., None, None].expand(*points.shape[:3], 1),
            ],
            dim=-1,
        )
        blocks, rays = origins.shape[:2]
        hidden = F.relu(self.look(whole)).flatten(0, 1).transpose(1, 2)
        hidden = F.relu(hidden + self.along(hidden)).transpose(1, 2)
        said = self.say(hidden).float().view(blocks, rays, config.intervals, 3)
        inside = (delta > 0)[..., None]
        matter = torch.sigmoid(said[..., 0]) * inside
        log_miss = -(F.softplus(said[..., 0]) * inside).sum(-1)
        share, place = torch.sigmoid(said[..., 1]), torch.sigmoid(said[..., 2])
        clear = torch.cumprod(1.0 - matter + _SMALLEST, dim=-1)
        first = matter * torch.cat([torch.ones_like(clear[..., :1]), clear[..., :-1]], dim=-1)
        hit = first.sum(-1).clamp(0.0, 1.0)
        depth = (first * (begins + place * delta[..., None])).sum(-1) / hit.clamp_min(_SMALLEST)
        chord = (matter * share).sum(-1) * delta
        return RayPrediction(hit=hit, depth=depth * half, chord=chord * half, log_miss=log_miss)

    def forward(self, voxels: Tensor, origins: Tensor, directions: Tensor) -> RayPrediction:
        """What rays (B, N) meet in blocks (B, 1, R, R, R)."""
        return self.decode(self.encode(voxels), origins, directions)

    def batch_size(self) -> int:
        """Rays of the next batch."""
        return self.config.rays_per_batch

    def step_bytes(self) -> int:
        """See `voxfield.models.step_memory`."""
        blocks, side = self.config.blocks_per_batch, self.resolution
        voxels = torch.empty(blocks, 1, side, side, side, device="meta")
        rays = torch.empty(blocks, max(1, self.config.rays_per_batch // blocks), 3, device="meta")

        def loss(model: "Raynet") -> Tensor:
            said = model(voxels, rays, rays)
            return (said.depth + said.chord + said.log_miss).sum()

        return step_bytes(self, loss)

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:  # noqa: ARG002
        """Nothing changes between steps."""
        return None

    def training_step(self, batch: ShapeRayBatch, step: int, generator: torch.Generator, /) -> MeasuredStep:  # noqa: ARG002
        """Binary cross-entropy of hits, and absolute errors of depth (of rays that hit) and chord in half blocks."""
        said = self(batch.voxels, batch.origins, batch.directions)
        hit, half = batch.hit, self.resolution / 2
        # By logarithms: of a probability that rounded to 1 nothing could be learnt.
        log_hit = torch.log(-torch.expm1(said.log_miss.clamp_max(-_SMALLEST)))
        of_hits = -torch.where(hit, log_hit, said.log_miss).mean()
        depth_error = torch.where(hit, said.depth - batch.depth.masked_fill(~hit, 0.0), 0.0).abs().sum()
        depth_error = depth_error / batch.ranks.mean(hit.sum()).clamp_min(1 / batch.ranks.size)
        chord_error = (said.chord - batch.chord).abs().mean()
        loss = of_hits + (self.config.depth_weight * depth_error + self.config.chord_weight * chord_error) / half
        with torch.no_grad():
            measures = {
                "hit_accuracy": float(((said.hit > 0.5) == hit).float().mean()),
                "depth_mae": float(depth_error),
                "chord_mae": float(chord_error),
            }
        return MeasuredStep(loss=loss, num_examples=hit.numel(), counted_in="rays", measures=measures)

    def accumulate_gradients_in_place(self) -> None:
        """Torch's own operators accumulate."""

    def merge(self, ranks: Ranks) -> None:
        """Nothing is noted of batches."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """All weights alike."""
        return [ParameterGroup(name="network", parameters=list(self.parameters()))]

    def in_parts(self, origins: Tensor, directions: Tensor, features: Tensor, rays: int) -> Iterator[RayPrediction]:
        """`decode`, at most ``rays`` rays of each block at a time, which bounds the memory."""
        for at in range(0, origins.shape[1], rays):
            yield self.decode(features, origins[:, at : at + rays], directions[:, at : at + rays])


def _through_cube(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, N) at which rays enter (at least 0) and leave the cube from -1 to 1; missed cubes give none."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    one, other = (-1.0 - origins) / safe, (1.0 - origins) / safe
    enter = torch.minimum(one, other).amax(-1).clamp_min(0.0)
    leave = torch.maximum(one, other).amin(-1)
    return enter, torch.where(leave > enter, leave, enter)
