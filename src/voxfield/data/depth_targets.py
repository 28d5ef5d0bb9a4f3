"""Observed distances for training: from depth images beside the photographs, or from a reconstruction's sparse points.

Distances t of this package run along unit directions. A depth z along the optical axis f becomes, along a direction d,

    t = z / (d . f)

which for parallel (orthographic) rays is z itself. Depth images are looked up at the pixels of the batch's own rays.
Sparse points are too few for that: rays are cast to them besides, through where the picture found them, surer points
more often. Source of both: Deng et al. 2022, Depth-supervised NeRF, https://arxiv.org/abs/2107.02791.
"""

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from voxfield.data.batches import Batches
from voxfield.data.capture import DepthOptions
from voxfield.data.decode import read_depth, read_depth_array
from voxfield.data.posed_images import DepthImages, PosedImages
from voxfield.data.ray_batches import DepthTargets, RayBatch
from voxfield.data.sparse_points import ObservedPoints
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.storage.skipped import Skipped

_STEEPEST: Final = 1e-3
"""Cosine to the optical axis below which a depth along it says nothing of the distance."""


class DepthSampler:
    """Draws the batches of another sampler, with ``RayBatch.depth``. As pure a function of (seed, step, num_rays)."""

    left_out: tuple[Skipped, ...]
    """Depth images that could not be read: nothing is known of their pictures' distances."""

    def __init__(
        self,
        batches: Batches[RayBatch],
        posed_images: PosedImages,
        options: DepthOptions,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Read the distances.

        Args:
            batches: draws rays and colours of ``posed_images``.
            posed_images: a training split.
            options: which distances; ``source`` must not be ``off``.
            seed: any integer.
            device: that of the batches.

        Raises:
            FormatError: the capture has no such distances, or none that can be read.
            InputError: the depth images take more memory than the capture's pictures may.
        """
        self._batches, self._seed = batches, seed
        self.left_out = ()
        images, points = posed_images.depth_images, posed_images.observed
        if options.source == "off":
            raise InputError("depth.source: expected auto, images or points, got off.")
        self._source: _ImageDepths | _PointDepths
        if options.source != "points" and images is not None:
            self._source = _ImageDepths(posed_images, images, along_axis=options.along == "axis", device=device)
            self.left_out = self._source.left_out
        elif options.source != "images" and points is not None and any(len(seen) for seen in points):
            if posed_images.scales is not None:
                points = tuple(points[picture] for picture in posed_images.scales.finest.tolist())
            self._source = _PointDepths(posed_images.image_cameras, points, share=options.point_rays, device=device)
        else:
            raise FormatError(_nothing_there(posed_images, options))

    def sample(self, num_rays: int, step: int, ranks: Ranks = ALONE) -> RayBatch:
        """Draw a batch; see `voxfield.data.ray_batches.RaySampler.sample`."""
        batch = self._batches.sample(num_rays, step, ranks)
        # An odd multiplier apart from the trainer's: neither repeats the other's draws.
        generator = torch.Generator().manual_seed((self._seed * 0xD1B54A32D192ED03 + step) % 2**63)
        return replace(batch, depth=self._source.targets(batch, generator))


def axial_to_distance(cameras: Cameras, rays: Rays, depth: Tensor) -> Tensor:
    """Distances (R,) along ``rays`` of what lies ``depth`` (R,) away along their cameras' optical axes.

    0, for unknown, where depth is 0 or a ray leads sideways or backwards. Same units and dtype as ``depth``.
    """
    cosine = (rays.directions * cameras.forward[rays.camera_index]).sum(-1).to(depth.dtype)
    return torch.where(cosine > _STEEPEST, depth / cosine.clamp(min=_STEEPEST), 0.0)


class _ImageDepths:
    """Depth images at the resolution of their pictures, one after another in one buffer."""

    def __init__(
        self, posed_images: PosedImages, images: DepthImages, *, along_axis: bool, device: torch.device | str
    ) -> None:
        cameras = posed_images.cameras
        sizes = list(zip(cameras.width.tolist(), cameras.height.tolist(), strict=True))
        pixels = [width * height for width, height in sizes]
        arrays = any(path is not None and path.suffix == ".npy" for path in images.paths)
        needed = sum(pixels) * (4 if arrays else 2)
        if needed > posed_images.images.cache_bytes:
            raise InputError(
                f"The depth images take {needed} bytes, more than capture.cache_bytes "
                f"({posed_images.images.cache_bytes}). Raise that, or capture.downscale."
            )
        self._unit, self._along_axis = images.unit, along_axis
        self._cameras, self._widths = posed_images.image_cameras.to(device), cameras.width.to(device)
        self._starts = (torch.tensor(pixels).cumsum(0) - torch.tensor(pixels)).to(device)
        # int16 holds the bits of uint16; one array among the pictures makes all of them floats.
        steps = torch.zeros(sum(pixels), dtype=torch.float32 if arrays else torch.int16)
        left_out, start, read = [], 0, 0
        for name, path, size, count in zip(posed_images.names, images.paths, sizes, pixels, strict=True):
            if path is not None:
                try:
                    array = path.suffix == ".npy"
                    values = read_depth_array(path, size=size) if array else read_depth(path, size=size)
                    steps[start : start + count] = (values if array or not arrays else values.int() & 0xFFFF).view(-1)
                    read += 1
                except FormatError as error:
                    left_out.append(Skipped(path=name, reason=str(error)))
            start += count
        self.left_out = tuple(left_out)
        if not read:
            raise FormatError(
                f"None of the {len(left_out)} depth images of the {posed_images.split} split can be read. The first: "
                + left_out[0].reason
            )
        self._steps = steps.to(device)

    def targets(self, batch: RayBatch, generator: torch.Generator) -> DepthTargets:  # noqa: ARG002  (nothing is drawn)
        """The distances along the batch's own rays."""
        picture = batch.rays.camera_index if batch.picture_index is None else batch.picture_index
        column, row = batch.pixels.long().unbind(-1)
        place = self._starts[picture] + row * self._widths[picture] + column
        steps = self._steps[place]
        depth = (steps if steps.is_floating_point() else (steps.int() & 0xFFFF).float()) * self._unit
        return DepthTargets(
            distances=axial_to_distance(self._cameras, batch.rays, depth) if self._along_axis else depth
        )


class _PointDepths:
    """Every sighting of a sparse point, as a ray and a distance."""

    def __init__(
        self, cameras: Cameras, observed: tuple[ObservedPoints, ...], *, share: float, device: torch.device | str
    ) -> None:
        counts = torch.tensor([len(seen) for seen in observed])
        camera = torch.arange(len(observed)).repeat_interleave(counts)
        self._share = share
        self._cameras = cameras.to(device)
        self._camera = camera.to(device)
        self._pixels = torch.cat([seen.pixels for seen in observed]).float().to(device)
        self._depth = torch.cat([seen.depth for seen in observed]).float().to(device)
        errors = torch.cat([seen.errors for seen in observed]).double()
        mean = errors.nanmean().nan_to_num(1.0).clamp(min=1e-6)
        # Deng et al. weigh the loss of a point by exp(-(error / mean error)^2): drawn as often, it weighs as much.
        self._drawn = torch.exp(-(errors / mean).nan_to_num(1.0).square()).cumsum(0)

    def targets(self, batch: RayBatch, generator: torch.Generator) -> DepthTargets:
        """Rays to sightings drawn at random, and how far along them the points are."""
        count = max(1, round(self._share * len(batch.rays)))
        number = batch.ranks.drawn(lambda rows: torch.rand(rows, generator=generator, dtype=torch.float64), count)
        number = number * self._drawn[-1]
        index = torch.searchsorted(self._drawn, number, right=True).clamp(max=len(self._drawn) - 1)
        index = index.to(self._camera.device)
        rays = self._cameras.rays(self._camera[index], self._pixels[index])
        return DepthTargets(distances=axial_to_distance(self._cameras, rays, self._depth[index]), rays=rays)


def _nothing_there(posed_images: PosedImages, options: DepthOptions) -> str:
    wanted = {"images": "depth images", "points": "sparse points", "auto": "depth images and no sparse points"}
    file = posed_images.source.get("path", "The capture")
    return (
        f"{file}: has no {wanted[options.source]} to learn distances from. Name 16-bit depth images as depth_file_path "
        "in its transforms.json, give a COLMAP model with points, or train nerfacto."
    )
