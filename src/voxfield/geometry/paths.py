"""Camera paths for fly-throughs, made from the cameras of a capture.

Every path returns perspective cameras without distortion, with square-on principal points and the capture's median
field of view: the pictures of a video must share one lens. Only a zoom from within a scene changes it. Orbit, spiral
and zoom are loops: the frame after the last would be the first.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

import torch
from torch import Tensor

from voxfield.axes import WORLD_UP
from voxfield.checks import check_choice, check_range, check_shape
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import focus
from voxfield.geometry.rotations import quaternions_from_rotations, rotations_from_quaternions, slerp

PathKind = Literal["orbit", "spiral", "interpolate", "zoom", "dataset"]
PATH_KINDS: Final = ("orbit", "spiral", "interpolate", "zoom", "dataset")

_FULL_CIRCLE_GAP: Final = math.pi / 2
"""Cameras whose azimuths leave a wider gap than this do not surround the subject: the orbit then swings within their
arc, as nothing was seen from the gap."""
_SPIRAL_SHARE: Final = 0.3
"""Radius of the spiral as a share of the cameras' spread: well inside what was seen."""
_KEYFRAMES: Final = 24
"""Most cameras an interpolated path goes through."""
_ZOOM_OUT: Final = 8.0
"""How many times further away a zoom goes: through the four scales 1, 2, 4, 8 and back."""
_ZOOM_IN: Final = 4.0
"""How many times narrower its view becomes where it cannot go away."""
_ZOOM_SWING: Final = math.radians(10)
"""How far a zoom sways sideways: what aliases flickers when it moves."""


def camera_path(
    kind: PathKind,
    cameras: Cameras,
    *,
    frames: int,
    width: int | None = None,
    height: int | None = None,
    unbounded: bool = False,
) -> Cameras:
    """A path by name.

    Args:
        kind: ``orbit`` around what the cameras look at, ``spiral`` near their middle, ``interpolate`` through them,
            ``zoom`` away and back, ``dataset`` for the cameras themselves (all of them, with their own lenses, whatever
            ``frames`` says).
        cameras: the capture's cameras, at least 1.
        frames: number of frames, at least 1.
        width, height: pixels; by default the first camera's. One alone keeps the first camera's aspect ratio.
        unbounded: whether there is something around the cameras, too, which a zoom must not go into.

    Returns:
        The path's cameras.

    Raises:
        InputError: an unknown kind, no cameras, or a size below 1.
    """
    check_choice("path", kind, PATH_KINDS)
    if kind == "dataset":
        return _at_size(cameras, width, height)
    if kind == "zoom":
        return zoom(cameras, frames=frames, width=width, height=height, unbounded=unbounded)
    makers: dict[str, Callable[..., Cameras]] = {"orbit": orbit, "spiral": spiral, "interpolate": interpolate}
    return makers[kind](cameras, frames=frames, width=width, height=height)


def orbit(cameras: Cameras, *, frames: int, width: int | None = None, height: int | None = None) -> Cameras:
    """A level circle around the point the cameras look at, at their mean distance and height; see ``camera_path``.

    When the cameras cover only an arc, the path swings along it and back.
    """
    _check(cameras, frames)
    target = focus(cameras.camera_to_world.cpu()).point
    offsets = cameras.origins.cpu().double() - target
    distance = float(torch.hypot(offsets[:, 0], offsets[:, 1]).mean())
    elevation = float(offsets[:, 2].mean())
    phase = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    middle, half = _arc(torch.atan2(offsets[:, 1], offsets[:, 0]))
    azimuth = middle + phase if half is None else middle + half * phase.sin()
    origins = target + torch.stack(
        [distance * azimuth.cos(), distance * azimuth.sin(), torch.full_like(azimuth, elevation)], dim=-1
    )
    return _with_lens(look_at(origins, target.expand(frames, 3)), cameras, width, height)


def spiral(cameras: Cameras, *, frames: int, width: int | None = None, height: int | None = None) -> Cameras:
    """Two turns near the cameras' middle, swaying towards the subject and back, looking at it; see ``camera_path``."""
    _check(cameras, frames)
    poses = cameras.camera_to_world.cpu().double()
    target = focus(poses).point
    middle = poses[:, :, 3].mean(0)
    axes = look_at(middle[None], target[None])[0, :, :3]
    radii = _SPIRAL_SHARE * ((poses[:, :, 3] - middle) @ axes).abs().quantile(0.9, dim=0)
    phase = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    sway = torch.stack([(2 * phase).cos(), (2 * phase).sin(), phase.sin()], dim=-1) * radii
    return _with_lens(look_at(middle + sway @ axes.T, target.expand(frames, 3)), cameras, width, height)


