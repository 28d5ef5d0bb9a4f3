"""Several fields in one scene, composited sample by sample.

Each field has a place in the scene: a similarity x -> s R x + t from its world to the scene's, and a box of its own
world that it is cropped to. Along a ray the stretches where fields want to be asked are cut at all their edges; in each
one densities add, and colours mix by density ::

    sigma = sum over k of f_k sigma_k(x_k) / s_k        x_k = R_k^T (x - t_k) / s_k, f_k a factor
    c     = sum over k of f_k sigma_k(x_k) / s_k * c_k(x_k, R_k^T d) / sigma

which is emission and absorption in a mixture (Max 1995, Optical Models for Direct Volume Rendering): what is nearer
hides what is behind it, whichever field either belongs to, and hazes blend as one.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rays import Rays
from voxfield.kernels.composite import composite
from voxfield.kernels.ray_box import ray_box
from voxfield.kernels.sample_runs import run_indices
from voxfield.models.base import render_camera
from voxfield.models.footprints import check_pixels_widen
from voxfield.models.ray_fields import Intervals, RayField, merged, unlimited
from voxfield.render.sampling import next_runs

RAYS_PER_CHUNK: Final = 1 << 13
"""Rays of one field that are looked at together; of several fields a share of them."""
EARLY_STOP: Final = 1e-4
"""Light below which a ray ends."""
LEAST_LIGHT: Final = 1e-6
"""Samples that send less light than this to the camera are not coloured: a thousand of them lose 1e-3."""
FIRST_WAVE, LONGEST_WAVE = 8, 128
"""Samples of a ray that are looked at first; most rays that meet a surface end within them. Later ones double."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedField:
    """A field and where it stands in a scene."""

    field: RayField
    """Of its own world."""
    transform: SceneTransform
    """Its world to the scene's."""
    crop: Bounds | None = None
    """Box of its own world outside which it is nothing; None: it is whole."""
    density_factor: float = 1.0
    """f: its densities are multiplied by this, at least 0."""
    to_srgb: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Turns its colours (N, 3) into sRGB; None: they are."""

    def __post_init__(self) -> None:
        check_range("density_factor", self.density_factor, minimum=0.0, maximum=1e30)

    @property
    def bounds(self) -> Bounds:
        """The box in the scene around what is seen of it."""
        corners = (self.crop or self.field.bounds).corners()
        return Bounds.from_points(self.transform.apply_points(corners))

    @functools.cached_property
    def _inverse(self) -> torch.Tensor:
        """(3, 4) float32: the scene's world to its own."""
        return self.transform.inverse().matrix[:3].float()

    def local(self, rays: Rays) -> Rays:
        """Rays of the scene in the field's own world."""
        inverse = self._inverse.to(rays.origins.device)
        return Rays(
            origins=rays.origins @ inverse[:, :3].T + inverse[:, 3],
            directions=rays.directions @ (inverse[:, :3].T * self.transform.scale),
            # How fast a pixel widens is an angle.
            pixel_area=rays.pixel_area,
            camera_index=rays.camera_index,
        )

    def intervals(self, local: Rays) -> Intervals:
        """Where to look along rays of its own world."""
        near, far = unlimited(local)
        if self.crop is None:
            return self.field.intervals(local, near, far)
        near, far = ray_box(local.origins, local.directions, self.crop.tensor(near.device))
        meets = near < far
        if not bool(meets.any()):
            return Intervals.none(near.device)
        found = self.field.intervals(local[meets], near[meets], far[meets])
        return Intervals(start=found.start, end=found.end, ray=meets.nonzero()[:, 0][found.ray])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looks:
    """Where a chunk of rays is looked at."""

    rays: Rays
    local: list[Rays]
    """The rays in each field's world."""
    stretches: Intervals
    """Distances of the scene."""
    covers: torch.Tensor
    """(K, S) bool: which fields are asked where."""


