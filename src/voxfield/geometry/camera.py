"""Cameras: N pictures' poses and intrinsics, and the rays through their pixels.

A camera looks along its own -Z axis, +X right, +Y up (OpenGL axes); a pose is camera-to-world. Pixel coordinates (x, y)
start at the top-left corner of the picture, x right, y down; the centre of the first pixel is (0.5, 0.5). Image
coordinates are pixel offsets from the principal point divided by the focal length; what they mean is the model:

- ``perspective``: (X, Y) / depth, after distortion. Focal lengths in pixels.
- ``fisheye``: the angle from the axis, after distortion, along the point's azimuth. Focal lengths in pixels per radian.
- ``equirectangular``: longitude to the right of the axis and latitude below it. Pixels per radian: width / (2 pi) for
  a full turn.
- ``orthographic``: (X, Y) themselves: all rays are parallel, and start in the plane of the camera's centre. Focal
  lengths in pixels per world unit.
- ``fov``, ``division``, ``eucm``, ``thin_prism_fisheye``, ``rad_tan_thin_prism_fisheye``: COLMAP's other lenses, by
  ``geometry.lenses``. Focal lengths in pixels (per radian, of the last two).
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_dtype, check_range, check_shape
from voxfield.errors import InputError
from voxfield.geometry import lenses
from voxfield.geometry.distortion import (
    MOST_NEWTON_STEPS,
    Coefficients,
    distort,
    distort_angle,
    undistort,
    undistort_angle,
)
from voxfield.geometry.rays import Rays

CameraModel = Literal[
    "perspective",
    "fisheye",
    "equirectangular",
    "orthographic",
    "fov",
    "division",
    "eucm",
    "thin_prism_fisheye",
    "rad_tan_thin_prism_fisheye",
]
LENSES: Final = ("perspective", "fisheye")
"""The models that may distort by OpenCV's polynomials."""

