"""Batches of a loader's worker in memory that is used again and again.

A batch that travels to another process as torch sends tensors lies in fresh shared memory each time: its pages are
made, cleared, mapped by both processes and given back, which costs more than filling them. Here a worker keeps a few
pieces of memory that both processes map once. A piece is written again when the process that got the batch has let go
of all its tensors, and this one of its own.

Where that does not work (no ``memfd_create``: other systems than Linux; or all pieces are in use, as when somebody
keeps every batch) `allocate` answers with torch's own shared memory.
"""

import copy
import itertools
import mmap
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

_ALIGNED: Final = 64
"""Bytes that tensors in one piece of memory are aligned to; the first ones say whether the piece is read."""
MOST_SEGMENTS: Final = 12
"""Pieces a worker keeps. A loader asks for two batches ahead by default and hands them on one by one."""
MOST_BYTES: Final = 512 << 20
"""What they may take together."""

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class RecycledBatch(dict[str, Any]):
    """A batch whose tensors lie in a recycled piece of memory: it is sent as the places they have there.

    What was added to it, or replaced, is sent as usual. It arrives as a plain dictionary.
    """

    lease: "_Lease | None" = None

    def __copy__(self) -> "RecycledBatch":
        """The same tensors: a copy, too, is sent as the places they have."""
        copied = RecycledBatch(self)
        copied.lease = self.lease
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Tensors of one's own."""
        return copy.deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is sent."""
        lease = self.lease
        if lease is None:
            return dict, (dict(self),)
        places, others = {}, {}
        for name, value in self.items():
            place = lease.place_of(value)
            if place is None:
                others[name] = value
            else:
                places[name] = place
        lease.lend()
        return _receive, (lease.segment.address, list(self), places, others)


def allocate(shapes: Shapes) -> RecycledBatch:
    """Tensors of these shapes and types, not initialised, to be filled by a loader's worker and sent."""
    starts, end = {}, _ALIGNED
    for name, (shape, dtype) in shapes.items():
        starts[name] = end
        end += -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNED) * _ALIGNED
    lease = _take(end)
    if lease is None:
        whole = torch.empty(0, dtype=torch.uint8)
        # As torch's own collating does: the process that gets the batch reads this very memory.
        whole.set_(torch.UntypedStorage._new_shared(end))  # type: ignore[call-overload]
    else:
        whole = lease.whole
    batch = RecycledBatch({name: _view(whole, starts[name], shape, dtype) for name, (shape, dtype) in shapes.items()})
    batch.lease = lease
    return batch


def _view(whole: Tensor, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    return whole[start : start + size].view(dtype).view(shape)


class _Address(NamedTuple):
    """Where another process finds a segment."""

    process: int
    number: int
    """Of the process's segments; descriptors are given out again."""
    descriptor: int
    size: int


class _Segment:
    """A piece of memory that two processes map."""

    def __init__(self, address: _Address, descriptor: int) -> None:
        self.address = address
        self.map = mmap.mmap(descriptor, address.size)
        self.is_read = np.frombuffer(self.map, np.uint32, 1)
        """1 from when a batch in it is sent until the process that got it has let go of it."""
        self.is_held = False
        """Whether the process that fills it still has tensors in it."""

    def tensor(self, let_go: Callable[[], None]) -> Tensor:
        """All of it as bytes; ``let_go`` is called when this tensor and all views of it are gone."""
        array = np.frombuffer(self.map, np.uint8)
        weakref.finalize(array, let_go).atexit = False
        return torch.from_numpy(array)


class _Lease:
    """A segment while a batch is made in it."""

    def __init__(self, segment: _Segment) -> None:
        segment.is_held = True
        self.segment = segment
        self.whole = segment.tensor(lambda: setattr(segment, "is_held", False))

    def lend(self) -> None:
        self.segment.is_read[0] = 1

    def place_of(self, value: Any) -> tuple[int, tuple[int, ...], torch.dtype] | None:
        """Where a tensor lies in the segment: first byte, shape, type. None for what lies elsewhere, or in pieces."""
        if not isinstance(value, Tensor) or not value.is_contiguous() or value.device.type != "cpu":
            return None
        if value.untyped_storage().data_ptr() != self.whole.untyped_storage().data_ptr():
            return None
        return int(value.storage_offset()) * value.element_size(), tuple(value.shape), value.dtype


_numbers = itertools.count()
_segments: list[_Segment] = []
"""Of this process, which fills them."""
_received: dict[_Address, _Segment] = {}
"""Of the processes that this one gets batches from."""


def _take(size: int) -> _Lease | None:
    """A free segment of at least ``size`` bytes, a new one, or None."""
    if _segments and _segments[0].address.process != os.getpid():
        _segments.clear()  # they are of the process that this one was forked from
    free = [one for one in _segments if not one.is_held and not one.is_read[0]]
    fitting = [one for one in free if one.address.size >= size]
    if fitting:
        return _Lease(min(fitting, key=lambda one: one.address.size))
    # Room for batches that are a little larger: they are seldom all alike. Free ones that are too small make way.
    size = -(-size * 5 // 4 // mmap.PAGESIZE) * mmap.PAGESIZE
    for one in free:
        os.close(one.address.descriptor)
        _segments.remove(one)
    taken = sum(one.address.size for one in _segments)
    if not hasattr(os, "memfd_create") or len(_segments) >= MOST_SEGMENTS or taken + size > MOST_BYTES:
        return None
    try:
        descriptor = os.memfd_create("voxfield-batch")
        os.ftruncate(descriptor, size)
        _segments.append(_Segment(_Address(os.getpid(), next(_numbers), descriptor, size), descriptor))
    except OSError:
        return None
    return _Lease(_segments[-1])


def _receive(
    address: _Address,
    names: list[str],
    places: dict[str, tuple[int, tuple[int, ...], torch.dtype]],
    others: dict[str, Any],
) -> dict[str, Any]:
    """The batch that a worker sent."""
    segment, receiver = _mapped(address), os.getpid()

    def let_go() -> None:
        # A process forked from this one has copies of its tensors, and no say.
        if os.getpid() == receiver:
            segment.is_read[0] = 0

    whole = segment.tensor(let_go)
    return {name: _view(whole, *places[name]) if name in places else others[name] for name in names}


def _mapped(address: _Address) -> _Segment:
    """The segment as this process sees it, mapped when it is met first."""
    segment = _received.get(address)
    if segment is None:
        for known in [one for one in _received if not _file(one).exists()]:
            del _received[known]  # the worker has ended, or given the segment up
        descriptor = os.open(_file(address), os.O_RDWR)
        try:
            segment = _received[address] = _Segment(address, descriptor)
        finally:
            os.close(descriptor)
    return segment


def _file(address: _Address) -> Path:
    """A worker's segment as a file. It has no other name, so that nothing is left when both processes are gone."""
    return Path(f"/proc/{address.process}/fd/{address.descriptor}")
