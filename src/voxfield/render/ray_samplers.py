"""Where along a ray to look: a fixed spacing first, then ever more closely where proposal networks saw something.

Conventions: a ray has S adjoining intervals between S + 1 edges (R, S + 1) that never fall. Edges exist twice: as
distances t along the ray in world units, and as normalised spacing s in [0, 1], in which initial intervals are equally
long and in which resampling and the losses on weights work. ``RaySpacing`` converts between the two.

Sources: Mildenhall et al., https://arxiv.org/abs/2003.08934, section 4 (stratified sampling); Barron et al., Mip-NeRF
360, https://arxiv.org/abs/2111.12077, section 2 (spacing), section 3 (proposals) and appendix (annealing); the
piecewise spacing and the update schedule are those of nerfstudio's nerfacto.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from voxfield.checks import check_choice, check_range, check_shape
from voxfield.errors import InputError

SpacingKind = Literal["uniform", "piecewise"]
"""``"uniform"``: equal lengths. ``"piecewise"``: half of the spacing covers distances below 1 evenly, the other half
is even in 1/t, up to infinity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RaySpacing:
    """The map between distance t in [near, far] and normalised spacing s in [0, 1].

    With g(t) = t for ``"uniform"``, and t/2 below 1, else 1 - 1/(2t), for ``"piecewise"`` ::

        s = (g(t) - g(near)) / (g(far) - g(near))
    """

    near: float | torch.Tensor
    """Distance at which rays begin, at least 0, world units; one for all, or (R,), one a ray (values not checked)."""
    far: float | torch.Tensor
    """Distance at which they end, above near, finite; one for all, or (R,)."""
    kind: SpacingKind = "piecewise"
    """How intervals grow with distance."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("uniform", "piecewise"))
        for name, value in (("near", self.near), ("far", self.far)):
            if isinstance(value, torch.Tensor):
                check_shape(name, value, ("R",))
            elif not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}: expected a finite distance of at least 0, got {value}.")
        if not isinstance(self.near, torch.Tensor) and not isinstance(self.far, torch.Tensor):
            check_range("far", self.far, above=self.near)

    def to_distance(self, spacing: torch.Tensor) -> torch.Tensor:
        """(R, K) normalised spacings in [0, 1] to (R, K) distances in [near, far]. Monotone; no gradient."""
        check_shape("spacing", spacing, ("R", "K"))
        with torch.no_grad():
            near, far = self._ends(spacing)
            first, last = self._warp(near), self._warp(far)
            warped = first + spacing * (last - first)
            # Near s = 1 the piecewise inverse magnifies rounding: a far end of 1000 would come out as 1000.1.
            return torch.maximum(torch.minimum(self._unwarp(warped), far), near)

    def to_spacing(self, distance: torch.Tensor) -> torch.Tensor:
        """(R, K) distances in [near, far] to (R, K) normalised spacings in [0, 1]. Monotone; no gradient."""
        check_shape("distance", distance, ("R", "K"))
        with torch.no_grad():
            near, far = self._ends(distance)
            first, last = self._warp(near), self._warp(far)
            return ((self._warp(distance) - first) / (last - first)).clamp(0.0, 1.0)

    def _ends(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both ends, near and far, shaped to go with ``like`` (R, K)."""
        ends = []
        for name, value in (("near", self.near), ("far", self.far)):
            if isinstance(value, torch.Tensor):
                check_shape(name, value, (len(like),))
                ends.append(value.detach().to(like)[:, None])
            else:
                ends.append(like.new_full((1, 1), value))
        return ends[0], ends[1]

    def _warp(self, distance: torch.Tensor) -> torch.Tensor:
        if self.kind == "uniform":
            return distance
        return torch.where(distance < 1, 0.5 * distance, 1 - 0.5 / distance.clamp(min=1.0))

    def _unwarp(self, warped: torch.Tensor) -> torch.Tensor:
        if self.kind == "uniform":
            return warped
        return torch.where(warped < 0.5, 2 * warped, 0.5 / (1 - warped.clamp(min=0.5)))


