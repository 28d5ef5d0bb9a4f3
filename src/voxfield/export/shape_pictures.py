"""Pictures of voxel shapes: contact sheets of a dataset, and what a network of rays sees beside what is traced.

Cameras stand around the grid's centre, +z up, far enough for the whole cube to be seen.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from voxfield.checks import check_range
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.rays import Rays
from voxfield.kernels.ray_box import ray_box
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.voxel_words import unpack_blocks
from voxfield.models.raynet import Raynet
from voxfield.render.image import depth_colours, side_by_side, to_uint8, write_png
from voxfield.render.video import write_gif, write_video
from voxfield.storage.shape_dataset import ShapeDataset
from voxfield.voxels.hierarchy import BlockTree

_DISTANCE: Final = 1.9
"""Of cameras from the centre, in sides of the cube."""
_MOST_PICTURES: Final = 10_000
_OTHER_FILES: Final = (".avi", ".gif", ".jpg", ".jpeg", ".mkv", ".mov", ".png", ".webm")
"""Endings of files that somebody may expect turning objects in."""
_RAYS_AT_ONCE: Final = 4096
_BLOCKS_AT_ONCE: Final = 64
_TURN_SECONDS: Final = 2.0
_LIGHT = (0.35, -0.5, 0.79)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeView:
    """A picture's worth of rays and what they met; lengths in voxels."""

    depth: Tensor
    """(H, W): from the camera to the shape; inf where there is none."""
    chord: Tensor
    """(H, W): length within the shape."""


def shape_cameras(resolution: int, views: int, size: int, elevation: float = 0.45) -> Cameras:
    """``views`` cameras evenly around a grid of ``resolution`` voxels about the origin, ``size`` pixels square.

    Args:
        resolution: voxels along each axis.
        views: how many, at least 1.
        size: pixels, 1 to 8192.
        elevation: radians above the horizon.
    """
    check_range("views", views, minimum=1, maximum=_MOST_PICTURES)
    check_range("size", size, minimum=1, maximum=8192)
    azimuth = 0.6 + torch.arange(views) * (2 * math.pi / views)
    flat, up = math.cos(elevation), torch.full((views,), math.sin(elevation))
    origins = _DISTANCE * resolution * torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), up], dim=1)
    half_angle = math.asin(math.sqrt(3) / 2 / _DISTANCE)
    return Cameras(
        camera_to_world=look_at(origins, torch.zeros(views, 3)).float(),
        focal=torch.full((views, 2), size / 2 / math.tan(half_angle)),
        principal=torch.full((views, 2), size / 2),
        width=torch.full((views,), size),
        height=torch.full((views,), size),
    )


def traced_view(words: np.ndarray, resolution: int, cameras: Cameras, i: int) -> ShapeView:
    """What camera ``i`` sees of a grid (W,), by tracing."""
    rays = cameras.image_rays(i)
    met = traverse_voxels(rays.origins + resolution / 2, rays.directions, torch.from_numpy(words), resolution)
    height, width = int(cameras.height[i]), int(cameras.width[i])
    return ShapeView(depth=met.distance.view(height, width), chord=met.chord.view(height, width))


def predicted_view(model: Raynet, tree: BlockTree, level: int, cameras: Cameras, i: int) -> ShapeView:
    """What camera ``i`` sees of an object by a network that is asked about each of its blocks of a level.

    Rays meet first what the nearest block says they do, and cross the sum of what all say.
    """
    device = next(model.parameters()).device
    rays = cameras.image_rays(i)
    depth, chord = torch.full((len(rays),), torch.inf), torch.zeros(len(rays))
    for full, corners, blocks in _pieces(tree, level):
        if full is not None:
            for corner in corners:
                near, far = ray_box(rays.origins, rays.directions, torch.stack([corner, corner + full]))
                crossed = near < far
                chord[crossed] += (far - near)[crossed]
                depth[crossed] = torch.minimum(depth[crossed], near[crossed])
            continue
        with torch.inference_mode():
            features = model.encode(blocks.to(device))
            for corner, own in zip(corners, features[:, None], strict=True):
                _ask(model, own, corner, rays, depth, chord)
    height, width = int(cameras.height[i]), int(cameras.width[i])
    return ShapeView(depth=depth.view(height, width), chord=chord.view(height, width))


