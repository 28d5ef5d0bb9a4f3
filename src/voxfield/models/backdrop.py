"""What training composites behind a field."""

from typing import Literal

import torch

from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError

Background = Literal["white", "black", "random", "last_sample"]


def check_last_sample(chosen: str, has_alpha: bool) -> None:
    """Raise where ``last_sample`` is asked for and pictures have alpha: truth would be blended with the prediction."""
    if chosen == "last_sample" and has_alpha:
        raise InputError("background: last_sample teaches nothing where pictures are transparent; use random or white.")


def backdrop(
    background: Background,
    num_rays: int,
    generator: torch.Generator,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> torch.Tensor:
    """Colours (R, 3) behind ``num_rays`` training rays, for every background but ``last_sample``."""
    if background == "random":
        return ranks.drawn(lambda count: torch.rand(count, 3, generator=generator), num_rays).to(device)
    return torch.full((num_rays, 3), 1.0 if background == "white" else 0.0, device=device)
