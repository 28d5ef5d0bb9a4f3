"""grid-ngp: a hash-grid radiance field with an occupancy grid, the fast default on every device.

Source: Mueller et al. 2022, Instant Neural Graphics Primitives (https://arxiv.org/abs/2201.05989), section 5.4 and
appendix E. What a CPU changes: a first pass without gradients finds which samples light reaches, and only those go
through the colour network and the backward; batches and tables are smaller; see docs/decisions. With a pyramid of
resolutions for its field it is ``pynerf-occupancy-grid``.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final, cast

import torch

from voxfield.colour import ToneCurve, compared
from voxfield.data.ray_batches import RayBatch
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.fields.hash_field import FieldSamples, HashField
from voxfield.fields.occupancy import Occupancy
from voxfield.fields.pyramid_field import PyramidField
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import Composited, composite
from voxfield.kernels.march_grid import PackedSamples, StepRule, march_grid
from voxfield.kernels.sample_runs import take_runs
from voxfield.models.backdrop import backdrop, check_last_sample, is_colour
from voxfield.models.base import ParameterGroup, StepResult, render_camera
from voxfield.models.footprints import Footprints, check_pixels_widen
from voxfield.models.grid_ngp_config import GridNgpConfig
from voxfield.render.sampling import next_runs, visible_samples

COARSEST_STEP: Final = 8
"""Longest training step, in multiples of the final one."""
MOST_SAMPLES_PER_RAY: Final = 80
"""Mean samples per ray above which training takes longer steps."""
MOST_VISIBLE: Final = 0.6
"""Share of visible samples above which training does not look for hidden ones."""
CHECK_VISIBLE_EVERY: Final = 16
"""Steps between looks at that share while it is high."""
FIRST_WAVE: Final = 8
"""Samples of each ray that rendering looks at first; most rays that hit a surface end within them."""
LONGEST_WAVE: Final = 128
"""Waves double up to this."""
REOPENING_RAYS: Final = 16
"""Most rays of a step, which come in random order, that open the empty cells they pass through, because they should
have met matter."""
LEAST_CONTRAST: Final = 0.1
"""Difference from the colour behind the field, in any channel, of a pixel that must show matter."""
MOST_SAMPLES_OF_WAVE: Final = 1 << 20
"""Samples of a wave that are asked about together, about: 0.3 GB."""
MOST_RAYS_AT_ONCE: Final = 1 << 15
"""Rays rendered together at most."""
MOST_SAMPLES_AT_ONCE: Final = 1 << 22
"""Samples along the rays that are rendered together, about: 0.2 GB."""
LEAST_LIGHT: Final = 1e-4
"""Samples that send less light than this to the camera are not coloured in rendering."""

_SAMPLE_BYTES: Final = 2000
"""Of a sample that light reaches in a training step, with its share of those that are looked at first. Measured."""


class GridNgp(torch.nn.Module):
    """The model of one scene. See `voxfield.models.base.Model` for what the trainer asks of it."""

    renders_normals: ClassVar[bool] = False

    box: torch.Tensor
    """(2, 3): corners of the region of interest, world units."""
    samples_per_ray: torch.Tensor
    """Scalar: running mean of the samples of a training ray."""
    visible_share: torch.Tensor
    """Scalar: share of the samples that light reached, when last looked at."""
    step_scale: torch.Tensor
    """Scalar: how much longer training steps are than the final ones, a power of two."""

    def __init__(
        self,
        config: GridNgpConfig,
        bounds: Bounds,
        *,
        unbounded: bool,
        near: float,
        has_alpha: bool,
        tone: ToneCurve | None = None,
        seed: int = 0,
    ) -> None:
        """A fresh model for the region ``bounds``; ``near`` is the least sampled distance, world units, ``tone`` the
        curve of a linear capture.
        """
        super().__init__()
        check_last_sample(config.background, has_alpha)
        config = config.settled(unbounded=unbounded, has_alpha=has_alpha)
        self.config, self.bounds, self.near, self.tone = config, bounds, near, tone
        generator = torch.Generator().manual_seed(seed)
        self._ranks = ALONE  # who shares the batches
        self.samples_per_batch, self.least_step_scale = config.samples_per_batch, 1.0
        cascades, cone = cast(int, config.cascades), cast(float, config.cone_angle)
        self.background = config.background
        # Without alpha, rays of a bounded scene or before a plain backdrop may meet nothing, where they show just that.
        self.must_end = has_alpha or (unbounded and not is_colour(self.background))
        extent = torch.tensor(bounds.maximum) - torch.tensor(bounds.minimum)
        self.step_rule = StepRule(
            min_step=float(extent.norm()) / config.steps_across,
            cone_angle=cone,
            max_step=float(extent.max()) * 2 ** (cascades - 1) / config.occupancy.resolution if cone else math.inf,
        )
        self.register_buffer("box", torch.tensor([bounds.minimum, bounds.maximum]), persistent=False)
        # Densities are learned per side of the outermost box, so that scenes of any size start alike.
        outermost = float(extent.max()) * 2 ** (cascades - 1)
        self.density_scale = 1.0 / outermost
        # The finest cells keep their size in the region of interest, however far the cascades reach beyond it.
        finest = min(65535, config.field.max_resolution * 2 ** (cascades - 1))
        sizes = replace(config.field, max_resolution=finest)
        self.field: HashField | PyramidField
        self.footprints: Footprints | None = None
        if config.pyramid is None:
            self.field = HashField(sizes, generator, linear=tone is not None)
        else:
            self.field = PyramidField(sizes, config.pyramid, generator, extent=outermost, linear=tone is not None)
            self.footprints = Footprints(bounds.centre, 1.0 / finest)
        self.occupancy = Occupancy(bounds, cascades, self.step_rule.min_step, config.occupancy)
        # Before the first step: a ray that meets about 64 samples, eight times as far apart as later.
        self.register_buffer("samples_per_ray", torch.tensor(64.0))
        self.register_buffer("visible_share", torch.tensor(1.0))
        self.register_buffer("step_scale", torch.tensor(float(COARSEST_STEP)))

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.box.device

    def batch_size(self) -> int:
        """Rays of the next batch, so that it has about ``samples_per_batch`` samples."""
        rays = int(self.samples_per_batch / max(1.0, float(self.samples_per_ray)))
        return max(128, min(rays, self.samples_per_batch))

    def step_bytes(self) -> int:
        """By the samples of the largest batch: those that light reaches, and those that are looked at first."""
        return max(self.config.samples_per_batch, self.config.final_samples_per_batch) * _SAMPLE_BYTES

    def accumulate_gradients_in_place(self) -> None:
        """Let the hash grid's backward add to the table's ``.grad`` rather than return a new tensor each time."""
        self.field.accumulate_in_place()

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Refresh the occupancy grid when it is due (more often while it is new), and let the batch grow."""
        growth = self.config.final_samples_per_batch / self.config.samples_per_batch
        self.samples_per_batch = int(self.config.samples_per_batch * growth**progress)
        self.least_step_scale = 2.0 if progress < self.config.coarse_until else 1.0
        config = self.config.occupancy
        every = max(1, config.update_every // 4) if self.occupancy.warming_up else config.update_every
        if step % every == 0:
            self.merge(self._ranks)
            self.occupancy.update(self._density_at, generator, self._ranks)

    def training_step(self, batch: RayBatch, step: int, generator: torch.Generator) -> StepResult:
        """The loss of a batch of rays; ``loss.backward()`` is the caller's."""
        rays = batch.rays
        ranks = self._ranks = batch.ranks
        jitter = ranks.drawn(lambda count: torch.rand(count, generator=generator), len(rays)).to(self.device)
        samples = self._march(rays, jitter, float(self.step_scale))
        marched = len(samples)
        # While most samples are visible, finding out which are costs more than it saves.
        looked = float(self.visible_share) < MOST_VISIBLE or step % CHECK_VISIBLE_EVERY == 0
        if looked:
            samples = self._visible(samples)
        level = self._level(samples, learning=True)
        if level is not None:
            self._learn_levels(rays, samples, level)
        asked, colour, seen = self._see(samples, samples.positions, level, rays, self.config.early_stop)
        if not looked:
            self._observe(samples.positions, samples.t_end - samples.t_start, asked.density.detach())
        if self.background == "last_sample":
            behind = _last_of_each_ray(colour, samples.ray_offsets)
        else:
            linear = self.tone is not None
            behind = backdrop(self.background, len(rays), generator, self.device, ranks, linear=linear)
        alpha = batch.rgba[:, 3:]
        # The same backdrop lies behind truth and prediction, so that only opacity can make up for alpha.
        truth = compared(batch.rgba[:, :3] * alpha + (1 - alpha) * behind.detach(), self.tone)
        missed = None
        if not self.occupancy.warming_up:
            shows = alpha[:, 0] > 0.9
            if not self.must_end:
                shows = (truth - compared(behind.detach(), self.tone)).abs().amax(1) > LEAST_CONTRAST
            missed = (shows & (seen.opacity.detach() < 0.1)).nonzero()[:, 0]
        self._note_batch(rays, missed, kept=len(samples), marched=marched if looked else None)
        prediction = seen.rgb + (1 - seen.opacity)[:, None] * behind
        error = compared(prediction, self.tone) - truth
        loss = batch.mean(_robust(error, self.config.huber_delta))
        penalty = self.field.penalty(asked.discord)
        return StepResult(
            loss=loss if penalty is None else loss + penalty,
            squared_error=float(error.detach().square().mean()),
            num_rays=len(rays),
            num_samples=len(samples),
        )

    @torch.no_grad()
    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """What rays see.

        Args:
            rays: R rays on the model's device; call with at most some ten thousand to bound memory.
            background: (3,) colour behind the field, in the space of the model's colours.

        Returns:
            ``rgb`` (R, 3), ``opacity`` (R,), ``depth`` (R,): expected distance along the ray, 0 where nothing is met.
            Of a pyramid also ``level`` (R,): the one that a pixel's width asks for at ``depth``.
        """
        count, device, stop = len(rays), self.device, self.config.render_early_stop
        # The final steps, also where training ended with longer ones: on fox those render 2.7 times faster and lose
        # 1 dB.
        samples = self._march(rays, None)
        seen = _Seen(
            rgb=torch.zeros(count, 3, device=device),
            opacity=torch.zeros(count, device=device),
            depth=torch.zeros(count, device=device),
            last=torch.zeros(count, 3, device=device) + background.to(device),
        )
        cursor, length = samples.ray_offsets[:-1].clone(), FIRST_WAVE
        while True:
            alive = ((cursor < samples.ray_offsets[1:]) & (1 - seen.opacity > stop)).nonzero()[:, 0]
            if not len(alive):
                break
            # Shorter ones where many rays go on through fog: their features are what takes memory.
            fitting = min(length, max(FIRST_WAVE, MOST_SAMPLES_OF_WAVE // len(alive)))
            wave = take_runs(samples, *next_runs(samples.ray_offsets, cursor, alive, fitting))
            self._add_wave(seen, wave, alive, rays.directions)
            length = min(2 * length, LONGEST_WAVE)
        behind = seen.last if self.background == "last_sample" else background.to(device)
        rgb = seen.rgb + (1 - seen.opacity)[:, None] * behind
        # Where a ray meets matter, the distance to it; a faint haze keeps its small contribution.
        depth = torch.where(seen.opacity > 0.5, seen.depth / seen.opacity.clamp(min=1e-6), seen.depth)
        outputs = {"rgb": rgb, "opacity": seen.opacity, "depth": depth}
        if isinstance(self.field, PyramidField):
            outputs["level"] = self.field.level_seen(rays.pixel_area, depth)
        return outputs

    def colours_with_gradient(self, rays: Rays, *, background: torch.Tensor) -> torch.Tensor:
        """``rgb`` (R, 3) of `render_rays` up to what hidden samples add, differentiable with respect to the rays.

        Samples keep their distances while their rays move: which cells are occupied has no gradient.

        Args:
            rays: R rays on the model's device; some thousand, all samples are kept for the backward.
            background: (3,) colour behind the field.
        """
        samples = self._visible(self._march(rays, None), observe=False)
        positions = self._moving_positions(samples, rays)
        level = self._level(samples, learning=False)
        _, colour, seen = self._see(samples, positions, level, rays, self.config.render_early_stop)
        if self.background == "last_sample":
            behind = _last_of_each_ray(colour, samples.ray_offsets)
        else:
            behind = background.to(self.device)
        return seen.rgb + (1 - seen.opacity)[:, None] * behind

    def refined_poses(self, camera_to_world: torch.Tensor) -> torch.Tensor:
        """``camera_to_world`` (N, 3, 4) as it is: this model does not correct poses."""
        return camera_to_world

    def render_image(
        self, cameras: Cameras, i: int, *, background: torch.Tensor, rays_per_chunk: int | None = None
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` sees: ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W), on the CPU."""
        if self.config.pyramid is not None:
            check_pixels_widen(cameras)
        return render_camera(
            lambda rays: self.render_rays(rays.to(self.device), background=background),
            cameras,
            i,
            rays_per_chunk or self._rays_at_once(),
        )

    def _rays_at_once(self) -> int:
        """Rays rendered together: fewer while nothing is known to be empty, and each has hundreds of samples."""
        marched = float(self.samples_per_ray) * float(self.step_scale) / max(float(self.visible_share), 0.05)
        return max(1024, min(MOST_RAYS_AT_ONCE, int(MOST_SAMPLES_AT_ONCE / max(1.0, marched))))

    def in_cube(self, points: torch.Tensor) -> torch.Tensor:
        """World ``points`` (N, 3) in the unit cube the grids cover. Differentiable."""
        extent = (self.box[1] - self.box[0]) * 2 ** (self.occupancy.cascades - 1)
        return (points - self.box.mean(0)) / extent + 0.5

    def parameter_groups(self) -> list[ParameterGroup]:
        """The table, of which a batch touches a part, the networks, and those that a batch may leave alone."""
        groups = [
            ParameterGroup(name="table", parameters=self.field.parameters_of_tables(), skip_zero=True),
            ParameterGroup(name="networks", parameters=self.field.parameters_of_networks()),
        ]
        levels = self.field.parameters_of_levels()
        # Without a gradient their moments must not go on moving them.
        return [*groups, ParameterGroup(name="levels", parameters=levels, skip_zero=True)] if levels else groups

    def merge(self, ranks: Ranks) -> None:
        """What samples met since the grid was last updated; of a pyramid also how wide pixels are, and which levels
        were learnt.
        """
        if ranks.size == 1:
            return
        self.occupancy.merge(ranks)
        if isinstance(self.field, PyramidField):
            self.field.merge(ranks)
        if self.footprints is not None:
            self.footprints.merge(ranks)

    def _note_batch(self, rays: Rays, missed: torch.Tensor | None, *, kept: int, marched: int | None) -> None:
        """Draw conclusions for the next steps, the same on all ranks.

        Args:
            rays: this rank's.
            missed: (M,) which of them met nothing where they should have; None: nobody asks.
            kept: samples that light reached, as far as that was looked for.
            marched: samples before; None: it was not.
        """
        count, most = len(rays), REOPENING_RAYS
        if self._ranks.size > 1:
            counts = [kept, marched or 0, 0 if missed is None else len(missed)]
            everyone = self._ranks.gathered(torch.tensor(counts))
            # Those of the first ranks come first, as in one batch.
            most = max(0, most - int(everyone[: self._ranks.rank, 2].sum()))
            kept, all_marched, _ = everyone.sum(0).tolist()
            count, marched = count * self._ranks.size, None if marched is None else all_marched
        if marched is not None:
            self.visible_share.fill_(kept / max(1, marched))
        self._note_samples(kept / max(1, count))
        if missed is not None:
            self._reopen(rays, missed[:most])

    def _note_samples(self, per_ray: float) -> None:
        """Follow the mean samples per ray, and take longer steps while there are too many for one batch to hold many
        rays.

        Before empty space is known as such a ray has hundreds of samples: a batch would hold a hundred rays and learn
        next to nothing.
        """
        self.samples_per_ray.lerp_(torch.tensor(per_ray), 0.2)
        mean, scale = float(self.samples_per_ray), float(self.step_scale)
        if mean > MOST_SAMPLES_PER_RAY and scale < COARSEST_STEP:
            change = 2.0
        elif mean < MOST_SAMPLES_PER_RAY / 2.5 and scale > self.least_step_scale:
            change = 0.5
        else:
            return
        self.step_scale.mul_(change)
        self.samples_per_ray.div_(change)

    def _march(self, rays: Rays, jitter: torch.Tensor | None, step_scale: float = 1.0) -> PackedSamples:
        rule = self.step_rule
        if step_scale != 1.0:
            rule = StepRule(
                min_step=rule.min_step * step_scale,
                cone_angle=min(1.0, rule.cone_angle * step_scale),
                max_step=rule.max_step * step_scale,
            )
        samples = march_grid(
            rays.origins,
            rays.directions,
            self.occupancy.bits,
            self.box,
            step=rule,
            jitter=jitter,
            near=self.near,
            max_samples=self.config.max_samples_per_ray,
        )
        if self.footprints is None:
            return samples
        return replace(samples, pixel_area=rays.pixel_area)

    def _moving_positions(self, samples: PackedSamples, rays: Rays) -> torch.Tensor:
        """``samples.positions`` (S, 3), the same values, with gradients to the rays they lie on."""
        extent = (self.box[1] - self.box[0]) * 2 ** (self.occupancy.cascades - 1)
        ray, middles = samples.ray_index.long(), 0.5 * (samples.t_start + samples.t_end)
        origins, directions = rays.origins / extent, rays.directions / extent
        moving = origins.index_select(0, ray) + middles[:, None] * directions.index_select(0, ray)
        return samples.positions + (moving - moving.detach())

    @torch.no_grad()
    def _visible(self, samples: PackedSamples, *, observe: bool = True) -> PackedSamples:
        """The samples light reaches: those behind an opaque surface would get no gradient anyway. Training lets the
        occupancy grid ``observe`` them.
        """
        if self.config.early_stop == 0.0:
            return samples

        def thickness(some: PackedSamples) -> torch.Tensor:
            lengths = some.t_end - some.t_start
            density = self.field.density(some.positions, self._level(some, learning=observe))
            if observe:
                self._observe(some.positions, lengths, density)
            return density * self.density_scale * lengths

        return visible_samples(samples, thickness, self.config.early_stop)

    def _observe(self, positions: torch.Tensor, lengths: torch.Tensor, density: torch.Tensor) -> None:
        """Tell the occupancy grid what samples met."""
        self.occupancy.observe(positions, lengths, density * self.density_scale)

    def _level(self, samples: PackedSamples, *, learning: bool) -> torch.Tensor | None:
        """The level (N,) that the field is asked for at ``samples``; None if it has but one.

        While ``learning`` it is that of their pixels' width, else the nearest that was learnt there.
        """
        if samples.pixel_area is None or not isinstance(self.field, PyramidField):
            return None
        area = samples.pixel_area.index_select(0, samples.ray_index)
        level = self.field.levels.at_distance(area, 0.5 * (samples.t_start + samples.t_end))
        return level if learning else self.field.trained_level(samples.positions, level)

    def _learn_levels(self, rays: Rays, samples: PackedSamples, level: torch.Tensor) -> None:
        """Note how wide pixels of training rays are, and at which ``level`` (N,) samples are learnt."""
        assert isinstance(self.field, PyramidField), "others have no levels"
        assert self.footprints is not None, "made with the pyramid"
        self.footprints.remember(rays)
        self.field.learn_levels(samples.positions, level)

    def _see(
        self,
        samples: PackedSamples,
        positions: torch.Tensor,
        level: torch.Tensor | None,
        rays: Rays,
        early_stop: float,
    ) -> tuple[FieldSamples, torch.Tensor, Composited]:
        """What the field says at the samples' ``positions`` (N, 3) and ``level``, colours (N, 3), and what rays see."""
        asked = self.field.query(positions, level)
        colour = self.field.colour(asked.geometry, rays.directions, samples.ray_index)
        seen = composite(
            asked.density * self.density_scale,
            colour,
            samples.t_start,
            samples.t_end,
            samples.ray_offsets,
            early_stop=early_stop,
        )
        return asked, colour, seen

    @torch.no_grad()
    def _reopen(self, rays: Rays, some: torch.Tensor) -> None:
        """Open all cells along ``some`` (M,) of the rays, which missed the matter their pixels show."""
        if not len(some):
            return
        cell = max(self.bounds.size) / self.config.occupancy.resolution
        samples = march_grid(
            rays.origins[some],
            rays.directions[some],
            self.occupancy.all_bits,
            self.box,
            step=replace(self.step_rule, min_step=cell),
            jitter=None,
            near=self.near,
            max_samples=self.config.max_samples_per_ray,
        )
        self.occupancy.reopen(samples.positions, samples.t_end - samples.t_start)

    def _add_wave(self, seen: "_Seen", wave: PackedSamples, alive: torch.Tensor, directions: torch.Tensor) -> None:
        """Composite the samples of ``wave``, runs of the rays ``alive``, behind what was seen before."""
        asked = self.field.query(wave.positions, self._level(wave, learning=False))
        none = torch.zeros(len(wave), 1, device=self.device)
        density = asked.density * self.density_scale
        met = composite(density, none, wave.t_start, wave.t_end, wave.ray_offsets, early_stop=0.0)
        ray = wave.ray_index.long()
        light = (1 - seen.opacity)[ray] * met.weights
        if self.background == "last_sample":
            lit = torch.arange(len(wave), device=ray.device)
        else:
            lit = (light > LEAST_LIGHT).nonzero()[:, 0]
        colour = self.field.colour(asked.geometry[lit], directions, ray[lit])
        seen.rgb.index_add_(0, ray[lit], light[lit, None] * colour)
        if self.background == "last_sample":
            seen.last[alive] = colour[wave.ray_offsets[1:] - 1]
        transmitted = 1 - seen.opacity[alive]
        seen.depth[alive] += transmitted * met.depth
        seen.opacity[alive] += transmitted * met.opacity

    def _density_at(self, positions: torch.Tensor) -> torch.Tensor:
        """Density (N,) per world unit at world ``positions`` (N, 3), for the occupancy grid."""
        level = None
        if self.footprints is not None and isinstance(self.field, PyramidField):
            level = self.field.levels.of_width(self.footprints.at(positions, self.step_rule.min_step))
        return self.field.density(self.in_cube(positions), level) * self.density_scale


@dataclass
class _Seen:
    """What rays have gathered so far, front to back."""

    rgb: torch.Tensor
    opacity: torch.Tensor
    depth: torch.Tensor
    last: torch.Tensor
    """(R, 3) colour of the farthest sample met."""


def _last_of_each_ray(colour: torch.Tensor, ray_offsets: torch.Tensor) -> torch.Tensor:
    """The colour (R, 3) of each ray's last sample; black for rays without."""
    if not len(colour):
        return torch.zeros(len(ray_offsets) - 1, 3, device=colour.device)
    some = (ray_offsets.diff() > 0)[:, None]
    return torch.where(some, colour[(ray_offsets[1:] - 1).clamp(min=0)], 0)


def _robust(error: torch.Tensor, delta: float) -> torch.Tensor:
    """Squared error, or twice the Huber loss: the same near zero, linear beyond ``delta``."""
    if delta == 0.0:
        return error.square()
    size = error.abs()
    return torch.where(size <= delta, size * size, delta * (2 * size - delta))
