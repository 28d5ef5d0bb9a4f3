"""plenoxels: a sparse grid of voxels with spherical harmonics, optimised directly; no network.

Source: Fridovich-Keil and Yu et al. 2022, Plenoxels (https://arxiv.org/abs/2112.05131), with the constants of svox2.
Densities live in a space in which the region of interest is two units across, as there: learning rates, initial values
and penalties then mean the same in scenes of any size. Scenes without bounds have their near part in the ball that the
grid then is, and the rest on spheres around it.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar, Final, NamedTuple, cast

import torch

from voxfield.colour import ToneCurve, compared
from voxfield.data.ray_batches import RayBatch
from voxfield.distributed.ranks import Ranks
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.camera import Cameras
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.kernels.sh_grid import (
    GridGradients,
    GridLinks,
    ShGrid,
    greatest_weights,
    march_sh_grid,
    render_sh_grid,
    sample_sh_grid,
)
from voxfield.kernels.sphere_layers import LayerGradients, render_spheres
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.kernels.total_variation import CellRange, total_variation
from voxfield.models.backdrop import backdrop
from voxfield.models.base import ParameterGroup, RowsMoved, StepResult, render_camera
from voxfield.models.empty_space import EmptySpace
from voxfield.models.plenoxels_config import (
    PlenoxelsConfig,
    largest_resolution,
)
from voxfield.voxels.sphere_layers import SphereLayers
from voxfield.voxels.voxel_grid import Resolution, VoxelGrid

FARTHEST: Final = 1000.0
"""Distance that stands for infinity in the depth of forward-facing scenes, world units."""
PRUNING_RAYS: Final = 1 << 15
"""Rays marched together to find out what is seen: bounds the memory."""
SACRIFICED: Final = 4.0
"""To fit into memory voxels go up to so many times the threshold; what is seen more is kept, at a lower resolution."""


class _Seen(NamedTuple):
    """What R rays see, of grid and spheres together, without a background."""

    rgb: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    """In the grid's lengths."""
    passed: torch.Tensor
    """(R,): the light that passes the grid."""
    sparsity: torch.Tensor
    samples: torch.Tensor


