"""Learning rates as functions of progress, so that a run of one minute decays as fully as one of an hour."""

from dataclasses import dataclass

from voxfield.checks import check_range


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up over steps, then constant, then exponential decay to the end."""

    initial: float = 1e-2
    """Rate after the warm-up, above 0."""
    final_factor: float = 0.03
    """The last rate divided by the initial one, 0 (exclusive) to 1."""
    decay_from: float = 0.3
    """Progress (0 to 1) at which the decay starts."""
    warm_up_steps: int = 20
    """Steps over which the rate rises from 0, at least 0."""

    def __post_init__(self) -> None:
        check_range("initial", self.initial, above=0.0)
        check_range("final_factor", self.final_factor, above=0.0, maximum=1.0)
        check_range("decay_from", self.decay_from, minimum=0.0, maximum=1.0)
        check_range("warm_up_steps", self.warm_up_steps, minimum=0)

    def at(self, step: int, progress: float) -> float:
        """The rate of ``step`` (from 0) at ``progress``, the finished share of the run, 0 to 1."""
        rate = self.initial
        if progress > self.decay_from:
            rate *= self.final_factor ** ((progress - self.decay_from) / (1.0 - self.decay_from))
        if step < self.warm_up_steps:
            rate *= (step + 1) / self.warm_up_steps
        return rate
