"""Analytic scenes with known density and colour, rendered exactly: ground truth for tests and demonstrations.

A scene is a list of solid spheres and boxes, each of constant density (per world unit) and constant colour that does
not depend on the viewing direction. Where solids overlap densities add and colours mix by density. Along a ray the
density is then piecewise constant, so the volume rendering integral has a closed form: with sorted crossings t_0 <
t_1 < ... and density s_i, colour c_i between t_i and t_i+1,

    rgb = sum_i T_i (1 - exp(-s_i (t_i+1 - t_i))) c_i,    T_i = exp(-sum_j<i s_j (t_j+1 - t_j)).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_range
from voxfield.colour import ToneCurve
from voxfield.data.capture import SPLITS, Intrinsics, Split, digest
from voxfield.data.formats.transforms_json import lens_keys
from voxfield.data.image_store import ImageStore
from voxfield.data.posed_images import PosedImages
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.pose import SceneTransform
from voxfield.geometry.rays import Rays
from voxfield.storage.exr import write_exr


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A sphere or an axis-aligned box of constant density and colour."""

    shape: Literal["sphere", "box"]
    """Its kind."""
    centre: Vector
    """Its middle, world units."""
    size: Vector
    """Half its extent along x, y, z, above 0; a sphere's three are equal."""
    density: float
    """Extinction per world unit, at least 0."""
    colour: Vector
    """RGB, at least 0; in [0, 1] unless the pictures are linear."""

    def crossings(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """(t_in, t_out), (R,) each, for rays (R, 3); equal where a ray misses. Parts behind the origin are cut off."""
        centre, size = (origins.new_tensor(value) for value in (self.centre, self.size))
        offset = origins - centre
        if self.shape == "sphere":
            middle = -(offset * directions).sum(-1)
            # Squared distance of the ray's line to the centre, from the perpendicular part: stable for far cameras.
            apart2 = (offset + middle[:, None] * directions).square().sum(-1)
            half = (size[0] ** 2 - apart2).clamp(min=0).sqrt()
            low, high = middle - half, middle + half
        else:
            tiny = torch.finfo(origins.dtype).tiny
            safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
            first, second = (-size - offset) / safe, (size - offset) / safe
            low = torch.minimum(first, second).amax(-1)
            high = torch.maximum(first, second).amin(-1)
        low = low.clamp(min=0)
        return low, torch.maximum(high, low)

    def contains(self, points: Tensor) -> Tensor:
        """(..., 3) -> (...) bool."""
        scaled = (points - points.new_tensor(self.centre)) / points.new_tensor(self.size)
        return (scaled.norm(dim=-1) if self.shape == "sphere" else scaled.abs().amax(-1)) <= 1


class Exact(NamedTuple):
    """What the closed form gives along R rays; no background is added."""

    rgb: Tensor
    """(R, 3): colour times opacity (premultiplied)."""
    opacity: Tensor
    """(R,) in [0, 1]."""
    depth: Tensor
    """(R,): the integral of the absorbed share times distance; divide by opacity for the mean distance."""


@dataclass(frozen=True, kw_only=True)
class SyntheticScene:
    """Solids in empty space."""

    solids: tuple[Solid, ...]
    """At least 1."""

    @classmethod
    def example(cls) -> "SyntheticScene":
        """Two spheres and two boxes of different colours and densities within 1 unit of the origin; one is a haze."""
        return cls(
            solids=(
                Solid(
                    shape="sphere", centre=(0.3, 0.2, 0.1), size=(0.4, 0.4, 0.4), density=30.0, colour=(0.9, 0.2, 0.1)
                ),
                Solid(
                    shape="sphere", centre=(-0.4, -0.3, 0.2), size=(0.3, 0.3, 0.3), density=30.0, colour=(0.1, 0.4, 0.9)
                ),
                Solid(shape="box", centre=(0.0, 0.0, -0.5), size=(0.8, 0.8, 0.1), density=40.0, colour=(0.6, 0.6, 0.3)),
                Solid(shape="box", centre=(-0.3, 0.5, 0.0), size=(0.2, 0.15, 0.4), density=3.0, colour=(0.2, 0.8, 0.3)),
            )
        )

    @classmethod
    def bright_example(cls) -> "SyntheticScene":
        """The example in linear light over four decades: a lamp of 40, a sphere of 3, and solids down to 0.01."""
        light = ((40.0, 24.0, 8.0), (0.3, 1.2, 3.0), (0.05, 0.04, 0.01), (0.2, 0.8, 0.3))
        solids = (replace(solid, colour=colour) for solid, colour in zip(cls.example().solids, light, strict=True))
        return cls(solids=tuple(solids))

    def density(self, points: Tensor) -> Tensor:
        """(..., 3) world points -> (...) density per world unit."""
        total = points.new_zeros(points.shape[:-1])
        for solid in self.solids:
            total = total + solid.density * solid.contains(points)
        return total

    def colour(self, points: Tensor) -> Tensor:
        """(..., 3) world points -> (..., 3) RGB; black in empty space."""
        total = self.density(points)
        mixed = points.new_zeros(*points.shape)
        for solid in self.solids:
            share = solid.density * solid.contains(points)
            mixed = mixed + share[..., None] * points.new_tensor(solid.colour)
        return mixed / total.clamp(min=1e-12)[..., None]

    def render(self, rays: Rays) -> Exact:
        """Colour, opacity and depth along rays, exact but for float64 rounding; float32 results."""
        origins, directions = rays.origins.double(), rays.directions.double()
        spans = [solid.crossings(origins, directions) for solid in self.solids]
        edges = torch.stack([edge for span in spans for edge in span], dim=1).sort(dim=1).values
        start, end = edges[:, :-1], edges[:, 1:]
        middle = (start + end) / 2
        density = torch.zeros_like(middle)
        emission = middle.new_zeros(*middle.shape, 3)
        for solid, (low, high) in zip(self.solids, spans, strict=True):
            inside = solid.density * ((middle > low[:, None]) & (middle < high[:, None]))
            density += inside
            emission += inside[..., None] * middle.new_tensor(solid.colour)
        thickness = density * (end - start)
        passed = torch.exp(-(thickness.cumsum(1) - thickness))
        weight = passed * -torch.expm1(-thickness)
        colour = emission / density.clamp(min=1e-12)[..., None]
        # Mean distance of absorption within a segment of constant density: start + 1/s - length * e^-x / (1 - e^-x),
        # x = s * length.
        absorbed = (-torch.expm1(-thickness)).clamp(min=1e-12)
        mean = start + 1 / density.clamp(min=1e-12) - (end - start) * torch.exp(-thickness) / absorbed
        depth = torch.where(thickness > 1e-9, mean, middle)
        return Exact(
            rgb=(weight[..., None] * colour).sum(1).float(),
            opacity=weight.sum(1).clamp(max=1.0).float(),
            depth=(weight * depth).sum(1).float(),
        )

    def picture(self, cameras: Cameras, index: int) -> Tensor:
        """(H, W, 4) uint8, straight alpha: one ray through each pixel centre of camera ``index``."""
        rgba = self.linear_picture(cameras, index).clamp(0, 1)
        return (rgba * 255).round().to(torch.uint8)

    def linear_picture(self, cameras: Cameras, index: int) -> Tensor:
        """(H, W, 4) float32, straight alpha: the same without limits of range or precision."""
        exact = self.render(cameras.image_rays(index))
        straight = exact.rgb / exact.opacity.clamp(min=1e-6)[:, None]
        height, width = int(cameras.height[index]), int(cameras.width[index])
        return torch.cat([straight, exact.opacity[:, None]], dim=1).view(height, width, 4)


def cameras_around(
    count: int, *, resolution: int = 64, radius: float = 4.0, field_of_view: float = 0.7, turn: float = 0.0
) -> Cameras:
    """Cameras on the upper hemisphere that look at the origin, evenly spread by the golden angle.

    Args:
        count: number of cameras, at least 1.
        resolution: width and height in pixels.
        radius: distance from the origin, world units.
        field_of_view: full angle in radians.
        turn: rotation about +Z in radians, so that a second set does not coincide with a first.
    """
    check_range("count", count, minimum=1)
    steps = torch.arange(count, dtype=torch.float64)
    height = 0.05 + 0.85 * (steps + 0.5) / count
    azimuth = turn + steps * (math.pi * (3 - math.sqrt(5)))
    level = (1 - height * height).sqrt()
    origins = radius * torch.stack([level * azimuth.cos(), level * azimuth.sin(), height], dim=-1)
    size = torch.full((count,), resolution, dtype=torch.int64)
    return Cameras(
        camera_to_world=look_at(origins, torch.zeros_like(origins)).float(),
        focal=torch.full((count, 2), resolution / 2 / math.tan(field_of_view / 2)),
        principal=torch.full((count, 2), resolution / 2),
        width=size,
        height=size.clone(),
    )


def posed_images(
    scene: SyntheticScene | None = None,
    *,
    count: int = 16,
    resolution: int = 64,
    split: Split = "train",
    tone: ToneCurve | None = None,
) -> PosedImages:
    """A rendered capture in memory; val and test see the scene from other directions than train.

    Args:
        scene: what to render, by default ``SyntheticScene.example()``; it should lie within 1 unit of the origin.
        count, resolution: number of pictures and their width and height.
        split: which views.
        tone: keeps the scene's colours as linear light, in float16, exposed like this; None makes sRGB pictures.
    """
    check_choice("split", split, SPLITS)
    scene = scene or SyntheticScene.example()
    cameras = cameras_around(count, resolution=resolution, turn=float(SPLITS.index(split)))
    names = tuple(f"./{split}/r_{index}" for index in range(count))
    if tone is None:
        pictures = [scene.picture(cameras, index) for index in range(count)]
    else:
        pictures = [scene.linear_picture(cameras, index).half() for index in range(count)]
    content = digest(*(picture.numpy().tobytes() for picture in pictures))
    return PosedImages(
        cameras=cameras,
        images=ImageStore.from_tensors(pictures, names=names, dtype=pictures[0].dtype),
        names=names,
        split=split,
        bounds=Bounds.from_cube(1.0),
        unbounded=False,
        near=0.05,
        transform=SceneTransform.identity(),
        skipped=(),
        source={"format": "synthetic", "path": "synthetic", "downscale": 1, "hash": content},
        has_alpha=True,
        has_masks=False,
        tone=tone,
    )


def write_blender(folder: Path, splits: Sequence[PosedImages]) -> None:
    """Write splits as a NeRF-synthetic capture: ``transforms_<split>.json`` and ``<split>/r_<i>.png``, ``.exr`` where
    linear.

    Cameras must share one size and focal length. Existing files of the same names are replaced.
    """
    for split in splits:
        frames = []
        for index in range(len(split)):
            name = f"./{split.split}/r_{index}"
            ending = "exr" if split.images.linear else "png"
            _write_picture(folder / f"{name}.{ending}", split.images.read(index))
            frames.append({"file_path": name, "transform_matrix": _pose_rows(split.cameras, index)})
        angle = 2 * math.atan(float(split.cameras.width[0]) / 2 / float(split.cameras.focal[0, 0]))
        _write_json(folder / f"transforms_{split.split}.json", {"camera_angle_x": angle, "frames": frames})


def write_nerfstudio(folder: Path, split: PosedImages, **keys: object) -> None:
    """Write one split as a nerfstudio capture: ``transforms.json`` and ``images/<i>.png``, or ``.exr`` where linear.

    Args:
        folder: where; made if need be.
        split: pictures and cameras, which must share one size and lens.
        keys: further entries of the file, e.g. ``aabb_scale=4``.
    """
    cameras = split.cameras
    frames = []
    for index in range(len(split)):
        name = f"images/{index:04d}.{'exr' if split.images.linear else 'png'}"
        _write_picture(folder / name, split.images.read(index))
        frames.append({"file_path": name, "transform_matrix": _pose_rows(cameras, index)})
    size = int(cameras.width[0]), int(cameras.height[0])
    fx, fy = cameras.focal[0].tolist()
    cx, cy = cameras.principal[0].tolist()
    distortion = [0.0] * 6 if cameras.distortion is None else cameras.distortion[0].tolist()
    lens = Intrinsics(
        size=size,
        focal=(fx, fy),
        angle=(None, None),
        principal=(cx, cy),
        distortion=tuple(distortion),
        model=cameras.model,
    )
    _write_json(folder / "transforms.json", {**lens_keys(lens, size), **keys, "frames": frames})


def _pose_rows(cameras: Cameras, index: int) -> list[list[float]]:
    return [*cameras.camera_to_world[index].tolist(), [0.0, 0.0, 0.0, 1.0]]


def _write_picture(path: Path, picture: Tensor) -> None:
    if picture.is_floating_point():
        colour, alpha = picture[..., :3].float(), picture[..., 3:].float()
        planes = torch.cat([colour * alpha, alpha], dim=-1).unbind(-1)
        write_exr(path, {name: plane.numpy() for name, plane in zip("RGBA", planes, strict=True)})
        return
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.numpy()).save(path, compress_level=1)


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
