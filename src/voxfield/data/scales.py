"""Several scales of every image: reduced copies, what they weigh, and from when on which are learnt from.

A copy at scale s (a whole number) has one pixel where the image has s x s: their mean, taken of colours premultiplied
by alpha, in the pictures' own values (sRGB, or linear light). Its camera stands where the image's does, with focal
length and principal point divided by s, so that its pixels are s times as wide: an anti-aliased field learns what lies
within. Pixels drawn uniformly over all copies are mostly those of the finest; weights of s^2 restore that every copy of
an image counts the same (mip-NeRF, https://arxiv.org/abs/2103.13415, section 3; PyNeRF,
https://arxiv.org/abs/2312.00252).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from voxfield.checks import check_shape
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras

Uneven = Literal["refuse", "crop"]

LARGEST_SCALE: Final = 1024
"""Reduces an 8k picture to some ten pixels."""
_STRIP_BYTES: Final = 1 << 24
"""Bytes of floats that filtering takes at a time."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What the copies at one scale leave out of their pictures because it does not divide them."""

    scale: int
    pictures: int
    """Pictures it does not divide."""
    rows: int
    """The most that one of them loses at the bottom."""
    columns: int
    """The most that one of them loses at the right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scales:
    """Which image each of N pictures shows, and how much reduced."""

    image: Tensor
    """(N,) int64 in [0, M): pictures with the same number are copies of one image, taken by one camera."""
    factor: Tensor
    """(N,) int64, at least 1: how many times narrower than the image the copy is."""
    weight: Tensor
    """(N,) float32, above 0: how much an error of one of its pixels counts."""
    dropped: tuple[Dropped, ...] = ()
    """What copies leave out, for each scale that does not divide every picture, ascending."""

    def __post_init__(self) -> None:
        check_shape("image", self.image, ("N",))
        check_shape("factor", self.factor, (len(self.image),))
        check_shape("weight", self.weight, (len(self.image),))

    @classmethod
    def of_copies(cls, num_images: int, factors: Sequence[int]) -> "Scales":
        """Copies image by image, each by all of ``factors`` in turn, weighing their factors squared."""
        factor = torch.tensor(list(factors), dtype=torch.int64).repeat(num_images)
        image = torch.arange(num_images).repeat_interleave(len(factors))
        return cls(image=image, factor=factor, weight=factor.square().float())

    @classmethod
    def of_pictures(cls, poses: Sequence[Hashable], weights: Sequence[float]) -> "Scales":
        """Copies as a file lists them: pictures of exactly the same pose show one image, and weigh their factors
        squared.
        """
        numbers: dict[Hashable, int] = {}
        image = [numbers.setdefault(pose, len(numbers)) for pose in poses]
        factor = [max(1, round(math.sqrt(weight))) for weight in weights]
        return cls(image=torch.tensor(image), factor=torch.tensor(factor), weight=torch.tensor(weights).float())

    @property
    def num_images(self) -> int:
        """M."""
        return int(self.image.max()) + 1

    @property
    def values(self) -> tuple[int, ...]:
        """The different factors, ascending."""
        return tuple(self.factor.unique().tolist())

    @cached_property
    def finest(self) -> Tensor:
        """(M,) int64: the picture that shows each image at its finest."""
        order = torch.argsort(self.factor, stable=True).flip(0)
        finest = torch.zeros(self.num_images, dtype=torch.int64)
        # The last one written stays: one of the least factor.
        for picture in order.tolist():
            finest[self.image[picture]] = picture
        return finest

    def copies_of(self, images: Sequence[int]) -> list[int]:
        """The pictures that show any of ``images``, in their order."""
        wanted = torch.zeros(self.num_images, dtype=torch.bool)
        wanted[list(images)] = True
        return wanted[self.image].nonzero()[:, 0].tolist()


def check_scales(scales: Sequence[int]) -> None:
    """Raise InputError unless ``scales`` are different whole numbers from 1, ascending."""
    if not scales:
        raise InputError("scales: expected at least one, such as 1,2,4,8, got none.")
    for scale in scales:
        if type(scale) is not int or not 1 <= scale <= LARGEST_SCALE:
            raise InputError(f"scales: expected whole numbers from 1 to {LARGEST_SCALE}, got {scale!r}.")
    if list(scales) != sorted(set(scales)):
        raise InputError(f"scales: expected different ones in rising order, such as 1,2,4,8, got {tuple(scales)}.")


def check_schedule(schedule: Mapping[int, int], scales: Sequence[int] | None = None) -> None:
    """Raise InputError unless ``schedule`` begins at step 0, its scales fall with the steps, and each leaves some of
    ``scales`` to learn from.
    """
    steps, values = list(schedule), list(schedule.values())
    if not steps or steps[0] != 0 or steps != sorted(set(steps)):
        raise InputError(f"scale_schedule: expected rising steps from 0, such as {{0: 8, 2000: 4}}, got {schedule}.")
    if any(value < 1 for value in values) or values != sorted(set(values), reverse=True):
        raise InputError(f"scale_schedule: expected falling scales of at least 1, got {schedule}.")
    if scales is not None and values[0] > max(scales):
        raise InputError(
            f"scale_schedule: begins with scale {values[0]}, but the coarsest picture has {max(scales)}. "
            "Add it to capture.scales, or begin with that."
        )


def finest_at(schedule: Mapping[int, int], step: int) -> int:
    """The finest scale that is learnt from at ``step`` (>= 0) of a schedule of steps to scales."""
    return [scale for first, scale in schedule.items() if first <= step][-1]


def check_sizes(names: Sequence[str], shapes: Sequence[tuple[int, ...]], scales: Sequence[int], uneven: Uneven) -> None:
    """Raise InputError for the first picture, (H, W, C), that is smaller than a scale or, unless ``uneven`` pictures
    are to be cropped, is not divided by one.
    """
    for name, (height, width, *_) in zip(names, shapes, strict=True):
        if min(height, width) < max(scales):
            fitting = [scale for scale in scales if scale <= min(height, width)]
            raise InputError(
                f"{name}: is {width}x{height} pixels, too small for scale {max(scales)}. Leave out the scales above "
                f"{fitting[-1] if fitting else min(height, width)}."
            )
        undivided = [scale for scale in scales if height % scale or width % scale]
        if undivided and uneven == "refuse":
            raise InputError(
                f"{name}: is {width}x{height} pixels, which scale {undivided[0]} does not divide. Leave that scale "
                "out, set another capture.downscale, or set capture.uneven_scales=crop to leave out the last rows and "
                "columns of its copy."
            )


def dropped_by(shapes: Sequence[tuple[int, ...]], scales: Sequence[int]) -> tuple[Dropped, ...]:
    """What copies of pictures, (H, W, C), leave out at each of ``scales`` that does not divide all of them."""
    found = []
    for scale in scales:
        rests = [(height % scale, width % scale) for height, width, *_ in shapes]
        rests = [rest for rest in rests if any(rest)]
        if rests:
            rows, columns = (max(rest) for rest in zip(*rests, strict=True))
            found.append(Dropped(scale=scale, pictures=len(rests), rows=rows, columns=columns))
    return tuple(found)


def reduced_cameras(cameras: Cameras, scales: Sequence[int]) -> Cameras:
    """The cameras of copies of N pictures by each of ``scales``: N * S of them, camera by camera.

    What does not divide is left out at the right and the bottom, so that no pixel changes its direction.
    """
    copies = cameras[torch.arange(len(cameras), device=cameras.device).repeat_interleave(len(scales))]
    scale = torch.tensor(list(scales), dtype=torch.int64, device=cameras.device).repeat(len(cameras))
    return replace(
        copies,
        width=copies.width // scale,
        height=copies.height // scale,
        focal=copies.focal / scale[:, None],
        principal=copies.principal / scale[:, None],
    )


def area_reduced(image: Tensor, mask: Tensor | None, factor: int) -> tuple[Tensor, Tensor | None]:
    """A picture reduced by ``factor`` in each direction by averaging what each new pixel covers.

    Args:
        image: (H, W, C) uint8 or float on the CPU; of 4 channels the last is straight alpha, which weighs colours.
        mask: (H, W) bool, or None.
        factor: at least 1, at most H and W. Rows and columns beyond a multiple of it are left out.

    Returns:
        (H // factor, W // factor, C) of the same dtype and, with a mask, which of these are wholly inside it; values
        outside it are those of all that they cover.
    """
    height, width, channels = image.shape[0] // factor, image.shape[1] // factor, image.shape[2]
    source = image.numpy()[: height * factor, : width * factor]
    whole = 255.0 if image.dtype == torch.uint8 else 1.0
    reduced = np.empty((height, width, channels), dtype=source.dtype)
    rows_at_once = max(1, _STRIP_BYTES // (4 * channels * factor * factor * width))
    for top in range(0, height, rows_at_once):
        bottom = min(height, top + rows_at_once)
        # NumPy, as pictures are decoded in threads of their own, where torch would start more.
        values = source[top * factor : bottom * factor].astype(np.float32)
        if channels == 4:
            values[..., :3] *= values[..., 3:] * (1 / whole)
        values = _block_means(values, factor)
        if channels == 4:
            values[..., :3] /= np.maximum(values[..., 3:] * (1 / whole), 1e-6)
        if image.dtype == torch.uint8:
            values = np.rint(values).clip(0, 255)
        reduced[top:bottom] = values.astype(source.dtype)
    kept = None
    if mask is not None:
        inside = mask.numpy()[: height * factor, : width * factor]
        kept = torch.from_numpy(inside.reshape(height, factor, width, factor).all(axis=(1, 3)))
    return torch.from_numpy(reduced), kept


def _block_means(values: "np.ndarray[Any, np.dtype[Any]]", factor: int) -> "np.ndarray[Any, np.dtype[Any]]":
    """Means (H / factor, W / factor, C) of the blocks of (H, W, C): rows first, which lie side by side in memory."""
    height, width, channels = values.shape
    rows = values.reshape(height // factor, factor, width * channels).sum(axis=1)
    blocks = rows.reshape(height // factor, width // factor, factor, channels).sum(axis=2)
    return blocks * np.float32(1 / factor**2)