def _pieces(tree: BlockTree, level: int) -> list[tuple[float | None, Tensor, Tensor]]:
    """An object as full blocks (their side, corners, nothing) and blocks of a level (None, corners, voxels)."""
    half = tree.resolution / 2
    pieces: list[tuple[float | None, Tensor, Tensor]] = []
    if level == 0:
        voxels = torch.from_numpy(unpack_blocks(tree.levels[0].words, tree.resolution)).float()[:, None]
        return [(None, torch.full((1, 3), -half), voxels)]
    for depth in range(1, level + 1):
        rows, blocks = np.flatnonzero(tree.nodes["level"] == depth), tree.levels[depth]
        nodes = tree.nodes[rows]
        whole = np.all(blocks.words == -1, axis=1)[nodes["block"]]
        empty = np.all(blocks.words == 0, axis=1)[nodes["block"]]
        corners = torch.from_numpy(np.stack([nodes[name] for name in "xyz"], 1).astype(np.float32)) - half
        # Of a full tree the children of a full block are nodes as well: each place counts once.
        if depth == level or not tree.full_tree:
            pieces.append((float(blocks.resolution), corners[torch.from_numpy(whole)], torch.empty(0)))
        if depth == level:
            mixed = np.nonzero(~whole & ~empty)[0]
            for at in range(0, len(mixed), _BLOCKS_AT_ONCE):
                some = mixed[at : at + _BLOCKS_AT_ONCE]
                cubes = unpack_blocks(tree.words_of(rows[some]), blocks.resolution)
                pieces.append((None, corners[torch.from_numpy(some)], torch.from_numpy(cubes).float()[:, None]))
    return pieces


def _ask(model: Raynet, features: Tensor, corner: Tensor, rays: Rays, depth: Tensor, chord: Tensor) -> None:
    """Add what the network says of a block at ``corner`` to ``depth`` and ``chord``."""
    device = features.device
    near, far = ray_box(rays.origins, rays.directions, torch.stack([corner, corner + model.resolution]))
    through = (near < far).nonzero()[:, 0]
    if not len(through):
        return
    # Asked from where rays enter, as in training.
    start = rays.origins[through] + near[through, None] * rays.directions[through] - corner - model.resolution / 2
    parts = model.in_parts(start[None].to(device), rays.directions[through][None].to(device), features, _RAYS_AT_ONCE)
    said = list(parts)
    hit = torch.cat([part.hit[0] for part in said]).cpu() > 0.5
    chord[through] += torch.where(hit, torch.cat([part.chord[0] for part in said]).cpu(), 0.0)
    found = near[through] + torch.cat([part.depth[0] for part in said]).cpu()
    depth[through] = torch.where(hit, torch.minimum(depth[through], found), depth[through])


def beside_truth(predicted: ShapeView, truth: ShapeView) -> Tensor:
    """Depth as traced | depth as predicted | chord as traced | chord as predicted, (H, 4 W + lines, 3) uint8."""
    seen = truth.depth[torch.isfinite(truth.depth)]
    near, far = (float(seen.min()), float(seen.max()) + 1e-3) if len(seen) else (0.0, 1.0)
    longest = float(truth.chord.max().clamp_min(1e-6))
    pictures = [depth_colours(view.depth, near=near, far=far) for view in (truth, predicted)]
    pictures += [(view.chord / longest).clamp(0, 1)[..., None].expand(-1, -1, 3) for view in (truth, predicted)]
    return side_by_side(pictures)


def write_contact_sheet(
    dataset: ShapeDataset, path: Path, *, objects: Sequence[int], columns: int = 8, size: int = 160
) -> Path:
    """Write a PNG with a picture of each of some objects and its id.

    Args:
        dataset: whose objects.
        path: the file to make.
        objects: places of the objects, at least one.
        columns: pictures in a row, at least 1.
        size: pixels of a picture, 16 to 1024.

    Returns:
        The path.
    """
    _check_pictures(objects, columns, size)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: expected a file that ends in .png.")
    return write_png(path, _sheet(dataset, objects, columns, shape_cameras(dataset.about.base_resolution, 1, size), 0))


