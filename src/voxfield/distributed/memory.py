"""How much memory a job needs, said before it starts, and the bound that it keeps within.

A job adds up its need of named parts, each an upper estimate from the sizes of what it works on; `docs/memory.md` has
the measurements behind them. The bound is what the person allows, or else what the machine and the process's control
groups have to spare. A job first lowers what it can choose (pictures held, workers, rays at a time) until it fits; one
that still does not is refused before it writes anything: where a person set the bound at once, else only where it could
not fit even if its need is overstated as far as upper estimates are.

All figures are bytes of main memory, of this process and those that it starts for the job together, pages that they
share counted once.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from voxfield.checks import check_bytes
from voxfield.distributed.devices import device_memory
from voxfield.distributed.executors import ExecutorSettings
from voxfield.errors import InputError

PROCESS_BYTES: Final = 500_000_000
"""Python, torch and our kernels, loaded and compiled."""
_WITHOUT_KERNELS: Final = 300_000_000
"""The same without our kernels: they run in workers, or not at all."""
_SERVER_BYTES: Final = 200_000_000
"""Of the process that workers are forked from: torch and the job's modules."""
_WORKER_BYTES: Final = 150_000_000
"""Of a worker, beyond what it shares with that one: compiled kernels."""
_CUDA_BYTES: Final = 2_500_000_000
"""Main memory that torch and the driver take for an accelerator."""
_OVERSTATED: Final = 2.5
"""Times a job's real need that what it says is at most, see `docs/memory.md`."""
_SAID_FROM: Final = 1_000_000_000
"""Short jobs say what they need from here on."""


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """One of the things that a job needs memory for."""

    what: str
    """In the plural, as a person says it: ``pictures``."""
    size: int
    """Bytes, at least 0."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """What a job needs at most."""

    parts: tuple[MemoryPart, ...]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def __str__(self) -> str:
        largest_first = sorted(self.parts, key=lambda part: -part.size)
        listed = ", ".join(f"{part.what} {_amount(part.size)}" for part in largest_first if part.size >= 5_000_000)
        return f"Needs about {_amount(self.total)} of memory: {listed}."


@dataclass(frozen=True, kw_only=True)
class MemoryBound:
    """What a job may take; made by `memory_bound`."""

    size: int | None
    """Bytes of this process and those it starts; None: nobody knows."""
    allowed: bool
    """Whether a person allowed it, rather than the machine having it to spare."""

    def left(self, *parts: MemoryPart) -> int | None:
        """Bytes that ``parts`` leave, at least 0; None: nobody knows."""
        return None if self.size is None else max(0, self.size - sum(part.size for part in parts))

    def fitted(self, wanted: int, *parts: MemoryPart) -> int:
        """``wanted`` bytes, or fewer where ``parts`` leave fewer."""
        left = self.left(*parts)
        return wanted if left is None else min(wanted, left)

    def most(self, count: int, need: Callable[[int], MemoryNeed]) -> int:
        """The largest number up to ``count`` whose ``need`` is within the bound; 1 where none is."""
        while count > 1 and self.size is not None and need(count).total > self.size:
            count -= 1
        return count

    def check(self, need: MemoryNeed, remedy: str) -> None:
        """Raise unless the need is within the bound, or could be.

        Args:
            need: of the job, with everything lowered that it can lower itself.
            remedy: what a person can lower, as a sentence without its full stop.

        Raises:
            InputError: the need is larger.
        """
        if self.size is None or need.total <= self.size * (1.0 if self.allowed else _OVERSTATED):
            return
        # No "about" where two amounts read alike.
        where = f"--memory allows {_amount(self.size)}" if self.allowed else f"{_amount(self.size)} are to be had here"
        more = "allow more" if self.allowed else "allow more with --memory if you know better"
        raise InputError(f"memory: {str(need)[0].lower()}{str(need)[1:-1]}; {where}. {remedy}, or {more}.")


def memory_bound(memory: int | str | None) -> MemoryBound:
    """What a job may take.

    Args:
        memory: bytes, or such as ``"8GB"``; None: what the machine has to spare, and what this process has already.

    Raises:
        InputError: no such amount.
    """
    if memory is not None:
        return MemoryBound(size=check_bytes("memory", memory), allowed=True)
    here = device_memory(torch.device("cpu"))
    return MemoryBound(size=None if here.free is None else here.free + (here.allocated or 0), allowed=False)


def process_part(device: torch.device | None = None, *, kernels: bool = True) -> MemoryPart:
    """This process, before it works on anything: what it holds already, where that is more than usual.

    Args:
        device: where it computes; None: the CPU.
        kernels: whether it runs ours, rather than workers that do, or none.
    """
    usual = PROCESS_BYTES if kernels else _WITHOUT_KERNELS
    if device is not None and device.type != "cpu":
        usual += _CUDA_BYTES
    held = device_memory(torch.device("cpu")).allocated or 0
    return MemoryPart(what="Python, PyTorch and compiled kernels", size=max(usual, held))


def workers_within(
    bound: MemoryBound, settings: ExecutorSettings, *, tasks: int, each: int, waiting: int = 0, what: str
) -> tuple[ExecutorSettings, MemoryNeed]:
    """As many local workers as are wanted and fit, at least one, and what they need with this process.

    Args:
        bound: what they may take.
        settings: where tasks run. What the workers of a cluster need is not ours to bound.
        tasks: how many there are.
        each: bytes that a task takes.
        waiting: bytes of results that wait for this process, for each worker.
        what: tasks work on, as `MemoryPart.what`.
    """
    if settings.executor != "local":
        here = MemoryPart(what="results under way", size=waiting * tasks)
        return settings, MemoryNeed(parts=(process_part(kernels=False), here))
    wanted = max(1, min(settings.workers or os.cpu_count() or 1, tasks))
    count = bound.most(wanted, lambda workers: _of_workers(workers, each, waiting, what))
    return replace(settings, workers=count), _of_workers(count, each, waiting, what)


def _of_workers(count: int, each: int, waiting: int, what: str) -> MemoryNeed:
    if count == 1:
        return MemoryNeed(parts=(process_part(), MemoryPart(what=what, size=each + waiting)))
    around = _SERVER_BYTES + count * _WORKER_BYTES
    return MemoryNeed(
        parts=(
            process_part(kernels=False),
            MemoryPart(what=f"{count} workers", size=around),
            MemoryPart(what=what, size=count * (each + waiting)),
        )
    )


def check_short_job(memory: int | str | None, need: MemoryNeed, remedy: str, say: Callable[[str], None]) -> None:
    """Check what a job needs that is mostly short, and say it only where it is much, or a person has set the bound.

    Args:
        memory: as `memory_bound`.
        need: of the job.
        remedy: as `MemoryBound.check`.
        say: tells a person.

    Raises:
        InputError: no such amount, or the need is larger.
    """
    bound = memory_bound(memory)
    bound.check(need, remedy)
    if bound.allowed or need.total >= _SAID_FROM:
        say(str(need))


def need_of(*parts: MemoryPart, process: MemoryPart | None = None) -> MemoryNeed:
    """The parts and this process."""
    return MemoryNeed(parts=(*parts, process or process_part()))


def _amount(size: int) -> str:
    """Bytes as a person says them."""
    return f"{size / 1e9:.2f} GB" if size >= 999_500_000 else f"{size / 1e6:.0f} MB"
