"""How wide pixels are where they look."""

from typing import Final

import torch

from voxfield.distributed.ranks import Ranks
from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays

REMEMBERED: Final = 64
"""Training rays whose pixels stand for all: as many different ones a cell of the occupancy grid may be looked at by."""


class Footprints(torch.nn.Module):
    """Pixel widths at points that no ray leads to: those of a few rays of the last training batch.

    The occupancy grid asks for densities there. A pyramid of resolutions says at which it wants to be asked, and any
    fixed choice is wrong: the finest level may never have been trained, the coarsest blurs matter into empty cells.
    The pixels of random training rays, at their distance, are those that will be rendered.
    """

    origins: torch.Tensor
    """(64, 3): where the rays start."""
    slopes: torch.Tensor
    """(64,): how wide their pixels are at distance 1."""

    def __init__(self, origin: tuple[float, float, float], slope: float) -> None:
        """Before the first batch rays start at ``origin``, with pixels ``slope`` wide at distance 1."""
        super().__init__()
        self.register_buffer("origins", torch.tensor(origin, dtype=torch.float32).repeat(REMEMBERED, 1))
        self.register_buffer("slopes", torch.full((REMEMBERED,), slope))

    @torch.no_grad()
    def remember(self, rays: Rays) -> None:
        """Take some of a batch, which comes in random order."""
        if not len(rays):
            return
        some = torch.arange(REMEMBERED, device=self.slopes.device) % len(rays)
        self.origins.copy_(rays.origins[some])
        self.slopes.copy_(rays.pixel_area[some].sqrt())

    def merge(self, ranks: Ranks) -> None:
        """Those of the first rays of a batch that ``ranks`` share: rank 0's."""
        ranks.of_lead_(self.origins)
        ranks.of_lead_(self.slopes)

    def at(self, points: torch.Tensor, near: float) -> torch.Tensor:
        """The width (N,) of a pixel at each of ``points`` (N, 3), in the world and at least ``near`` away."""
        which = torch.arange(len(points), device=points.device) % REMEMBERED
        distance = (points - self.origins[which]).norm(dim=1).clamp(min=near)
        return self.slopes[which] * distance


def check_pixels_widen(cameras: Cameras) -> None:
    """Raise where pixels are as wide at any distance: rays do not say so, and would be taken for a perspective's."""
    if cameras.model == "orthographic":
        raise InputError("model.pyramid: pixels of orthographic cameras do not widen with distance. Take grid-ngp.")