def interpolate(
    cameras: Cameras, *, frames: int, width: int | None = None, height: int | None = None, keyframes: int = _KEYFRAMES
) -> Cameras:
    """A smooth path through the cameras, from neighbour to neighbour, at constant speed; see ``camera_path``.

    Centres follow a centripetal Catmull-Rom curve and rotations turn the short way. At most ``keyframes`` cameras (at
    least 2), evenly spread along the tour, are passed through.
    """
    _check(cameras, frames)
    check_range("keyframes", keyframes, minimum=2)
    poses = cameras.camera_to_world.cpu().double()
    tour = poses[_tour(poses[:, :, 3])]
    if len(tour) > keyframes:
        tour = tour[torch.linspace(0, len(tour) - 1, keyframes).round().long()]
    if len(tour) == 1:
        return _with_lens(tour.expand(frames, 3, 4), cameras, width, height)
    centres = tour[:, :, 3]
    lengths = (centres[1:] - centres[:-1]).norm(dim=-1).clamp(min=1e-9)
    stops = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    along = torch.linspace(0, 1, frames, dtype=torch.float64) * stops[-1]
    segment = (torch.searchsorted(stops, along, right=True) - 1).clamp(0, len(lengths) - 1)
    fraction = (along - stops[segment]) / lengths[segment]
    quaternions = quaternions_from_rotations(tour[:, :, :3])
    turned = slerp(quaternions[segment], quaternions[segment + 1], fraction)
    origins = _catmull_rom(centres, segment, fraction)
    path = torch.cat([rotations_from_quaternions(turned), origins[:, :, None]], dim=2)
    return _with_lens(path, cameras, width, height)


def through(poses: Tensor, *, frames: int, loop: bool = False) -> Tensor:
    """A smooth path through poses in their order, the same time from each to the next.

    Centres follow a uniform Catmull-Rom curve and rotations turn the short way.

    Args:
        poses: (K, 3, 4), K >= 1.
        frames: at least 1; the first is the first pose, and the last the last.
        loop: come back to the first pose: it follows upon the last frame.

    Returns:
        (frames, 3, 4) in float64.
    """
    check_shape("poses", poses, ("K", 3, 4))
    check_range("frames", frames, minimum=1)
    if len(poses) == 0:
        raise InputError("poses: expected at least 1 keyframe, got 0.")
    poses = poses.double().cpu()
    if len(poses) == 1:
        return poses.expand(frames, 3, 4).clone()
    stops = torch.cat([poses, poses[:1]]) if loop else poses
    segments = len(stops) - 1
    steps = torch.arange(frames, dtype=torch.float64)
    along = steps * segments / frames if loop else steps * segments / max(frames - 1, 1)
    segment = along.floor().long().clamp(max=segments - 1)
    fraction = along - segment
    quaternions = quaternions_from_rotations(stops[:, :, :3])
    turned = slerp(quaternions[segment], quaternions[segment + 1], fraction)
    centres = stops[:, :, 3]
    ends = (centres[-2:-1], centres[1:2]) if loop else None
    origins = _catmull_rom(centres, segment, fraction, ends)
    return torch.cat([rotations_from_quaternions(turned), origins[:, :, None]], dim=2)


def zoom(
    cameras: Cameras, *, frames: int, width: int | None = None, height: int | None = None, unbounded: bool = False
) -> Cameras:
    """Away from what the cameras look at, up to eight times as far, and back, swaying a little; see ``camera_path``.

    Pixels become eight times as wide, so a field that does not know how wide they are flickers. Cameras that do not
    look inward, or have a scene around them, cannot go away from what they see: there the first one's view becomes four
    times narrower, and wide again.
    """
    _check(cameras, frames)
    phase = torch.arange(frames, dtype=torch.float64) / frames * (2 * math.pi)
    # Even on a logarithmic scale, at rest at both ends.
    depth = (1 - phase.cos()) / 2
    poses = cameras.camera_to_world.cpu().double()
    found = focus(poses)
    if unbounded or not found.inward:
        path = _with_lens(poses[:1].expand(frames, 3, 4), cameras, width, height)
        return replace(path, focal=path.focal * (_ZOOM_IN**depth).to(path.focal)[:, None])
    offsets = poses[:, :, 3] - found.point
    level = torch.hypot(offsets[:, 0], offsets[:, 1])
    azimuth = torch.atan2(offsets[0, 1], offsets[0, 0]) + _ZOOM_SWING * (3 * phase).sin()
    ray = torch.stack([level.mean() * azimuth.cos(), level.mean() * azimuth.sin(), offsets[:, 2].mean().expand(frames)])
    origins = found.point + (_ZOOM_OUT**depth * ray).T
    return _with_lens(look_at(origins, found.point.expand(frames, 3)), cameras, width, height)


