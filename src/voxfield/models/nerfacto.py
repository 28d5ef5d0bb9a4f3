"""nerfacto: a hash-grid field for captures of any extent, sampled where two small proposal networks expect matter.

Source: nerfstudio's nerfacto (Tancik et al. 2023, https://arxiv.org/abs/2302.04264), which joins the contraction,
proposals and losses of Mip-NeRF 360 (Barron et al., https://arxiv.org/abs/2111.12077) with the hash grid of
instant-ngp and the appearance embedding of NeRF in the Wild. Bounded captures with alpha are sampled evenly within
their box, as nerfstudio advises to set by hand. With a pyramid of resolutions for its field it is
``pynerf``.
"""

import functools
from typing import ClassVar, Final, NamedTuple, cast

import torch

from voxfield.colour import ToneCurve, compared
from voxfield.data.ray_batches import RayBatch
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError
from voxfield.fields.contraction import contract_to_unit_cube
from voxfield.fields.hash_field import FieldSamples, HashField
from voxfield.fields.normal_head import NormalHead
from voxfield.fields.proposal import ProposalNetwork
from voxfield.fields.pyramid_field import PyramidField
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.ndc import NdcFrame
from voxfield.geometry.pose_refinement import PoseRefinement, PoseRefinementConfig
from voxfield.geometry.rays import Rays
from voxfield.kernels.dense_composite import DenseComposited, dense_composite, dense_weights
from voxfield.kernels.distortion import distortion_loss
from voxfield.kernels.interlevel import interlevel_loss
from voxfield.kernels.interval_points import interval_points
from voxfield.kernels.pdf_resample import pdf_resample
from voxfield.kernels.ray_box import ray_box
from voxfield.models.backdrop import backdrop, check_last_sample
from voxfield.models.base import ParameterGroup, StepResult, render_camera
from voxfield.models.footprints import check_pixels_widen
from voxfield.models.nerfacto_config import NerfactoConfig
from voxfield.render.depth_losses import depth_loss
from voxfield.render.near_gradients import scale_near_gradients
from voxfield.render.normals import composite_normals, orientation_loss, predicted_normal_loss
from voxfield.render.ray_samplers import RaySpacing, anneal_weights, annealing_exponent, even_edges


class _Look(NamedTuple):
    """Where R rays are looked at."""

    world: Rays
    """The rays."""
    rays: Rays
    """The same in the space the field lives in: the world, or normalised device coordinates."""
    spacing: RaySpacing
    """How distances are spaced along ``rays``."""
    hit: torch.Tensor | None
    """(R, 1) bool: which of them meet the box; None: all."""
    levels: list[tuple[torch.Tensor, torch.Tensor]]
    """(edges, weights) of every proposal, edges in normalised spacing."""
    edges: torch.Tensor
    """(R, S + 1): the final intervals in normalised spacing."""
    distances: torch.Tensor
    """(R, S + 1): the same along ``rays``."""


class _Asked(NamedTuple):
    """What the field says of R rays' S intervals each."""

    density: torch.Tensor
    """(R, S), per unit of length."""
    colour: torch.Tensor
    """(R, S, 3)."""
    normals: torch.Tensor | None
    """(R, S, 3), where they are learnt."""
    discord: torch.Tensor | None
    """See `FieldSamples`."""


_SAMPLE_BYTES: Final = 1500
"""Of a sample of the field in a training step. Measured."""
_PROPOSED_BYTES: Final = 300
"""Of a sample of a proposal network. Measured."""


