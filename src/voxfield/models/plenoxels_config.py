"""Settings of Plenoxels: schedules, penalties, limits.

What happens "at step n of 128,000" in svox2 happens at that share of the run here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from voxfield.checks import check_choice, check_range
from voxfield.errors import InputError
from voxfield.kernels.sh_grid import MarchRule
from voxfield.models.backdrop import check_background
from voxfield.voxels.voxel_grid import Resolution

COPIES: Final = 3
"""Values, gradients and second moments: what a voxel takes in training."""
_NOTED_BYTES: Final = 3
"""Whether a batch touches a voxel, and twice whether it is dense."""
_RAY_BYTES: Final = 4000
"""Of a training ray and its samples. Measured."""
_PLACE_BYTES: Final = 16
"""Of a place of a grid, stored or not, while voxels are dropped and divided. Measured."""
LINK_BYTES: Final = 7
"""A place of the grid, stored or not: its link, its clearance, and twice that where what is not dense is empty."""


@dataclass(frozen=True, kw_only=True)
class VoxelRate:
    """A learning rate that falls exponentially after a smooth start."""

    initial: float
    """Rate at the beginning, were it not for the start, above 0."""
    final: float
    """Rate that the fall ends at, above 0."""
    reach: float
    """Progress at which it would be reached, above 0; beyond 1 the run ends on the way."""
    delay: float = 0.0
    """Progress (0 to 1) until which the rate rises, from a hundredth, along a quarter of a sine."""

    def __post_init__(self) -> None:
        check_range("initial", self.initial, above=0.0)
        check_range("final", self.final, above=0.0)
        check_range("reach", self.reach, above=0.0)
        check_range("delay", self.delay, minimum=0.0, maximum=1.0)

    def at(self, progress: float) -> float:
        """The rate at ``progress``, 0 to 1."""
        rate = self.initial * (self.final / self.initial) ** min(1.0, progress / self.reach)
        if progress < self.delay:
            rate *= 0.01 + 0.99 * math.sin(0.5 * math.pi * progress / self.delay)
        return rate


@dataclass(frozen=True, kw_only=True)
class SpheresConfig:
    """Concentric spheres around the grid's, for scenes that go on beyond it. Lengths are in its radius."""

    layers: int | Literal["auto"] = "auto"
    """How many, 0 to 256; 0: what lies beyond the grid is not shown. ``auto``: 32 where the capture sees beyond its
    region of interest, else 0."""
    height: int = 256
    """Texels of each from pole to pole, 2 to 4096; twice as many go around."""
    camera_scale: float = 0.95
    """Distance of the farthest training camera from the centre, as a share of the grid's radius, above 0; a larger
    region of interest makes the radius larger."""
    initial_density: float = 0.1
    """Above 0."""
    density_rate: VoxelRate = VoxelRate(initial=3.0, final=3e-3, reach=2.44140625)
    """Learning rate of densities."""
    rgb_rate: VoxelRate = VoxelRate(initial=0.1, final=5e-6, reach=2.44140625)
    """Learning rate of colours."""
    tv_density: float = 1e-3
    """Weight of the total variation of densities, at least 0."""
    tv_rgb: float = 1e-3
    """Weight of the total variation of colours, at least 0."""
    density_threshold: float = 1.0
    """At the end of a stage texels stay whose density is above this, at least 0."""
    dilate: int = 1
    """Texels around one that stays which stay too, in steps, 0 to 8."""

    def __post_init__(self) -> None:
        if self.layers != "auto":
            check_range("layers", self.layers, minimum=0, maximum=256)
        check_range("height", self.height, minimum=2, maximum=4096)
        check_range("camera_scale", self.camera_scale, above=0.0)
        check_range("initial_density", self.initial_density, above=0.0)
        check_range("dilate", self.dilate, minimum=0, maximum=8)
        for name in ("tv_density", "tv_rgb", "density_threshold"):
            check_range(name, getattr(self, name), minimum=0.0)

    def bytes_of(self, height: int) -> int:
        """Memory that spheres of so many texels from pole to pole take in training."""
        count = 0 if self.layers == "auto" else self.layers
        return count * 2 * height * height * (4 * COPIES * 4 + 1 + 4)