def look_at(origins: Tensor, targets: Tensor, up: tuple[float, float, float] = WORLD_UP) -> Tensor:
    """Poses of cameras at ``origins`` that look at ``targets``.

    Args:
        origins, targets: (N, 3), different from each other.
        up: what shall point up in the pictures; where a camera looks along it, another axis takes its place.

    Returns:
        (N, 3, 4) camera-to-world, in the dtype of ``origins``.
    """
    check_shape("origins", origins, ("N", 3))
    check_shape("targets", targets, (origins.shape[0], 3))
    back = torch.nn.functional.normalize(origins - targets, dim=-1)
    upward = torch.tensor(up, dtype=origins.dtype, device=origins.device).expand_as(back)
    sideways = torch.tensor([up[1], up[2], up[0]], dtype=origins.dtype, device=origins.device).expand_as(back)
    along = (back * upward).sum(-1, keepdim=True).abs() > 1 - 1e-6
    right = torch.linalg.cross(torch.where(along, sideways, upward), back)
    right = torch.nn.functional.normalize(right, dim=-1)
    return torch.stack([right, torch.linalg.cross(back, right), back, origins], dim=-1)


def _check(cameras: Cameras, frames: int) -> None:
    check_range("frames", frames, minimum=1)
    if len(cameras) == 0:
        raise InputError("cameras: expected at least 1 to make a path from, got 0.")


def _arc(azimuth: Tensor) -> tuple[float, float | None]:
    """(middle, half width) of the arc the azimuths cover; half width None when they go round."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = int(gaps.argmax())
    gap = float(gaps[widest])
    if gap <= _FULL_CIRCLE_GAP:
        return float(azimuth[0]), None
    half = (2 * math.pi - gap) / 2
    return float(ordered[widest]) + gap + half, half


def _tour(points: Tensor) -> Tensor:
    """An order of (N, 3) points in which each is followed by the nearest not yet visited, from the first on."""
    distances = torch.cdist(points, points)
    order = [0]
    for _ in range(len(points) - 1):
        distances[:, order[-1]] = math.inf
        order.append(int(distances[order[-1]].argmin()))
    return torch.tensor(order)


def _catmull_rom(
    points: Tensor, segment: Tensor, fraction: Tensor, ends: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Points on the cubic through ``points`` (K, 3) with central-difference tangents; ``ends`` are the points (1, 3)
    before the first and after the last, which are reflections unless given.
    """
    before_first, after_last = ends or (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    padded = torch.cat([before_first, points, after_last])
    before, start, end, after = (padded[segment + shift] for shift in range(4))
    u = fraction[:, None]
    slope_start, slope_end = (end - before) / 2, (after - start) / 2
    return (
        (2 * u**3 - 3 * u**2 + 1) * start
        + (u**3 - 2 * u**2 + u) * slope_start
        + (3 * u**2 - 2 * u**3) * end
        + (u**3 - u**2) * slope_end
    )


def _at_size(cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    if width is None and height is None:
        return cameras
    return cameras.resized(*_size(cameras, width, height))


def _size(cameras: Cameras, width: int | None, height: int | None) -> tuple[int, int]:
    for name, value in (("width", width), ("height", height)):
        if value is not None:
            check_range(name, value, minimum=1, maximum=100_000)
    aspect = int(cameras.width[0]) / int(cameras.height[0])
    if width is None and height is None:
        return int(cameras.width[0]), int(cameras.height[0])
    if width is None:
        return max(1, round((height or 1) * aspect)), height or 1
    return width, height if height is not None else max(1, round(width / aspect))


def _with_lens(poses: Tensor, cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    """Cameras at ``poses`` with one lens: the capture's median vertical field of view and pixel shape."""
    width, height = _size(cameras, width, height)
    count = poses.shape[0]
    relative = (cameras.focal[:, 1] / cameras.height).median()
    if cameras.model == "orthographic":
        # Pixels per world unit say nothing of an angle: 53 degrees are shown.
        relative = torch.ones_like(relative)
    elif cameras.model != "perspective":
        # A perspective picture cannot span a fisheye's or panorama's angle: at most 90 degrees are shown.
        relative = relative.clamp(min=0.5)
    focal_y = float(relative) * height
    focal_x = focal_y * float((cameras.focal[:, 0] / cameras.focal[:, 1]).median())
    return Cameras(
        camera_to_world=poses.to(cameras.device, torch.float32).contiguous(),
        focal=torch.tensor([[focal_x, focal_y]], device=cameras.device).repeat(count, 1),
        principal=torch.tensor([[width / 2, height / 2]], device=cameras.device).repeat(count, 1),
        width=torch.full((count,), width, dtype=torch.int64, device=cameras.device),
        height=torch.full((count,), height, dtype=torch.int64, device=cameras.device),
    )
