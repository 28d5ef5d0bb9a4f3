"""Trained fields as surfaces: triangle meshes and point clouds, coloured, with normals.

A mesh is the isosurface of opacity (of how much of the light a voxel stops, 1 - exp(-density * side)), or what the
depth that training cameras see agrees on. Its vertices, or the texels on it, have the colours that the training cameras
which face them most, and have them in sight, see there. A point cloud is where the rays of training cameras end.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.export.depth_fusion import block_count, chosen_views, fused, views_of
from voxfield.export.seen_colours import Obstacles, in_sight, seen_colours
from voxfield.export.textures import (
    Layout,
    check_texture_size,
    fitting_triangles,
    laid_out,
    painted,
    require_xatlas,
    texels_of,
    texture_capacity,
)
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.geometry.pose import SceneTransform
from voxfield.models.base import Model
from voxfield.models.point_fields import PointField, point_field
from voxfield.storage.surface_files import ColouredSurface, Texture, write_surface
from voxfield.voxels.decimation import decimated
from voxfield.voxels.isosurface import Isosurface, SurfaceMethod, connected_parts, isosurface

POINTS_AT_ONCE: Final = 1 << 18
"""Points that the field is asked about together: bounds the memory."""
RAYS_AT_ONCE: Final = 1 << 13
"""Rays of a point cloud that are looked along together."""
TEXTURED_TRIANGLES: Final = 200_000
"""Triangles of a mesh with a texture, unless told otherwise, or as many as have some ten texels each."""

RINGS: Final = 10
"""Triangles around those in sight that a textured mesh keeps: cells of obstacles hide more than they should."""

MeshSource = Literal["density", "depth"]
"""What a mesh is made from: the field's density in space, or the depth that its renderings show."""
Shown = Callable[[torch.Tensor], torch.Tensor]
"""From the model's colours to sRGB in [0, 1]."""


class Advancing(Protocol):
    """A stage of work that is going on."""

    def advance(self, count: int = 1, /) -> None:
        """Told how much more was done."""


