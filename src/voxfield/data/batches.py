"""Where training examples come from, whatever they are."""

from typing import Protocol, TypeVar

from voxfield.distributed.ranks import ALONE, Ranks

BatchT_co = TypeVar("BatchT_co", covariant=True)


class Batches(Protocol[BatchT_co]):
    """A source of batches."""

    def sample(self, count: int, step: int, ranks: Ranks = ALONE, /) -> BatchT_co:
        """``count`` examples for step ``step``: a pure function of its arguments, so that runs resume exactly.

        Of ``ranks`` each gets its share of the same examples that one alone would get, ``count`` being for all.
        """
