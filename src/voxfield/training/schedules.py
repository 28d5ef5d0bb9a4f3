"""Learning rates as functions of progress, so that a run of one minute decays as fully as one of an hour."""

from dataclasses import dataclass

from voxfield.checks import check_range


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up over steps, then constant, then exponential decay, then constant again."""

    initial: float = 1e-2
    """Rate after the warm-up, above 0."""
    final_factor: float = 0.03
    """The last rate divided by the initial one, 0 (exclusive) to 1."""
    decay_from: float = 0.3
    """Progress (0 to 1) at which the decay starts."""
    decay_until: float = 1.0
    """Progress at which it ends, ``decay_from`` to 1."""
    warm_up_steps: int = 20
    """Steps over which the rate rises from 0, at least 0."""

    def __post_init__(self) -> None:
        check_range("initial", self.initial, above=0.0)
        check_range("final_factor", self.final_factor, above=0.0, maximum=1.0)
        check_range("decay_from", self.decay_from, minimum=0.0, maximum=1.0)
        check_range("decay_until", self.decay_until, minimum=self.decay_from, maximum=1.0)
        check_range("warm_up_steps", self.warm_up_steps, minimum=0)

    def at(self, step: int, progress: float) -> float:
        """The rate of ``step`` (from 0) at ``progress``, the finished share of the run, 0 to 1."""
        rate = self.initial
        if progress > self.decay_from:
            ended = progress >= self.decay_until
            share = 1.0 if ended else (progress - self.decay_from) / (self.decay_until - self.decay_from)
            rate *= self.final_factor**share
        if step < self.warm_up_steps:
            rate *= (step + 1) / self.warm_up_steps
        return rate