Stages = Callable[[str, int, str], AbstractContextManager[Advancing]]
"""Called at the start of each stage with what is done, how many pieces it has, and what these are called."""


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How a field becomes a mesh."""

    resolution: int = 256
    """Voxels along the longest side of the region of interest, 8 to 768."""
    source: MeshSource = "density"
    """What the surface is found in."""
    method: SurfaceMethod = "marching_cubes"
    """How it is found: ``dual_contouring`` keeps the edges and corners that ``marching_cubes`` bevels."""
    opacity: float = 0.5
    """Of a density: the surface is where a voxel stops this much of the light, above 0 and below 1."""
    min_part: float = 0.0
    """Connected parts with less than this share of all triangles are left out, 0 to 1: 0.01 drops specks in the air."""
    triangles: int | None = None
    """At most so many, 4 to 50 million; None: as many as are found, of textured ones ``TEXTURED_TRIANGLES``, or fewer
    if not so many fit."""
    texture: int | None = None
    """Texels along a side of a texture, 64 to 8192; None: coloured vertices. A textured mesh has no parts that no
    camera sees: they would take most of it where a field has matter all through."""

    def __post_init__(self) -> None:
        check_range("resolution", self.resolution, minimum=8, maximum=768)
        check_choice("source", self.source, get_args(MeshSource))
        check_choice("method", self.method, get_args(SurfaceMethod))
        check_range("opacity", self.opacity, above=0.0, maximum=0.9999)
        check_range("min_part", self.min_part, minimum=0.0, maximum=1.0)
        if self.texture is not None:
            check_texture_size(self.texture)
        if self.triangles is not None:
            most = 50_000_000 if self.texture is None else texture_capacity(self.texture)
            check_range(
                "triangles" + (" of a textured mesh" if self.texture else ""), self.triangles, minimum=4, maximum=most
            )

    @property
    def most_triangles(self) -> int | None:
        """How many the mesh may have; None: any number."""
        if self.texture is None or self.triangles is not None:
            return self.triangles
        return min(TEXTURED_TRIANGLES, fitting_triangles(self.texture))

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
    beside: tuple[Path, ...]
    """Files with its texture, if any."""
    vertices: int
    """Or points."""
    faces: int
    """Triangles; 0 of a point cloud."""
    bytes: int
    """Size of all files."""


@torch.no_grad()
def mesh_of(
    model: Model,
    bounds: Bounds,
    cameras: Cameras,
    *,
    config: MeshConfig,
    shown: Shown = lambda colours: colours.clamp(0, 1),
    stages: Stages | None = None,
) -> ColouredSurface:
    """The mesh of a field, in world units.

    Args:
        model: see `voxfield.models.point_fields.point_field`.
        bounds: the box that is looked at; surfaces that reach its sides are closed there.
        cameras: training cameras, on the model's device; at least one.
        config: how.
        shown: makes the model's colours sRGB.
        stages: told of the work.

    Raises:
        InputError: the field is of no box in the world, has no surface in it, or one that cannot do with so few
            triangles. MissingExtraError: a texture is asked for and xatlas is missing.
    """
    if config.texture:
        require_xatlas()
    stages = stages or (lambda *_: nullcontext(_Unheard()))
    nodes = config.nodes(bounds)
    low = torch.tensor(bounds.minimum)
    step = torch.tensor(bounds.size) / (torch.tensor(nodes) - 1)
    voxel = float(step.min())
    field = point_field(model, voxel)
    if config.source == "density":
        found = _of_density(field, low, step, nodes, cameras.device, config, stages)
    else:
        found = _of_depth(model, cameras, bounds, nodes, config, stages)
    vertices, normals, faces = found.vertices, found.normals, found.faces
    if config.min_part > 0:
        vertices, normals, faces = _large_parts(vertices, normals, faces, config.min_part)
    places = (low + torch.from_numpy(vertices) * step).numpy()
    # Normals turn the other way as places are stretched.
    facing = torch.nn.functional.normalize(torch.from_numpy(normals) / step, dim=1).numpy()
    obstacles = Obstacles.of(torch.from_numpy(places), bounds, float(step.max()), cameras.device)
    if config.texture is not None:
        with stages("Looking for what is in sight", len(places), "vertices") as stage:
            seen = in_sight(
                torch.from_numpy(places),
                torch.from_numpy(facing),
                cameras,
                obstacles=obstacles,
                advance=stage.advance,
            )
        faces, (places, facing) = _around(faces, seen.numpy(), places, facing)
    if config.most_triangles is not None and len(faces) > config.most_triangles:
        with stages("Leaving triangles out", 1, "meshes") as stage:
            places, faces = decimated(places, faces, config.most_triangles)
            facing = _vertex_normals(places, faces)
            stage.advance(1)

    def colours_at(points: np.ndarray, towards: np.ndarray, what: str) -> np.ndarray:
        with stages("Looking from the cameras", len(points), what) as stage:
            found = seen_colours(
                model,
                field,
                torch.from_numpy(points),
                torch.from_numpy(towards),
                cameras,
                obstacles=obstacles,
                voxel=voxel,
                advance=stage.advance,
            )
        return shown(found).numpy().astype(np.float32)

    if config.texture is None:
        colours = colours_at(places, facing, "vertices")
        return ColouredSurface(vertices=places, normals=facing, colours=colours, faces=faces)
    with stages("Laying the surface out", 1, "meshes") as stage:
        layout = laid_out(places, faces, config.texture)
        stage.advance(1)
    return _textured(layout, places, facing, config.texture, colours_at)


class _Unheard:
    """A stage nobody listens to."""

    def advance(self, count: int = 1, /) -> None:
        """Nothing."""


def _of_density(
    field: PointField,
    low: torch.Tensor,
    step: torch.Tensor,
    nodes: tuple[int, int, int],
    device: torch.device,
    config: MeshConfig,
    stages: Stages,
) -> Isosurface:
    """Where a voxel stops ``config.opacity`` of the light."""
    with stages("Sampling the field", nodes[2], "layers") as stage:
        opacity = sampled_opacity(field, low, step, nodes, device, stage.advance)
    found = isosurface(opacity, config.opacity, method=config.method)
    if not len(found.faces):
        most = float(opacity.max())
        raise InputError(
            f"The field has no surface in its region of interest: no voxel stops {config.opacity:g} of the light, the "
            f"most is {most:.3g}. Train it longer" + (", or ask for less opacity (--opacity)." if most > 0 else ".")
        )
    return found


def _of_depth(
    model: Model,
    cameras: Cameras,
    bounds: Bounds,
    nodes: tuple[int, int, int],
    config: MeshConfig,
    stages: Stages,
) -> Isosurface:
    """Where the training cameras see surfaces, in pictures about as fine as the grid."""
    with stages("Rendering depth", len(chosen_views(len(cameras))), "views") as stage:
        views = views_of(model, cameras, config.resolution, stage.advance)
    with stages("Fusing depth", block_count(nodes), "blocks") as stage:
        found = fused(views, bounds, nodes, stage.advance, config.method)
    if not len(found.faces):
        raise InputError("The training cameras see no surface in the region of interest. Train the run longer.")
    return found


def _textured(
    layout: Layout,
    vertices: np.ndarray,
    normals: np.ndarray,
    size: int,
    colours_at: Callable[[np.ndarray, np.ndarray, str], np.ndarray],
) -> ColouredSurface:
    """The surface with a texture of ``size``: its vertices, twice where charts part, have the texture's mean colour."""
    texels = texels_of(layout, size)
    corners = layout.source[layout.faces[texels.face]]
    places = (vertices[corners] * texels.weights[:, :, None]).sum(1)
    towards = (normals[corners] * texels.weights[:, :, None]).sum(1)
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-12)
    colours = colours_at(places.astype(np.float32), towards.astype(np.float32), "texels")
    picture = painted(texels, colours, size)
    mean = colours.mean(0) if len(colours) else np.zeros(3, np.float32)
    return ColouredSurface(
        vertices=vertices[layout.source],
        normals=normals[layout.source],
        colours=np.tile(mean.astype(np.float32), (len(layout.source), 1)),
        faces=layout.faces,
        texture=Texture(coordinates=layout.coordinates, picture=picture),
    )


