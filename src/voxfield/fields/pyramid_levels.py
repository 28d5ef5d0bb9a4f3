"""Which level of a pyramid of resolutions a sample is seen at, from how wide its pixel is there.

Level 0 is the coarsest of L; level r divides the extent of the scene into max_resolution / s**(L - 1 - r) cells, with s
the factor between neighbours. A pixel as wide as a cell of level r asks for level r. Levels between two whole ones are
fractions, below 0 a pixel is wider than the coarsest cells and above L - 1 narrower than the finest.

Source: Turki et al. 2023, PyNeRF (https://arxiv.org/abs/2312.00252), section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError

Blending = Literal["linear", "none", "laplacian"]
"""How levels make one value: the two next to a sample's own by their distance, the next finer one alone, or the sum of
all up to its own, the last of them in part."""

MOST_LEVELS: Final = 16
"""Most levels of a pyramid: with a factor of 2 the coarsest cells are then 32,768 times as long as the finest."""


@dataclass(frozen=True, kw_only=True)
class PyramidLevels:
    """A pyramid of resolutions over a scene."""

    num_levels: int
    """Levels L, 1 to 16."""
    scale_factor: float
    """Factor between the resolutions of neighbouring levels, above 1."""
    max_resolution: float
    """Cells of the finest level along ``extent``."""
    extent: float
    """Longest side of what the grids cover before contraction, twice the region of interest's with it: world units."""
    least_resolution: float = 1.0
    """Cells that the coarsest level must have at least."""

    def __post_init__(self) -> None:
        check_range("num_levels", self.num_levels, minimum=1, maximum=MOST_LEVELS)
        check_range("scale_factor", self.scale_factor, above=1.0, maximum=64.0)
        check_range("max_resolution", self.max_resolution, above=0.0, maximum=1e9)
        check_range("extent", self.extent, above=0.0, maximum=1e30)
        # A part in a million less: powers of factors such as 1.5 are rounded.
        if self.resolutions[0] < self.least_resolution * (1 - 1e-6):
            most = 1 + math.floor(math.log(self.max_resolution / self.least_resolution, self.scale_factor) + 1e-6)
            raise InputError(
                f"num_levels: with {self.num_levels} levels below max_resolution={self.max_resolution:g} the coarsest "
                f"has {self.resolutions[0]:.3g} cells, and {self.least_resolution:g} are the least.\n"
                f"Take at most {max(most, 0)} levels, a smaller scale_factor than {self.scale_factor:g}, or a larger "
                "max_resolution."
            )

    @property
    def resolutions(self) -> tuple[float, ...]:
        """Cells along ``extent``, one number a level, coarsest first."""
        last = self.num_levels - 1
        return tuple(self.max_resolution / self.scale_factor ** (last - level) for level in range(self.num_levels))

    def of_width(self, width: torch.Tensor) -> torch.Tensor:
        """The level (N,) that suits pixels ``width`` (N,) wide, world units: L - 1 - log_s(width max_resolution /
        extent), not clamped to the levels there are. No gradient.

        Raises:
            InputError: a width that is not above 0 and finite.
        """
        cells = width.detach() * (self.max_resolution / self.extent)
        # One comparison for all: it is false for NaN, too.
        sound = (cells > 0) & (cells < math.inf)
        if not bool(sound.all()):
            wrong = int((~sound).sum())
            raise InputError(
                f"width: expected pixel widths above 0 and finite, got {wrong} of {sound.numel()} that are not "
                f"({float(width[~sound][0]):g}). Are the rays' pixel areas those of a camera?"
            )
        return (self.num_levels - 1) - cells.log2() / math.log2(self.scale_factor)

    def at_distance(self, pixel_area: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """The level (N,) of `of_width` at ``distance`` (N,) along rays whose pixels cover ``pixel_area`` (N,) at 1.

        Raises:
            InputError: an area that is not above 0 and finite.
        """
        # A sample at the camera itself is asked for at the finest level, not refused.
        return self.of_width(pixel_area.sqrt() * distance.clamp(min=1e-9 * self.extent))


def check_blending(blending: str) -> None:
    """Raise unless ``blending`` is one."""
    check_choice("blending", blending, get_args(Blending))


@dataclass(frozen=True, kw_only=True)
class LevelGroup:
    """Samples that ask for the same levels."""

    levels: tuple[int, ...]
    """Whole levels they ask for, ascending."""
    count: int
    """Samples of the group, at least 1."""
    share: torch.Tensor | None
    """(count,) in (0, 1): how much the last of ``levels`` counts; None: as much as the blending gives it alone."""


@dataclass(frozen=True, kw_only=True)
class GroupedLevels:
    """Samples sorted by the levels they ask for."""

    order: torch.Tensor
    """(N,) int64: the samples, group after group, within a group as they came."""
    groups: tuple[LevelGroup, ...]
    """Coarsest first; their counts add up to N."""


def group_levels(level: torch.Tensor, num_levels: int, blending: Blending) -> GroupedLevels:
    """Sort samples so that those which ask for the same whole levels lie together.

    Args:
        level: (N,) finite levels, see `PyramidLevels.of_width`; below 0 and above the last they are the end's.
        num_levels: levels of the pyramid.
        blending: which whole levels a fraction asks for.

    Returns:
        The groups. With ``linear`` one holds the samples of one level, or those between two; a sample at a fraction f
        past level k asks for k with weight 1 - f and for k + 1 with f. With ``none`` it asks for k + 1 alone. With
        ``laplacian`` for 0 to k with weight 1 and for k + 1 with f.
    """
    check_blending(blending)
    inside = level.clamp(0, num_levels - 1)
    if blending == "none":
        inside = inside.ceil()
    below = inside.floor()
    share = inside - below
    key = (2 * below + (share > 0)).to(torch.uint8)
    order = torch.argsort(key, stable=True)
    counts = torch.bincount(key, minlength=2 * num_levels).tolist()
    shares = share.index_select(0, order).split(counts)
    groups = []
    for code, count in enumerate(counts):
        if not count:
            continue
        first, last = code // 2, code // 2 + code % 2
        levels = range(last + 1) if blending == "laplacian" else range(first, last + 1)
        groups.append(LevelGroup(levels=tuple(levels), count=count, share=shares[code] if code % 2 else None))
    return GroupedLevels(order=order, groups=tuple(groups))


def blend(values: Sequence[torch.Tensor], share: torch.Tensor | None, blending: Blending) -> torch.Tensor:
    """One value of a group's samples from those of its levels.

    Args:
        values: (C, count) each, one a level of the group.
        share: see `LevelGroup`.
        blending: how.

    Returns:
        (C, count); differentiable in ``values``.
    """
    if blending == "laplacian":
        last = values[-1] if share is None else values[-1] * share
        return torch.stack([*values[:-1], last]).sum(0) if len(values) > 1 else last
    if share is None:
        return values[0]
    return torch.lerp(values[0], values[1], share)