_CHUNK: Final = 32_768
"""Rays made at a time: the intermediate rows (128 KiB each) stay in a core's L2 cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cameras:
    """N cameras, immutable. Distortion is undone when rays are made, by the lens models of ``geometry.distortion``."""

    camera_to_world: Tensor
    """(N, 3, 4) float32: rigid poses; the last column is the camera's centre."""
    focal: Tensor
    """(N, 2) float32: focal lengths (fx, fy), above 0, in pixels (perspective), pixels per radian (fisheye,
    equirectangular) or pixels per world unit (orthographic)."""
    principal: Tensor
    """(N, 2) float32: principal point (cx, cy) in pixels from the top-left corner."""
    width: Tensor
    """(N,) int64: picture widths in pixels."""
    height: Tensor
    """(N,) int64: picture heights in pixels."""
    distortion: Tensor | None = None
    """(N, 6) float32: k1, k2, k3, k4, p1, p2, or (N, 9) with d1, d2, d3 of rational lenses; None when no camera
    distorts. Fisheye lenses ignore p1 and p2, and are not rational. Of the models of ``lenses.COEFFICIENTS``: (N, K),
    what is listed there. Others have none."""
    model: CameraModel = "perspective"
    """The projection all N cameras share."""
    eye_offset: float = 0.0
    """World units to the right of where it looks, within the camera's horizontal plane, by which every ray of an
    equirectangular camera starts beside the centre: omnidirectional stereo. 0 for every other model."""

    def __post_init__(self) -> None:
        check_shape("camera_to_world", self.camera_to_world, ("N", 3, 4))
        count = self.camera_to_world.shape[0]
        check_shape("focal", self.focal, (count, 2))
        check_shape("principal", self.principal, (count, 2))
        check_shape("width", self.width, (count,))
        check_shape("height", self.height, (count,))
        own = lenses.COEFFICIENTS.get(self.model)
        if self.distortion is not None and (own or self.model in LENSES):
            rational = self.model == "perspective" and self.distortion.ndim == 2 and self.distortion.shape[1] == 9
            check_shape("distortion", self.distortion, (count, len(own) if own else 9 if rational else 6))
        for name in ("camera_to_world", "focal", "principal"):
            check_dtype(name, getattr(self, name), (torch.float32,))
        check_dtype("width", self.width, (torch.int64,))
        check_dtype("height", self.height, (torch.int64,))
        check_choice("model", self.model, get_args(CameraModel))
        if own and self.distortion is None:
            raise InputError(f"distortion: expected {', '.join(own)} of each {self.model} camera, got None.")
        if self.distortion is not None and not own and self.model not in LENSES:
            raise InputError(f"distortion: expected None for {self.model} cameras. Remove it or use another model.")
        if self.eye_offset and self.model != "equirectangular":
            raise InputError(f"eye_offset: expected 0 for {self.model} cameras, got {self.eye_offset}.")

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> "Cameras":
        """The cameras at an index (a Cameras of length 1), a slice, a mask or an index tensor."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        picked = {name: tensor[index] for name, tensor in self._tensors().items()}
        return self._with(picked)

    @property
    def device(self) -> torch.device:
        """The device the tensors live on."""
        return self.camera_to_world.device

    @property
    def origins(self) -> Tensor:
        """(N, 3): the cameras' centres in world space."""
        return self.camera_to_world[:, :, 3]

    @property
    def forward(self) -> Tensor:
        """(N, 3): unit directions the cameras look along."""
        return -self.camera_to_world[:, :, 2]

    def to(self, device: torch.device | str) -> "Cameras":
        """These cameras on ``device``."""
        return self._with({name: tensor.to(device) for name, tensor in self._tensors().items()})

    def rescaled(self, factor: float) -> "Cameras":
        """The same views at ``factor`` times the resolution (rounded to whole pixels, at least 1x1).

        Intrinsics follow the rounded size, so that the field of view stays exactly the same.
        """
        check_range("factor", factor, above=0.0, maximum=1e4)
        return self.resized(
            (self.width * factor).round().clamp(min=1).long(), (self.height * factor).round().clamp(min=1).long()
        )

    def resized(self, width: Tensor | int, height: Tensor | int) -> "Cameras":
        """The same views at another resolution.

        Args:
            width, height: whole pixels, one number or (N,) int64. A new aspect ratio stretches the pixels.
        """
        width = torch.as_tensor(width, device=self.device).expand(len(self)).clone().long()
        height = torch.as_tensor(height, device=self.device).expand(len(self)).clone().long()
        scale = torch.stack([width / self.width, height / self.height], dim=-1).to(torch.float32)
        return replace(self, width=width, height=height, focal=self.focal * scale, principal=self.principal * scale)

    def rays(self, camera_index: Tensor, pixels: Tensor) -> Rays:
        """Rays through given points of given pictures.

        Args:
            camera_index: (R,) int64 in [0, N).
            pixels: (R, 2) float32 (x, y); a pixel's centre is its column and row plus 0.5.

        Returns:
            R rays. Directions are unit; ``pixel_area`` is the limit for small steps, |d direction/dx| * |d
            direction/dy|, and for orthographic cameras, whose pixels are as wide at any distance, the area itself. No
            gradient flows to the cameras.

        Raises:
            InputError: wrong shapes or dtypes. IndexError: a camera that does not exist.
        """
        check_shape("pixels", pixels, ("R", 2))
        check_shape("camera_index", camera_index, (pixels.shape[0],))
        check_dtype("camera_index", camera_index, (torch.int64,))
        with torch.no_grad():
            count = pixels.shape[0]
            origins, directions = pixels.new_empty(count, 3), pixels.new_empty(count, 3)
            area = pixels.new_empty(count)
            for start in range(0, count, _CHUNK):
                part = slice(start, start + _CHUNK)
                parameters = self._table.index_select(1, camera_index[part])
                self._cast(parameters, pixels[part, 0], pixels[part, 1], origins[part], directions[part], area[part])
        return Rays(origins=origins, directions=directions, pixel_area=area, camera_index=camera_index)

    def image_rays(self, index: int) -> Rays:
        """Rays through every pixel centre of picture ``index``, row by row: H*W of them."""
        if not 0 <= index < len(self):
            raise InputError(f"index: expected a camera in [0, {len(self)}), got {index}.")
        width, height = int(self.width[index]), int(self.height[index])
        count = width * height
        with torch.no_grad():
            columns = torch.arange(width, device=self.device, dtype=torch.float32) + 0.5
            parameters = self._table[:, index : index + 1]
            origins, directions = self.focal.new_empty(count, 3), self.focal.new_empty(count, 3)
            area = self.focal.new_empty(count)
            rows_at_once = max(1, _CHUNK // max(width, 1))
            for top in range(0, height, rows_at_once):
                bottom = min(top + rows_at_once, height)
                rows = torch.arange(top, bottom, device=self.device, dtype=torch.float32) + 0.5
                part = slice(top * width, bottom * width)
                x, y = columns.repeat(bottom - top), rows.repeat_interleave(width)
                self._cast(parameters, x, y, origins[part], directions[part], area[part])
            camera_index = torch.full((count,), index, dtype=torch.int64, device=self.device)
        return Rays(origins=origins, directions=directions, pixel_area=area, camera_index=camera_index)

    def project(self, camera_index: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where world points appear: the inverse of ``rays``.

        Args:
            camera_index: (R,) int64 in [0, N).
            points: (R, 3) float32 or float64, world; the arithmetic is theirs.

        Returns:
            (pixels (R, 2), depth (R,)): depth is the distance along the optical axis, negative behind the camera,
            where a perspective pixel means nothing. Pixels are NaN for points that a model of ``lenses.ROUND`` does
            not show at all.
        """
        check_shape("points", points, ("R", 3))
        check_shape("camera_index", camera_index, (points.shape[0],))
        if self.eye_offset:
            raise InputError("project: cameras with an eye_offset have no centre to project to.")
        pose, focal, principal = (
            tensor[camera_index].to(points.dtype) for tensor in (self.camera_to_world, self.focal, self.principal)
        )
        local = torch.einsum("rij,ri->rj", pose[:, :, :3], points - pose[:, :, 3])
        x, y, depth = local[:, 0], -local[:, 1], -local[:, 2]
        lens = None
        if self.distortion is not None and self.model in LENSES:
            lens = Coefficients(*self.distortion[camera_index].to(points.dtype).unbind(-1))
        if self.distortion is not None and self.model in lenses.COEFFICIENTS:
            x, y = self._bend(x, y, depth, self.distortion[camera_index].to(points.dtype).T)
        elif self.model == "fisheye":
            radius = torch.hypot(x, y)
            theta = torch.atan2(radius, depth)
            image_radius = theta if lens is None else distort_angle(theta, lens)[0]
            scale = image_radius / radius.clamp(min=1e-12)
            x, y = x * scale, y * scale
        elif self.model == "equirectangular":
            x, y = torch.atan2(x, depth), torch.atan2(y, torch.hypot(x, depth))
        elif self.model == "perspective":
            x, y = x / depth, y / depth
            if lens is not None:
                x, y = distort(x, y, lens)[:2]
        return torch.stack([x, y], dim=-1) * focal + principal, depth

    def _bend(self, x: Tensor, y: Tensor, depth: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Image coordinates of points in camera axes (y down), by the models of ``geometry.lenses``."""
        radius = torch.hypot(x, y)
        theta = torch.atan2(radius, depth)
        if self.model in lenses.ROUND:
            scale = lenses.radius_of(self.model, theta, lens)[0] / radius.clamp(min=1e-12)
            return x * scale, y * scale
        scale = theta / radius.clamp(min=1e-12)
        there = lenses.move(self.model, x * scale, y * scale, lens)
        return there.x, there.y

    def _with(self, tensors: dict[str, Tensor]) -> "Cameras":
        return Cameras(model=self.model, eye_offset=self.eye_offset, **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @cached_property
    def _table(self) -> Tensor:
        """(16 to 28, N): fx, fy, cx, cy, the pose row by row, the distortion: one gather fetches all a ray needs."""
        columns = [self.focal, self.principal, self.camera_to_world.reshape(-1, 12)]
        if self.distortion is not None:
            columns.append(self.distortion)
        return torch.cat(columns, dim=1).T.contiguous()

    @cached_property
    def _newton_steps(self) -> int:
        """Newton steps that undistort all pictures to a hundredth of a pixel: tried on points along their borders,
        where distortion is greatest. Most photographs need 2 or 3, and every step costs a sixth of making a ray.
        """
        if self.distortion is None or len(self) == 0 or self.model in lenses.ROUND:
            return 0
        along = torch.linspace(0, 1, 17, device=self.device)
        edge = torch.cat([torch.stack([along, end.expand(17)], -1) for end in along[[0, -1]]])
        edge = torch.cat([edge, edge.flip(-1)])
        size = torch.stack([self.width, self.height], dim=-1)
        image = ((edge * size[:, None] - self.principal[:, None]) / self.focal[:, None]).double()
        table = self.distortion.double().T[:, :, None]
        lens = Coefficients(*table.unbind(0)) if self.model in LENSES else None
        tolerance = float(0.01 / self.focal.max())
        radius, (x, y) = image.norm(dim=-1), image.unbind(-1)
        for steps in range(1, MOST_NEWTON_STEPS):
            if lens is None:
                # Not round, it may be worst between the points that are tried.
                there = lenses.move(self.model, *lenses.unmove(self.model, x, y, table, steps=steps), table)
                miss = 10 * torch.hypot(there.x - x, there.y - y)
            elif self.model == "fisheye":
                miss = distort_angle(undistort_angle(radius, lens, steps=steps), lens)[0] - radius
            else:
                back = distort(*undistort(x, y, lens, steps=steps), lens)
                miss = torch.hypot(back.x - x, back.y - y)
            if float(miss.abs().max()) < tolerance:
                return steps
        return MOST_NEWTON_STEPS

    def _cast(
        self, parameters: Tensor, x: Tensor, y: Tensor, origins: Tensor, directions: Tensor, area: Tensor
    ) -> None:
        """Write the rays of one chunk; ``parameters`` is (16 to 28, 1 or R) columns of ``_table``."""
        fx, fy, cx, cy = parameters[:4].unbind(0)
        pose = parameters[4:16].unflatten(0, (3, 4))
        x, y = (x - cx) / fx, (y - cy) / fy
        centre = pose[:, 3].T
        if self.model == "orthographic":
            torch.divide(torch.ones_like(x), fx * fy, out=area)
            directions.copy_(-pose[:, 2].T)
            origins.copy_(torch.stack([row[0] * x - row[1] * y for row in pose], dim=-1) + centre)
            return
        if self.model == "equirectangular":
            local, spread = _equirectangular_directions(x, y)
        elif self.model in lenses.ROUND:
            radius = torch.hypot(x, y)
            theta, slope = lenses.angle_of(self.model, radius, parameters[16:])
            local, spread = _round_directions(x, y, radius, theta, slope.clamp(min=1e-3))
        elif self.model in lenses.PRISM:
            local, spread = _prism_directions(self.model, x, y, parameters[16:], self._newton_steps)
        else:
            lens = Coefficients(*parameters[16:].unbind(0)) if self.distortion is not None else None
            unproject = _fisheye_directions if self.model == "fisheye" else _perspective_directions
            local, spread = unproject(x, y, lens, self._newton_steps)
        torch.divide(spread, fx * fy, out=area)
        right, up, back = local
        torch.stack([row[0] * right + row[1] * up + row[2] * back for row in pose], dim=-1, out=directions)
        origins.copy_(centre)
        if self.eye_offset:
            level = self.eye_offset * x.cos(), self.eye_offset * x.sin()
            origins += torch.stack([row[0] * level[0] + row[2] * level[1] for row in pose], dim=-1)


def _perspective_directions(
    x: Tensor, y: Tensor, lens: Coefficients | None, steps: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Unit directions in camera axes through image coordinates, and |d direction/dx| * |d direction/dy|.

    With L = |(x, y, 1)| and no distortion the spread is sqrt((1 + x^2) * (1 + y^2)) / L^4. With distortion the
    columns of the inverse Jacobian say how the ideal point moves, and a move m changes the unit direction n by |m - n
    (n.m)| / L.
    """
    if lens is not None:
        x, y = undistort(x, y, lens, steps=steps)
    inverse2 = 1 / (x * x + y * y + 1)
    inverse = inverse2.sqrt()
    unit_x, unit_y = x * inverse, y * inverse
    if lens is None:
        spread = ((1 - unit_x * unit_x) * (1 - unit_y * unit_y)).sqrt() * inverse2
    else:
        at = distort(x, y, lens)
        along_x, along_y = at.dyy * unit_x - at.dxy * unit_y, at.dxx * unit_y - at.dxy * unit_x
        cross2 = at.dxy * at.dxy
        determinant = (at.dxx * at.dyy - cross2).clamp(min=1e-3)
        move_x = (at.dyy * at.dyy + cross2 - along_x * along_x).clamp(min=0)
        move_y = (at.dxx * at.dxx + cross2 - along_y * along_y).clamp(min=0)
        spread = (move_x * move_y).sqrt() * inverse2 / (determinant * determinant)
    return (unit_x, -unit_y, -inverse), spread


def _fisheye_directions(
    x: Tensor, y: Tensor, lens: Coefficients | None, steps: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """As ``_perspective_directions`` for the equidistant model; angles up to pi from the axis."""
    radius = torch.hypot(x, y)
    theta = radius.clamp(max=torch.pi) if lens is None else undistort_angle(radius, lens, steps=steps)
    slope = torch.ones_like(theta) if lens is None else distort_angle(theta, lens)[1].clamp(min=1e-3)
    return _round_directions(x, y, radius, theta, slope)


def _round_directions(
    x: Tensor, y: Tensor, radius: Tensor, theta: Tensor, slope: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """As ``_perspective_directions`` for lenses that map angles from the axis, ``theta``, to image radii.

    Args:
        radius: |(x, y)|.
        slope: d radius / d theta, above 0.
    """
    sine = theta.sin()
    # Near the axis sin(theta) / radius tends to 1 / slope(0).
    ratio = torch.where(radius > 1e-6, sine / radius.clamp(min=1e-6), 1 / slope)
    cos_azimuth = torch.where(radius > 1e-6, x / radius.clamp(min=1e-6), torch.ones_like(radius))
    sin_azimuth = torch.where(radius > 1e-6, y / radius.clamp(min=1e-6), torch.zeros_like(radius))
    move_x = (cos_azimuth / slope).square() + (ratio * sin_azimuth).square()
    move_y = (sin_azimuth / slope).square() + (ratio * cos_azimuth).square()
    return (x * ratio, -y * ratio, -theta.cos()), (move_x * move_y).sqrt()


def _prism_directions(
    model: str, x: Tensor, y: Tensor, lens: Tensor, steps: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """As ``_perspective_directions`` for ``lenses.PRISM``: back to the equidistant image, and from there to angles.

    A move m of the equidistant point turns the direction by |m| along its radius, and by |m| sin(theta) / theta across.
    """
    u, v = lenses.unmove(model, x, y, lens, steps=steps)
    at = lenses.move(model, u, v, lens)
    theta = torch.hypot(u, v)
    along_u, along_v = u / theta.clamp(min=1e-6), v / theta.clamp(min=1e-6)
    ratio = torch.sinc(theta / torch.pi)
    radial = (at.yv * along_u - at.yu * along_v).square(), (at.xu * along_v - at.xv * along_u).square()
    across2, rest = ratio * ratio, 1 - ratio * ratio
    move_x = across2 * (at.yv * at.yv + at.yu * at.yu) + rest * radial[0]
    move_y = across2 * (at.xu * at.xu + at.xv * at.xv) + rest * radial[1]
    spread = (move_x * move_y).sqrt() / at.determinant.clamp(min=1e-3).square()
    return (u * ratio, -v * ratio, -theta.cos()), spread


def _equirectangular_directions(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """As ``_perspective_directions`` for longitude ``x`` and latitude ``y`` (down) in radians."""
    level = y.cos()
    return (x.sin() * level, -y.sin(), -x.cos() * level), level.abs()
