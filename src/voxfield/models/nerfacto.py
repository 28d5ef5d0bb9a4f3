"""nerfacto: a hash-grid field for captures of any extent, sampled where two small proposal networks expect matter.

Source: nerfstudio's nerfacto (Tancik et al. 2023, https://arxiv.org/abs/2302.04264), which joins the contraction,
proposals and losses of Mip-NeRF 360 (Barron et al., https://arxiv.org/abs/2111.12077) with the hash grid of
instant-ngp and the appearance embedding of NeRF in the Wild. Bounded captures with alpha are sampled evenly within
their box, as nerfstudio advises to set by hand.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch

from voxfield.checks import check_choice, check_range
from voxfield.data.ray_batches import RayBatch
from voxfield.fields.hash_field import HashField, HashFieldConfig
from voxfield.fields.proposal import ProposalConfig, ProposalNetwork
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose_refinement import PoseRefinement, PoseRefinementConfig
from voxfield.geometry.rays import Rays
from voxfield.kernels.dense_composite import dense_composite, dense_weights
from voxfield.kernels.distortion import distortion_loss
from voxfield.kernels.interlevel import interlevel_loss
from voxfield.kernels.interval_points import interval_points
from voxfield.kernels.pdf_resample import pdf_resample
from voxfield.kernels.ray_box import ray_box
from voxfield.models.backdrop import Background, backdrop, check_last_sample
from voxfield.models.base import ParameterGroup, StepResult, render_camera
from voxfield.render.ray_samplers import ProposalSchedule, RaySpacing, anneal_weights, annealing_exponent, even_edges


@dataclass(frozen=True, kw_only=True)
class NerfactoConfig:
    """The model. Defaults are nerfstudio's unless their description says otherwise."""

    field: HashFieldConfig = HashFieldConfig(log2_table_size=19, appearance=32)
    """The radiance field."""
    coarse_proposal: ProposalConfig = ProposalConfig(num_samples=256, max_resolution=128)
    """The proposal network that is asked first."""
    fine_proposal: ProposalConfig = ProposalConfig(num_samples=96, max_resolution=256)
    """The one that is asked where the first expects matter."""
    num_samples: int = 48
    """Intervals a ray that the field itself is asked about, 1 to 1024."""
    rays_per_batch: int = 4096
    """Rays of a training step, at least 1."""
    background: Literal["auto", "white", "black", "random", "last_sample"] = "auto"
    """What training composites behind the field. ``auto``: a random colour per ray, behind truth too, for pictures
    with alpha, else ``last_sample``: the farthest sample's colour."""
    far: float = 1000.0
    """Distance at which rays end in unbounded captures, world units, above 0."""
    initial_density: float | Literal["auto"] = "auto"
    """Mean density of a fresh field, per world unit, above 0. ``auto``: 0.01, in bounded captures one over the box's
    longest side."""
    interlevel_weight: float = 1.0
    """Weight of the loss that makes proposals cover the final weights, at least 0."""
    distortion_weight: float | Literal["auto"] = "auto"
    """Weight of the loss that gathers a ray's weights in one place, at least 0. ``auto``: 0.002, in bounded captures
    0."""
    annealing_steps: int = 1000
    """Steps over which resampling turns from even to following the proposals, at least 0."""
    schedule: ProposalSchedule = ProposalSchedule()
    """Which steps train the proposal networks."""
    poses: Literal["off", "SO3xR3", "SE3"] = "off"
    """Whether training corrects the poses of its cameras, and how. Off by default, unlike nerfstudio: poses of
    structure from motion are good, it costs half of the speed, and held-out pictures keep their uncorrected poses."""
    pose_learning_rate: float = 0.1
    """Factor on the learning rate for the poses, above 0."""

    def __post_init__(self) -> None:
        check_choice("background", self.background, ("auto", "white", "black", "random", "last_sample"))
        check_choice("poses", self.poses, ("off", "SO3xR3", "SE3"))
        check_range("num_samples", self.num_samples, minimum=1, maximum=1024)
        check_range("rays_per_batch", self.rays_per_batch, minimum=1)
        check_range("far", self.far, above=0.0, maximum=1e6)
        check_range("interlevel_weight", self.interlevel_weight, minimum=0.0)
        check_range("annealing_steps", self.annealing_steps, minimum=0)
        check_range("pose_learning_rate", self.pose_learning_rate, above=0.0)
        for name, value in (("initial_density", self.initial_density), ("distortion_weight", self.distortion_weight)):
            if not isinstance(value, str):
                check_range(name, value, minimum=0.0)