class Nerfacto(torch.nn.Module):
    """The model of one scene. See `voxfield.models.base.Model` for what the trainer asks of it."""

    box: torch.Tensor
    """(2, 3): corners of the region of interest, world units."""

    renders_normals: ClassVar[bool] = True

    def __init__(
        self,
        config: NerfactoConfig,
        bounds: Bounds,
        *,
        unbounded: bool,
        near: float,
        has_alpha: bool,
        num_cameras: int,
        tone: ToneCurve | None = None,
        seed: int = 0,
        ndc: NdcFrame | None = None,
    ) -> None:
        """A fresh model.

        Args:
            config: the settings.
            bounds: the region of interest, world units: what is not contracted, or all there is.
            unbounded: whether there is anything beyond it.
            near: least distance sampled along a ray, world units.
            has_alpha: whether pictures have an alpha channel.
            num_cameras: training cameras, each with an appearance (and a pose correction) of its own.
            tone: the curve of a linear capture; None for sRGB pictures.
            seed: of the initial parameters.
            ndc: what normalised device coordinates are relative to, where the field lives in those: the region of
                interest is then the frame's, and nothing is unbounded. Rays, distances and normals are the world's
                all the same.

        Raises:
            InputError: a pyramid in normalised device coordinates, where pixels have no width.
        """
        super().__init__()
        if ndc is not None and config.pyramid is not None:
            raise InputError("capture.space: a pyramid's levels are widths in the world. Set world, or train nerfacto.")
        if ndc is not None:
            bounds, unbounded, near = ndc.bounds, False, 0.0
        check_last_sample(config.background, has_alpha)
        side = max(bounds.size)
        config = config.settled(side=side, unbounded=unbounded, ndc=ndc is not None, has_alpha=has_alpha)
        self.config, self.bounds, self.unbounded, self.near, self.ndc = config, bounds, unbounded, near, ndc
        self.tone = tone
        self.background = config.background
        self.density_scale = cast(float, config.initial_density)
        self.distortion_weight = cast(float, config.distortion_weight)
        self.register_buffer("box", bounds.tensor(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        self.field: HashField | PyramidField
        if config.pyramid is None:
            self.field = HashField(config.field, generator, linear=tone is not None)
        else:
            # Contraction leaves half of the grids' side to the region of interest.
            extent = 2 * side if unbounded else side
            linear = tone is not None
            self.field = PyramidField(config.field, config.pyramid, generator, extent=extent, linear=linear)
        proposals = (config.coarse_proposal, config.fine_proposal) if config.sampling == "proposal" else ()
        self.proposals = torch.nn.ModuleList(ProposalNetwork(proposal, generator) for proposal in proposals)
        # Small, so that pictures differ by what training finds, and their mean is like each of them from the start.
        appearance = 0.01 * torch.randn(num_cameras, config.field.appearance, generator=generator)
        self.appearance = torch.nn.Parameter(appearance, requires_grad=config.field.appearance > 0)
        self.normals: NormalHead | None = None
        if config.predict_normals:
            self.normals = NormalHead(config.field.geometry_features, config.field.hidden, generator)
        self.poses: PoseRefinement | None = None
        if config.poses != "off":
            self.poses = PoseRefinement(num_cameras, PoseRefinementConfig(manifold=config.poses))

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.box.device

    def batch_size(self) -> int:
        """Rays of the next batch."""
        return self.config.rays_per_batch

    def step_bytes(self) -> int:
        """By the samples of a batch, of the field and of the proposal networks."""
        config = self.config
        proposed = sum(cast(int, one.num_samples) for one in (config.coarse_proposal, config.fine_proposal))
        each = cast(int, config.num_samples) * _SAMPLE_BYTES + proposed * _PROPOSED_BYTES
        return config.rays_per_batch * each

    def accumulate_gradients_in_place(self) -> None:
        """Let the hash grids' backward add to the tables' ``.grad`` rather than return a new tensor each time."""
        self.field.accumulate_in_place()
        for network in self._networks():
            network.table_grad = network.table.grad

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        """The loss of a batch of rays; ``loss.backward()`` is the caller's.

        Raises:
            InputError: the model learns from distances and the batch has none.
        """
        look = self._look(batch.rays, step, generator, batch.ranks)
        seen_field = self._ask_field(look, self.appearance[batch.rays.camera_index], learning=True)
        density, colour, predicted = seen_field.density, seen_field.colour, seen_field.normals
        density, colour = self._trained_near(look, density), self._trained_near(look, colour)
        seen = dense_composite(density, colour, look.distances)
        behind = (
            colour[:, -1]
            if self.background == "last_sample"
            else backdrop(
                self.background,
                len(batch.rays),
                generator,
                self.device,
                batch.ranks,
                linear=self.tone is not None,
            )
        )
        alpha = batch.rgba[:, 3:]
        # The same backdrop lies behind truth and prediction, so that only opacity can make up for alpha.
        truth = batch.rgba[:, :3] * alpha + (1 - alpha) * behind.detach()
        prediction = seen.rgb + (1 - seen.opacity)[:, None] * behind
        squared = (compared(prediction, self.tone) - compared(truth, self.tone)).square()
        loss = batch.mean(squared)
        fixed = seen.weights.detach()
        for proposal_edges, proposal_weights in look.levels:
            if proposal_weights.requires_grad and self.config.interlevel_weight:
                lacking = interlevel_loss(look.edges, fixed, proposal_edges, proposal_weights)
                loss = loss + self.config.interlevel_weight * lacking.mean()
        if self.distortion_weight:
            loss = loss + self.distortion_weight * distortion_loss(look.edges, seen.weights).mean()
        if self.config.depth.loss != "off":
            loss = loss + self.config.depth.weight * self._depth_loss(batch, step, look, seen.weights, generator)
        if predicted is not None:
            away = orientation_loss(fixed, predicted, look.world.directions.detach())
            apart = predicted_normal_loss(fixed, self._density_normals(look), predicted)
            loss = loss + self.config.orientation_weight * away.mean()
            loss = loss + self.config.predicted_normal_weight * apart.mean()
        if self.poses is not None:
            loss = loss + self.poses.penalty()
        penalty = self.field.penalty(seen_field.discord)
        return StepResult(
            loss=loss if penalty is None else loss + penalty,
            squared_error=float(squared.detach().mean()),
            num_rays=len(batch.rays),
            num_samples=density.numel(),
        )

    @torch.no_grad()
    def render_rays(self, rays: Rays, *, background: torch.Tensor, normals: bool = False) -> dict[str, torch.Tensor]:
        """What rays see, in the appearance of no picture in particular (``unseen_appearance``).

        Args:
            rays: R rays on the model's device; call with at most some thousand to bound memory.
            background: (3,) colour behind the field; unused by fields trained with ``last_sample``.
            normals: return normals also where none were learnt; costs about as much again as the rest.

        Returns:
            ``rgb`` (R, 3), ``opacity`` (R,), ``depth`` (R,): distance at which half of the light is stopped (the last
            one looked at where less is), ``expected_depth`` (R,): mean distance of what is seen, 0 where nothing is.
            Of a pyramid also ``level`` (R,): the one that a pixel's width asks for at ``depth``.
            With ``normals`` or learnt ones also ``normals`` (R, 3): which way what is seen faces in the world, unit or
            zero; learnt, or else against the slope of the density.
        """
        look = self._look(rays, None, None)
        rgb, seen, predicted = self._see(look, background)
        half = (seen.weights.cumsum(1) < 0.5).sum(1, keepdim=True).clamp(max=look.distances.shape[1] - 2)
        middles = self._in_world(look, 0.5 * (look.distances[:, 1:] + look.distances[:, :-1]))
        total = seen.depth if self.ndc is None else (seen.weights * middles).sum(1)
        outputs = {
            "rgb": rgb,
            "opacity": seen.opacity,
            "depth": middles.gather(1, half)[:, 0],
            "expected_depth": total / seen.opacity.clamp(min=1e-6),
        }
        if isinstance(self.field, PyramidField):
            outputs["level"] = self.field.level_seen(rays.pixel_area, outputs["depth"])
        if predicted is not None:
            outputs["normals"] = composite_normals(seen.weights, predicted)
        elif normals:
            outputs["normals"] = composite_normals(seen.weights, self._density_normals(look))
        return outputs

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of `render_rays`, differentiable with respect to the rays.

        Samples keep their distances while their rays move: neither proposals nor the box give a gradient.

        Args:
            rays: R rays on the model's device; some thousand, all samples are kept for the backward.
            background: (3,) colour behind the field; unused by fields trained with ``last_sample``.
        """
        return self.outputs_with_gradient(rays, background=background)["rgb"]

    def outputs_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """``rgb`` (R, 3), ``opacity`` (R,) and ``depth`` (R,), the mean distance of what is seen times opacity along
        ``rays`` in the field's space; differentiable as `colours_with_gradient`, and with respect to the parameters.
        """
        rgb, seen, _ = self._see(self._look(rays, None, None), background)
        return {"rgb": rgb, "opacity": seen.opacity, "depth": seen.depth}

    @torch.no_grad()
    def edges(self, rays: Rays, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
        """Where rendering looks along R rays of the field's space between ``near`` and ``far`` (R,), 0 <= near < far:
        edges (R, S + 1) of adjoining intervals, as distances.
        """
        spacing = RaySpacing(near=near, far=far, kind="piecewise" if self.unbounded else "uniform")
        return self._place(rays, spacing, None, exponent=1.0, learn=False, generator=None)[2]

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """The training cameras' poses (N, 3, 4) with the corrections learnt so far."""
        return camera_to_world if self.poses is None else self.poses.apply_to_poses(camera_to_world)

    def render_image(
        self,
        cameras: Cameras,
        i: int,
        *,
        background: torch.Tensor,
        normals: bool = False,
        rays_per_chunk: int = 1 << 12,
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` sees: `render_rays`' values as (H, W, 3) and (H, W), on the CPU."""
        if self.config.pyramid is not None:
            check_pixels_widen(cameras)
        return render_camera(
            lambda rays: self.render_rays(rays.to(self.device), background=background, normals=normals),
            cameras,
            i,
            rays_per_chunk,
        )

    def unseen_appearance(self) -> torch.Tensor:
        """The appearance (A,) of no picture in particular, which renderings have."""
        mean = self.appearance.mean(0)
        return mean if self.config.unseen_appearance == "mean" else torch.zeros_like(mean)

    def merge(self, ranks: Ranks) -> None:
        """At which levels each part of space was learnt, of a pyramid."""
        if isinstance(self.field, PyramidField):
            self.field.merge(ranks)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Tables, of which a batch touches a part; networks; proposal networks, which rest in most steps; poses."""
        networks = [*self.field.parameters_of_networks(), self.appearance]
        if self.normals is not None:
            networks += self.normals.parameters()
        tables = [*self.field.parameters_of_tables(), *(network.table for network in self._networks())]
        resting = [weight for network in self._networks() for weight in network.density_net]
        levels = self.field.parameters_of_levels()
        groups = [
            ParameterGroup(name="tables", parameters=tables, skip_zero=True),
            ParameterGroup(name="networks", parameters=networks),
            # Without a gradient their moments must not go on moving them.
            ParameterGroup(name="proposals", parameters=resting, skip_zero=True),
        ]
        if levels:
            groups.append(ParameterGroup(name="levels", parameters=levels, skip_zero=True))
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

    def _look(self, rays: Rays, step: int | None, generator: torch.Generator | None, ranks: Ranks = ALONE) -> _Look:
        """Where to look along ``rays`` at ``step`` of training, poses corrected; as well as can be without a step.

        ``ranks``: whose share of a batch they are.
        """
        world = rays if step is None or self.poses is None else self.poses(rays)
        inside, ahead = (world, None) if self.ndc is None else self.ndc.rays(world)
        spacing, hit = self._spacing(inside)
        if ahead is not None and hit is not None:
            hit = hit & ahead[:, None]
        levels, edges, distances = self._place(
            inside,
            spacing,
            hit,
            exponent=1.0 if step is None else annealing_exponent(step, steps=self.config.annealing_steps),
            learn=step is not None and self.config.schedule.updates_at(step),
            generator=generator,
            ranks=ranks,
        )
        return _Look(world, inside, spacing, hit, levels, edges, distances)

    def _see(self, look: _Look, background: torch.Tensor) -> tuple[torch.Tensor, DenseComposited, torch.Tensor | None]:
        """Colour (R, 3) over ``background`` in no picture's appearance, what it is composed of, and learnt normals."""
        appearance = self.unseen_appearance().expand(len(look.distances), -1)
        density, colour, predicted, _ = self._ask_field(look, appearance)
        seen = dense_composite(density, colour, look.distances)
        behind = background.to(self.device)
        if self.background == "last_sample":
            last = colour[:, -1]
            # Rays that leave the frame of normalised device coordinates have no last sample.
            behind = last if self.ndc is None else torch.where(cast(torch.Tensor, look.hit), last, behind)
        return seen.rgb + (1 - seen.opacity)[:, None] * behind, seen, predicted

    def _place(
        self,
        rays: Rays,
        spacing: RaySpacing,
        hit: torch.Tensor | None,
        *,
        exponent: float,
        learn: bool,
        generator: torch.Generator | None,
        ranks: Ranks = ALONE,
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor, torch.Tensor]:
        """Where to look along rays; ``spacing`` and ``hit`` are those of `_spacing`.

        Returns:
            (edges, weights) of every proposal, edges (R, S + 1) of the final intervals in normalised spacing, and the
            same as distances along ``rays``. Proposals' weights have gradients if ``learn``.
        """
        levels: list[tuple[torch.Tensor, torch.Tensor]] = []
        for network in (*self._networks(), None):
            count = cast(int, (self if network is None else network).config.num_samples)
            jitter = None
            if generator is not None:
                jitter = ranks.drawn(functools.partial(_one_a_row, generator), len(rays)).to(self.device)
            if levels:
                weights = anneal_weights(levels[-1][1], exponent)
                edges = pdf_resample(levels[-1][0], weights, count, jitter=jitter)
            else:
                edges = even_edges(len(rays), count, jitter=jitter, device=self.device).contiguous()
            distances = spacing.to_distance(edges)
            if network is None:
                break
            with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
                density = network.density(self._positions(rays, distances)).view(len(rays), distances.shape[1] - 1)
                levels.append((edges, dense_weights(self._scaled(density, hit), distances)))
        return levels, edges, distances

    def _query(self, look: _Look, *, learning: bool) -> FieldSamples:
        """What the field says of the intervals of ``look``: R * S of them, densities before scaling."""
        positions = self._positions(look.rays, look.distances)
        return self.field.query(positions, self._level(look, positions, learning=learning))

    def _level(self, look: _Look, positions: torch.Tensor, *, learning: bool) -> torch.Tensor | None:
        """The level (R * S,) that the field is asked for at ``positions``; None if it has but one.

        While ``learning`` it is that of the pixels' width, which is noted, else the nearest that was learnt there.
        """
        if not isinstance(self.field, PyramidField):
            return None
        middles = 0.5 * (look.distances[:, 1:] + look.distances[:, :-1])
        level = self.field.levels.at_distance(look.world.pixel_area[:, None], middles)
        if not learning:
            return self.field.trained_level(positions, level.view(-1))
        met = slice(None) if look.hit is None else look.hit.expand_as(level).reshape(-1)
        self.field.learn_levels(positions[met], level.view(-1)[met])
        return level.view(-1)

    def _ask_field(self, look: _Look, appearance: torch.Tensor, *, learning: bool = False) -> _Asked:
        """What the field says of the intervals of ``look``, in appearances (R, A); as in rendering, or in training."""
        count, samples = len(look.rays), look.distances.shape[1] - 1
        positions = self._positions(look.rays, look.distances)
        level = self._level(look, positions, learning=learning)
        ray_index = torch.arange(count, dtype=torch.int32, device=self.device).repeat_interleave(samples)
        everywhere, chosen, asked = None, None, None
        if self.config.negligible_weight:
            with torch.no_grad():
                asked = self.field.query(positions, level)
                everywhere, chosen = asked.density, self._that_matter(look, asked.density)
            ray_index, positions = ray_index[chosen], positions[chosen]
            level = None if level is None else level[chosen]
            asked = FieldSamples(everywhere[chosen], asked.geometry.T.index_select(1, chosen).T)
        if asked is None or torch.is_grad_enabled():
            asked = self.field.query(positions, level)
        colour = self.field.colour(asked.geometry, look.world.directions, ray_index, appearance)
        normals = None if self.normals is None else self.normals(asked.geometry, positions)
        density = asked.density
        if everywhere is not None and chosen is not None:
            density = everywhere.index_copy(0, chosen, density)
            colour = _among(colour, chosen, count * samples)
            normals = None if normals is None else _among(normals, chosen, count * samples)
        return _Asked(
            density=self._scaled(density.view(count, samples), look.hit),
            colour=colour.reshape(count, samples, 3),
            normals=None if normals is None else normals.view(count, samples, 3),
            discord=asked.discord,
        )

    def _that_matter(self, look: _Look, density: torch.Tensor) -> torch.Tensor:
        """Indices (M,) of the intervals that are worth a colour, from the ``density`` (R * S,) of all."""
        scaled = self._scaled(density.view(len(look.rays), look.distances.shape[1] - 1), look.hit)
        matter = dense_weights(scaled, look.distances) >= self.config.negligible_weight
        if self.background == "last_sample":
            matter[:, -1] = True
        return matter.view(-1).nonzero()[:, 0]

    def _trained_near(self, look: _Look, values: torch.Tensor) -> torch.Tensor:
        """What the field says (R, S, ...) of the intervals of ``look``, trained near the camera as settings ask."""
        if not self.config.gradient_scaling:
            return values
        middles = 0.5 * (look.distances[:, 1:] + look.distances[:, :-1])
        return scale_near_gradients(values, self._in_world(look, middles))

    def _depth_loss(
        self, batch: RayBatch, step: int, look: _Look, weights: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The loss on observed distances: mean over rays, and over the proposals and the field, whose ``weights`` along
        the batch's own rays are given.
        """
        targets = batch.depth
        if targets is None:
            raise InputError("model.depth.loss: needs observed distances. Set capture.depth.source=auto.")
        if targets.rays is not None:
            look = self._look(targets.rays, step, generator, batch.ranks)
            density = self._query(look, learning=True).density.view(len(look.rays), -1)
            density = self._trained_near(look, self._scaled(density, look.hit))
            weights = dense_weights(density, look.distances)
        sigma, kind = self.config.depth.sigma_at(step), self.config.depth.loss
        assert kind != "off", "asked for only where distances are learnt from"
        losses = [
            depth_loss(kind, level, self._in_world(look, look.spacing.to_distance(edges)), targets.distances, sigma)
            for edges, level in (*look.levels, (look.edges, weights))
        ]
        return torch.stack(losses).mean()

    def _density_normals(self, look: _Look) -> torch.Tensor:
        """(R, S, 3): unit vectors against the slope of the density in the world, zero where it has none. Constants."""
        middles = self._in_world(look, 0.5 * (look.distances[:, 1:] + look.distances[:, :-1]))
        level = self._level(look, self._positions(look.rays, look.distances), learning=False)
        # Rendering may happen in inference mode, whose tensors take no gradients: their copies do.
        with torch.inference_mode(False), torch.enable_grad():
            points = look.world.origins[:, None] + middles[..., None] * look.world.directions[:, None]
            points = points.detach().reshape(-1, 3).clone().requires_grad_()
            # The logarithm's slope has the density's direction, and neither under- nor overflows.
            (slope,) = torch.autograd.grad(self.field.log_density(self.in_cube(points), level).sum(), points)
        return -torch.nn.functional.normalize(slope, dim=1, eps=1e-10).view(*middles.shape, 3)

    def _in_world(self, look: _Look, distances: torch.Tensor) -> torch.Tensor:
        """``distances`` (R, K) along ``look.rays`` as distances in the world. No gradient."""
        if self.ndc is None:
            return distances
        return self.ndc.to_world(distances, look.rays, look.world, farthest=self.config.far)

    def in_cube(self, points: torch.Tensor) -> torch.Tensor:
        """World ``points`` (N, 3) in the unit cube the grids cover, as `_positions` does it. Differentiable."""
        if self.ndc is not None:
            points = self.ndc.points(points)
        half = 0.5 * (self.box[1] - self.box[0])
        if self.unbounded:
            return contract_to_unit_cube((points - self.box.mean(0)) / half.max())
        return (points - self.box[0]) / (2 * half)

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


def _one_a_row(generator: torch.Generator, count: int) -> torch.Tensor:
    return torch.rand(count, 1, generator=generator)


def _among(rows: torch.Tensor, chosen: torch.Tensor, count: int) -> torch.Tensor:
    """``rows`` (M, 3) at their places ``chosen`` among ``count`` rows of zeros."""
    return rows.new_zeros(count, 3).index_copy(0, chosen, rows)
