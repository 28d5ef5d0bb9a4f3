"""Changes to samples of `voxfield.data.shape_rays`, made while they are loaded.

A sample holds voxels (1, R, R, R), axes z, y, x, and rays about the block's centre, axes x, y, z. Where a block is
turned or mirrored, voxels and everything of its rays follow the same matrix: what a ray says is still true of the
voxels beside it.

Each takes a sample and returns it changed; tensors that it was given are never written to. Random ones draw from the
generator that the dataset hands them, so a sample depends on the dataset's seed and not on which worker loads it;
called without one they draw from torch's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from voxfield.checks import check_range
from voxfield.distributed.devices import check_device
from voxfield.errors import InputError

Sample = dict[str, Any]

RAY_KEYS = (
    "origins",
    "directions",
    "distances",
    "hits",
    "hit_distances",
    "normals",
    "voxel_ids",
    "face_ids",
    "view_ids",
)
"""What a sample has for each ray; some datasets have fewer."""
LENGTHS = ("distances", "hit_distances")
PLACES = ("origins", "view_positions")
VECTORS = ("origins", "directions", "normals", "view_positions")


class RayTransform(ABC):
    """A change to a sample."""

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        """The sample, changed; ``generator`` is None for torch's own."""
        return self._change(sample, generator)

    @abstractmethod
    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        """The change itself."""


class Compose(RayTransform):
    """Several, one after another. Functions of a sample alone will do, too."""

    def __init__(self, transforms: Sequence[Callable[..., Sample]]) -> None:
        self.transforms = tuple(transforms)

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        for transform in self.transforms:
            sample = apply(transform, sample, generator)
        return sample


def apply(transform: Callable[..., Sample], sample: Sample, generator: torch.Generator | None) -> Sample:
    """Call a `RayTransform` with the generator, any other function with the sample alone."""
    return transform(sample, generator) if isinstance(transform, RayTransform) else transform(sample)


class RandomRotation90(RayTransform):
    """A turn by 90, 180 or 270 degrees about one axis, now and then."""

    def __init__(self, p: float = 0.5, axes: Sequence[int] = (0, 1, 2)) -> None:
        """Turn with probability ``p`` about one of ``axes``, which are the array's: 0 is z, 1 y, 2 x."""
        check_range("p", p, minimum=0.0, maximum=1.0)
        self.p, self.axes = p, _array_axes(axes)

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        if float(torch.rand((), generator=generator)) >= self.p:
            return sample
        axis = 2 - self.axes[int(torch.randint(len(self.axes), (), generator=generator))]
        quarters = int(torch.randint(1, 4, (), generator=generator))
        return turn(sample, rotation90(axis, quarters))


class RandomFlip(RayTransform):
    """Mirrors along axes, each now and then."""

    def __init__(self, axes: Sequence[int] = (0, 1, 2), p: float = 0.5) -> None:
        """Mirror with probability ``p`` along each of ``axes``, which are the array's: 0 is z, 1 y, 2 x."""
        check_range("p", p, minimum=0.0, maximum=1.0)
        self.p, self.axes = p, _array_axes(axes)

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        signs = torch.ones(3)
        for axis in self.axes:
            if float(torch.rand((), generator=generator)) < self.p:
                signs[2 - axis] = -1.0
        return sample if bool((signs > 0).all()) else turn(sample, torch.diag(signs))


class NormalizeRayOrigins(RayTransform):
    """The block becomes the cube from -1 to 1: origins and cameras are scaled, and so are all distances."""

    def __init__(self, voxel_size: float = 1.0) -> None:
        """``voxel_size`` is the side of a voxel in the sample's units, above 0; traced rays have 1."""
        check_range("voxel_size", voxel_size, above=0.0)
        self.voxel_size = voxel_size

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:  # noqa: ARG002  (not random)
        scale = 2.0 / (_side(sample) * self.voxel_size)
        return sample | {name: sample[name] * scale for name in (*PLACES, *LENGTHS) if name in sample}


class RandomRaySubsample(RayTransform):
    """As many rays as wanted, drawn without repetition; samples with no more keep all."""

    def __init__(self, num_rays: int) -> None:
        """Keep ``num_rays`` rays, at least 1."""
        check_range("num_rays", num_rays, minimum=1)
        self.num_rays = num_rays

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        rays = len(sample["origins"])
        if rays <= self.num_rays:
            return sample
        return take_rays(sample, torch.randperm(rays, generator=generator)[: self.num_rays])


class AddNoise(RayTransform):
    """Noise on origins and directions, which stay unit vectors. What the rays met is that of the rays without it."""

    def __init__(self, origin_std: float = 0.01, direction_std: float = 0.001) -> None:
        """Standard deviations, at least 0: of origins in the sample's units, of directions before normalising."""
        check_range("origin_std", origin_std, minimum=0.0)
        check_range("direction_std", direction_std, minimum=0.0)
        self.origin_std, self.direction_std = origin_std, direction_std

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        origins, directions = sample["origins"], sample["directions"]
        origins = origins + self.origin_std * _normal(origins, generator)
        directions = directions + self.direction_std * _normal(directions, generator)
        return sample | {"origins": origins, "directions": torch.nn.functional.normalize(directions, dim=-1)}


