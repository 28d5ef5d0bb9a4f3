"""Decoded pictures packed pixel by pixel, so that a batch drawn from many of them is one gather.

A pool has slots. A slot holds one picture's pixels in a fixed stretch of one buffer. Pixels are numbered through the
filled slots, picture after picture, row by row, masked pixels left out: drawing a number uniformly draws a valid pixel
uniformly, with no rejection. A pixel that is to be drawn more often has several numbers. Captures larger than memory
are drawn from a `SlidingPool` instead.
"""

from functools import cached_property
from typing import Final, NamedTuple

import torch
from torch import Tensor

from voxfield.data.image_store import ImageStore
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError

MASK_BLOCK: Final = 64
"""Pixels per counted block of a mask: the k-th valid pixel is found by bisection over blocks, then within one."""


class Drawn(NamedTuple):
    """Pixels picked from a pool."""

    image_index: Tensor
    """(R,) int64: the picture."""
    column: Tensor
    """(R,) int64."""
    row: Tensor
    """(R,) int64."""
    colour: Tensor
    """(R, C) of the store's dtype."""


class PixelPool:
    """Slots of decoded pixels on one device. Slots are filled by any thread; ``draw`` sees those ``publish`` named."""

    def __init__(
        self,
        store: ImageStore,
        *,
        slots: int,
        slot_pixels: list[int],
        device: torch.device,
        repeats: Tensor | None = None,
    ) -> None:
        """Allocate a pool.

        Args:
            store: where pictures come from.
            slots: number of slots.
            slot_pixels: capacity of each slot, in pixels.
            device: where pixels live and batches are made.
            repeats: (N,) int64, at least 1: how many times as often the pixels of each picture are drawn; None: all
                alike.
        """
        self.store, self._repeats = store, repeats
        self.device = device
        # A mask is looked at in whole blocks: slots start at block bounds.
        padded = [-(-pixels // MASK_BLOCK) * MASK_BLOCK for pixels in slot_pixels]
        starts = [0]
        for pixels in padded:
            starts.append(starts[-1] + pixels)
        self._starts = starts
        self._colours = torch.empty(starts[-1], store.channels, dtype=store.dtype, device=device)
        self._valid = torch.zeros(starts[-1], dtype=torch.bool, device=device) if store.has_masks else None
        self._image_of_slot = [-1] * slots
        self._pixels_of_slot = [0] * slots
        self._tables: _Tables | None = None

    def fill(self, slots: list[int], images: list[int]) -> None:
        """Decode pictures into slots; a broken picture leaves its slot empty (the store lists it)."""

        def receive(position: int, decoded: tuple[Tensor, Tensor | None] | None) -> None:
            slot = slots[position]
            self._image_of_slot[slot] = images[position]
            self._pixels_of_slot[slot] = 0
            if decoded is None:
                return
            image, mask = decoded
            start, count = self._starts[slot], image.shape[0] * image.shape[1]
            self._colours[start : start + count].copy_(image.reshape(count, -1))
            if self._valid is not None:
                self._valid[start : self._starts[slot + 1]] = False
                self._valid[start : start + count] = True if mask is None else mask.reshape(-1).to(self.device)
            self._pixels_of_slot[slot] = count

        self.store.decode_many(images, receive)

    def view(self, slot: int) -> tuple[int, Tensor, Tensor | None] | None:
        """(picture, its pixels (H, W, C), its mask) in a slot, sharing memory; None when the slot is empty."""
        count = self._pixels_of_slot[slot]
        if not count:
            return None
        index, start = self._image_of_slot[slot], self._starts[slot]
        height, width, _ = self.store.shape(index)
        mask = None if self._valid is None else self._valid[start : start + count].view(height, width)
        return index, self._colours[start : start + count].view(height, width, -1), mask

    def holds_whole(self) -> bool:
        """Whether every picture lies in the slot of its own number, without masks: `gather` can be asked."""
        in_order = self._image_of_slot == list(range(len(self.store)))
        return self._valid is None and in_order and all(self._pixels_of_slot)

    def gather(self, picture: Tensor, column: Tensor, row: Tensor) -> Tensor:
        """Pixels (..., C) of pictures (...) at ``column`` and ``row`` (...), of a pool that `holds_whole`."""
        start, width = self._layout
        place = start[picture] + row * width[picture] + column
        return self._colours.index_select(0, place.reshape(-1)).view(*place.shape, self._colours.shape[1])

    @cached_property
    def _layout(self) -> tuple[Tensor, Tensor]:
        """Of a pool that `holds_whole`: first pixel and width (N,) of each picture."""
        widths = [self.store.shape(index)[1] for index in range(len(self.store))]
        starts = torch.tensor(self._starts[:-1], dtype=torch.int64, device=self.device)
        return starts, torch.tensor(widths, device=self.device)

    def publish(self, slots: list[int]) -> int:
        """Make ``slots`` the ones drawn from; returns the numbers of valid pixels in them (0: nothing can be drawn)."""
        slots = [slot for slot in slots if self._pixels_of_slot[slot]]
        starts = torch.tensor([self._starts[slot] for slot in slots], dtype=torch.int64)
        counts = torch.tensor([self._pixels_of_slot[slot] for slot in slots], dtype=torch.int64)
        images = torch.tensor([self._image_of_slot[slot] for slot in slots], dtype=torch.int64)
        widths = torch.tensor([self.store.shape(index)[1] for index in images.tolist()], dtype=torch.int64)
        repeats = torch.ones_like(images) if self._repeats is None else self._repeats[images]
        if self._valid is None:
            ends, block_starts = (counts * repeats).cumsum(0), starts
        else:
            # With masks the unit is a block of 64 pixels instead of a picture.
            blocks = [
                torch.arange(self._starts[slot], self._starts[slot + 1], MASK_BLOCK, dtype=torch.int64)
                for slot in slots
            ]
            block_starts = torch.cat(blocks) if blocks else starts
            valid = self._valid.view(-1, MASK_BLOCK)[(block_starts // MASK_BLOCK).to(self.device)]
            repeats = repeats.repeat_interleave(torch.tensor([len(block) for block in blocks], dtype=torch.int64))
            ends = (valid.sum(1, dtype=torch.int64).cpu() * repeats).cumsum(0)
        self._tables = _Tables(
            *(table.to(self.device) for table in (starts, images, widths, ends, block_starts, repeats)),
            total=int(ends[-1]) if len(ends) else 0,
        )
        return self._tables.total

    def draw(self, count: int, generator: torch.Generator, ranks: Ranks = ALONE) -> Drawn:
        """Pick ``count`` valid pixels, with replacement, each as often as its picture ``repeats``; of ``ranks`` each
        gets its share of them.

        ``generator`` is a CPU one, so all devices agree.
        """
        tables = self._tables
        if tables is None or tables.total == 0:
            raise InputError("PixelPool: publish slots that hold pixels before drawing.")
        number = torch.randint(tables.total, (count,), generator=generator)[ranks.share(count)].to(self.device)
        unit = torch.searchsorted(tables.ends, number, right=True)
        first = torch.where(unit > 0, tables.ends[(unit - 1).clamp(min=0)], torch.zeros_like(unit))
        within = (number - first) // tables.repeats[unit]
        if self._valid is None:
            slot, offset = unit, within
            position = tables.starts[slot] + offset
        else:
            block = tables.block_starts[unit]
            bits = self._valid.view(-1, MASK_BLOCK)[block // MASK_BLOCK]
            # The first place where `within` + 1 valid pixels have been met.
            place = (bits.to(torch.int32).cumsum(1) > within[:, None]).to(torch.uint8).argmax(1)
            position = block + place
            slot = torch.searchsorted(tables.starts_sorted, position, right=True) - 1
            slot = tables.slot_order[slot]
            offset = position - tables.starts[slot]
        width = tables.widths[slot]
        row = offset // width
        return Drawn(
            image_index=tables.images[slot],
            column=offset - row * width,
            row=row,
            colour=self._colours.index_select(0, position),
        )


class _Tables:
    """Where each published slot's pixels lie, and how many come before: swapped in one assignment."""

    def __init__(
        self,
        starts: Tensor,
        images: Tensor,
        widths: Tensor,
        ends: Tensor,
        block_starts: Tensor,
        repeats: Tensor,
        *,
        total: int,
    ) -> None:
        self.starts = starts
        self.images = images
        self.widths = widths
        self.ends = ends
        self.block_starts = block_starts
        self.repeats = repeats
        self.starts_sorted, self.slot_order = starts.sort()
        self.total = total
