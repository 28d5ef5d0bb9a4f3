"""Batches of training rays: pixels drawn uniformly from all pictures of a capture.

A batch is a pure function of (seed, step, num_rays): training resumes exactly without saving any random state.
Captures whose pictures fit in ``ImageStore.cache_bytes`` stay in memory whole. Of larger ones a `SlidingPool` holds a
part that changes with the steps.

Of images with copies at several scales all pixels are drawn alike, whatever their scale, and weighted; by a schedule
only those of coarse copies at first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from voxfield.checks import check_range
from voxfield.data.pixel_pool import PixelPool
from voxfield.data.posed_images import PosedImages
from voxfield.data.scales import check_schedule, finest_at
from voxfield.data.seeds import mix
from voxfield.data.shifted_copies import ShiftedCopies
from voxfield.data.sliding_pool import SlidingPlan, SlidingPool
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError
from voxfield.geometry.rays import Rays


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthTargets:
    """How far away things are along D rays."""

    distances: Tensor
    """(D,) float32: distances along the rays, world units; 0 where nothing is known."""
    rays: Rays | None = None
    """The D rays; None: those of the batch they belong to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RayBatch:
    """R training rays with the colours seen along them."""

    rays: Rays
    """R rays; ``camera_index`` counts in the capture's images (``PosedImages.num_images``), whose copies at several
    scales share one camera."""
    pixels: Tensor
    """(R, 2) float32: where rays go through their own pictures, (x, y): pixel centres, of copies also between them."""
    rgba: Tensor
    """(R, 4) float32 with straight alpha, which is 1 where pictures have none: sRGB in [0, 1], or exposed linear light
    at least 0 where the capture has a tone curve."""
    depth: DepthTargets | None = None
    """Observed distances, where they are asked for (``data.depth_targets``)."""
    weights: Tensor | None = None
    """(R,) float32, above 0: how much each ray's error counts; None: all alike. A pixel of a picture of a coarser scale
    stands for several."""
    picture_index: Tensor | None = None
    """(R,) int64: which of the capture's pictures each ray goes through, where images have copies at several scales;
    None: ``rays.camera_index``."""
    ranks: Ranks = ALONE
    """Whose share of a larger batch this is."""

    def mean(self, errors: Tensor) -> Tensor:
        """Mean of ``errors`` (R, C) over channels and rays, rays counted by their weights. Differentiable.

        Source: mip-NeRF's loss, sum of weight times error over the sum of weights. Of ``ranks`` the means' mean is that
        of the whole batch.
        """
        if self.weights is None:
            return errors.mean()
        return (errors.mean(dim=1) * self.weights).sum() / self.ranks.mean(self.weights.sum())