class CompositeField:
    """A scene of several fields. It renders as a `voxfield.models.base.Model` does, and cannot be trained."""

    def __init__(self, members: Sequence[PlacedField], *, device: torch.device | str = "cpu") -> None:
        """Bring ``members``, at least one, into one scene; all of them live on ``device``."""
        if not members:
            raise InputError("A scene needs at least one member.")
        self.members, self.device = tuple(members), torch.device(device)

    @property
    def bounds(self) -> Bounds:
        """The box around what the members are about."""
        return Bounds.from_points(torch.cat([member.bounds.corners() for member in self.members]))

    @torch.inference_mode()
    def render_rays(self, rays: Rays, *, background: torch.Tensor) -> dict[str, torch.Tensor]:
        """What rays see.

        Args:
            rays: R rays on the scene's device; call with at most some ten thousand to bound memory.
            background: (3,) sRGB colour behind everything.

        Returns:
            ``rgb`` (R, 3) sRGB, ``opacity`` (R,), ``depth`` (R,): expected distance along the ray where matter is met,
            a faint haze keeps its small contribution.
        """
        looks = self._look(rays)
        count, device = len(rays), self.device
        rgb, opacity, depth = (torch.zeros(*shape, device=device) for shape in ((count, 3), (count,), (count,)))
        offsets = torch.zeros(count + 1, dtype=torch.int64, device=device)
        offsets[1:] = torch.bincount(looks.stretches.ray, minlength=count).cumsum(0)
        cursor, length = offsets[:-1].clone(), FIRST_WAVE
        while True:
            alive = ((cursor < offsets[1:]) & (1 - opacity > EARLY_STOP)).nonzero()[:, 0]
            if not len(alive):
                break
            index, shares = run_indices(*next_runs(offsets, cursor, alive, length))
            parts = self._densities(looks, index)
            start, end = looks.stretches.start[index], looks.stretches.end[index]
            density, none = torch.stack(parts).sum(0), torch.zeros(len(index), 1, device=device)
            wave = composite(density, none, start, end, shares, early_stop=0.0)
            ray = looks.stretches.ray[index]
            light = (1 - opacity)[ray] * wave.weights
            lit = light > LEAST_LIGHT
            colours = self._colours(looks, index[lit], [part[lit] for part in parts])
            rgb.index_add_(0, ray[lit], light[lit, None] * colours)
            passed = 1 - opacity[alive]
            depth[alive] += passed * wave.depth
            opacity[alive] += passed * wave.opacity
            length = min(2 * length, LONGEST_WAVE)
        return {
            "rgb": rgb + (1 - opacity)[:, None] * background.to(device),
            "opacity": opacity,
            "depth": torch.where(opacity > 0.5, depth / opacity.clamp(min=1e-6), depth),
        }

    def render_image(
        self, cameras: Cameras, i: int, *, background: torch.Tensor, rays_per_chunk: int | None = None
    ) -> dict[str, torch.Tensor]:
        """What camera ``i`` sees: ``rgb`` (H, W, 3), ``opacity`` (H, W), ``depth`` (H, W), on the CPU."""
        if any(member.field.needs_widths for member in self.members):
            check_pixels_widen(cameras)
        if rays_per_chunk is None:
            rays_per_chunk = max(256, RAYS_PER_CHUNK // len(self.members))
        return render_camera(
            lambda rays: self.render_rays(rays.to(self.device), background=background), cameras, i, rays_per_chunk
        )

    def _look(self, rays: Rays) -> _Looks:
        local = [member.local(rays) for member in self.members]
        parts = []
        for member, own in zip(self.members, local, strict=True):
            found, scale = member.intervals(own), member.transform.scale
            parts.append(Intervals(start=found.start * scale, end=found.end * scale, ray=found.ray))
        stretches, covers = merged(parts)
        return _Looks(rays=rays, local=local, stretches=stretches, covers=covers)

    def _at(self, looks: _Looks, k: int, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Middles (N, 3) of the stretches ``index`` in the world of member ``k``, the ray of each, and how wide pixels
        are there.
        """
        own, stretches = looks.local[k], looks.stretches
        ray = stretches.ray[index]
        middle = 0.5 * (stretches.start[index] + stretches.end[index]) / self.members[k].transform.scale
        points = own.origins[ray] + middle[:, None] * own.directions[ray]
        return points, ray, (own.pixel_area[ray].sqrt() * middle).clamp(min=1e-12)

    def _densities(self, looks: _Looks, index: torch.Tensor) -> list[torch.Tensor]:
        """Of each member (N,) per unit of the scene in the stretches ``index``."""
        found = []
        for k, member in enumerate(self.members):
            density = torch.zeros(len(index), device=self.device)
            asked = looks.covers[k, index].nonzero()[:, 0]
            if len(asked):
                points, _, widths = self._at(looks, k, index[asked])
                factor = member.density_factor / member.transform.scale
                density[asked] = member.field.points.density(points, widths) * factor
            found.append(density)
        return found

    def _colours(self, looks: _Looks, index: torch.Tensor, densities: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, 3) sRGB of the stretches ``index``, where the members have ``densities`` (N,) whose sum is above 0."""
        total = torch.stack(list(densities)).sum(0).clamp(min=torch.finfo(torch.float32).tiny)
        mixed = torch.zeros(len(index), 3, device=self.device)
        for k, (member, density) in enumerate(zip(self.members, densities, strict=True)):
            share = density / total
            asked = (share > 0).nonzero()[:, 0]
            if not len(asked):
                continue
            points, ray, widths = self._at(looks, k, index[asked])
            colours = member.field.points.colours(points, looks.local[k].directions[ray], widths)
            shown = colours if member.to_srgb is None else member.to_srgb(colours)
            mixed[asked] += share[asked, None] * shown
        return mixed
