"""What training composites behind a field: ``random`` colours, the ray's ``last_sample``, or one colour."""

from typing import Final

import torch

from voxfield.colour import linear_from_srgb
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError
from voxfield.render.image import colour_from_name

_NO_COLOUR: Final = ("auto", "random", "last_sample")


def is_colour(background: str) -> bool:
    """Whether a setting names a colour; where that lies behind pictures without alpha, rays may end in nothing."""
    return background not in _NO_COLOUR


def check_background(background: str, *, last_sample: bool = True) -> None:
    """Raise unless a setting is ``auto``, ``random``, ``last_sample`` where there is one, or a colour's name."""
    words = _NO_COLOUR if last_sample else _NO_COLOUR[:2]
    if background in words:
        return
    try:
        colour_from_name(background)
    except InputError as error:
        raise InputError(
            f"background: expected {', '.join(words)}, or a colour: white, black, grey, #rrggbb or r,g,b from 0 to 1; "
            f"got {background!r}."
        ) from error


def check_last_sample(chosen: str, has_alpha: bool) -> None:
    """Raise where ``last_sample`` is asked for and pictures have alpha: truth would be blended with the prediction."""
    if chosen == "last_sample" and has_alpha:
        raise InputError("background: last_sample teaches nothing where pictures are transparent; use random or white.")


def backdrop(
    background: str,
    num_rays: int,
    generator: torch.Generator,
    device: torch.device,
    ranks: Ranks = ALONE,
    *,
    linear: bool = False,
) -> torch.Tensor:
    """Colours (R, 3) behind ``num_rays`` training rays, for every background but ``last_sample``; in ``linear`` light
    where pictures hold that.
    """
    if background == "random":
        return ranks.drawn(lambda count: torch.rand(count, 3, generator=generator), num_rays).to(device)
    colour = torch.tensor(colour_from_name(background))
    return (linear_from_srgb(colour) if linear else colour).to(device).repeat(num_rays, 1)
