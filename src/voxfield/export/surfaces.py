"""Trained fields as surfaces: triangle meshes and point clouds, coloured, with normals.

A mesh is the isosurface of opacity: of how much of the light a voxel stops, 1 - exp(-density * side). Its vertices have
the colours that the training cameras which face them most see there. A point cloud is where the rays of training
cameras end.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.models.base import Model
from voxfield.models.point_fields import PointField, point_field
from voxfield.storage.surface_files import ColouredSurface, write_surface
from voxfield.voxels.isosurface import connected_parts, isosurface

POINTS_AT_ONCE: Final = 1 << 18
"""Points that the field is asked about together: bounds the memory."""
RAYS_AT_ONCE: Final = 1 << 13
"""Rays of a point cloud that are looked along together."""
MOST_CAMERAS: Final = 64
"""Cameras from whose sides vertices may be seen, evenly chosen among the training cameras."""
SIDES: Final = 4
"""Of these, how many that face a vertex most its colour comes from."""

Advance = Callable[[int], None]
"""Told how much more was done."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How a field becomes a mesh."""

    resolution: int = 256
    """Voxels along the longest side of the region of interest, 8 to 768."""
    opacity: float = 0.5
    """The surface is where a voxel stops this much of the light, above 0 and below 1."""
    min_part: float = 0.0
    """Connected parts with less than this share of all triangles are left out, 0 to 1: 0.01 drops specks in the air."""

    def __post_init__(self) -> None:
        check_range("resolution", self.resolution, minimum=8, maximum=768)
        check_range("opacity", self.opacity, above=0.0, maximum=0.9999)
        check_range("min_part", self.min_part, minimum=0.0, maximum=1.0)

    def nodes(self, bounds: Bounds) -> tuple[int, int, int]:
        """Nodes of the grid along x, y, z of ``bounds``, ends included."""
        longest = max(bounds.size)
        x, y, z = (max(2, round(self.resolution * side / longest)) + 1 for side in bounds.size)
        return x, y, z


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """How a field becomes points."""

    points: int = 1_000_000
    """How many, 1 to 50 million."""
    min_opacity: float = 0.5
    """Rays of which no more than this is stopped end nowhere, 0.5 to 0.999."""

    def __post_init__(self) -> None:
        check_range("points", self.points, minimum=1, maximum=50_000_000)
        # Models say where a ray ends only where it is half stopped.
        check_range("min_opacity", self.min_opacity, minimum=0.5, maximum=0.999)


@dataclass(frozen=True, kw_only=True)
class SurfaceExport:
    """What was written."""

    file: Path
    vertices: int
    """Or points."""
    faces: int
    """Triangles; 0 of a point cloud."""
    bytes: int
    """Size of the file."""


@torch.no_grad()
def mesh_of(
    model: Model,
    bounds: Bounds,
    origins: torch.Tensor,
    *,
    config: MeshConfig,
    advance: Advance | None = None,
) -> ColouredSurface:
    """The mesh of a field, in world units; colours are the model's, of linear captures exposed linear light.

    Args:
        model: see `voxfield.models.point_fields.point_field`.
        bounds: the box that is looked at; surfaces that reach its sides are closed there.
        origins: (C, 3): where training cameras stand, world units, on the model's device; at least one.
        config: how.
        advance: told of every layer (``config.nodes(bounds)[2]``) that is sampled.

    Raises:
        InputError: the field is of no box in the world, or has no surface in it.
    """
    nodes = config.nodes(bounds)
    low = torch.tensor(bounds.minimum)
    step = torch.tensor(bounds.size) / (torch.tensor(nodes) - 1)
    field = point_field(model, float(step.min()))
    opacity = sampled_opacity(field, low, step, nodes, origins.device, advance or (lambda _: None))
    found = isosurface(opacity, config.opacity)
    if not len(found.faces):
        most = float(opacity.max())
        raise InputError(
            f"The field has no surface in its region of interest: no voxel stops {config.opacity:g} of the light, the "
            f"most is {most:.3g}. Train it longer" + (", or ask for less opacity." if most > 0 else ".")
        )
    vertices, normals, faces = found.vertices, found.normals, found.faces
    if config.min_part > 0:
        vertices, normals, faces = _large_parts(vertices, normals, faces, config.min_part)
    places = low + torch.from_numpy(vertices) * step
    # Normals turn the other way as places are stretched.
    facing = torch.nn.functional.normalize(torch.from_numpy(normals) / step, dim=1)
    colours = _seen_from_cameras(field, places, facing, origins, float(step.min()))
    return ColouredSurface(vertices=places.numpy(), normals=facing.numpy(), colours=colours.numpy(), faces=faces)


