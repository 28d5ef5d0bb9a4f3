"""What can be looked at in the viewer, and how what is seen becomes a picture."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import torch
from torch import Tensor

from voxfield.colour import ToneMap, display
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.models.base import Model
from voxfield.render.image import depth_colours, level_colours, normal_colours, to_uint8

Mode = Literal["colour", "depth", "opacity", "normals", "level"]
MODES: Final[tuple[Mode, ...]] = ("colour", "depth", "opacity", "normals", "level")

FARTHEST: Final = 160.0
"""Depth given to the browser where there is nothing: it can tell at most 167 units."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """What one browser wants to see."""

    camera_to_world: Tensor
    """(3, 4) float32: the browser's camera, OpenGL axes."""
    fov: float
    """Vertical field of view, radians, above 0 and below pi."""
    aspect: float
    """Width over height of the browser's canvas, above 0."""
    mode: Mode = "colour"
    """What of the field is shown."""
    crop: Bounds | None = None
    """Only what lies in this box is shown; None: everything."""
    exposure: float = 0.0
    """Of linear light: change of exposure in stops."""
    tone_map: ToneMap = "none"
    """Of linear light: what brings it to the screen."""

    def camera(self, height: int) -> Cameras:
        """The browser's camera, of so many rows of square pixels."""
        width = max(1, round(height * self.aspect))
        focal = 0.5 * height / math.tan(0.5 * self.fov)
        return Cameras(
            camera_to_world=self.camera_to_world[None],
            focal=torch.tensor([[focal, focal]]),
            principal=torch.tensor([[0.5 * width, 0.5 * height]]),
            width=torch.tensor([width]),
            height=torch.tensor([height]),
        )


class Subject(Protocol):
    """Something to look at."""

    bounds: Bounds
    """Where it is, world units."""
    modes: tuple[Mode, ...]
    """The ways in which it can be shown; the first is shown first."""
    linear: bool = False
    """Whether ``rgb`` is exposed linear light, rather than sRGB as on the screen."""

    def load(self, camera: Cameras) -> Iterator[object]:  # noqa: ARG002  (for those that load as they are looked at)
        """Load what a camera will see of it, piece by piece; what is looked at meanwhile is what is there."""
        return iter(())

    def look(self, rays: Rays, mode: Mode) -> dict[str, Tensor]:
        """What R rays (on the CPU) see: ``rgb`` (R, 3) (see ``linear``), ``opacity`` (R,), ``depth`` (R,), and in some
        modes ``normals`` (R, 3), or ``level`` (R,) in [0, 1] from the coarsest to the finest; on the CPU.
        """


