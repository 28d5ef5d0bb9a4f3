"""Surfaces from what a field's depth looks like from many sides: truncated signed distances (Curless and Levoy 1996,
https://doi.org/10.1145/237170.237269).

Each camera says of a point before or just behind what it sees there how far that is; the mean over the cameras is 0
on the surface. Distances are counted along rays, in units of the truncation, and clipped to 1. Points further behind
what a camera sees are out of its sight, and it says nothing of them.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.camera import Cameras
from voxfield.models.base import Model
from voxfield.voxels.isosurface import Isosurface, SurfaceMethod, isosurface

MOST_VIEWS: Final = 64
"""Cameras whose depth is looked at, evenly chosen."""
BLOCK: Final = 8
"""Nodes along a side of the blocks that are looked into, or not."""
TRUNCATION: Final = 3.0
"""In steps of the grid."""
_BLOCKS_AT_ONCE: Final = 512

Advance = Callable[[int], None]
"""Told how much more was done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthView:
    """What one camera sees."""

    camera: Cameras
    """Of length 1, as large as its picture."""
    distance: torch.Tensor
    """(H, W) float32, world units along rays; infinite where nothing is met."""


def views_of(model: Model, cameras: Cameras, pixels: int, advance: Advance) -> list[DepthView]:
    """The depth that ``model`` shows ``cameras``, on their device; the longer sides have about ``pixels``.

    Args:
        model: renders.
        cameras: at most ``MOST_VIEWS`` of them, evenly chosen, are looked through.
        pixels: never more than the cameras have.
        advance: told of every view.
    """
    views = []
    background = torch.zeros(3, device=cameras.device)
    for i in chosen_views(len(cameras)):
        camera = cameras[i]
        camera = camera.rescaled(min(1.0, pixels / int(max(camera.width[0], camera.height[0]))))
        seen = model.render_image(camera, 0, background=background)
        distance = torch.where(seen["opacity"] > 0.5, seen["depth"], torch.inf)
        views.append(DepthView(camera=camera, distance=distance.to(cameras.device)))
        advance(1)
    return views


def chosen_views(count: int) -> list[int]:
    """Which of ``count`` cameras are looked through."""
    return [int(i) for i in torch.linspace(0, count - 1, min(MOST_VIEWS, count)).round()]


