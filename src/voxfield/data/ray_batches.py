"""Batches of training rays: pixels drawn uniformly from all pictures of a capture.

A batch is a pure function of (seed, step, num_rays): training resumes exactly without saving any random state.
Captures whose pictures fit in ``ImageStore.cache_bytes`` stay in memory whole. Larger ones are drawn from a part that
rotates: the pictures are shuffled into groups, ``RESIDENT_GROUPS`` of them are drawn from, and every ``rotate_every``
steps the oldest makes room for the next, which a background thread has decoded meanwhile. Which groups serve a step
depends on seed and step alone.
"""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, Self

import torch
from torch import Tensor

from voxfield.checks import check_range
from voxfield.data.pixel_pool import PixelPool
from voxfield.data.posed_images import PosedImages
from voxfield.errors import FormatError
from voxfield.geometry.rays import Rays

RESIDENT_GROUPS: Final = 4
"""Groups drawn from at a time; one more is being decoded. More groups mix better and waste less memory on the one
ahead."""


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
    """R rays; ``camera_index`` counts in the capture's cameras."""
    pixels: Tensor
    """(R, 2) float32: pixel centres (x, y) the rays go through."""
    rgba: Tensor
    """(R, 4) float32 with straight alpha, which is 1 where pictures have none: sRGB in [0, 1], or exposed linear light
    at least 0 where the capture has a tone curve."""
    depth: DepthTargets | None = None
    """Observed distances, where they are asked for (``data.depth_targets``)."""


class Batches(Protocol):
    """Where training rays come from."""

    def sample(self, num_rays: int, step: int) -> RayBatch:
        """A batch, a pure function of its arguments."""