def write_turntable(
    dataset: ShapeDataset,
    path: Path,
    *,
    objects: Sequence[int],
    columns: int = 8,
    size: int = 160,
    frames: int = 48,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Write objects of a dataset turning once in two seconds.

    Args:
        dataset: whose objects.
        path: an ``.mp4`` file of all of them side by side; or a folder, made when absent, for a ``.gif`` of each.
        objects, columns, size: see `write_contact_sheet`.
        frames: pictures of a turn, 2 to 480.
        advance: told of pictures, or objects, that are done.

    Returns:
        The files.

    Raises:
        InputError: settings out of range. MissingExtraError, UnavailableError: as `voxfield.render.video.write_video`.
    """
    _check_pictures(objects, columns, size)
    check_range("frames", frames, minimum=2, maximum=480)
    if path.suffix.lower() in _OTHER_FILES and not path.is_dir():
        raise InputError(f"{path}: expected a file that ends in .mp4, or a folder for a GIF of each object.")
    cameras = shape_cameras(dataset.about.base_resolution, frames, size)

    def drawn(some: Sequence[int], i: int) -> Tensor:
        return _sheet(dataset, some, columns, cameras, i)

    if path.suffix.lower() == ".mp4":
        write_video(path, _told(frames, lambda i: drawn(objects, i), advance), fps=frames / _TURN_SECONDS)
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for index in objects:
        file = path / f"{dataset.info(index)['object_id']}.gif"
        write_gif(file, [drawn([index], i) for i in range(frames)], seconds=_TURN_SECONDS)
        written.append(file)
        advance(1)
    return written


def _told(count: int, draw: Callable[[int], Tensor], advance: Callable[[int], None]) -> Iterator[Tensor]:
    for i in range(count):
        yield draw(i)
        advance(1)


def _check_pictures(objects: Sequence[int], columns: int, size: int) -> None:
    check_range("columns", columns, minimum=1, maximum=100)
    check_range("size", size, minimum=16, maximum=1024)
    check_range("objects", len(objects), minimum=1, maximum=_MOST_PICTURES)


def _sheet(dataset: ShapeDataset, objects: Sequence[int], columns: int, cameras: Cameras, i: int) -> Tensor:
    """Camera ``i``'s pictures of objects in rows, each with its id, uint8."""
    size = int(cameras.width[i])
    columns = min(columns, len(objects))
    rows = math.ceil(len(objects) / columns)
    sheet = torch.full((rows * size, columns * size, 3), 255, dtype=torch.uint8)
    for place, index in enumerate(objects):
        seen = _shaded(dataset.root_words(index), dataset.about.base_resolution, cameras, i)
        top, left = place // columns * size, place % columns * size
        sheet[top : top + size, left : left + size] = _labelled(seen, str(dataset.info(index)["object_id"]))
    return sheet


def _shaded(words: np.ndarray, resolution: int, cameras: Cameras, i: int) -> Tensor:
    """A lit picture (H, W, 3) in [0, 1] of a grid, on white, by camera ``i``."""
    rays = cameras.image_rays(i)
    origins = rays.origins + resolution / 2
    met = traverse_voxels(origins, rays.directions, torch.from_numpy(words), resolution, first_hit_only=True)
    light = 0.35 + 0.65 * (met.normal.float() @ torch.tensor(_LIGHT)).clamp_min(0.0)
    colour = light[:, None] * torch.tensor([0.55, 0.75, 0.8])
    picture = torch.where(met.hit[:, None], colour, 1.0)
    return picture.view(int(cameras.height[i]), int(cameras.width[i]), 3)


def _labelled(picture: Tensor, text: str) -> Tensor:
    from PIL import Image, ImageDraw

    image = Image.fromarray(to_uint8(picture).numpy())
    ImageDraw.Draw(image).text((4, 2), text[:32], fill=(60, 60, 60))
    return torch.from_numpy(np.array(image))