class Nerfacto(torch.nn.Module):
    """The model of one scene. See `voxfield.models.base.Model` for what the trainer asks of it."""

    box: torch.Tensor
    """(2, 3): corners of the region of interest, world units."""

    def __init__(
        self,
        config: NerfactoConfig,
        bounds: Bounds,
        *,
        unbounded: bool,
        near: float,
        has_alpha: bool,
        num_cameras: int,
        seed: int = 0,
    ) -> None:
        """A fresh model.

        Args:
            config: the settings.
            bounds: the region of interest, world units: what is not contracted, or all there is.
            unbounded: whether there is anything beyond it.
            near: least distance sampled along a ray, world units.
            has_alpha: whether pictures have an alpha channel.
            num_cameras: training cameras, each with an appearance (and a pose correction) of its own.
            seed: of the initial parameters.
        """
        super().__init__()
        self.config, self.bounds, self.unbounded, self.near = config, bounds, unbounded, near
        self.background = _training_background(config.background, has_alpha)
        side = max(bounds.size)
        self.density_scale = (
            (0.01 if unbounded else 1.0 / side) if config.initial_density == "auto" else config.initial_density
        )
        self.distortion_weight = (
            (0.002 if unbounded else 0.0) if config.distortion_weight == "auto" else config.distortion_weight
        )
        self.register_buffer("box", bounds.tensor(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        self.field = HashField(config.field, generator)
        self.proposals = torch.nn.ModuleList(
            ProposalNetwork(proposal, generator) for proposal in (config.coarse_proposal, config.fine_proposal)
        )
        appearance = torch.randn(num_cameras, config.field.appearance, generator=generator)
        self.appearance = torch.nn.Parameter(appearance)
        self.poses: PoseRefinement | None = None
        if config.poses != "off":
            self.poses = PoseRefinement(num_cameras, PoseRefinementConfig(manifold=config.poses))

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.field.table.device

    def rays_per_batch(self) -> int:
        """Rays of the next batch."""
        return self.config.rays_per_batch

    def accumulate_gradients_in_place(self) -> None:
        """Let the hash grids' backward add to the tables' ``.grad`` rather than return a new tensor each time."""
        self.field.table_grad = self.field.table.grad
        for network in self._networks():
            network.table_grad = network.table.grad

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        """The loss of a batch of rays; ``loss.backward()`` is the caller's."""
        rays = batch.rays if self.poses is None else self.poses(batch.rays)
        spacing, hit = self._spacing(rays)
        levels, edges, distances = self._place(
            rays,
            spacing,
            hit,
            exponent=annealing_exponent(step, steps=self.config.annealing_steps),
            learn=self.config.schedule.updates_at(step),
            generator=generator,
        )
        density, colour = self._ask_field(rays, distances, hit, self.appearance[batch.rays.camera_index])
        seen = dense_composite(density, colour, distances)
        behind = (
            colour[:, -1]
            if self.background == "last_sample"
            else backdrop(self.background, len(rays), generator, self.device)
        )
        alpha = batch.rgba[:, 3:]
        # The same backdrop lies behind truth and prediction, so that only opacity can make up for alpha.
        truth = batch.rgba[:, :3] * alpha + (1 - alpha) * behind.detach()
        squared = (seen.rgb + (1 - seen.opacity)[:, None] * behind - truth).square().mean()
        loss = squared
        fixed = seen.weights.detach()
        for proposal_edges, proposal_weights in levels:
            if proposal_weights.requires_grad and self.config.interlevel_weight:
                lacking = interlevel_loss(edges, fixed, proposal_edges, proposal_weights)
                loss = loss + self.config.interlevel_weight * lacking.mean()
        if self.distortion_weight:
            loss = loss + self.distortion_weight * distortion_loss(edges, seen.weights).mean()
        if self.poses is not None:
            loss = loss + self.poses.penalty()
        return StepResult(
            loss=loss, squared_error=float(squared.detach()), num_rays=len(rays), num_samples=density.numel()
        )

    @torch.no_grad()
    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """What rays see, in the mean appearance of the training pictures.

        Args:
            rays: R rays on the model's device; call with at most some thousand to bound memory.
            background: (3,) colour behind the field; unused by fields trained with ``last_sample``.

        Returns:
            ``rgb`` (R, 3), ``opacity`` (R,), ``depth`` (R,): distance at which half of the light is stopped (the last
            one looked at where less is), ``expected_depth`` (R,): mean distance of what is seen, 0 where nothing is.
        """
        spacing, hit = self._spacing(rays)
        _, _, distances = self._place(rays, spacing, hit, exponent=1.0, learn=False, generator=None)
        density, colour = self._ask_field(rays, distances, hit, self.appearance.mean(0).expand(len(rays), -1))
        seen = dense_composite(density, colour, distances)
        behind = colour[:, -1] if self.background == "last_sample" else background.to(self.device)
        half = (seen.weights.cumsum(1) < 0.5).sum(1, keepdim=True).clamp(max=distances.shape[1] - 2)
        middles = 0.5 * (distances[:, 1:] + distances[:, :-1])
        return {
            "rgb": seen.rgb + (1 - seen.opacity)[:, None] * behind,
            "opacity": seen.opacity,
            "depth": middles.gather(1, half)[:, 0],
            "expected_depth": seen.depth / seen.opacity.clamp(min=1e-6),
        }

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of `render_rays`, differentiable with respect to the rays.

        Samples keep their distances while their rays move: neither proposals nor the box give a gradient.

        Args:
            rays: R rays on the model's device; some thousand, all samples are kept for the backward.
            background: (3,) colour behind the field; unused by fields trained with ``last_sample``.
        """
        spacing, hit = self._spacing(rays)
        _, _, distances = self._place(rays, spacing, hit, exponent=1.0, learn=False, generator=None)
        density, colour = self._ask_field(rays, distances, hit, self.appearance.mean(0).expand(len(rays), -1))
        seen = dense_composite(density, colour, distances)
        behind = colour[:, -1] if self.background == "last_sample" else background.to(self.device)
        return seen.rgb + (1 - seen.opacity)[:, None] * behind

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """The training cameras' poses (N, 3, 4) with the corrections learnt so far."""
        return camera_to_world if self.poses is None else self.poses.apply_to_poses(camera_to_world)

    def render_image(
        self, cameras: Cameras, i: int, *, background: torch.Tensor, rays_per_chunk: int = 1 << 12
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` sees: `render_rays`' values as (H, W, 3) and (H, W), on the CPU."""
        return render_camera(
            lambda rays: self.render_rays(rays.to(self.device), background=background), cameras, i, rays_per_chunk
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """Tables, of which a batch touches a part; networks; proposal networks, which rest in most steps; poses."""
        networks = [*self.field.density_net, *self.field.colour_net, self.appearance]
        tables = [self.field.table, *(network.table for network in self._networks())]
        resting = [weight for network in self._networks() for weight in network.density_net]
        groups = [
            ParameterGroup(name="tables", parameters=tables, skip_zero=True),
            ParameterGroup(name="networks", parameters=networks),
            # Without a gradient their moments must not go on moving them.
            ParameterGroup(name="proposals", parameters=resting, skip_zero=True),
        ]
        if self.poses is not None:
            groups.append(
                ParameterGroup(
                    name="poses",
                    parameters=[self.poses.corrections],
                    learning_rate_factor=self.config.pose_learning_rate,
                    skip_zero=True,
                )
            )
        return groups

    def _place(
        self,
        rays: Rays,
        spacing: RaySpacing,
        hit: torch.Tensor | None,
        *,
        exponent: float,
        learn: bool,
        generator: torch.Generator | None,
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
        """Where to look along rays; ``spacing`` and ``hit`` are those of `_spacing`.

        Returns:
            (edges, weights) of every proposal, edges (R, S + 1) of the final intervals in normalised spacing, and the
            same as distances in world units. Proposals' weights have gradients if ``learn``.
        """
        levels: list[tuple[torch.Tensor, torch.Tensor]] = []
        for network in (*self._networks(), None):
            count = self.config.num_samples if network is None else network.config.num_samples
            jitter = None
            if generator is not None:
                jitter = torch.rand(len(rays), 1, generator=generator).to(self.device)
            if levels:
                weights = anneal_weights(levels[-1][1], exponent)
                edges = pdf_resample(levels[-1][0], weights, count, jitter=jitter)
            else:
                edges = even_edges(len(rays), count, jitter=jitter, device=self.device).contiguous()
            distances = spacing.to_distance(edges)
            if network is None:
                break
            with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
                density = network.density(self._positions(rays, distances)).view(len(rays), -1)
                levels.append((edges, dense_weights(self._scaled(density, hit), distances)))
        return levels, edges, distances

    def _ask_field(
        self, rays: Rays, distances: torch.Tensor, hit: torch.Tensor | None, appearance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Density (R, S) per world unit and colour (R, S, 3) of the intervals between ``distances`` (R, S + 1)."""
        count, samples = len(rays), distances.shape[1] - 1
        ray_index = torch.arange(count, dtype=torch.int32, device=self.device).repeat_interleave(samples)
        density, geometry = self.field.geometry(self.field.encode(self._positions(rays, distances)))
        colour = self.field.colour(geometry, rays.directions, ray_index, appearance)
        return self._scaled(density.view(count, samples), hit), colour.reshape(count, samples, 3)

    def _spacing(self, rays: Rays) -> tuple[RaySpacing, torch.Tensor | None]:
        """How distances are spaced along rays, and in bounded captures which rays (R, 1) meet the box at all."""
        if self.unbounded:
            return RaySpacing(near=self.near, far=self.config.far), None
        near, far = ray_box(rays.origins.detach(), rays.directions.detach(), self.box)
        near = near.clamp(min=self.near)
        hit = near < far
        return (
            RaySpacing(near=torch.where(hit, near, 0.0), far=torch.where(hit, far, 1.0), kind="uniform"),
            hit[:, None],
        )

    def _scaled(self, density: torch.Tensor, hit: torch.Tensor | None) -> torch.Tensor:
        """Density (R, S) per world unit; none on rays that miss the box."""
        return density * self.density_scale if hit is None else density * (self.density_scale * hit)

    def _positions(self, rays: Rays, distances: torch.Tensor) -> torch.Tensor:
        """Midpoints (R * S, 3) of the intervals in the unit cube the grids cover."""
        return interval_points(rays.origins, rays.directions, distances, self.box, contracted=self.unbounded)

    def _networks(self) -> list[ProposalNetwork]:
        return [cast(ProposalNetwork, network) for network in self.proposals]


def _training_background(chosen: str, has_alpha: bool) -> Background:
    check_last_sample(chosen, has_alpha)
    if chosen == "auto":
        return "random" if has_alpha else "last_sample"
    return cast(Background, chosen)
