"""plenoxels: a sparse grid of voxels with spherical harmonics, optimised directly; no network.

Source: Fridovich-Keil and Yu et al. 2022, Plenoxels (https://arxiv.org/abs/2112.05131), with the constants of svox2.
Densities live in a space in which the region of interest is two units across, as there: learning rates, initial values
and penalties then mean the same in scenes of any size. What happens "at step n of 128,000" there happens at that share
of the run here.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

import torch

from voxfield.checks import check_choice, check_range
from voxfield.colour import ToneCurve, compared
from voxfield.data.ray_batches import RayBatch
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.camera import Cameras
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.kernels.sh_grid import (
    GridGradients,
    MarchRule,
    RenderedGrid,
    greatest_weights,
    march_sh_grid,
    render_sh_grid,
    sample_sh_grid,
)
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.kernels.total_variation import CellRange, total_variation
from voxfield.models.backdrop import Background, backdrop
from voxfield.models.base import ParameterGroup, RowsMoved, StepResult, render_camera
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

FARTHEST: Final = 1000.0
"""Distance that stands for infinity in the depth of forward-facing scenes, world units."""
PRUNING_RAYS: Final = 1 << 15
"""Rays marched together to find out what is seen: bounds the memory."""
COPIES: Final = 3
"""Values, gradients and second moments: what a voxel takes in training."""


@dataclass(frozen=True, kw_only=True)
class VoxelRate:
    """A learning rate that falls exponentially after a smooth start."""

    initial: float
    """Rate at the beginning, were it not for the start, above 0."""
    final: float
    """Rate that the fall ends at, above 0."""
    reach: float
    """Progress at which it would be reached, above 0; beyond 1 the run ends on the way."""
    delay: float = 0.0
    """Progress (0 to 1) until which the rate rises, from a hundredth, along a quarter of a sine."""

    def __post_init__(self) -> None:
        check_range("initial", self.initial, above=0.0)
        check_range("final", self.final, above=0.0)
        check_range("reach", self.reach, above=0.0)
        check_range("delay", self.delay, minimum=0.0, maximum=1.0)

    def at(self, progress: float) -> float:
        """The rate at ``progress``, 0 to 1."""
        rate = self.initial * (self.final / self.initial) ** min(1.0, progress / self.reach)
        if progress < self.delay:
            rate *= 0.01 + 0.99 * math.sin(0.5 * math.pi * progress / self.delay)
        return rate


@dataclass(frozen=True, kw_only=True)
class PlenoxelsConfig:
    """The model. Densities are per half side of the region of interest."""

    resolutions: tuple[Resolution, ...] = ((256, 256, 256), (512, 512, 512))
    """Voxels along x, y, z, stage by stage, each 2 to 2048. A stage of the same resolution as the one before only drops
    voxels."""
    refine_at: tuple[float, ...] = (0.3,)
    """Progress (0 to 1) at which each stage but the first begins, rising."""
    least_steps: int = 0
    """Steps that a stage lasts at least, whatever the progress: on a slow machine a run of few minutes would refine a
    grid that has not learned yet what is empty."""
    sh_degree: int = 2
    """Highest band of the harmonics, 0 to 3."""
    march: MarchRule = MarchRule()
    """Steps along rays."""
    rays_per_batch: int = 5000
    """At least 1."""
    initial_density: float = 0.1
    """Above 0: an empty voxel has no gradient."""
    density_rate: VoxelRate = VoxelRate(initial=30.0, final=0.05, reach=1.953125, delay=0.1171875)
    """Learning rate of densities."""
    sh_rate: VoxelRate = VoxelRate(initial=1e-2, final=5e-6, reach=1.953125)
    """Learning rate of coefficients."""
    tv_density: float = 1e-5
    """Weight of the total variation of densities, at least 0."""
    tv_sh: float = 1e-3
    """Weight of the total variation of coefficients, at least 0."""
    tv_share: float = 0.01
    """Share of the grid whose variation is looked at in a step, 0 (exclusive) to 1."""
    tv_until: float = 0.3
    """Progress (0 to 1) from which variation is no longer penalised."""
    tv_decay: float = 1.0
    """Factor on both weights from each stage to the next, 0 to 1."""
    sparsity: float = 0.0
    """Weight of the Cauchy penalty log(1 + 2 density^2), summed along rays, at least 0."""
    beta: float = 0.0
    """Weight of log T + log(1 - T), T the light that passes the grid: drives rays to either; at least 0."""
    prune: Literal["weight", "density"] = "weight"
    """What decides at a stage's end which voxels stay: the largest share in a training ray's colour, or density."""
    weight_threshold: float = 0.256
    """Voxels stay whose largest weight is above this divided by the resolution along z, at least 0."""
    density_threshold: float = 5.0
    """Voxels stay whose density is above this, at least 0."""
    pruning_rays: int = 2_000_000
    """Training rays marched to find the weights, spread over all pictures, at least 1."""
    dilate: int = 2
    """Voxels around one that stays which stay too, in steps, 0 to 8."""
    max_bytes: int | None = None
    """Most memory for voxels, their gradients and moments: the least visible are dropped until they fit; None: any."""
    background: Literal["auto", "white", "black", "random"] = "auto"
    """What training composites behind the grid. ``auto``: random behind pictures with alpha, so that opacity is learned
    (behind the published white, white fog costs nothing and is never dropped), and behind forward-facing scenes, in
    which every ray ends somewhere; black otherwise."""

    def __post_init__(self) -> None:
        stages = self.resolutions
        if not stages or len(self.refine_at) != len(stages) - 1 or list(self.refine_at) != sorted(self.refine_at):
            raise InputError(
                f"refine_at: expected one rising progress for each of the {max(0, len(stages) - 1)} stages after the "
                f"first, got {self.refine_at}."
            )
        for stage in stages:
            check_range("resolutions", min(stage), minimum=2)
            check_range("resolutions", max(stage), maximum=2048)
        for progress in self.refine_at:
            check_range("refine_at", progress, minimum=0.0, maximum=1.0)
        check_choice("sh_degree", self.sh_degree, range(4))
        check_choice("prune", self.prune, ("weight", "density"))
        check_choice("background", self.background, ("auto", "white", "black", "random"))
        check_range("least_steps", self.least_steps, minimum=0)
        check_range("rays_per_batch", self.rays_per_batch, minimum=1)
        check_range("pruning_rays", self.pruning_rays, minimum=1)
        check_range("initial_density", self.initial_density, above=0.0)
        check_range("tv_share", self.tv_share, above=0.0, maximum=1.0)
        check_range("dilate", self.dilate, minimum=0, maximum=8)
        for name in ("tv_until", "tv_decay"):
            check_range(name, getattr(self, name), minimum=0.0, maximum=1.0)
        for name in ("tv_density", "tv_sh", "sparsity", "beta", "weight_threshold", "density_threshold"):
            check_range(name, getattr(self, name), minimum=0.0)
        if self.max_bytes is not None and self.most_voxels() < math.prod(stages[0]):
            raise InputError(
                f"max_bytes: {self.max_bytes} bytes hold {self.most_voxels()} voxels, but the first resolution has "
                f"{math.prod(stages[0])}. Give more memory, or a smaller first resolution or sh_degree."
            )

    def most_voxels(self) -> int:
        """Voxels that ``max_bytes`` hold."""
        per_voxel = 4 * COPIES * (1 + 3 * (self.sh_degree + 1) ** 2) + 1
        return 1 << 31 if self.max_bytes is None else self.max_bytes // per_voxel


class Plenoxels(torch.nn.Module):
    """The model of one scene. See `voxfield.models.base.Model` for what the trainer asks of it."""

    centre: torch.Tensor
    """(3,): of the region of interest, world units."""
    stage: torch.Tensor
    """Scalar int64: index of the present resolution."""
    begun: torch.Tensor
    """Scalar int64: the step it began at."""

    def __init__(
        self,
        config: PlenoxelsConfig,
        bounds: Bounds,
        cameras: Cameras,
        *,
        near: float,
        has_alpha: bool,
        ndc: NdcFrame | None = None,
        tone: ToneCurve | None = None,
    ) -> None:
        """A fresh model.

        Args:
            config: settings.
            bounds: region of interest, world units; not used where there is an ``ndc``.
            cameras: of the training pictures: they decide which voxels are seen.
            near: least sampled distance, world units.
            has_alpha: whether pictures have alpha.
            ndc: what normalised device coordinates are relative to, where the grid lives in those.
            tone: the curve of a linear capture.
        """
        super().__init__()
        if config.background == "auto":
            config = replace(config, background="random" if has_alpha or ndc is not None else "black")
        self.config, self.cameras, self.ndc, self.tone = config, cameras, ndc, tone
        self.background = cast(Background, config.background)
        region = bounds if ndc is None else ndc.bounds
        self.world_bounds = region
        self.scale = 2.0 / max(region.size)
        self.near = near * self.scale if ndc is None else 0.0
        low, high = ([(x - c) * self.scale for x, c in zip(ends, region.centre, strict=True)] for ends in _ends(region))
        inside = Bounds(minimum=cast(Vector, tuple(low)), maximum=cast(Vector, tuple(high)))
        self.grid = VoxelGrid(config.resolutions[0], inside, config.sh_degree, density=config.initial_density)
        self.register_buffer("centre", torch.tensor(region.centre), persistent=False)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))
        self._progress = 0.0
        self._touched = torch.zeros(0, dtype=torch.uint8)
        self._gradients: GridGradients | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.grid.density.device

    def batch_size(self) -> int:
        """Rays of the next batch."""
        return self.config.rays_per_batch

    def accumulate_gradients_in_place(self) -> None:
        """Let backwards add to the parameters' gradient buffers, and note which rows they reached."""
        density, sh = self.grid.density.grad, self.grid.sh.grad
        if density is not None and sh is not None:
            self._gradients = GridGradients(density=density, sh=sh, touched=self._touched_rows())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Densities and coefficients, at rates of their own, in the rows a batch touches."""
        touched = self._touched_rows()
        rates = ((self.grid.density, self.config.density_rate), (self.grid.sh, self.config.sh_rate))
        return [
            ParameterGroup(name=name, parameters=[parameter], rate=rate.at, touched=touched)
            for name, (parameter, rate) in zip(("density", "sh"), rates, strict=True)
        ]

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:  # noqa: ARG002
        """Begin the next stage when it is due: drop what is not seen, and refine what is left."""
        self._progress = progress
        stage = int(self.stage) + 1
        due = stage <= sum(progress >= begins for begins in self.config.refine_at)
        if not due or step - int(self.begun) < self.config.least_steps:
            return None
        before = self.grid.resolution
        self.stage.fill_(stage)
        self.begun.fill_(step)
        after = self.config.resolutions[stage]
        pruned = self._pruned(after)
        source = pruned.rows_in(self.grid)
        if after != before:
            pruned = pruned.resample(after)
            source = pruned.rows_in(self.grid)
        self.grid.adopt(pruned)
        self._gradients = None
        return RowsMoved(source=source, groups=("density", "sh"))

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:  # noqa: ARG002
        """The loss of a batch of rays; ``loss.backward()`` is the caller's."""
        seen = self._render(batch.rays)
        behind = backdrop(self.background, len(batch.rays), generator, self.device)
        alpha = batch.rgba[:, 3:]
        truth = batch.rgba[:, :3] * alpha + (1 - alpha) * behind
        passed = 1 - seen.opacity
        error = compared(seen.rgb + passed[:, None] * behind, self.tone) - compared(truth, self.tone)
        squares = error.square().mean(1)
        loss = (squares if batch.weights is None else squares * batch.weights).mean()
        if self.config.sparsity:
            loss = loss + self.config.sparsity * seen.sparsity.mean()
        if self.config.beta:
            clear = passed.clamp(1e-3, 1 - 1e-3)
            loss = loss + self.config.beta * (clear.log() + (1 - clear).log()).mean()
        return StepResult(
            loss=loss + self._variation(generator),
            squared_error=float(squares.detach().mean()),
            num_rays=len(batch.rays),
            num_samples=int(seen.samples.sum()),
        )

    @torch.no_grad()
    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (R, 3) over ``background`` (3,), ``opacity`` (R,), ``depth`` (R,), world units."""
        seen = self._render(rays)
        rgb = seen.rgb + (1 - seen.opacity)[:, None] * background.to(self.device)
        distance = seen.depth / seen.opacity.clamp(min=1e-6) / self.scale
        if self.ndc is not None:
            inside, _ = self.ndc.rays(rays)
            distance = self.ndc.to_world(distance[:, None], inside, rays, farthest=FARTHEST)[:, 0]
        # Where a ray meets matter, the distance to it; a faint haze keeps its small contribution.
        depth = torch.where(seen.opacity > 0.5, distance, distance * seen.opacity)
        return {"rgb": rgb, "opacity": seen.opacity, "depth": depth}

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of `render_rays`, differentiable with respect to the rays.

        Samples keep their distances while their rays move.
        """
        origins, directions = self._inside(rays)
        grid, rule = self.grid.values, self.config.march
        t, offsets = march_sh_grid(origins.detach(), directions.detach(), grid, rule=rule, near=self.near)
        ray = torch.repeat_interleave(torch.arange(len(rays), device=t.device), offsets.diff())
        found = sample_sh_grid(origins[ray] + t[:, None] * directions[ray], grid)
        basis = spherical_harmonics(rays.directions, self.config.sh_degree)
        colour = (0.5 + torch.einsum("njb,nb->nj", found.sh, basis[ray])).clamp(min=0)
        size = torch.tensor(self.grid.resolution, device=t.device) / (grid.box[1] - grid.box[0])
        half = 0.5 * rule.step / (directions.detach() * size).norm(dim=1)[ray]
        seen = composite(found.density.clamp(min=0), colour, t - half, t + half, offsets, early_stop=rule.early_stop)
        return seen.rgb + (1 - seen.opacity)[:, None] * background.to(self.device)

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """``camera_to_world`` (N, 3, 4) as it is: this model does not correct poses."""
        return camera_to_world

    def render_image(
        self, cameras: Cameras, i: int, *, background: torch.Tensor, rays_per_chunk: int = 1 << 14
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` sees: ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W), on the CPU."""
        return render_camera(
            lambda rays: self.render_rays(rays.to(self.device), background=background), cameras, i, rays_per_chunk
        )

    def begin_with(self, grid: VoxelGrid) -> None:
        """Take the values of ``grid``, whose densities are per world unit, drop what no training ray sees of it, and
        begin at the last stage.

        Raises:
            InputError: it is of another resolution than the last stage, another box or another degree.
        """
        last = self.config.resolutions[-1]
        if (grid.resolution, grid.sh_degree) != (last, self.config.sh_degree) or grid.scene_bounds != self.world_bounds:
            raise InputError(
                f"grid: expected {last} voxels of degree {self.config.sh_degree} in {self.world_bounds}, got "
                f"{grid.resolution} of {grid.sh_degree} in {grid.scene_bounds}."
            )
        with torch.no_grad():
            density = grid.density / self.scale
            inside = VoxelGrid.from_values(grid.links, density, grid.sh, self.grid.scene_bounds)
            self.grid.adopt(inside.to(self.device))
            self.grid.adopt(self._pruned(last))
        self.stage.fill_(len(self.config.resolutions) - 1)

    def world_grid(self) -> VoxelGrid:
        """The grid in the region's own units: of forward-facing scenes those of normalised device coordinates."""
        with torch.no_grad():
            return VoxelGrid.from_values(
                self.grid.links, self.grid.density * self.scale, self.grid.sh, self.world_bounds
            )

    def in_grid(self, points: torch.Tensor) -> torch.Tensor:
        """World ``points`` (N, 3) in the grid's space. Differentiable."""
        return (points - self.centre) * self.scale

    @torch.no_grad()
    def start_from(self, grid: VoxelGrid) -> None:
        """Continue from a grid in the region's own units, as `world_grid` gives it, in place of a fresh one.

        Training goes on in the last stage that is no finer than the grid; a grid coarser than the first stage is
        refined to it.

        Raises:
            InputError: a grid of another region or degree.
        """
        if grid.sh_degree != self.config.sh_degree:
            raise InputError(
                f"The grid's harmonics end at band {grid.sh_degree}, the model's at {self.config.sh_degree}. Set "
                f"model.sh_degree={grid.sh_degree}."
            )
        own, given = self.world_bounds.tensor(), grid.scene_bounds.tensor()
        if float((own - given).abs().max()) > 1e-4 * max(self.world_bounds.size):
            raise InputError(
                f"The grid covers {_ends(grid.scene_bounds)}, the capture's region is {_ends(self.world_bounds)}. "
                "Train on the capture that it came from, with the same capture settings."
            )
        stages = [math.prod(stage) for stage in self.config.resolutions]
        if math.prod(grid.resolution) < stages[0]:
            grid = grid.resample(self.config.resolutions[0])
        stage = max(i for i, voxels in enumerate(stages) if voxels <= max(stages[0], math.prod(grid.resolution)))
        self.stage.fill_(stage)
        inside = VoxelGrid.from_values(
            grid.links, grid.density.float() / self.scale, grid.sh.float(), self.grid.scene_bounds
        )
        self.grid.adopt(inside.to(self.device))

    def _inside(self, rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
        """Origins and unit directions in the grid's space; rays that mean nothing in it start at infinity."""
        if self.ndc is None:
            return self.in_grid(rays.origins), rays.directions
        inside, ahead = self.ndc.rays(rays)
        origins = self.in_grid(inside.origins)
        return torch.where(ahead[:, None], origins, math.inf), inside.directions

    def _render(self, rays: Rays) -> RenderedGrid:
        origins, directions = self._inside(rays)
        return render_sh_grid(
            origins.detach(),
            directions.detach(),
            self.grid.values,
            rule=self.config.march,
            near=self.near,
            view_directions=rays.directions,
            gradients=self._gradients,
        )

    def _variation(self, generator: torch.Generator) -> torch.Tensor:
        """The weighed total variation of a random part of the grid."""
        config, held = self.config, self._gradients
        weights = (config.tv_density, config.tv_sh)
        if not any(weights) or self._progress >= config.tv_until:
            return torch.zeros((), device=self.device)
        total = self.grid.links.numel()
        cells = CellRange(
            start=int(torch.randint(total, (), generator=generator)), count=max(1, int(total * config.tv_share))
        )
        decay = config.tv_decay ** int(self.stage)
        buffers = (None, None) if held is None else (held.density, held.sh)
        touched = None if held is None else held.touched
        terms = [
            decay * weight * total_variation(values, self.grid.topology, cells, gradient=buffer, touched=touched)
            for weight, values, buffer in zip(weights, (self.grid.density, self.grid.sh), buffers, strict=True)
            if weight
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def _pruned(self, after: Resolution) -> VoxelGrid:
        """The grid without the voxels that training rays hardly see, few enough for the resolution ``after``."""
        if self.config.prune == "density":
            worth, threshold = self.grid.density.detach(), self.config.density_threshold
        else:
            worth = self._visibility()
            threshold = self.config.weight_threshold / self.grid.resolution[2]
        dilate, most = self.config.dilate, self.config.most_voxels()
        if not bool((worth > threshold).any()):
            # A grid of nothing learns nothing: the most visible tenth stays.
            threshold = _quantile(worth, 0.9) * (1 - 1e-6)
        while True:
            pruned = self.grid.prune(keep=worth > threshold, dilate=dilate)
            if pruned.resampled_voxels(after) <= most:
                return pruned
            dilate, threshold = max(0, dilate - 1), max(threshold * 1.1, _quantile(worth[worth > threshold], 0.1))

    def _visibility(self) -> torch.Tensor:
        """(N,): the largest weight of each voxel in rays through pixels spread over all training pictures."""
        cameras = self.cameras.to(self.device)
        pixels = int((cameras.width * cameras.height).sum())
        stride = max(1, math.isqrt(max(1, pixels // self.config.pruning_rays)))
        small = cameras.resized((cameras.width // stride).clamp(min=1), (cameras.height // stride).clamp(min=1))
        greatest = torch.zeros_like(self.grid.density)
        for i in range(len(small)):
            origins, directions = self._inside(small.image_rays(i))
            for at in range(0, len(origins), PRUNING_RAYS):
                part = slice(at, at + PRUNING_RAYS)
                greatest_weights(
                    origins[part], directions[part], self.grid.values, greatest, rule=self.config.march, near=self.near
                )
        return greatest

    def _touched_rows(self) -> torch.Tensor:
        """(N,) uint8 for the present grid; a new one where rows moved."""
        if len(self._touched) != self.grid.num_voxels or self._touched.device != self.device:
            self._touched = torch.zeros(self.grid.num_voxels, dtype=torch.uint8, device=self.device)
        return self._touched


def _ends(bounds: Bounds) -> tuple[Vector, Vector]:
    return bounds.minimum, bounds.maximum


def _quantile(values: torch.Tensor, share: float) -> float:
    """About the value below which a ``share`` of ``values`` lies, from a million of them; 0 of none."""
    some = values[:: len(values) // 1_000_000 + 1]
    return float(some.quantile(share)) if len(some) else 0.0