def sampled_opacity(
    field: PointField,
    low: torch.Tensor,
    step: torch.Tensor,
    nodes: tuple[int, int, int],
    device: torch.device,
    told: Advance,
) -> np.ndarray:
    """(D, H, W) float32 in [0, 1): how much of the light a voxel of side ``min(step)`` around each node stops."""
    width, height, depth = nodes
    x, y = (low[axis] + torch.arange(nodes[axis]) * step[axis] for axis in (0, 1))
    plane = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.zeros(width * height)], dim=1).to(device)
    found = np.empty((depth, height, width), np.float32)
    for layer in range(depth):
        plane[:, 2] = float(low[2] + layer * step[2])
        density = torch.cat([field.density(some) for some in plane.split(POINTS_AT_ONCE)])
        found[layer] = (1 - torch.exp(-density * float(step.min()))).view(height, width).cpu().numpy()
        told(1)
    return found


@torch.no_grad()
def cloud_of(
    model: Model,
    bounds: Bounds,
    cameras: Cameras,
    *,
    config: CloudConfig,
    generator: torch.Generator,
    advance: Advance | None = None,
) -> ColouredSurface:
    """Points where rays through random pixels of ``cameras`` end, in world units, with the colours seen along them.

    Args:
        model: see `voxfield.models.point_fields.point_field`.
        bounds: points outside are left out.
        cameras: where to look from, on the model's device; at least one.
        config: how.
        generator: of the pixels, on the CPU.
        advance: told of every point found.

    Returns:
        ``config.points`` points, normals towards where density falls, turned to the camera; colours are the model's.

    Raises:
        InputError: the field is of no box in the world, or hardly any ray ends in the box.
    """
    field = point_field(model, max(bounds.size) / 512)
    reach = max(bounds.size) / 512
    box = bounds.tensor(cameras.device)
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    count, looked = 0, 0
    while count < config.points:
        if looked >= 20 * config.points + 8 * RAYS_AT_ONCE:
            raise InputError(
                f"The field stops hardly any ray in its region of interest: of {looked:,}, {count:,} ended there. "
                "Train it longer, or ask for less opacity."
            )
        index = torch.randint(len(cameras), (RAYS_AT_ONCE,), generator=generator).to(cameras.device)
        size = torch.stack([cameras.width[index], cameras.height[index]], dim=1)
        pixels = (torch.rand(RAYS_AT_ONCE, 2, generator=generator).to(cameras.device) * size).floor() + 0.5
        rays = cameras.rays(index, pixels)
        seen = model.render_rays(rays, background=torch.zeros(3, device=cameras.device))
        looked += RAYS_AT_ONCE
        points = rays.origins + seen["depth"][:, None] * rays.directions
        ends = (seen["opacity"] > config.min_opacity) & ((points >= box[0]) & (points < box[1])).all(1)
        ends = ends.nonzero()[: config.points - count, 0]
        normals = _falling(field, points[ends], reach)
        normals = torch.where((normals * rays.directions[ends]).sum(1, keepdim=True) > 0, -normals, normals)
        # What shines through where rays are not stopped entirely is no part of the colour.
        colours = seen["rgb"][ends] / seen["opacity"][ends, None]
        parts.append((points[ends].cpu(), normals.cpu(), colours.cpu()))
        count += len(ends)
        (advance or (lambda _: None))(len(ends))
    vertices, facing, seen_there = (torch.cat(some).numpy() for some in zip(*parts, strict=True))
    return ColouredSurface(vertices=vertices, normals=facing, colours=seen_there, faces=np.zeros((0, 3), np.int64))


