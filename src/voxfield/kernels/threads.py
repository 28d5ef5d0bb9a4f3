"""Run a serial, GIL-free kernel over [0, count) on several threads.

The Numba kernels here are compiled with ``nogil=True`` and without ``parallel=True``: this module splits their range.
Why not Numba's own thread pool: its OpenMP layer crashes in a forked worker once the parent has used it, its
workqueue layer aborts when two Python threads call kernels at once, its idle threads spin against torch's on few
cores, and parallel kernels take three times as long to compile. See docs/decisions/0002-own-threads-for-kernels.md.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_owner = 0
_pool_size = 0


_threads: int | None = None


def kernel_threads() -> int:
    """Threads the CPU kernels use: ``torch.get_num_threads()``, unless `kernels_own_the_cores` is in force."""
    return torch.get_num_threads() if _threads is None else _threads


@contextlib.contextmanager
def kernels_own_the_cores() -> Iterator[None]:
    """Inside, kernels keep all threads and torch's own operators run on one.

    Between kernels a step has dozens of small torch operators. Split over OpenMP threads each waits for the slowest
    (milliseconds on a busy machine, for microseconds of work), and its idle threads spin against the kernels'.
    """
    global _threads
    outer, torch_threads = _threads, torch.get_num_threads()
    _threads = kernel_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _threads = outer
        torch.set_num_threads(torch_threads)


def _executor(workers: int) -> ThreadPoolExecutor:
    """The process's pool, made on first use and again after a fork (threads do not survive one)."""
    global _pool, _pool_owner, _pool_size
    with _lock:
        if _pool is None or _pool_owner != os.getpid() or _pool_size < workers:
            _pool = ThreadPoolExecutor(workers, thread_name_prefix="voxfield-kernel")
            _pool_owner, _pool_size = os.getpid(), workers
        return _pool


def _reset_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_lock_after_fork)


def run_tasks(tasks: list[Callable[[], Any]], threads: int | None = None) -> None:
    """Run every task once, on up to `kernel_threads` threads (the caller's included), and wait.

    Tasks are taken in order as threads become free, so uneven ones balance. The first exception is raised again.
    """
    threads = min(kernel_threads() if threads is None else threads, len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    pending = iter(tasks)
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                task = next(pending, None)
            if task is None:
                return
            task()

    others = [_executor(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        errors = [future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error


def run_split(
    kernel: Callable[..., Any],
    count: int,
    *arguments: Any,
    grain: int = 1024,
    chunks_per_thread: int = 4,
) -> None:
    """Call ``kernel(start, stop, *arguments)`` so that the ranges cover [0, count) without overlap.

    Args:
        kernel: a ``nogil`` function; it must not write outside what its range owns.
        count: number of items.
        grain: least number of items worth a task (a task costs about 20 microseconds to hand over).
        chunks_per_thread: tasks per thread, so that a thread delayed by another process does not hold up all.
    """
    if count <= 0:
        return
    chunks = min(kernel_threads() * chunks_per_thread, max(1, count // grain))
    if chunks <= 1:
        kernel(0, count, *arguments)
        return
    bounds = [count * index // chunks for index in range(chunks + 1)]
    run_tasks(
        [
            lambda start=start, stop=stop: kernel(start, stop, *arguments)  # type: ignore[misc]
            for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
        ]
    )