class RaySampler:
    """Draws batches of rays from a capture. Use ``close`` or a ``with`` block to stop its background thread early."""

    def __init__(
        self,
        posed_images: PosedImages,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        rotate_every: int | None = None,
    ) -> None:
        """Decode the first pictures; all of them when they fit in memory.

        Args:
            posed_images: a training split. Its store's ``cache_bytes`` bounds the pixels kept; when all fit, the
                store serves ``read`` from the same memory.
            seed: any integer.
            device: where pixels are kept and batches come out.
            rotate_every: steps (>= 1) between changes of a group in rotating mode; by default twice the pictures of a
                group, which leaves a decoding thread most of a core's time to spare. It is part of what a batch
                depends on.

        Raises:
            FormatError: no picture can be decoded, or masks leave no pixel.
        """
        if rotate_every is not None:
            check_range("rotate_every", rotate_every, minimum=1)
        self.posed_images = posed_images
        self.seed = seed
        self.device = torch.device(device)
        self._cameras = posed_images.cameras.to(self.device)
        self._executor: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, Future[None]] | None = None
        store = posed_images.images
        self.rotates = store.total_bytes > store.cache_bytes
        """Whether the capture is too large to keep, so that batches come from a rotating part."""
        pixels = [height * width for height, width, _ in (store.shape(index) for index in range(len(store)))]
        if self.rotates:
            bytes_per_picture = max(pixels) * store.bytes_per_pixel
            fitting = store.cache_bytes // ((RESIDENT_GROUPS + 1) * bytes_per_picture)
            self._group_size = max(1, min(fitting, -(-len(store) // (RESIDENT_GROUPS + 1))))
            slots = self._group_size * (RESIDENT_GROUPS + 1)
            self._pool = PixelPool(store, slots=slots, slot_pixels=[max(pixels)] * slots, device=self.device)
        else:
            self._group_size = len(store)
            self._pool = PixelPool(store, slots=len(store), slot_pixels=pixels, device=self.device)
        self.rotate_every = rotate_every or 2 * self._group_size
        self._groups_in_pool: dict[int, int] = {}
        self._window: int | None = None
        if self.rotates:
            self._move_to(0)
        else:
            self._load_all()

    def sample(self, num_rays: int, step: int) -> RayBatch:
        """Draw a batch.

        Args:
            num_rays: number of rays R, at least 1; drawn with replacement, uniformly over the valid pixels.
            step: the training step, at least 0.

        Returns:
            R rays with their colours, the same for the same (seed, step, num_rays). In rotating mode steps should
            rise: going back decodes again.
        """
        check_range("num_rays", num_rays, minimum=1)
        check_range("step", step, minimum=0)
        if self.rotates:
            self._move_to(step // self.rotate_every)
        generator = torch.Generator().manual_seed(_mix(self.seed, "batch", step))
        drawn = self._pool.draw(num_rays, generator)
        pixels = torch.stack([drawn.column, drawn.row], dim=-1).to(torch.float32).add_(0.5)
        colour = drawn.colour.to(torch.float32)
        if self.posed_images.tone is None:
            colour.mul_(1 / 255)
        else:
            colour[:, :3] *= self.posed_images.tone.exposure
        if colour.shape[1] == 3:
            colour = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1)
        return RayBatch(rays=self._cameras.rays(drawn.image_index, pixels), pixels=pixels, rgba=colour)

    def close(self) -> None:
        """Stop decoding ahead. Sampling goes on working."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor, self._ahead = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load_all(self) -> None:
        slots = list(range(self._group_size))
        self._pool.fill(slots, slots)
        if self._pool.publish(slots) == 0:
            raise self._no_pixels()
        if self.device.type == "cpu":
            for held in map(self._pool.view, slots):
                if held is not None:
                    index, image, mask = held
                    has_mask = self.posed_images.images.mask_is_stated(index)
                    self.posed_images.images.adopt(index, image, mask if has_mask else None)

    def _move_to(self, window: int) -> None:
        """Make groups ``window`` to ``window`` + RESIDENT_GROUPS - 1 the ones drawn from, and start on the next."""
        if window == self._window:
            return
        wanted = range(window, window + RESIDENT_GROUPS)
        if self._ahead is not None:
            group, future = self._ahead
            future.result()
            self._groups_in_pool[self._place(group)] = group
            self._ahead = None
        for group in wanted:
            if self._groups_in_pool.get(self._place(group)) != group:
                self._load_group(group)
                self._groups_in_pool[self._place(group)] = group
        if self._pool.publish([slot for group in wanted for slot in self._slots(group)]) == 0:
            raise self._no_pixels()
        self._window = window
        following = window + RESIDENT_GROUPS
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="voxfield-rotate")
        self._groups_in_pool.pop(self._place(following), None)
        self._ahead = (following, self._executor.submit(self._load_group, following))

    def _place(self, group: int) -> int:
        """Which stretch of slots a group uses: neighbours never share one."""
        return group % (RESIDENT_GROUPS + 1)

    def _slots(self, group: int) -> list[int]:
        first = self._place(group) * self._group_size
        return list(range(first, first + self._group_size))

    def _load_group(self, group: int) -> None:
        self._pool.fill(self._slots(group), self._pictures(group))

    def _pictures(self, group: int) -> list[int]:
        """The pictures of a group: consecutive ones in an endless run of shuffles of the whole capture."""
        count = len(self.posed_images.images)
        pictures: list[int] = []
        for position in range(group * self._group_size, (group + 1) * self._group_size):
            lap, place = divmod(position, count)
            if not pictures or place == 0:
                generator = torch.Generator().manual_seed(_mix(self.seed, "order", lap))
                order = torch.randperm(count, generator=generator).tolist()
            pictures.append(order[place])
        return pictures

    def _no_pixels(self) -> FormatError:
        failures = self.posed_images.images.failures
        if failures:
            return FormatError(
                f"None of the {len(failures)} pictures at hand can be decoded; the first: {failures[0].reason}"
            )
        return FormatError("The masks leave no pixel to train on. Masks are non-black where pixels count; invert them?")


def _mix(seed: int, purpose: str, number: int) -> int:
    """A 63-bit seed that differs wherever any part does."""
    text = f"{seed}/{purpose}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