class VoxelOccupancyJitter(RayTransform):
    """Voxels change between empty and occupied at random; what rays met stays that of the block without."""

    def __init__(self, flip_prob: float = 0.01) -> None:
        """Each voxel changes with probability ``flip_prob``."""
        check_range("flip_prob", flip_prob, minimum=0.0, maximum=1.0)
        self.flip_prob = flip_prob

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:
        voxels = sample["voxels"]
        changed = torch.rand(voxels.shape, generator=generator).to(voxels.device) < self.flip_prob
        return sample | {"voxels": torch.where(changed, 1.0 - voxels, voxels)}


class ToDevice(RayTransform):
    """All tensors go to a device. In workers of a loader only the CPU is safe: move batches instead."""

    def __init__(self, device: torch.device | str) -> None:
        """``device`` as torch names it, or ``auto``; errors as of `check_device`."""
        self.device = check_device(device)

    def _change(self, sample: Sample, generator: torch.Generator | None) -> Sample:  # noqa: ARG002  (not random)
        return {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in sample.items()}


def rotation90(axis: int, quarters: int) -> Tensor:
    """The matrix (3, 3) of ``quarters`` right-handed quarter turns about x (0), y (1) or z (2)."""
    matrix = torch.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    cosine, sine = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[quarters % 4]
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def turn(sample: Sample, matrix: Tensor) -> Sample:
    """The sample with block and rays mapped by one of the 48 symmetries of the cube.

    Args:
        sample: voxels (1, R, R, R) and rays.
        matrix: (3, 3), axes x, y, z: one 1 or -1 in each row and column.

    Raises:
        InputError: another matrix, or voxels that are no cube.
    """
    whole = matrix.abs()
    if not (torch.equal(whole.sum(0), torch.ones(3)) and torch.equal(whole.amax(1), torch.ones(3))):
        raise InputError(f"matrix: expected a symmetry of the cube, got {matrix.tolist()}.")
    side = _side(sample)
    turned = sample | {
        name: (sample[name].float() @ matrix.T.to(sample[name].device)).to(sample[name].dtype)
        for name in VECTORS
        if name in sample
    }
    turned["voxels"] = _turn_voxels(sample["voxels"], matrix)
    if "face_ids" in sample:
        axes, outward = sample["face_ids"].long() // 2, (sample["face_ids"].long() % 2) * 2.0 - 1.0
        faces = torch.nn.functional.one_hot(axes, 3) * outward[:, None] @ matrix.T.to(axes.device)
        axis = faces.abs().argmax(1)
        turned["face_ids"] = (2 * axis + (faces.gather(1, axis[:, None])[:, 0] > 0)).to(sample["face_ids"].dtype)
    if "voxel_ids" in sample:
        turned["voxel_ids"] = _turn_ids(sample["voxel_ids"], matrix, side)
    return turned


def take_rays(sample: Sample, rays: Tensor | slice) -> Sample:
    """The sample with some of its rays."""
    return sample | {name: sample[name][rays] for name in RAY_KEYS if name in sample}


def _turn_voxels(voxels: Tensor, matrix: Tensor) -> Tensor:
    """Voxels (1, R, R, R), axes z, y, x, mapped by a signed permutation."""
    source = matrix.abs().argmax(1).tolist()
    # Array axis a is coordinate 2 - a, behind the channel.
    order = [0, *(3 - source[2 - axis] for axis in range(3))]
    mirrored = [1 + axis for axis in range(3) if float(matrix[2 - axis].sum()) < 0]
    return voxels.permute(order).flip(mirrored).contiguous()


def _turn_ids(ids: Tensor, matrix: Tensor, side: int) -> Tensor:
    """Numbers x + y R + z R**2 of voxels, mapped; -1 stays."""
    number = ids.long()
    place = torch.stack([number % side, number // side % side, number // side**2], dim=1)
    # Twice the centre's place about the block's, a whole number.
    centre = (2 * place + 1 - side) @ matrix.T.long().to(ids.device)
    x, y, z = ((centre + side - 1) // 2).unbind(1)
    return torch.where(number >= 0, x + y * side + z * side**2, -1).to(ids.dtype)


def _side(sample: Sample) -> int:
    shape = sample["voxels"].shape
    if len(shape) != 4 or len(set(shape[1:])) != 1:
        raise InputError(f"voxels: expected (1, R, R, R), got {tuple(shape)}.")
    return int(shape[-1])


def _array_axes(axes: Sequence[int]) -> tuple[int, ...]:
    if not axes or not set(axes) <= {0, 1, 2}:
        raise InputError(f"axes: expected some of 0 (z), 1 (y) and 2 (x), got {list(axes)}.")
    return tuple(axes)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
