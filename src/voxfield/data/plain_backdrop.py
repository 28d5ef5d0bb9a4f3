"""Whether photographs without alpha show something before one plain colour: products, scans, renderings.

Nothing says then how opaque a pixel is, and walls of that colour anywhere before the cameras explain most of every
picture. With the colour itself behind the field, nothing needs to be there.
"""

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


def plain_backdrop(images: ImageStore) -> str | None:
    """The colour (``white``, ``black`` or ``#rrggbb``) of most pixels at the edges of ``images``, the same in each.

    None where there is none, for pictures with alpha, which says what is behind, and for linear ones. Pictures that
    cannot be read are passed by; masked pixels do not count.
    """
    if images.channels == 4 or images.linear:
        return None
    edges = []
    for index in spread(len(images), _PICTURES):
        try:
            picture, mask = images.read(index), images.mask(index)
        except FormatError:
            continue
        edge = torch.ones(picture.shape[:2], dtype=torch.bool)
        edge[1:-1, 1:-1] = False
        edges.append(picture[edge if mask is None else edge & mask])
    if not sum(map(len, edges)):
        return None
    pixels = torch.cat(edges).short()
    # White and black first: their values scatter to one side only.
    for colour, name in ((255, "white"), (0, "black")):
        if _share(pixels, torch.tensor(colour)) >= _LEAST_SHARE:
            return name
    median = pixels.median(0).values
    if _share(pixels, median) < _LEAST_SHARE:
        return None
    return "#" + "".join(f"{value:02x}" for value in median.tolist())


def _share(pixels: torch.Tensor, colour: torch.Tensor) -> float:
    """Of ``pixels`` (N, 3), those that are as good as ``colour``."""
    return float(((pixels - colour).abs() <= _TOLERANCE).all(1).float().mean())
