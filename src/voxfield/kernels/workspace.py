"""Recycled memory for the CPU kernels' large temporaries.

A training step needs the same hundred megabytes again and again. Asking the system each time costs more than the
arithmetic: fresh pages are zeroed and mapped on first touch (measured: 7 to 170 ms for 50 MB, against 10 ms to fill
it).
"""

import os
import sys
import threading
from typing import Final

import numpy as np
import torch

MOST_BYTES: Final = 1 << 30
"""Kept where nobody asks for less."""
_LEAST_BYTES: Final = 1 << 26
_SMALL_BYTES = 1 << 16
_HUGE_PAGE: Final = 1 << 21

_lock = threading.Lock()
_buffers: list[np.ndarray] = []
_limit = MOST_BYTES


def _reset_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock_after_fork)


def empty(*shape: int) -> np.ndarray:
    """An uninitialised C-contiguous float32 array, from memory that an earlier, now unreferenced one used.

    Memory returns by itself when the last view of it is gone. So much is kept as `keep_at_most` allows; a larger need
    is served afresh.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if count * 4 < _SMALL_BYTES:
        return np.empty(shape, np.float32)
    with _lock:
        fitting = _smallest_free(count)
        if fitting is None or fitting.size > 4 * count:
            fitting = np.empty(count + count // 4, np.float32)
            _make_room(fitting.nbytes)
            _buffers.append(fitting)
        return fitting[:count].reshape(shape)


def keep_at_most(nbytes: int) -> None:
    """Keep so many bytes for later use, from 64 MiB to `MOST_BYTES`; less makes kernels slower, not wrong."""
    global _limit
    with _lock:
        _limit = min(max(nbytes, _LEAST_BYTES), MOST_BYTES)
        _make_room(0)


def _smallest_free(count: int) -> np.ndarray | None:
    """The smallest buffer of at least ``count`` floats that nobody uses."""
    fitting = [i for i in range(len(_buffers)) if _buffers[i].size >= count and _is_free(i)]
    return _buffers[min(fitting, key=lambda i: _buffers[i].size)] if fitting else None


def _references(buffers: list[np.ndarray], index: int) -> int:
    """References to a buffer; views of it hold one each."""
    return sys.getrefcount(buffers[index])


_UNUSED = _references([np.empty(1, np.float32)], 0)
"""References to a buffer that only its list knows, counted the same way: the number differs between Python versions."""


def _is_free(index: int) -> bool:
    return _references(_buffers, index) <= _UNUSED


def _make_room(needed: int) -> None:
    """Forget free buffers, oldest first, until ``needed`` more bytes fit the limit."""
    held = sum(buffer.nbytes for buffer in _buffers)
    index = 0
    while index < len(_buffers) and held + needed > _limit:
        if _is_free(index):
            held -= _buffers.pop(index).nbytes
        else:
            index += 1


def huge_zeros(shape: torch.Size) -> torch.Tensor:
    """Zeros (float32, CPU) on huge pages where the system grants them, which numpy asks for and torch does not.

    Tables that are read at random or streamed every step then need a few address translations instead of thousands.
    """
    array = np.empty(tuple(shape), np.float32)
    array.fill(0.0)  # np.zeros would leave the pages to be mapped one by one on first use
    return torch.from_numpy(array)


def on_huge_pages(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, of four bytes or one an element, or on a CPU a copy of it on huge pages: see `huge_zeros`."""
    if tensor.device.type != "cpu" or tensor.nbytes < _HUGE_PAGE:
        return tensor
    room = torch.from_numpy(np.empty(tensor.nbytes, np.uint8)).view(tensor.dtype).view(tensor.shape)
    return room.copy_(tensor)


def empty_feature_major(points: int, channels: int) -> torch.Tensor:
    """An uninitialised (points, channels) float32 tensor stored feature by feature, in recycled memory.

    Rows are padded by a cache line or two, so that rows of a power-of-two length do not share cache sets.
    """
    pitch = (points + 31) // 16 * 16
    return torch.from_numpy(empty(channels, pitch))[:, :points].T


def feature_major(tensor: torch.Tensor) -> np.ndarray:
    """``tensor`` (N, C) as a (C, N) array whose rows are contiguous, without a copy if its storage is that already."""
    turned = tensor.detach().T
    if turned.shape[1] > 1 and turned.stride(1) != 1:
        turned = turned.contiguous()
    array: np.ndarray = turned.numpy()
    return array