class RaySampler:
    """Draws batches of rays from a capture. Use ``close`` or a ``with`` block to stop its background threads early."""

    def __init__(
        self,
        posed_images: PosedImages,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        rotate_every: int | None = None,
        first_step: int = 0,
        scale_schedule: Mapping[int, int] | None = None,
        shift_copies: bool = True,
    ) -> None:
        """Decode the first pictures; all of them when they fit in memory.

        Args:
            posed_images: a training split. Its store's ``cache_bytes`` bounds the pixels kept; when all fit, the
                store serves ``read`` from the same memory.
            seed: any integer.
            device: where pixels are kept and batches come out.
            rotate_every: steps (>= 1) from one new picture to the next where they do not all fit; by default what
                leaves decoding a small share of the time. It is part of what a batch depends on.
            first_step: the step (>= 0) whose batch will be asked for first: what others need is then not decoded.
            scale_schedule: from which step on which scale is the finest that is drawn from; None: all from the start.
            shift_copies: pixels of reduced copies are taken anywhere on their image, see
                `voxfield.data.shifted_copies`, where all pictures are in memory and none is masked.

        Raises:
            FormatError: no picture can be decoded, or masks leave no pixel.
            InputError: a schedule of scales that the capture does not have, or for pictures that are not all in memory.
        """
        if rotate_every is not None:
            check_range("rotate_every", rotate_every, minimum=1)
        check_range("first_step", first_step, minimum=0)
        self.posed_images = posed_images
        self.seed = seed
        self.device = torch.device(device)
        self._cameras = posed_images.cameras.to(self.device)
        store, scales = posed_images.images, posed_images.scales
        self._image = None if scales is None else scales.image.to(self.device)
        self._repeats, self._weight = (None, None) if scales is None else _drawn_by_weight(scales.weight, store.fits)
        if scale_schedule is not None:
            check_schedule(scale_schedule, (1,) if scales is None else scales.values)
            if not store.fits:
                raise InputError(
                    f"scale_schedule: needs all {store.total_bytes / 1e9:.3g} GB of pictures in memory, more than the "
                    f"image cache of {store.cache_bytes / 1e9:.3g} GB. Allow more, or train on all scales from the "
                    "start."
                )
        self._schedule, self._finest = scale_schedule, 1
        self._sliding: SlidingPool | None = None
        if store.fits:
            self._pool: PixelPool | SlidingPool = self._load_all()
        else:
            plan = SlidingPlan.within_cache(store, rotate_every=rotate_every)
            self._pool = self._sliding = SlidingPool(store, plan, seed=seed, device=self.device)
            self._slide_to(first_step)
        self._shifted: ShiftedCopies | None = None
        if shift_copies and scales is not None and isinstance(self._pool, PixelPool) and self._pool.holds_whole():
            self._shifted = ShiftedCopies(scales, store, self._pool.gather, self.device)

    def sample(self, num_rays: int, step: int, ranks: Ranks = ALONE) -> RayBatch:
        """Draw a batch.

        Args:
            num_rays: number of rays R, at least 1; drawn with replacement, uniformly over the valid pixels. Where they
                weigh differently and all pictures are in memory, heavy ones are drawn more often instead: the same loss
                on average, with less noise (scales 1, 2, 4, 8: a seventh of the variance).
            step: the training step, at least 0.
            ranks: who shares the batch, ``num_rays`` being for all of them: each gets its own of the same rays.

        Returns:
            R rays with their colours, the same for the same (seed, step, num_rays). Where not all pictures are in
            memory steps should rise: going back decodes again.

        Raises:
            FormatError: none of the pictures this step draws from can be decoded, or masks leave no pixel of them.
        """
        check_range("num_rays", num_rays, minimum=1)
        check_range("step", step, minimum=0)
        self._slide_to(step)
        self._refine_to(step)
        generator = torch.Generator().manual_seed(mix(self.seed, "batch", step))
        drawn = self._pool.draw(num_rays, generator, ranks)
        if self._shifted is None:
            pixels = torch.stack([drawn.column, drawn.row], dim=-1).to(torch.float32).add_(0.5)
            colour = drawn.colour.to(torch.float32)
        else:
            pixels, colour = self._shifted.moved(drawn, generator, ranks)
        if self.posed_images.tone is None:
            colour.mul_(1 / 255)
        else:
            colour[:, :3] *= self.posed_images.tone.exposure
        if colour.shape[1] == 3:
            colour = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1)
        rays = self._cameras.rays(drawn.image_index, pixels)
        if self._image is None:
            return RayBatch(rays=rays, pixels=pixels, rgba=colour, ranks=ranks)
        return RayBatch(
            rays=replace(rays, camera_index=self._image[drawn.image_index]),
            pixels=pixels,
            rgba=colour,
            weights=None if self._weight is None else self._weight.to(self.device)[drawn.image_index],
            picture_index=drawn.image_index,
            ranks=ranks,
        )

    def close(self) -> None:
        """Stop decoding ahead. Sampling goes on working."""
        if self._sliding is not None:
            self._sliding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load_all(self) -> PixelPool:
        store = self.posed_images.images
        pixels = [height * width for height, width, _ in map(store.shape, range(len(store)))]
        pool = PixelPool(store, slots=len(store), slot_pixels=pixels, device=self.device, repeats=self._repeats)
        slots = list(range(len(store)))
        pool.fill(slots, slots)
        if pool.publish(slots) == 0:
            raise self._no_pixels()
        if self.device.type == "cpu":
            for held in map(pool.view, slots):
                if held is not None:
                    index, image, mask = held
                    store.adopt(index, image, mask if store.mask_is_stated(index) else None)
        return pool

    def _slide_to(self, step: int) -> None:
        if self._sliding is not None and not self._sliding.move_to(step):
            raise self._no_pixels()

    def _refine_to(self, step: int) -> None:
        """Draw from the scales that the schedule has for ``step``."""
        scales = self.posed_images.scales
        if self._schedule is None or scales is None:
            return
        finest = finest_at(self._schedule, step)
        if finest != self._finest:
            assert isinstance(self._pool, PixelPool), "schedules are for pictures that are all in memory"
            if self._pool.publish((scales.factor >= finest).nonzero()[:, 0].tolist()) == 0:
                raise self._no_pixels()
            self._finest = finest

    def _no_pixels(self) -> FormatError:
        failures = self.posed_images.images.failures
        if failures:
            return FormatError(
                f"None of the {len(failures)} pictures at hand can be decoded; the first: {failures[0].reason}"
            )
        return FormatError("The masks leave no pixel to train on. Masks are non-black where pixels count; invert them?")


def _drawn_by_weight(weight: Tensor, in_memory: bool) -> tuple[Tensor | None, Tensor | None]:
    """How often pixels of each picture (N,) are drawn, and what they then still weigh; None where that is all the same.

    Pictures that come and go are drawn from alike: a batch of theirs may hold few scales.
    """
    if not in_memory:
        return None, weight
    repeats = weight.round().clamp(min=1).long()
    left = weight / repeats
    return repeats, None if bool((left == left[0]).all()) else left
