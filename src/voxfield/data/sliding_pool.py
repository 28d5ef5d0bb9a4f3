"""Pixels of a capture larger than memory: of many pictures a random part each, renewed while training goes on.

An 8k picture takes a second to decode and has 50 million pixels; training draws a few hundred thousand in the time
that makes a second of decoding a small share. So a decoded picture gives a random part of its pixels, a *sample*, and
is dropped. Samples enter the pool one by one, every ``rotate_every`` steps, and the oldest leaves: pictures by the
hundred are mixed in every batch, within a bound on memory.

Sample number n is a pure function of the seed: which picture, by shuffles of the capture one after another, and which
pixels. Which samples serve a step depends on the step alone; threads decode ahead, and a step waits for what it needs.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from voxfield.data.image_store import DECODE_THREADS, ImageStore
from voxfield.data.pixel_pool import Drawn
from voxfield.data.seeds import mix
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import FormatError, InputError

Array = np.ndarray[Any, np.dtype[Any]]

DECODED_PER_STEP: Final = 2_000_000
"""Pixels decoded per training step, on average: 0.04 s of one core where a step takes 0.1 to 0.3 s of two."""
DECODED_TO_BEGIN: Final = 1_600_000_000
"""Pixels decoded before the first step, as far as they are wanted: 32 pictures of 8k, in about 16 s of two cores."""
DECODED_TO_RESUME: Final = 4 * DECODED_TO_BEGIN
"""Most pixels whose pictures make up the pool: a resumed run decodes them again before it continues."""
FEWEST_PICTURES: Final = 16
"""Pictures mixed at a time, however large they are and where there are as many."""
USUAL_PART: Final = 1 / 64
"""Part of a picture that is kept as long as more pictures could be mixed. At `DECODED_PER_STEP` that is 31,000 pixels a
step: most leave the pool before they were drawn even once, so a larger part gains less than more pictures do."""
LEAST_PART: Final = 1 / 512
"""Part of a picture that is kept however small the cache is."""
AHEAD: Final = 4
"""Samples made ahead of need."""
DECODING_BYTES: Final = 8
"""Bytes per pixel of the file while it is decoded: Pillow's four and ours."""
PLACE_BYTES: Final = 4
"""Bytes for where in its picture a pixel lies: below 2^31, far above the largest picture that is read."""