def write_surface_of(path: str | os.PathLike[str], surface: ColouredSurface, to_world: SceneTransform) -> SurfaceExport:
    """Write ``surface``, of the world, in the coordinates that ``to_world`` takes to it; colours are sRGB.

    Raises:
        InputError: as `write_surface`.
    """
    back = to_world.inverse()
    turn = (back.matrix[:3, :3] / back.scale).numpy()
    moved = replace(
        surface,
        vertices=back.apply_points(torch.from_numpy(surface.vertices)).numpy(),
        normals=(surface.normals @ turn.T).astype(np.float32),
    )
    file = write_surface(path, moved)
    return SurfaceExport(file=file, vertices=len(surface.vertices), faces=len(surface.faces), bytes=file.stat().st_size)


def _large_parts(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What remains without connected parts that have less than ``share`` of all triangles; the largest always stays."""
    part = connected_parts(faces, len(vertices))
    triangles = np.bincount(part[faces[:, 0]], minlength=len(vertices))
    kept = triangles[part] >= min(share * len(faces), triangles.max())
    number = np.cumsum(kept) - 1
    return vertices[kept], normals[kept], number[faces[kept[faces[:, 0]]]]


def _seen_from_cameras(
    field: PointField, points: torch.Tensor, normals: torch.Tensor, origins: torch.Tensor, side_length: float
) -> torch.Tensor:
    """Colours (N, 3), on the CPU, of ``points`` (N, 3) with ``normals`` (N, 3), of the cameras that face them most.

    Each counts by the cosine of the angle at which it sees the surface, of voxels of ``side_length``. What stands
    between is not looked at.
    """
    at = torch.linspace(0, len(origins) - 1, min(MOST_CAMERAS, len(origins))).round().long()
    chosen = origins[at.to(origins.device)]
    found = []
    for place, normal in zip(points.split(POINTS_AT_ONCE // 8), normals.split(POINTS_AT_ONCE // 8), strict=True):
        place, normal = place.to(chosen.device), normal.to(chosen.device)
        away = torch.nn.functional.normalize(place[:, None] - chosen, dim=2)
        facing = -(away * normal[:, None]).sum(2)
        cosine, which = facing.topk(min(SIDES, len(chosen)), dim=1)
        # Cameras behind the surface count hardly, unless there are no others.
        weight = cosine.clamp(min=1e-3)
        colour = torch.zeros_like(place)
        for side in range(which.shape[1]):
            towards = away[torch.arange(len(place), device=place.device), which[:, side]]
            colour += weight[:, side, None] * _through_the_surface(field, place, towards, side_length)
        found.append((colour / weight.sum(1, keepdim=True)).cpu())
    return torch.cat(found)


def _through_the_surface(
    field: PointField, points: torch.Tensor, directions: torch.Tensor, side_length: float
) -> torch.Tensor:
    """Colours (N, 3) that rays along ``directions`` (N, 3) gather from a voxel before ``points`` (N, 3) to two behind.

    What is just outside the matter has hardly a say in renderings, so training taught it no colour.
    """
    half = side_length / 2
    passing = torch.ones_like(points[:, :1])
    colour, total = torch.zeros_like(points), torch.zeros_like(passing)
    for step in range(-2, 5):
        at = points + step * half * directions
        opacity = 1 - torch.exp(-field.density(at)[:, None] * half)
        # Where nothing is met at all, the point itself decides.
        weight = passing * opacity + (1e-6 if step == 0 else 0.0)
        colour += weight * field.colours(at, directions)
        total += weight
        passing = passing * (1 - opacity)
    return colour / total


def _falling(field: PointField, points: torch.Tensor, reach: float) -> torch.Tensor:
    """Unit directions (N, 3) in which the opacity around ``points`` (N, 3) falls; 0 where it is even."""
    offsets = torch.cat([torch.eye(3), -torch.eye(3)]).to(points) * reach
    density = field.density((points[:, None] + offsets).reshape(-1, 3)).view(-1, 6)
    opacity = 1 - torch.exp(-density * reach)
    return torch.nn.functional.normalize(opacity[:, 3:] - opacity[:, :3], dim=1)
