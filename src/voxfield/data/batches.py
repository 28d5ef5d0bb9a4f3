"""Where training examples come from, whatever they are."""

from typing import Protocol, TypeVar

BatchT_co = TypeVar("BatchT_co", covariant=True)


class Batches(Protocol[BatchT_co]):
    """A source of batches."""

    def sample(self, count: int, step: int, /) -> BatchT_co:
        """``count`` examples for step ``step``: a pure function of its arguments, so that runs resume exactly."""
