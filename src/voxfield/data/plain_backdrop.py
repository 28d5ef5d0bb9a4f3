"""Whether photographs without alpha show something before plain white or black: products, scans, renderings.

Nothing says then how opaque a pixel is, and white walls anywhere before the cameras explain most of every picture. With
the backdrop's own colour behind the field, nothing needs to be there.
"""

from typing import Final, Literal

import torch

from voxfield.data.capture import spread
from voxfield.data.image_store import ImageStore
from voxfield.errors import FormatError

Plain = Literal["white", "black"]

_PICTURES: Final = 8
"""Pictures that are looked at, evenly spread."""
_LEAST_SHARE: Final = 0.6
"""Of the pixels at their edges that are plain: what is photographed may reach beyond an edge; a bright sky has half."""
_TOLERANCE: Final = 5
"""Values of 255 from white or black that still are: JPEG's."""


def plain_backdrop(images: ImageStore) -> Plain | None:
    """The colour that nearly all pixels at the edges of ``images`` have, if it is white or black.

    None for pictures with alpha, which says what is behind, and for linear ones, whose white is no value of its own.
    Pictures that cannot be read are passed by; masked pixels do not count.
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
    pixels = torch.cat(edges)
    if float((pixels >= 255 - _TOLERANCE).all(1).float().mean()) >= _LEAST_SHARE:
        return "white"
    if float((pixels <= _TOLERANCE).all(1).float().mean()) >= _LEAST_SHARE:
        return "black"
    return None
