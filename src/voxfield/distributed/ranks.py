"""Processes that train one model together, one to a device: who they are, and what they tell each other.

A launcher (``torchrun``) starts N processes, the *ranks* 0 to N - 1, and tells each by environment variables who it is.
`launched` reads those, `joined` connects the ranks, and a `Ranks` is then what the others are reached by. A process
alone is a `Ranks` of size 1, of whose methods none does anything.

Of a batch of N x B examples every rank computes B: rank r those from r B on. Random numbers are drawn for the whole
batch on every rank, and each takes those of its own examples: N ranks see what one process with the whole batch sees.
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from voxfield.errors import InputError, LostRankError, VoxfieldError

MEETING_TIME: Final = timedelta(minutes=5)
"""How long ranks wait for each other at the start."""
PATIENCE: Final = timedelta(hours=6)
"""How long a rank waits for another that is there but busy: rank 0 evaluates, or somebody paused it in the viewer. One
that is gone is noticed at once."""
_BACKENDS: Final = {"cpu": "cpu:gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
"""What carries tensors between ranks: small numbers always on the CPU, gradients where they are."""
_WHO = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that train together, as one of them sees them. By default one alone."""

    rank: int = 0
    """Which of them this is, from 0."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Which one of its machine, from 0."""
    local_size: int = 1
    """How many its machine has."""
    restarts: int = 0
    """How often the launcher has started all of them again after one was lost."""
    job: str | None = None
    """Name of what the launcher runs, the same after restarts; None without a launcher."""

    @property
    def leads(self) -> bool:
        """Whether this one writes files and shows progress: rank 0."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` examples, a multiple of ``size``, this rank computes."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def drawn(self, draw: Callable[[int], torch.Tensor], count: int) -> torch.Tensor:
        """Random rows (count, ...) for this rank's ``count`` examples: its share of those ``draw`` gives for all."""
        return draw(count) if self.size == 1 else draw(count * self.size)[self.share(count * self.size)]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace ``tensor`` by its sum over all ranks, the same on each to the last bit."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def greatest_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace ``tensor`` by the elementwise greatest over all ranks."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def of_lead_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace ``tensor`` by that of rank 0."""
        if self.size > 1:
            with _noticing_losses():
                dist.broadcast(tensor, 0)
        return tensor

    def mean(self, number: torch.Tensor) -> torch.Tensor:
        """Mean over all ranks of a tensor without gradient, which stays as it is."""
        return number if self.size == 1 else self.sum_(number.detach().clone()) / self.size

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """(size, ...): ``tensor``, of one shape on all ranks, of each of them."""
        if self.size == 1:
            return tensor[None]
        found = tensor.new_empty((self.size, *tensor.shape))
        with _noticing_losses():
            dist.all_gather(list(found.unbind(0)), tensor.contiguous())
        return found

    def texts(self, text: str) -> list[str]:
        """What each rank says."""
        if self.size == 1:
            return [text]
        said = text.encode()
        lengths = self.gathered(torch.tensor([len(said)]))[:, 0]
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(said)] = torch.frombuffer(bytearray(said or b" "), dtype=torch.uint8)[: len(said)]
        found = self.gathered(padded)
        return [bytes(one[:length].tolist()).decode() for one, length in zip(found, lengths.tolist(), strict=True)]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gathered(torch.zeros(1))

    def check_same(self, **parts: str) -> None:
        """Raise InputError on every rank where one was told other ``parts`` (names to texts of any length) than rank 0.

        What differs is named, and on which rank; texts themselves are compared by their hashes.
        """
        if self.size == 1:
            return
        told = [hashlib.sha256(text.encode()).hexdigest() for text in parts.values()]
        everyone = [said.split() for said in self.texts(" ".join(told))]
        for rank, theirs in enumerate(everyone):
            other = [name for name, one, first in zip(parts, theirs, everyone[0], strict=True) if one != first]
            if other:
                raise InputError(
                    f"Rank {rank} of {self.size} has other {' and '.join(other)} than rank 0. Start all ranks with one "
                    "command, on the same data, files and versions."
                )

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Where a rank raises a `VoxfieldError` inside, all do: each its own, those without one that of another."""
        own: VoxfieldError | None = None
        try:
            yield
        except VoxfieldError as error:
            own = error
        problems = self.texts("" if own is None else str(own))
        if own is not None:
            raise own
        for rank, problem in enumerate(problems):
            if problem:
                raise InputError(f"rank {rank}: {problem}")

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Inside, one rank of every machine is first; the others follow and find what it left in caches."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def _reduced(self, tensor: torch.Tensor, operation: Any) -> torch.Tensor:
        if self.size > 1:
            with _noticing_losses():
                dist.all_reduce(tensor, operation)
        return tensor