@dataclass(frozen=True, kw_only=True)
class PlenoxelsConfig:
    """The model. Densities are per half side of the region of interest."""

    resolutions: tuple[Resolution, ...] = ((256, 256, 256), (512, 512, 512))
    """Voxels along x, y, z, stage by stage, each 2 to 2048. A stage of the same resolution as the one before only drops
    voxels."""
    refine_at: tuple[float, ...] = (0.3,)
    """Progress (0 to 1) at which each stage but the first begins, rising."""
    least_steps: int = 0
    """Steps that a stage lasts at least, whatever the progress: on a slow machine a run of few minutes would refine a
    grid that has not learned yet what is empty."""
    sh_degree: int = 2
    """Highest band of the harmonics, 0 to 3."""
    march: MarchRule = MarchRule()
    """Steps along rays."""
    rays_per_batch: int = 5000
    """At least 1."""
    initial_density: float = 0.1
    """Above 0: an empty voxel has no gradient."""
    empty_every: int = 16
    """Steps after which it is looked for where nothing is dense, for rays to pass by there, at least 1; in grids of
    more than 256^3 places more rarely, as it takes longer."""
    density_rate: VoxelRate = VoxelRate(initial=30.0, final=0.05, reach=1.953125, delay=0.1171875)
    """Learning rate of densities."""
    sh_rate: VoxelRate = VoxelRate(initial=1e-2, final=5e-6, reach=1.953125)
    """Learning rate of coefficients."""
    tv_density: float = 1e-5
    """Weight of the total variation of densities, at least 0."""
    tv_sh: float = 1e-3
    """Weight of the total variation of coefficients, at least 0."""
    tv_share: float = 0.01
    """Share of the grid whose variation is looked at in a step, 0 (exclusive) to 1."""
    tv_until: float = 0.3
    """Progress (0 to 1) from which variation is no longer penalised."""
    tv_decay: float = 1.0
    """Factor on both weights from each stage to the next, 0 to 1."""
    sparsity: float = 0.0
    """Weight of the Cauchy penalty log(1 + 2 density^2), summed along rays, at least 0."""
    beta: float = 0.0
    """Weight of log T + log(1 - T), T the light that passes the grid: drives rays to either; at least 0."""
    prune: Literal["weight", "density"] = "weight"
    """What decides at a stage's end which voxels stay: the largest share in a training ray's colour, or density."""
    weight_threshold: float = 0.256
    """Voxels stay whose largest weight is above this divided by the resolution along z, at least 0."""
    density_threshold: float = 5.0
    """Voxels stay whose density is above this, at least 0."""
    pruning_rays: int = 2_000_000
    """Training rays marched to find the weights, spread over all pictures, at least 1."""
    dilate: int = 2
    """Voxels around one that stays which stay too, in steps, 0 to 8."""
    spheres: SpheresConfig = SpheresConfig()
    """What lies beyond the grid."""
    spheres_alone_until: float = 0.0
    """Progress (0 to 1) until which only the spheres learn, where there are some."""
    near_clip: float = 0.0
    """Least distance of a sample from its camera where there are spheres, in the grid's radius, at least 0."""
    max_bytes: int | None = None
    """Most memory for voxels, their gradients and moments, and the table of links; None: any. A first resolution that
    does not fit is reduced; later, the least visible voxels go, then the largest resolution that fits is taken. Spheres
    get at most half of it."""
    background: str = "auto"
    """What training composites behind the grid: ``random``, or a colour (``white``, ``black``, ``#rrggbb`` or
    ``r,g,b``). ``auto``: random behind pictures with alpha, so that opacity is learned
    (behind the published white, white fog costs nothing and is never dropped), and behind forward-facing scenes, in
    which every ray ends somewhere, as in those with spheres; for pictures without alpha the plain colour that surrounds
    what they show, if there is one (`voxfield.data.plain_backdrop`); black otherwise."""
    random_until: float = 0.3
    """Progress (0 to 1) from which the backdrop is white where it was ``random``: fog is gone by then, and what is left
    to learn is what pictures are mostly looked at on."""

    def __post_init__(self) -> None:
        stages = self.resolutions
        if not stages or len(self.refine_at) != len(stages) - 1 or list(self.refine_at) != sorted(self.refine_at):
            raise InputError(
                f"refine_at: expected one rising progress for each of the {max(0, len(stages) - 1)} stages after the "
                f"first, got {self.refine_at}."
            )
        for stage in stages:
            check_range("resolutions", min(stage), minimum=2)
            check_range("resolutions", max(stage), maximum=2048)
        for progress in self.refine_at:
            check_range("refine_at", progress, minimum=0.0, maximum=1.0)
        check_choice("sh_degree", self.sh_degree, range(4))
        check_choice("prune", self.prune, ("weight", "density"))
        check_background(self.background, last_sample=False)
        check_range("random_until", self.random_until, minimum=0.0, maximum=1.0)
        check_range("least_steps", self.least_steps, minimum=0)
        check_range("rays_per_batch", self.rays_per_batch, minimum=1)
        check_range("empty_every", self.empty_every, minimum=1)
        check_range("pruning_rays", self.pruning_rays, minimum=1)
        check_range("initial_density", self.initial_density, above=0.0)
        check_range("tv_share", self.tv_share, above=0.0, maximum=1.0)
        check_range("dilate", self.dilate, minimum=0, maximum=8)
        check_range("near_clip", self.near_clip, minimum=0.0)
        for name in ("tv_until", "tv_decay", "spheres_alone_until"):
            check_range(name, getattr(self, name), minimum=0.0, maximum=1.0)
        for name in ("tv_density", "tv_sh", "sparsity", "beta", "weight_threshold", "density_threshold"):
            check_range(name, getattr(self, name), minimum=0.0)
        width, height, _ = stages[0]
        if self.max_bytes is not None and self.bytes_of((width, height, 1), width * height) > self.max_bytes:
            raise InputError(
                f"max_bytes: {self.max_bytes} bytes do not hold one layer of {width} x {height} voxels of degree "
                f"{self.sh_degree}, which takes {self.bytes_of((width, height, 1), width * height)}.\n"
                "Give more memory (--max-memory, and --memory where that is given), or a smaller first resolution or "
                "sh_degree."
            )

    def settled(self, *, unbounded: bool, has_alpha: bool, ndc: bool) -> "PlenoxelsConfig":
        """These settings with a value for every ``auto``.

        Raises:
            InputError: spheres in normalised device coordinates, which have no middle.
        """
        around = unbounded and not ndc
        count = (32 if around else 0) if self.spheres.layers == "auto" else self.spheres.layers
        if ndc and count:
            raise InputError(
                "model.spheres: there is no middle in normalised device coordinates for them to surround. Set "
                "model.spheres.layers=0, or capture.space=world."
            )
        ends = has_alpha or ndc or count > 0
        return replace(
            self,
            spheres=replace(self.spheres, layers=count),
            background=("random" if ends else "black") if self.background == "auto" else self.background,
            # Without alpha nothing of a picture is known to be the backdrop's.
            random_until=self.random_until if has_alpha else 1.0,
        )

    def bytes_of(self, resolution: Resolution, voxels: int) -> int:
        """Memory that a grid of so many stored ``voxels`` takes in training."""
        values = 1 + 3 * (self.sh_degree + 1) ** 2
        return voxels * (4 * COPIES * values + _NOTED_BYTES) + LINK_BYTES * math.prod(resolution)

    def step_bytes(self) -> int:
        """Memory beside the voxels: of a training step, or of finding out which voxels a stage begins with."""
        places = max(map(math.prod, self.resolutions))
        if self.max_bytes is not None:
            # Grids with more places than that are never taken: their links alone would not fit.
            places = min(places, self.max_bytes // LINK_BYTES)
        return max(self.rays_per_batch * _RAY_BYTES, places * _PLACE_BYTES)

    def fits(self, resolution: Resolution, voxels: int) -> bool:
        """Whether so many ``voxels`` are within ``max_bytes``."""
        return self.max_bytes is None or self.bytes_of(resolution, voxels) <= self.max_bytes

    def first_resolution(self) -> Resolution:
        """The first of ``resolutions``, or where a dense grid of it is beyond ``max_bytes`` the largest that is not."""
        return largest_resolution((2, 2, 2), self.resolutions[0], lambda size: self.fits(size, math.prod(size)))


def largest_resolution(least: Resolution, most: Resolution, fits: Callable[[Resolution], bool]) -> Resolution:
    """``most`` if it ``fits``, else the largest found on the way from there to ``least``, which is not asked about."""
    if fits(most):
        return most
    best, low, high = least, 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        size = cast(Resolution, tuple(int(a + middle * (b - a)) for a, b in zip(least, most, strict=True)))
        if fits(size):
            best, low = size, middle
        else:
            high = middle
    return best
