"""Memory that all ranks of one machine see, to add up gradients in faster than through its loopback interface.

Every rank has a part that it alone writes; all read all of it. What they do in turns is kept apart by waiting.
"""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from voxfield.distributed.ranks import Ranks

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  (the file has no name as soon as all ranks have it)
_MOST_RANKS: Final = 8
"""Every rank reads what all wrote: with more of them a ring of messages moves less."""
_AT_ONCE: Final = 1 << 16
"""Numbers added up together: sums stay in the second-level cache while the ranks' parts are read."""


class Blackboard:
    """Room for as many float32 numbers of each rank."""

    def __init__(self, ranks: Ranks, sides: Sequence[Sequence[torch.Tensor]]) -> None:
        """``sides``: two, each a part of every rank, all equally long, in memory that all see. See `among`."""
        self.ranks, self._sides, self._turns = ranks, sides, 0

    @classmethod
    def among(cls, ranks: Ranks, numbers: int) -> "Blackboard | None":
        """One with room for ``numbers`` of each rank; None where ranks are on several machines, too many, or the
        system has no such memory, or too little.
        """
        if not numbers or ranks.local_size != ranks.size or not 1 < ranks.size <= _MOST_RANKS:
            return None
        size = 2 * 4 * numbers * ranks.size
        mapped = None
        with _shared_file(ranks, size) as path:
            if path is not None:
                with contextlib.suppress(OSError, ValueError), path.open("r+b") as file:
                    mapped = mmap.mmap(file.fileno(), size)
            missing = ranks.greatest_(torch.tensor([float(mapped is None)]))
        if mapped is None or missing:
            return None
        sides = torch.frombuffer(mapped, dtype=torch.float32).chunk(2)
        return cls(ranks, [side.chunk(ranks.size) for side in sides])

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each of ``tensors``, contiguous float32 on the CPU, by its sum over all ranks.

        In the ranks' order on every one of them, so that all have the same to the last bit.
        """
        # The other side may still be read by slower ranks. This one may not: they are past the wait of the last turn.
        parts = self._sides[self._turns % 2]
        self._turns += 1
        own, at = parts[self.ranks.rank], 0
        for tensor in tensors:
            own[at : at + tensor.numel()].copy_(tensor.view(-1))
            at += tensor.numel()
        self.ranks.wait()
        at = 0
        for tensor in tensors:
            flat = tensor.view(-1)
            for start in range(0, len(flat), _AT_ONCE):
                some = flat[start : start + _AT_ONCE]
                place = slice(at + start, at + start + len(some))
                if len(parts) == 2:  # of two, the order does not matter
                    some.add_(parts[1 - self.ranks.rank][place])
                    continue
                torch.add(parts[0][place], parts[1][place], out=some)
                for part in parts[2:]:
                    some.add_(part[place])
            at += len(flat)


@contextlib.contextmanager
def _shared_file(ranks: Ranks, size: int) -> Iterator[Path | None]:
    """The path of a file in memory that rank 0 made, inside; None where that could not be."""
    name = ""
    if ranks.leads and hasattr(os, "posix_fallocate"):
        # Reserved now: memory that turns out to be missing later ends a process without a word.
        with contextlib.suppress(OSError):
            number, name = tempfile.mkstemp(prefix="voxfield-", dir=_FOLDER)
            try:
                os.posix_fallocate(number, 0, size)
            except OSError:
                Path(name).unlink()
                name = ""
            finally:
                os.close(number)
    found = ranks.texts(name)[0]
    try:
        yield Path(found) if found else None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
