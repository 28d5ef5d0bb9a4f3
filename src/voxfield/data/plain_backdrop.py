"""Whether photographs without alpha show something before one plain colour: products, scans, renderings.

Nothing says then how opaque a pixel is, and walls of that colour anywhere before the cameras explain most of every
picture. With the colour itself behind the field, nothing needs to be there. A shaded backdrop that is the same in every
picture, as on a turntable before a fixed camera, is nowhere in the scene: its colour is taken for plain.
"""

from collections.abc import Sequence
from typing import Final

import torch

from voxfield.data.capture import spread
from voxfield.data.image_store import ImageStore
from voxfield.errors import FormatError

_PICTURES: Final = 8
"""Pictures that are looked at, evenly spread."""
_LEAST_SHARE: Final = 0.6
"""Of the pixels at their edges that are plain: what is photographed may reach beyond an edge; a bright sky has half."""
_TOLERANCE: Final = 5
"""Values of 255 from the plain colour that still are: JPEG's."""
_LEAST_PICTURES: Final = 3
"""For a backdrop to be the same in every one; two may have been taken side by side."""


def plain_backdrop(images: ImageStore) -> str | None:
    """The colour (``white``, ``black`` or ``#rrggbb``) of most pixels at the edges of ``images``, the same in each.

    None where there is none, for pictures with alpha, which says what is behind, and for linear ones. Of edges that are
    shaded, and shaded alike in every picture, it is the median. Pictures that cannot be read are passed by; masked
    pixels do not count.
    """
    if images.channels == 4 or images.linear:
        return None
    edges, counted = [], []
    for index in spread(len(images), _PICTURES):
        try:
            picture, mask = images.read(index), images.mask(index)
        except FormatError:
            continue
        edge = torch.ones(picture.shape[:2], dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        edges.append(picture[edge].short())
        counted.append(torch.ones(len(edges[-1]), dtype=torch.bool) if mask is None else mask[edge])
    pixels = torch.cat([edge[counts] for edge, counts in zip(edges, counted, strict=True)] or [torch.zeros(0, 3)])
    if not len(pixels):
        return None
    # White and black first: their values scatter to one side only.
    for colour, name in ((255, "white"), (0, "black")):
        if _share(pixels, torch.tensor(colour)) >= _LEAST_SHARE:
            return name
    median = pixels.median(0).values
    if _share(pixels, median) < _LEAST_SHARE and not _alike(edges, counted):
        return None
    return "#" + "".join(f"{value:02x}" for value in median.tolist())


def _alike(edges: Sequence[torch.Tensor], counted: Sequence[torch.Tensor]) -> bool:
    """Whether most pixels at the edges, (E, 3) of each picture, have the same values in all of them."""
    if len(edges) < _LEAST_PICTURES or len({len(edge) for edge in edges}) > 1:
        return False
    always = torch.stack(tuple(counted)).all(0)
    pixels = torch.stack(tuple(edges))[:, always]
    return pixels.numel() > 0 and _share(pixels, pixels.median(0).values) >= _LEAST_SHARE


def _share(pixels: torch.Tensor, colour: torch.Tensor) -> float:
    """Of ``pixels`` (..., 3), those that are as good as ``colour``."""
    return float(((pixels - colour).abs() <= _TOLERANCE).all(-1).float().mean())