def even_edges(
    num_rays: int,
    num_samples: int,
    *,
    jitter: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Edges of equally long intervals in normalised spacing: the first samples, before any network has been asked.

    Args:
        num_rays: R, at least 0.
        num_samples: S, at least 1.
        jitter: (R, 1), one number a ray, or (R, S + 1), one an edge, in [0, 1): each edge is moved to that part of the
            way from the middle of the interval before it to the middle of the one behind (the outermost stay within
            [0, 1]). None: edges at i/S, for evaluation.
        device, dtype: of the result; with jitter, its own.

    Returns:
        (R, S + 1) in [0, 1], never falling. Without jitter an expanded view: not to be written to.
    """
    check_range("num_rays", num_rays, minimum=0)
    check_range("num_samples", num_samples, minimum=1)
    if jitter is not None:
        if tuple(jitter.shape) not in ((num_rays, 1), (num_rays, num_samples + 1)):
            raise InputError(
                f"jitter: expected shape ({num_rays}, 1) or ({num_rays}, {num_samples + 1}), got {tuple(jitter.shape)}."
            )
        device, dtype = jitter.device, jitter.dtype
    edges = torch.linspace(0.0, 1.0, num_samples + 1, device=device, dtype=dtype)
    if jitter is None:
        return edges.expand(num_rays, -1)
    middles = 0.5 * (edges[:-1] + edges[1:])
    low, high = torch.cat([edges[:1], middles]), torch.cat([middles, edges[-1:]])
    return low + jitter.detach() * (high - low)


def annealing_exponent(step: int, *, steps: int = 1000, slope: float = 10.0) -> float:
    """The power that weights are raised to before resampling: from 0 at step 0 (all alike) to 1 (as they are).

    With x = step / steps, at most 1: slope x / ((slope - 1) x + 1), the bias function of Schlick 1994, as Mip-NeRF 360
    uses it. It keeps early samples spread out, while proposals are still arbitrary.

    Args:
        step: of training, from 0.
        steps: at which 1 is reached, at least 0; 0 is no annealing.
        slope: how steeply it begins, above 0.
    """
    check_range("step", step, minimum=0)
    check_range("steps", steps, minimum=0)
    check_range("slope", slope, above=0.0, maximum=1e6)
    x = 1.0 if steps == 0 else min(step / steps, 1.0)
    return slope * x / ((slope - 1) * x + 1)


def anneal_weights(weights: torch.Tensor, exponent: float) -> torch.Tensor:
    """``weights ** exponent`` as a constant, for resampling; 0 ** 0 is 1. An exponent of 1 costs nothing."""
    check_range("exponent", exponent, minimum=0.0, maximum=1.0)
    weights = weights.detach()
    return weights if exponent == 1.0 else weights**exponent


@dataclass(frozen=True, kw_only=True)
class ProposalSchedule:
    """Which training steps give the proposal networks gradients: nearly all at first, few once they follow well.

    A step is one of them when it is among the first ``always`` ones, or when more than n steps have passed since the
    last, with n rising evenly from 1 at the beginning to ``every`` at step ``warmup``. So with the defaults: all of
    the first 10, then every second one, in the end every sixth.
    """

    always: int = 10
    """First steps that all update, at least 1."""
    warmup: int = 5000
    """Step at which updates are rarest, at least 0."""
    every: int = 5
    """n in the end, at least 1: steps in a row without an update."""

    def __post_init__(self) -> None:
        check_range("always", self.always, minimum=1)
        check_range("warmup", self.warmup, minimum=0, maximum=10_000_000)
        check_range("every", self.every, minimum=1)

    def updates_at(self, step: int) -> bool:
        """Whether step ``step`` (from 0) updates. Depends on nothing else, so that a resumed run does what it would."""
        check_range("step", step, minimum=0)
        early, last = _warmup_updates(self)
        return step in early if step <= last else (step - last) % (self.every + 1) == 0


@lru_cache(maxsize=8)
def _warmup_updates(schedule: ProposalSchedule) -> tuple[frozenset[int], int]:
    """The updates up to the first at which the pace no longer changes, and that one."""
    updates, last, step = set(range(schedule.always)), schedule.always - 1, schedule.always
    while last < schedule.warmup:
        # As numpy.interp(step, [0, warmup], [0, every]), clipped to at least 1.
        pace = max(1.0, schedule.every * min(step / schedule.warmup, 1.0))
        if step - last > pace:
            updates.add(step)
            last = step
        step += 1
    return frozenset(updates), last