def _around(faces: np.ndarray, seen: np.ndarray, *of_vertices: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The triangles within ``RINGS`` of vertices that are ``seen`` (V,), and what remains ``of_vertices`` (V, ...).

    Whole, if nothing is seen.
    """
    if not seen.any():
        return faces, of_vertices
    for _ in range(RINGS):
        kept = seen[faces].any(1)
        seen = seen.copy()
        seen[faces[kept]] = True
    used, compact = np.unique(faces[kept], return_inverse=True)
    return compact.reshape(-1, 3).astype(np.int64), tuple(values[used] for values in of_vertices)


def _vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit means of the normals of triangles around each vertex, by area; 0 where these cancel out."""
    corners = vertices[faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros((len(vertices), 3))
    for corner in range(3):
        np.add.at(total, faces[:, corner], normal)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.divide(total, length, out=np.zeros_like(total), where=length > 0).astype(np.float32)


def sampled_opacity(
    field: PointField,
    low: torch.Tensor,
    step: torch.Tensor,
    nodes: tuple[int, int, int],
    device: torch.device,
    told: Callable[[int], None],
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
    advance: Callable[[int], None] | None = None,
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
                "Train it longer" + (", or ask for less opacity (--min-opacity)." if config.min_opacity > 0.5 else ".")
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
    files = write_surface(path, moved)
    return SurfaceExport(
        file=files[0],
        beside=tuple(files[1:]),
        vertices=len(surface.vertices),
        faces=len(surface.faces),
        bytes=sum(file.stat().st_size for file in files),
    )


def _large_parts(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What remains without connected parts that have less than ``share`` of all triangles; the largest always stays."""
    part = connected_parts(faces, len(vertices))
    triangles = np.bincount(part[faces[:, 0]], minlength=len(vertices))
    kept = triangles[part] >= min(share * len(faces), triangles.max())
    number = np.cumsum(kept) - 1
    return vertices[kept], normals[kept], number[faces[kept[faces[:, 0]]]]


def _falling(field: PointField, points: torch.Tensor, reach: float) -> torch.Tensor:
    """Unit directions (N, 3) in which the opacity around ``points`` (N, 3) falls; 0 where it is even."""
    offsets = torch.cat([torch.eye(3), -torch.eye(3)]).to(points) * reach
    density = field.density((points[:, None] + offsets).reshape(-1, 3)).view(-1, 6)
    opacity = 1 - torch.exp(-density * reach)
    return torch.nn.functional.normalize(opacity[:, 3:] - opacity[:, :3], dim=1)
