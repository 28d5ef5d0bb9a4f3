"""Pixels of reduced copies anywhere on their image, not only where the copy has them.

A copy reduced by 8 has a 64th of its image's pixels. Drawn as often as the image's they are met 64 times as often: a
field learns them by heart, ray by ray, and is the worse between them. What a copy's pixel is, the mean of 8 x 8 pixels
of the image, exists at every one of the image's pixels, so each time another of these blocks is taken, up to half a
block from the copy's own. It is looked at through its own middle.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from voxfield.data.image_store import ImageStore
from voxfield.data.pixel_pool import Drawn
from voxfield.data.scales import Scales
from voxfield.distributed.ranks import ALONE, Ranks

Gather = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Pixels (..., C) of pictures (...) at columns (...) and rows (...)."""


class ShiftedCopies:
    """Moves what was drawn from copies."""

    def __init__(self, scales: Scales, store: ImageStore, gather: Gather, device: torch.device) -> None:
        """Find the copies whose image is there whole.

        Args:
            scales: which pictures are copies of which.
            store: for the pictures' sizes. Masked ones are left as they are.
            gather: reads pixels of the pictures.
            device: where drawn pixels are.
        """
        finest = scales.finest[scales.image]
        ratio = scales.factor // scales.factor[finest]
        shapes = torch.tensor([store.shape(index)[:2] for index in range(len(store))])
        room = shapes[finest] - shapes * ratio[:, None]
        even = (ratio * scales.factor[finest] == scales.factor) & (room >= 0).all(1)
        self._finest, self._ratio = finest.to(device), torch.where(even, ratio, 1).to(device)
        self._ratios = [side for side in self._ratio.unique().tolist() if side > 1]
        # Nothing of the rows and columns that a copy leaves out: its camera does not see them.
        self._last = ((shapes - 1) * ratio[:, None]).flip(1).to(device)
        self._gather = gather
        self._opaque_value = 255.0 if store.dtype == torch.uint8 else 1.0

    def moved(self, drawn: Drawn, generator: torch.Generator, ranks: Ranks = ALONE) -> tuple[Tensor, Tensor]:
        """Drawn pixels, those of copies at other places near by.

        Args:
            drawn: R pixels.
            generator: of the places, on the CPU, so that all devices agree.
            ranks: whose share of a batch was drawn.

        Returns:
            Centres (R, 2) float32 in their own pictures, and colours (R, C) float32 in the store's unit, with straight
            alpha where there is one.
        """
        corner = torch.stack([drawn.column, drawn.row], dim=-1)
        centres, colours = corner.float() + 0.5, drawn.colour.float()
        shift = ranks.drawn(lambda count: torch.rand(count, 2, generator=generator), len(corner)).to(corner.device)
        drawn_ratio = self._ratio[drawn.image_index]
        for ratio in self._ratios:
            chosen = (drawn_ratio == ratio).nonzero()[:, 0]
            picture = drawn.image_index[chosen]
            first = corner[chosen] * ratio + (shift[chosen] * ratio).long() - ratio // 2
            first = torch.minimum(first.clamp(min=0), self._last[picture])
            colours[chosen] = self._block_means(self._finest[picture], first, ratio)
            centres[chosen] = first.float() / ratio + 0.5
        return centres, colours

    def _block_means(self, picture: Tensor, first: Tensor, side: int) -> Tensor:
        """Means (n, C) of ``side`` x ``side`` pixels from ``first`` (n, 2) on, of colours premultiplied by alpha."""
        steps = torch.arange(side, device=first.device)
        shape = (len(first), side, side)
        column = (first[:, 0, None, None] + steps).expand(shape)
        row = (first[:, 1, None, None] + steps[:, None]).expand(shape)
        values = self._gather(picture[:, None, None].expand(shape), column, row).float()
        if values.shape[-1] == 4:
            values[..., :3] *= values[..., 3:] * (1 / self._opaque_value)
        means = values.mean(dim=(1, 2))
        if means.shape[-1] == 4:
            means[:, :3] /= (means[:, 3:] * (1 / self._opaque_value)).clamp(min=1e-6)
        return means