ALONE: Final = Ranks()
"""One process that trains by itself."""


def launched(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Who this process is, as a launcher said: nothing is connected yet.

    Raises:
        InputError: the variables are incomplete, or contradict each other.
    """
    if not all(name in environment for name in _WHO[:2]):
        return ALONE
    missing = [name for name in (*_WHO, "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing and environment["WORLD_SIZE"] != "1":
        raise InputError(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}. Start ranks with torchrun, or unset both."
        )
    numbers = []
    for name, default in zip(_WHO, ("0", "1", "0", "1"), strict=True):
        value = environment.get(name, default)
        if not value.isdecimal():
            raise InputError(f"{name}: expected a whole number from 0, got {value!r}. Start ranks with torchrun.")
        numbers.append(int(value))
    rank, size, local_rank, local_size = numbers
    if not (rank < size and local_rank < local_size <= size):
        raise InputError(
            f"RANK={rank} WORLD_SIZE={size} LOCAL_RANK={local_rank} LOCAL_WORLD_SIZE={local_size} contradict each "
            "other. Start ranks with torchrun."
        )
    restarts, job = environment.get("TORCHELASTIC_RESTART_COUNT", ""), environment.get("TORCHELASTIC_RUN_ID")
    if job == "none":  # torchrun's default: told apart by the launcher's own process, which outlives restarts
        job = f"{socket.gethostname()}:{os.getppid()}"
    return Ranks(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        restarts=int(restarts) if restarts.isdecimal() else 0,
        job=job,
    )


@contextlib.contextmanager
def joined(ranks: Ranks, device: torch.device, *, versions: str = "") -> Iterator[None]:
    """Inside, ``ranks`` are connected, each with its share of the machine's cores for threads.

    Args:
        ranks: as `launched` gave them; nothing is done for one alone.
        device: where this one trains.
        versions: of what matters; all ranks must have the same.

    Raises:
        InputError: ranks disagree about their number or versions, or devices of the kind cannot work together.
        LostRankError: not all of them came.
    """
    if ranks.size == 1:
        yield
        return
    if device.type not in _BACKENDS:
        raise InputError(f"device: ranks cannot exchange gradients on {device.type}. Use --device cpu.")
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads_of_rank(ranks, threads))
    try:
        with _noticing_losses():
            found, _, _ = next(iter(rendezvous("env://", ranks.rank, ranks.size, timeout=MEETING_TIME)))
        found.set_timeout(MEETING_TIME)
        # The launcher's store outlives ranks: after a restart it still says where those before were reached.
        store = PrefixStore(f"voxfield/{ranks.restarts}", found)
        _meet(store, ranks)
        with _noticing_losses():
            dist.init_process_group(
                _BACKENDS[device.type], store=store, rank=ranks.rank, world_size=ranks.size, timeout=PATIENCE
            )
        try:
            ranks.check_same(versions=versions)
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # of a group that lost a rank
                dist.destroy_process_group()
    finally:
        torch.set_num_threads(threads)


def _meet(store: Any, ranks: Ranks) -> None:
    """Check that all ranks are there and mean the same number of them: otherwise they would wait for ever."""
    store.set(f"size of {ranks.rank}", str(ranks.size))
    for other in range(ranks.size) if ranks.leads else (0,):
        try:
            size = store.get(f"size of {other}").decode()
        except RuntimeError:
            raise LostRankError(
                f"Rank {other} of {ranks.size} did not come within {MEETING_TIME.seconds // 60} minutes. Start as many "
                "as the launcher was told."
            ) from None
        if size != str(ranks.size):
            raise InputError(
                f"Rank {other} was started as one of {size}, rank {ranks.rank} as one of {ranks.size}. Start all ranks "
                "with one command."
            )


def _threads_of_rank(ranks: Ranks, present: int) -> int:
    """Threads of one rank: its share of the cores that the process may use.

    torchrun sets OMP_NUM_THREADS=1 unless somebody did; more than that is somebody's choice, and stays.
    """
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return present
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks.local_size)


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    """Torch reports a rank that is gone as it reports everything: as a RuntimeError of many lines."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise LostRankError(
            f"Another rank is gone: see what it said ({reason}).\nContinue from the last checkpoint with --resume."
        ) from error
