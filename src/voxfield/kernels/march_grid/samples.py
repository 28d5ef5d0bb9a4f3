"""How far apart samples lie along a ray, and the packed samples that come of it.

Steps grow with distance: dt(t) = clamp(t * cone_angle, min_step, max_step). So that empty space can be skipped without
moving the samples behind it, samples lie on a lattice that does not depend on what is skipped: in *stepping space*, ::

    s(t) = t / min_step                                     for t <= t1 = min_step / cone_angle
         = 1 / cone_angle + ln(t / t1) / ln(1 + cone_angle) for t1 < t <= t2 = max_step / cone_angle
         = s(t2) + (t - t2) / max_step                      for t2 < t

one step is one unit of s: exactly min_step in the first part, t * cone_angle in the second, max_step in the third.
With cone_angle 0 the first part never ends.
"""

import math
from dataclasses import dataclass

import torch

from voxfield.checks import check_range


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """Distance between samples along a ray."""

    min_step: float
    """Step near the camera, world units, above 0."""
    cone_angle: float = 0.0
    """Growth of the step with distance: dt = t * cone_angle between the two limits, 0 to 1. 0: always min_step."""
    max_step: float = math.inf
    """Largest step, world units, at least min_step."""

    def __post_init__(self) -> None:
        check_range("min_step", self.min_step, above=0.0, maximum=1e30)
        check_range("cone_angle", self.cone_angle, minimum=0.0, maximum=1.0)
        check_range("max_step", self.max_step, minimum=self.min_step)

    @property
    def breaks(self) -> tuple[float, float]:
        """(t1, t2): distances where the step starts and stops growing; infinite where it does not."""
        if self.cone_angle == 0.0:
            return math.inf, math.inf
        return self.min_step / self.cone_angle, self.max_step / self.cone_angle

    @property
    def log_growth(self) -> float:
        """ln(1 + cone_angle): growth of ln(t) in one step of the second part."""
        return math.log1p(self.cone_angle)

    @property
    def break_steps(self) -> tuple[float, float]:
        """(s(t1), s(t2)): the breaks in stepping space; infinite where there is none."""
        if self.cone_angle == 0.0:
            return math.inf, math.inf
        s1 = 1.0 / self.cone_angle
        return s1, s1 + math.log(self.max_step / self.min_step) / self.log_growth

    def step_at(self, t: torch.Tensor) -> torch.Tensor:
        """dt(t), world units."""
        return (t * self.cone_angle).clamp(self.min_step, self.max_step)

    def to_steps(self, t: torch.Tensor) -> torch.Tensor:
        """s(t) for distances t >= 0, elementwise."""
        (t1, t2), (s1, s2) = self.breaks, self.break_steps
        steps = t / self.min_step
        if math.isfinite(t1):
            grown = s1 + torch.log(t.clamp(min=t1) / t1) / self.log_growth
            steps = torch.where(t > t1, grown, steps)
        if math.isfinite(t2):
            steps = torch.where(t > t2, s2 + (t - t2) / self.max_step, steps)
        return steps

    def to_distance(self, steps: torch.Tensor) -> torch.Tensor:
        """t(s), the inverse of ``to_steps``, elementwise."""
        (t1, t2), (s1, s2) = self.breaks, self.break_steps
        distance = steps * self.min_step
        if math.isfinite(t1):
            # The clamp keeps exp() finite where the third part is taken instead.
            grown = t1 * torch.exp((steps.clamp(s1, s2) - s1) * self.log_growth)
            distance = torch.where(steps > s1, grown, distance)
        if math.isfinite(t2):
            distance = torch.where(steps > s2, t2 + (steps - s2) * self.max_step, distance)
        return distance


@dataclass(frozen=True, kw_only=True)
class PackedSamples:
    """Samples of R rays, ray after ray, nearest first. No gradient flows to any of it."""

    t_start: torch.Tensor
    """(S,) start of each half-open interval [t_start, t_end), world units."""
    t_end: torch.Tensor
    """(S,) end of each interval."""
    ray_index: torch.Tensor
    """(S,) int32: the ray of each sample, never falling."""
    ray_offsets: torch.Tensor
    """(R + 1,) int64: samples of ray r are ray_offsets[r] to ray_offsets[r + 1]."""
    positions: torch.Tensor
    """(S, 3) where each interval's midpoint lies in the outermost cascade's box, scaled to [0, 1] (up to rounding).
    May be a transposed view of (3, S) storage."""
    pixel_area: torch.Tensor | None = None
    """(R,) what the pixel of each ray covers at distance 1, where the caller adds it."""

    def __len__(self) -> int:
        return len(self.t_start)