@torch.no_grad()
def fused(
    views: Sequence[DepthView],
    bounds: Bounds,
    nodes: tuple[int, int, int],
    advance: Advance,
    method: SurfaceMethod = "marching_cubes",
) -> Isosurface:
    """The surface that ``views`` agree on, in steps of a grid with ``nodes`` along x, y, z of ``bounds``.

    Only blocks of the grid that depths fall into, and their neighbours, are looked into; the others are free or unseen
    as their middles are. Where the surface would part what was seen from what no camera saw, it is left open.

    Args:
        views: at least one.
        bounds: the box.
        nodes: of the grid, ends included.
        advance: told of blocks done, of ``block_count(nodes)``.
        method: see `voxfield.voxels.isosurface.isosurface`.

    Raises:
        InputError: no view sees anything in the box.
    """
    device = views[0].distance.device
    low = torch.tensor(bounds.minimum, device=device)
    step = torch.tensor(bounds.size, device=device) / (torch.tensor(nodes, device=device) - 1)
    across = _blocks(nodes)
    busy = _near_depths(views, low, step, across)
    if not busy.any():
        raise InputError("No training camera sees a surface in the region of interest. Train the run longer.")
    reach = TRUNCATION * float(step.max())
    shape = tuple(BLOCK * count for count in reversed(across))
    values, seen = np.empty(shape, np.float32), np.empty(shape, bool)
    index = torch.stack(torch.meshgrid(*(torch.arange(count) for count in reversed(across)), indexing="ij"), -1)
    index = index.reshape(-1, 3).to(device)
    middle, known = _mean_distance(views, low + (index.flip(1) + 0.5) * BLOCK * step, reach)
    by_block = values.reshape(across[2], BLOCK, across[1], BLOCK, across[0], BLOCK)
    seen_block = seen.reshape(by_block.shape)
    sides = (across[2], 1, across[1], 1, across[0], 1)
    by_block[:] = middle.view(sides).cpu().numpy()
    seen_block[:] = known.view(sides).cpu().numpy()
    inner = torch.stack(torch.meshgrid(*[torch.arange(BLOCK, device=device)] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    quiet = len(index) - int(busy.sum())
    advance(quiet)
    for some in index[busy.flatten()].split(_BLOCKS_AT_ONCE):
        places = (some[:, None] * BLOCK + inner).reshape(-1, 3)
        mean, known = _mean_distance(views, low + places.flip(1) * step, reach)
        z, y, x = places.cpu().numpy().T
        values[z, y, x], seen[z, y, x] = mean.cpu().numpy(), known.cpu().numpy()
        advance(len(some))
    width, height, depth = nodes
    found = isosurface(-values[:depth, :height, :width], 0.0, method=method)
    return _where_seen(found, seen[:depth, :height, :width])


def block_count(nodes: tuple[int, int, int]) -> int:
    """Blocks of a grid with ``nodes`` along x, y, z."""
    x, y, z = _blocks(nodes)
    return x * y * z


def _blocks(nodes: tuple[int, int, int]) -> tuple[int, int, int]:
    x, y, z = (-(-count // BLOCK) for count in nodes)
    return x, y, z


def _near_depths(
    views: Sequence[DepthView], low: torch.Tensor, step: torch.Tensor, across: tuple[int, int, int]
) -> torch.Tensor:
    """(D, H, W) bool: blocks that a depth falls into, and those around them."""
    width, height, depth = across
    busy = torch.zeros(depth, height, width, device=low.device)
    size = torch.tensor(across, device=low.device)
    for view in views:
        rays = view.camera.image_rays(0)
        distance = view.distance.flatten()
        met = distance.isfinite()
        points = rays.origins[met] + distance[met, None] * rays.directions[met]
        block = ((points - low) / (step * BLOCK)).floor().long()
        x, y, z = block[((block >= 0) & (block < size)).all(1)].unbind(1)
        busy[z, y, x] = 1.0
    return torch.nn.functional.max_pool3d(busy[None, None], 3, stride=1, padding=1)[0, 0] > 0


def _mean_distance(views: Sequence[DepthView], points: torch.Tensor, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean truncated distance (N,) in [-1, 1] of ``points`` (N, 3), above 0 before surfaces, and which any view saw.

    Points that none saw count as matter, -1.
    """
    total, times = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
    zero = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for view in views:
        pixels, ahead = view.camera.project(zero, points)
        height, width = view.distance.shape
        inside = (pixels >= 0).all(1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        if view.camera.model == "perspective":
            inside &= ahead > 0
        most = torch.tensor([width - 1, height - 1], device=points.device)
        column, row = pixels.nan_to_num().clamp(min=0).long().minimum(most).unbind(1)
        before = view.distance[row, column] - (points - view.camera.origins[0]).norm(dim=1)
        counts = inside & (before > -reach)
        total += torch.where(counts, (before / reach).clamp(max=1.0), 0.0)
        times += counts
    seen = times > 0
    return torch.where(seen, total / times.clamp(min=1), -1.0), seen


def _where_seen(surface: Isosurface, seen: np.ndarray) -> Isosurface:
    """The part of ``surface`` that lies between nodes which were ``seen`` (D, H, W): of the edge or the cell that a
    vertex is in.
    """
    most = np.array(seen.shape[::-1]) - 1
    ends = [np.clip(end(surface.vertices), 0, most).astype(np.int64).T for end in (np.floor, np.ceil)]
    all_of = np.ones(len(surface.vertices), bool)
    for of_x, of_y, of_z in itertools.product((0, 1), repeat=3):
        all_of &= seen[ends[of_z][2], ends[of_y][1], ends[of_x][0]]
    faces = surface.faces[all_of[surface.faces].all(1)]
    used, compact = np.unique(faces, return_inverse=True)
    return Isosurface(
        vertices=surface.vertices[used], normals=surface.normals[used], faces=compact.reshape(-1, 3).astype(np.int64)
    )