@dataclass(frozen=True, kw_only=True)
class SlidingPlan:
    """How a capture is drawn from within a bound on memory."""

    pictures: int
    """Samples, each of another picture, that are drawn from once the pool is full, at least 1."""
    pictures_to_begin: int
    """Samples there are at the first step, 1 to ``pictures``."""
    part: float
    """Which part of its picture a sample is, above 0 and at most 1."""
    sample_pixels: int
    """Most pixels of a sample."""
    rotate_every: int
    """Steps from one new sample to the next, at least 1."""

    @classmethod
    def within_cache(cls, store: ImageStore, *, rotate_every: int | None = None) -> "SlidingPlan":
        """Plan for ``store.cache_bytes``: pictures being decoded get what they need, up to half, samples the rest.

        However small the cache is, it holds `LEAST_PART` of `FEWEST_PICTURES`.

        Args:
            store: the pictures.
            rotate_every: steps (>= 1) from one new sample to the next; by default what the pictures' sizes and
                `DECODED_PER_STEP` make of it.
        """
        count = len(store)
        sizes = [height * width for height, width, _ in map(store.shape, range(count))]
        costs = [store.pixels_to_decode(index) for index in range(count)]
        decoding = DECODE_THREADS * DECODING_BYTES * max(costs)
        room = max(store.cache_bytes - decoding, store.cache_bytes // 2)
        pixels = room // (store.channels * store.dtype.itemsize + PLACE_BYTES)
        fitting = int(pixels / (USUAL_PART * max(sizes))) - AHEAD
        pictures = min(fitting, max(FEWEST_PICTURES, DECODED_TO_RESUME // max(costs)), count)
        pictures = max(pictures, min(FEWEST_PICTURES, count))
        part = min(1.0, max(LEAST_PART, pixels / ((pictures + AHEAD) * max(sizes))))
        return cls(
            pictures=pictures,
            pictures_to_begin=min(pictures, max(FEWEST_PICTURES, DECODED_TO_BEGIN // max(costs))),
            part=part,
            sample_pixels=max(1, int(part * max(sizes))),
            rotate_every=rotate_every or max(1, round(sum(costs) / count / DECODED_PER_STEP)),
        )

    def bytes_of(self, store: ImageStore) -> int:
        """Memory of the samples of ``store``, those that are made ahead included."""
        pixel = store.channels * store.dtype.itemsize + PLACE_BYTES
        return (self.pictures + AHEAD) * self.sample_pixels * pixel


class SlidingPool:
    """Samples of pictures on one device, renewed by background threads. Used by one thread; ``close`` ends the others.

    Memory: ``plan.pictures`` + `AHEAD` samples, and up to `DECODE_THREADS` pictures while they are decoded.
    """

    def __init__(self, store: ImageStore, plan: SlidingPlan, *, seed: int, device: torch.device) -> None:
        """Allocate; ``move_to`` decodes.

        Args:
            store: where pictures come from.
            plan: how many samples of which size, and when they change.
            seed: any integer; decides order and pixels.
            device: where samples live and batches are made.
        """
        self.store, self.plan, self.seed, self.device = store, plan, seed, device
        self._slots = plan.pictures + AHEAD
        pixels = self._slots * plan.sample_pixels
        self._colours = torch.empty(pixels, store.channels, dtype=store.dtype, device=device)
        self._places = torch.empty(pixels, dtype=torch.int32, device=device)
        self._sample_in_slot = [-1] * self._slots
        self._picture_in_slot = torch.zeros(self._slots, dtype=torch.int64)
        self._pixels_in_slot = torch.zeros(self._slots, dtype=torch.int64)
        self._widths = torch.tensor([store.shape(picture)[1] for picture in range(len(store))], dtype=torch.int64)
        self._coming: dict[int, Future[int]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._turn: int | None = None
        self._order: tuple[int, list[int]] = (-1, [])
        self._tables: _Tables | None = None

    def move_to(self, step: int) -> bool:
        """Make the samples of ``step`` the ones drawn from, and have the next ones made. Steps should rise: going back
        decodes again.

        Returns:
            Whether there is a pixel to draw; there is none if all pictures are broken or masked.
        """
        turn = step // self.plan.rotate_every
        if turn == self._turn:
            return self._has_pixels
        end = self.plan.pictures_to_begin + turn
        current = range(max(0, end - self.plan.pictures), end)
        wanted = range(current.start, end + AHEAD)
        self._give_up_all_but(wanted)
        for sample in wanted:
            slot = sample % self._slots
            if self._sample_in_slot[slot] != sample and sample not in self._coming:
                self._sample_in_slot[slot] = -1
                self._picture_in_slot[slot] = picture = self._picture(sample)
                self._coming[sample] = self._workers().submit(self._make, sample, picture)
        for sample in [sample for sample in current if sample in self._coming]:
            slot = sample % self._slots
            self._pixels_in_slot[slot] = self._coming[sample].result()
            self._sample_in_slot[slot] = sample
            del self._coming[sample]
        self._tables = self._make_tables(current)
        self._turn = turn
        return self._has_pixels

    def draw(self, count: int, generator: torch.Generator, ranks: Ranks = ALONE) -> Drawn:
        """Pick ``count`` pixels uniformly, with replacement; of ``ranks`` each gets its share of them. ``generator`` is
        a CPU one, so all devices agree.
        """
        tables = self._tables
        if tables is None or tables.total == 0:
            raise InputError("SlidingPool: move to a step that has pixels before drawing.")
        number = torch.randint(tables.total, (count,), generator=generator)[ranks.share(count)].to(self.device)
        index = torch.searchsorted(tables.ends, number, right=True)
        position = number + tables.shifts[index]
        place = self._places.index_select(0, position).to(torch.int64)
        width = tables.widths[index]
        row = place // width
        return Drawn(
            image_index=tables.pictures[index],
            column=place - row * width,
            row=row,
            colour=self._colours.index_select(0, position),
        )

    def close(self) -> None:
        """Stop decoding ahead; what is being decoded is finished first. The pool goes on working."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor, self._turn = None, None
        self._coming.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return self._colours.nbytes + self._places.nbytes

    @property
    def _has_pixels(self) -> bool:
        return self._tables is not None and self._tables.total > 0

    def _workers(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="voxfield-decode")
        return self._executor

    def _give_up_all_but(self, wanted: range) -> None:
        """End samples under way that are not ``wanted``: they would write where a wanted one belongs."""
        for sample in [sample for sample in self._coming if sample not in wanted]:
            future = self._coming.pop(sample)
            if not future.cancel():
                future.exception()

    def _make(self, sample: int, picture: int) -> int:
        """Decode a picture, keep a part of its pixels in the sample's slot, and return how many. Runs in a worker.

        NumPy, not torch, as torch would start threads of its own beside the kernels'.
        """
        try:
            image, mask = self.store.decode(picture)
        except FormatError:
            return 0  # the store has listed it
        chosen = choose_pixels(
            image.shape[0] * image.shape[1],
            None if mask is None else mask.numpy().reshape(-1),
            part=self.plan.part,
            seed=mix(self.seed, "sample", sample),
        )
        colours = image.numpy().reshape(-1, self.store.channels).take(chosen, axis=0)
        start = sample % self._slots * self.plan.sample_pixels
        self._colours[start : start + len(chosen)].copy_(torch.from_numpy(colours))
        self._places[start : start + len(chosen)].copy_(torch.from_numpy(chosen))
        return len(chosen)

    def _picture(self, sample: int) -> int:
        """Whose pixels a sample holds: pictures by shuffles of the capture, one after another.

        Where all pictures have a place in the pool one shuffle serves for ever: then none is ever absent.
        """
        count = len(self.store)
        lap, place = divmod(sample, count)
        if self.plan.pictures == count:
            lap = 0
        if self._order[0] != lap:
            generator = torch.Generator().manual_seed(mix(self.seed, "order", lap))
            self._order = (lap, torch.randperm(count, generator=generator).tolist())
        return self._order[1][place]

    def _make_tables(self, samples: range) -> "_Tables":
        slots = torch.arange(samples.start, samples.stop) % self._slots
        pictures, counts = self._picture_in_slot[slots], self._pixels_in_slot[slots]
        ends = counts.cumsum(0)
        return _Tables(
            ends=ends.to(self.device),
            shifts=(slots * self.plan.sample_pixels - ends + counts).to(self.device),
            pictures=pictures.to(self.device),
            widths=self._widths[pictures].to(self.device),
            total=int(ends[-1]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """The samples drawn from, S of them in order."""

    ends: Tensor
    """(S,) int64: pixels up to and including each."""
    shifts: Tensor
    """(S,) int64: from a pixel's number among all to its position in the pool."""
    pictures: Tensor
    """(S,) int64: whose pixels they are."""
    widths: Tensor
    """(S,) int64: of those pictures."""
    total: int
    """Pixels of all."""


def choose_pixels(count: int, mask: Array | None, *, part: float, seed: int) -> Array:
    """Choose ``part`` of a picture's valid pixels at random, spread over it: one in each of as many equal stretches.

    Args:
        count: pixels of the picture, below 2^31.
        mask: (count,) bool, True where a pixel is valid; None: all are.
        part: above 0, at most 1 (all of them).
        seed: at least 0.

    Returns:
        (n,) int32 rising: numbers of pixels, row by row. n is ``part`` of the valid ones rounded down, but at least 1;
        0 if none is valid. Every valid pixel is as likely as any other.
    """
    valid = count if mask is None else int(np.count_nonzero(mask))
    if valid == 0:
        return np.zeros(0, dtype=np.int32)
    chosen = max(1, int(part * valid))
    ranks = np.random.Generator(np.random.PCG64(seed)).random(chosen)
    ranks += np.arange(chosen)
    ranks *= valid / chosen
    # Rounding may reach the end.
    places = np.minimum(ranks, valid - 1).astype(np.int32)
    return places if mask is None else _valid_places(mask, places)


_MASK_STRETCH: Final = 1 << 20
"""Pixels of a mask looked at together: their numbers take eight bytes each."""


def _valid_places(mask: Array, ranks: Array) -> Array:
    """Where in ``mask`` the valid pixels with these rising ``ranks`` (0: the first) lie."""
    places = np.empty_like(ranks)
    before = done = 0
    for start in range(0, len(mask), _MASK_STRETCH):
        valid = np.flatnonzero(mask[start : start + _MASK_STRETCH])
        end = int(np.searchsorted(ranks, before + len(valid)))
        places[done:end] = start + valid[ranks[done:end] - before]
        before, done = before + len(valid), end
    return places