class FieldSubject(Subject):
    """A radiance field."""

    def __init__(
        self,
        model: Model,
        *,
        bounds: Bounds,
        background: Tensor,
        linear: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Look at ``model``, which stays its owner's: who calls `look` must be the one who may use it.

        Args:
            model: the field's model.
            bounds: its region of interest.
            background: (3,) colour behind the field, in the space of the model's colours.
            linear: whether the model's colours are exposed linear light, rather than sRGB.
            device: where the model lives.
        """
        self.model, self.bounds, self._device = model, bounds, torch.device(device)
        self._background, self.linear = background, linear
        config: Any = model.config
        pyramid = getattr(config, "pyramid", None)
        self._finest = 1 if pyramid is None else max(1, pyramid.num_levels - 1)
        self.modes: tuple[Mode, ...] = MODES[:-1] if pyramid is None else MODES

    def look(self, rays: Rays, mode: Mode) -> dict[str, Tensor]:
        """See `Subject.look`; normals only of models that learnt them."""
        with torch.inference_mode():
            seen = self.model.render_rays(rays.to(self._device), background=self._background)
            values = {name: seen[name].cpu() for name in ("opacity", "depth", "rgb")}
            if mode == "normals" and "normals" in seen:
                values["normals"] = seen["normals"].cpu()
            if mode == "level":
                values["level"] = seen["level"].cpu() / self._finest
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture for the browser."""

    rgb: Tensor
    """(H, W, 3) uint8."""
    depth: Tensor
    """(H, W) float32: distance along the camera's axis, world units, for what else is drawn before or behind it."""


def cropped(rays: Rays, crop: Bounds) -> tuple[Rays, Tensor, Tensor]:
    """Rays that begin where they enter a box.

    Returns:
        The rays; how far each was moved along (R,); and how far from its new origin it leaves the box (R,), below 0 for
        rays that miss it.
    """
    low, high = crop.tensor()
    # Where a direction has no component, the ray is between two faces always or never: +-inf says so.
    to_low, to_high = (low - rays.origins) / rays.directions, (high - rays.origins) / rays.directions
    enter = torch.minimum(to_low, to_high).nan_to_num(nan=-math.inf).amax(1).clamp(min=0.0)
    leave = torch.maximum(to_low, to_high).nan_to_num(nan=math.inf).amin(1)
    missed = ~(leave > enter)
    moved = torch.where(missed, torch.zeros_like(enter), enter)
    # Pixels widen from the camera on, not from the box: the width is right in the middle of what is seen of the box.
    middle = (0.5 * (leave - moved)).clamp(min=1e-6)
    widened = torch.where(missed, 1.0, (moved + middle) / middle).square()
    shifted = Rays(
        origins=rays.origins + moved[:, None] * rays.directions,
        directions=rays.directions,
        pixel_area=rays.pixel_area * widened,
        camera_index=rays.camera_index,
    )
    return shifted, moved, torch.where(missed, torch.full_like(leave, -1.0), leave - moved)


def look(subject: Subject, rays: Rays, shot: Shot, outside: Tensor) -> dict[str, Tensor]:
    """What rays see of a subject within the shot's box.

    Rays begin where they enter the box; those that meet nothing before they leave it show ``outside``, (3,) the colour
    of nothing. What a ray meets is where its depth says: matter that is half transparent is cut as a whole.
    """
    if shot.crop is None:
        return _on_screen(subject, subject.look(rays, shot.mode), shot)
    rays, moved, leave = cropped(rays, shot.crop)
    values = _on_screen(subject, subject.look(rays, shot.mode), shot)
    beyond = ~((values["depth"] <= leave) & (values["opacity"] > 0))
    values["depth"] = values["depth"] + moved
    values["rgb"] = torch.where(beyond[:, None], outside, values["rgb"])
    values["opacity"] = values["opacity"].masked_fill(beyond, 0.0)
    return values


def _on_screen(subject: Subject, values: dict[str, Tensor], shot: Shot) -> dict[str, Tensor]:
    """What rays saw, with linear light exposed as the shot wants it."""
    if not subject.linear:
        return values
    return values | {"rgb": display(values["rgb"], stops=shot.exposure, tone_map=shot.tone_map)}


def develop(values: Mapping[str, Tensor], shot: Shot, camera: Cameras) -> Picture:
    """The picture of what the rays of ``camera`` saw: (H * W, ...) by name, row by row."""
    height, width = int(camera.height[0]), int(camera.width[0])
    image = {name: value.reshape(height, width, *value.shape[1:]) for name, value in values.items()}
    opacity, distance = image["opacity"], image["depth"]
    rays = camera.image_rays(0)
    if shot.mode == "depth":
        rgb = depth_colours(distance, opacity)
    elif shot.mode == "opacity":
        rgb = opacity[..., None].expand(-1, -1, 3)
    elif shot.mode == "normals":
        points = (rays.origins + distance.reshape(-1, 1) * rays.directions).reshape(height, width, 3)
        normals = image.get("normals")
        rgb = normal_colours(normals if normals is not None else normals_of_surface(points, opacity >= 0.5, rays))
        rgb = rgb * (opacity >= 0.5)[..., None]
    elif shot.mode == "level":
        rgb = level_colours(image["level"], opacity)
    else:
        rgb = image["rgb"]
    along = (rays.directions @ camera.forward[0]).reshape(height, width)
    depth = torch.where(opacity >= 0.5, (distance * along).clamp(max=FARTHEST), FARTHEST)
    return Picture(rgb=to_uint8(rgb), depth=depth.float())


def normals_of_surface(points: Tensor, shown: Tensor, rays: Rays) -> Tensor:
    """Which way a surface faces, from where neighbouring pixels meet it.

    Of the two neighbours on an axis the one less far away counts, so that edges stay sharp.

    Args:
        points: (H, W, 3) where the pixels' rays meet matter, world units.
        shown: (H, W) bool: whether they do.
        rays: the H * W rays; normals face against them.

    Returns:
        (H, W, 3) unit vectors; zero where nothing is met or no neighbour meets anything.
    """
    steps = []
    for axis in (0, 1):
        step = points.diff(dim=axis)
        valid = shown.narrow(axis, 1, step.shape[axis]) & shown.narrow(axis, 0, step.shape[axis])
        length = torch.where(valid, step.norm(dim=-1), math.inf)
        edge = list(points.shape)
        edge[axis] = 1
        ahead = torch.cat([step, step.new_zeros(edge)], dim=axis)
        behind = torch.cat([step.new_zeros(edge), step], dim=axis)
        nothing = length.new_full(edge[:2], math.inf)
        nearer = torch.cat([length, nothing], dim=axis) <= torch.cat([nothing, length], dim=axis)
        none = torch.cat([length, nothing], dim=axis).minimum(torch.cat([nothing, length], dim=axis)).isinf()
        steps.append(torch.where(nearer[..., None], ahead, behind).masked_fill(none[..., None], 0.0))
    normals = torch.nn.functional.normalize(torch.linalg.cross(steps[0], steps[1]), dim=-1, eps=1e-20)
    away = (normals * rays.directions.reshape(normals.shape)).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)