class Plenoxels(torch.nn.Module):
    """The model of one scene. See `voxfield.models.base.Model` for what the trainer asks of it."""

    renders_normals: ClassVar[bool] = False

    centre: torch.Tensor
    """(3,): of the region of interest, world units."""
    stage: torch.Tensor
    """Scalar int64: index of the present resolution."""
    begun: torch.Tensor
    """Scalar int64: the step it began at."""
    spheres_stage: torch.Tensor
    """Scalar int64: the stage that the spheres have followed to; there only where there are some."""

    def __init__(
        self,
        config: PlenoxelsConfig,
        bounds: Bounds,
        cameras: Cameras,
        *,
        near: float,
        has_alpha: bool,
        unbounded: bool = False,
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
            unbounded: whether there is anything beyond ``bounds``.
            ndc: what normalised device coordinates are relative to, where the grid lives in those.
            tone: the curve of a linear capture.
        """
        super().__init__()
        config = config.settled(unbounded=unbounded, has_alpha=has_alpha, ndc=ndc is not None)
        self.config, self.cameras, self.ndc, self.tone = config, cameras, ndc, tone
        self.background = config.background
        region = scene_box(config, bounds, cameras) if ndc is None else ndc.bounds
        self.world_bounds = region
        self.scale = 2.0 / max(region.size)
        self.near = near * self.scale if ndc is None else 0.0
        low, high = ([(x - c) * self.scale for x, c in zip(ends, region.centre, strict=True)] for ends in _ends(region))
        inside = Bounds(minimum=cast(Vector, tuple(low)), maximum=cast(Vector, tuple(high)))
        self.register_buffer("centre", torch.tensor(region.centre), persistent=False)
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))
        self.spheres: SphereLayers | None = None
        self._limits, stored = config, None
        if config.spheres.layers:
            self.near = max(self.near, config.near_clip)
            self.spheres, self._limits = _fresh_spheres(config)
            self.register_buffer("spheres_stage", torch.zeros((), dtype=torch.int64))
            stored = _ball(self._limits.first_resolution())
        self.grid = VoxelGrid(
            self._limits.first_resolution(), inside, config.sh_degree, density=config.initial_density, stored=stored
        )
        self._progress = 0.0
        self._touched = torch.zeros(0, dtype=torch.uint8)
        self._gradients: GridGradients | None = None
        self._empty = EmptySpace(config.empty_every)
        self._sphere_touched = torch.zeros(0, dtype=torch.uint8)
        self._sphere_gradients: LayerGradients | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.grid.density.device

    def batch_size(self) -> int:
        """Rays of the next batch."""
        return self.config.rays_per_batch

    def step_bytes(self) -> int:
        """See `PlenoxelsConfig.step_bytes`."""
        return self.config.step_bytes()

    def accumulate_gradients_in_place(self) -> None:
        """Let backwards add to the parameters' gradient buffers, and note which rows they reached."""
        density, sh = self.grid.density.grad, self.grid.sh.grad
        if density is not None and sh is not None:
            self._gradients = GridGradients(density=density, sh=sh, touched=self._touched_rows())
        if self.spheres is not None:
            density, rgb = self.spheres.density.grad, self.spheres.rgb.grad
            if density is not None and rgb is not None:
                self._sphere_gradients = LayerGradients(density=density, rgb=rgb, touched=self._touched_texels())

    def merge(self, ranks: Ranks) -> None:
        """Nothing is noted of batches."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Densities and coefficients, at rates of their own, in the rows a batch touches; and those of the spheres."""
        config, touched = self.config, self._touched_rows()
        parts = [
            ("density", self.grid.density, config.density_rate, touched),
            ("sh", self.grid.sh, config.sh_rate, touched),
        ]
        if self.spheres is not None:
            touched = self._touched_texels()
            parts.append(("sphere_density", self.spheres.density, config.spheres.density_rate, touched))
            parts.append(("sphere_rgb", self.spheres.rgb, config.spheres.rgb_rate, touched))
        return [
            ParameterGroup(name=name, parameters=[parameter], rate=rate.at, touched=rows)
            for name, parameter, rate, rows in parts
        ]

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:  # noqa: ARG002
        """Begin the next stage when it is due: drop what is not seen, and refine what is left. Spheres follow a step
        later.
        """
        self._progress = progress
        if self.spheres is not None and int(self.spheres_stage) < int(self.stage):
            return self._prune_spheres(self.spheres)
        stage = int(self.stage) + 1
        due = stage <= sum(progress >= begins for begins in self.config.refine_at)
        if not due or step - int(self.begun) < self.config.least_steps:
            return None
        before = self.grid.resolution
        self.stage.fill_(stage)
        self.begun.fill_(step)
        after = self.config.resolutions[stage]
        pruned, after = self._pruned(after)
        source = pruned.rows_in(self.grid)
        if after != before:
            pruned = pruned.resample(after)
            source = pruned.rows_in(self.grid)
        self.grid.adopt(pruned)
        self._gradients = None
        return RowsMoved(source=source, groups=("density", "sh"))

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        """The loss of a batch of rays; ``loss.backward()`` is the caller's."""
        alone = self.spheres is not None and self._progress < self.config.spheres_alone_until
        seen = self._render(batch.rays, self._empty.in_training(self.grid, step), without_grid=alone)
        settled = self.background == "random" and self._progress >= self.config.random_until
        background = "white" if settled else self.background
        linear = self.tone is not None
        behind = backdrop(background, len(batch.rays), generator, self.device, batch.ranks, linear=linear)
        alpha = batch.rgba[:, 3:]
        truth = batch.rgba[:, :3] * alpha + (1 - alpha) * behind
        error = compared(seen.rgb + (1 - seen.opacity)[:, None] * behind, self.tone) - compared(truth, self.tone)
        squares = error.square().mean(1)
        loss = (squares if batch.weights is None else squares * batch.weights).mean()
        if self.config.sparsity:
            loss = loss + self.config.sparsity * seen.sparsity.mean()
        if self.config.beta:
            clear = seen.passed.clamp(1e-3, 1 - 1e-3)
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
        seen = self._render(rays, self._empty.now(self.grid))
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
        grid, rule = self._empty.now(self.grid), self.config.march
        t, offsets = march_sh_grid(origins.detach(), directions.detach(), grid, rule=rule, near=self.near)
        ray = torch.repeat_interleave(torch.arange(len(rays), device=t.device), offsets.diff())
        found = sample_sh_grid(origins[ray] + t[:, None] * directions[ray], grid)
        basis = spherical_harmonics(rays.directions, self.config.sh_degree)
        colour = (0.5 + torch.einsum("njb,nb->nj", found.sh, basis[ray])).clamp(min=0)
        size = torch.tensor(self.grid.resolution, device=t.device) / (grid.box[1] - grid.box[0])
        half = 0.5 * rule.step / (directions.detach() * size).norm(dim=1)[ray]
        seen = composite(found.density.clamp(min=0), colour, t - half, t + half, offsets, early_stop=rule.early_stop)
        behind = background.to(self.device).expand(len(rays), -1)
        if self.spheres is not None:
            around = render_spheres(origins, directions, self.spheres.values, implementation="reference")
            behind = around.rgb + (1 - around.opacity)[:, None] * behind
        return seen.rgb + (1 - seen.opacity)[:, None] * behind

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

    def begin_with(self, grid: VoxelGrid, spheres: SphereLayers | None = None) -> None:
        """As `start_from`, but without what no training ray sees of ``grid``; where there are spheres, with those of
        ``spheres``.

        Raises:
            InputError: as `start_from`.
        """
        self.start_from(grid)
        if self.spheres is not None:
            stored = self.grid.links >= 0
            ball = torch.zeros(self.grid.num_voxels, dtype=torch.bool, device=self.device)
            ball[self.grid.links[stored].long()] = _ball(self.grid.resolution).to(self.device)[stored]
            self.grid.adopt(self.grid.prune(keep=ball))
            if spheres is not None:
                self.spheres.adopt(spheres)
        pruned, after = self._pruned(self.grid.resolution)
        self.grid.adopt(pruned if after == pruned.resolution else pruned.resample(after))

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
    def show(self, grid: VoxelGrid) -> None:
        """Render a grid in the region's own units, of whatever resolution and box, in place of the own: to be looked
        at, not trained on.

        Raises:
            InputError: a grid of another degree.
        """
        self._check_degree(grid)
        ends = self.in_grid(grid.scene_bounds.tensor().to(self.device)).cpu()
        low, high = (cast(Vector, tuple(end)) for end in ends.tolist())
        self.grid = VoxelGrid.from_values(
            grid.links, grid.density.float() / self.scale, grid.sh.float(), Bounds(minimum=low, maximum=high)
        ).to(self.device)

    @torch.no_grad()
    def start_from(self, grid: VoxelGrid) -> None:
        """Continue from a grid in the region's own units, as `world_grid` gives it, in place of a fresh one.

        Training goes on in the last stage that is no finer than the grid; a grid coarser than the first stage is
        refined to it.

        Raises:
            InputError: a grid of another region or degree.
        """
        self._check_degree(grid)
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
        if self.spheres is not None:
            self.spheres_stage.copy_(self.stage)

    def _check_degree(self, grid: VoxelGrid) -> None:
        if grid.sh_degree != self.config.sh_degree:
            raise InputError(
                f"The grid's harmonics end at band {grid.sh_degree}, the model's at {self.config.sh_degree}. Set "
                f"model.sh_degree={grid.sh_degree}."
            )

    def _inside(self, rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
        """Origins and unit directions in the grid's space; rays that mean nothing in it start at infinity."""
        if self.ndc is None:
            return self.in_grid(rays.origins), rays.directions
        inside, ahead = self.ndc.rays(rays)
        origins = self.in_grid(inside.origins)
        return torch.where(ahead[:, None], origins, math.inf), inside.directions

    def get_extra_state(self) -> torch.Tensor:
        """Where it was empty when it was last looked at: what rays meet until the next time."""
        return self._empty.notes(self.grid)

    def set_extra_state(self, state: object) -> None:
        """Go on with that."""
        self._empty.go_on_from(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Earlier checkpoints do not have it."""
        state_dict.setdefault(prefix + "_extra_state", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _render(self, rays: Rays, values: ShGrid, *, without_grid: bool = False) -> _Seen:
        origins, directions = (tensor.detach() for tensor in self._inside(rays))
        grid = render_sh_grid(
            # Rays that start at infinity meet no voxel.
            origins + math.inf if without_grid else origins,
            directions,
            values,
            rule=self.config.march,
            near=self.near,
            view_directions=rays.directions,
            gradients=self._gradients,
        )
        passed = 1 - grid.opacity
        rgb, opacity, depth = grid.rgb, grid.opacity, grid.depth
        if self.spheres is not None:
            around = self.spheres.render(origins, directions, gradients=self._sphere_gradients)
            rgb = rgb + passed[:, None] * around.rgb
            opacity, depth = opacity + passed * around.opacity, depth + passed * around.depth
        return _Seen(rgb, opacity, depth, passed, grid.sparsity, grid.samples)

    def _variation(self, generator: torch.Generator) -> torch.Tensor:
        """The weighed total variation of a random part of the grid, and of the spheres."""
        config, held, around = self.config, self._gradients, self._sphere_gradients
        parts: list[tuple[float, torch.Tensor, GridLinks, torch.Tensor | None, torch.Tensor | None]] = []
        if self._progress < config.tv_until:
            decay, topology = config.tv_decay ** int(self.stage), self.grid.topology
            touched = None if held is None else held.touched
            density, sh = (None, None) if held is None else (held.density, held.sh)
            parts.append((decay * config.tv_density, self.grid.density, topology, density, touched))
            parts.append((decay * config.tv_sh, self.grid.sh, topology, sh, touched))
        if self.spheres is not None:
            topology = self.spheres.topology
            touched = None if around is None else around.touched
            density, rgb = (None, None) if around is None else (around.density, around.rgb)
            parts.append((config.spheres.tv_density, self.spheres.density, topology, density, touched))
            parts.append((config.spheres.tv_rgb, self.spheres.rgb, topology, rgb, touched))
        total = torch.zeros((), device=self.device)
        cells: dict[int, CellRange] = {}
        for weight, values, links, gradient, touched in parts:
            if weight:
                # Densities and colours of the same voxels are looked at.
                count = links.links.numel()
                if count not in cells:
                    start = int(torch.randint(count, (), generator=generator))
                    cells[count] = CellRange(start=start, count=max(1, int(count * config.tv_share)))
                found = total_variation(values, links, cells[count], gradient=gradient, touched=touched)
                total = total + weight * found
        return total

    def _prune_spheres(self, spheres: SphereLayers) -> RowsMoved:
        """Drop texels that are next to empty."""
        threshold = self.config.spheres.density_threshold
        density = spheres.density.detach()
        # Spheres of nothing learn nothing: the densest tenth stays.
        threshold = min(threshold, _quantile(density, 0.9))
        pruned = spheres.prune(density >= threshold, dilate=self.config.spheres.dilate)
        source = pruned.rows_in(spheres)
        spheres.adopt(pruned)
        self.spheres_stage.copy_(self.stage)
        self._sphere_gradients = None
        return RowsMoved(source=source, groups=("sphere_density", "sphere_rgb"))

    @torch.no_grad()
    def _pruned(self, after: Resolution) -> tuple[VoxelGrid, Resolution]:
        """The grid without the voxels that training rays hardly see, and the resolution, ``after`` or the largest below
        it, at which what is left fits into memory.
        """
        if self.config.prune == "density":
            worth, threshold = self.grid.density.detach(), self.config.density_threshold
        else:
            worth = self._visibility()
            threshold = self.config.weight_threshold / self.grid.resolution[2]
        if not bool((worth > threshold).any()):
            # A grid of nothing learns nothing: the most visible tenth stays.
            threshold = _quantile(worth, 0.9) * (1 - 1e-6)
        pruned = self.grid.prune(keep=worth > threshold, dilate=self.config.dilate)
        for dilate in reversed(range(self.config.dilate)):
            if self._limits.fits(after, pruned.resampled_voxels(after)):
                break
            pruned = self.grid.prune(keep=worth > threshold, dilate=dilate)
        if not self._limits.fits(after, pruned.resampled_voxels(after)):
            keep = worth > min(SACRIFICED * threshold, _quantile(worth[worth > threshold], 0.5))
            pruned = self.grid.prune(keep=keep, dilate=0)
        least = cast(Resolution, tuple(map(min, self.grid.resolution, after)))
        fits = self._limits.fits
        return pruned, largest_resolution(least, after, lambda size: fits(size, pruned.resampled_voxels(size)))

    def _visibility(self) -> torch.Tensor:
        """(N,): the largest weight of each voxel in rays through pixels spread over all training pictures."""
        cameras = self.cameras.to(self.device)
        pixels = int((cameras.width * cameras.height).sum())
        stride = max(1, math.isqrt(max(1, pixels // self.config.pruning_rays)))
        small = cameras.resized((cameras.width // stride).clamp(min=1), (cameras.height // stride).clamp(min=1))
        greatest, values = torch.zeros_like(self.grid.density), self._empty.now(self.grid)
        for i in range(len(small)):
            origins, directions = self._inside(small.image_rays(i))
            for at in range(0, len(origins), PRUNING_RAYS):
                part = slice(at, at + PRUNING_RAYS)
                greatest_weights(
                    origins[part], directions[part], values, greatest, rule=self.config.march, near=self.near
                )
        return greatest

    def _touched_texels(self) -> torch.Tensor:
        """(N,) uint8 for the present texels of the spheres."""
        assert self.spheres is not None, "asked for only where there are some"
        if len(self._sphere_touched) != self.spheres.num_texels or self._sphere_touched.device != self.device:
            self._sphere_touched = torch.zeros(self.spheres.num_texels, dtype=torch.uint8, device=self.device)
        return self._sphere_touched

    def _touched_rows(self) -> torch.Tensor:
        """(N,) uint8 for the present grid; a new one where rows moved."""
        if len(self._touched) != self.grid.num_voxels or self._touched.device != self.device:
            self._touched = torch.zeros(self.grid.num_voxels, dtype=torch.uint8, device=self.device)
        return self._touched


def scene_box(config: PlenoxelsConfig, bounds: Bounds, cameras: Cameras) -> Bounds:
    """The box of the grid, world units: the region of interest ``bounds``, or with spheres the cube around a ball that
    holds it and the cameras.
    """
    if not config.spheres.layers:
        return bounds
    centre = torch.tensor(bounds.centre)
    farthest = float((cameras.origins.cpu() - centre).norm(dim=1).max())
    return Bounds.from_cube(max(max(bounds.size) / 2, farthest / config.spheres.camera_scale), bounds.centre)


def _fresh_spheres(config: PlenoxelsConfig) -> tuple[SphereLayers, PlenoxelsConfig]:
    """The spheres, made smaller where they would take more than half of the memory, and settings with what is left."""
    settings, height = config.spheres, config.spheres.height
    if config.max_bytes is not None:
        while height > 2 and settings.bytes_of(height) > config.max_bytes // 2:
            height = max(2, int(height * 0.9))
        config = replace(config, max_bytes=config.max_bytes - settings.bytes_of(height))
    return SphereLayers(cast(int, settings.layers), height, density=settings.initial_density), config


def _ball(size: Resolution) -> torch.Tensor:
    """(D, H, W) bool: voxels that the ball in their box touches."""
    x, y, z = (2 * (torch.arange(count) + 0.5) / count - 1 for count in size)
    distance = (z.square()[:, None, None] + y.square()[:, None] + x.square()).sqrt()
    return distance <= 1 + math.sqrt(3) / min(size)


def _ends(bounds: Bounds) -> tuple[Vector, Vector]:
    return bounds.minimum, bounds.maximum


def _quantile(values: torch.Tensor, share: float) -> float:
    """About the value below which a ``share`` of ``values`` lies, from a million of them; 0 of none."""
    some = values[:: len(values) // 1_000_000 + 1]
    return float(some.quantile(share)) if len(some) else 0.0
