"""Where the tasks of a job run: in this process, in several of this machine, or on the workers of a Dask cluster.

A task is a function of a module and one argument, both picklable. It may be run more than once, since a worker can be
lost in the middle of it: what it leaves behind appears whole or not at all, and is the same each time. A job notes what
is done by those results, so a job that is killed itself continues from them.
"""

import functools
import importlib.metadata
import multiprocessing
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures import Executor as FuturesExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from voxfield.checks import check_choice, check_range
from voxfield.distributed.worker_server import main_left_out, worker_context
from voxfield.errors import InputError, MissingExtraError, MissingFileError, UnavailableError, VoxfieldError

ExecutorKind = Literal["local", "dask"]
"""``local``: processes of this machine; ``dask``: a Dask cluster that is there already."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AHEAD: Final = 3
"""Tasks handed out for each worker: none waits for this process, and the slowest does not hold up the others."""
_LEAST_AHEAD: Final = 64
"""Tasks handed out to a cluster at least: it may grow."""
_ATTEMPTS: Final = 3
"""How often a task may lose its worker. One that asks for more memory than there is would lose every one."""
_CONNECT_SECONDS: Final = 15.0
_WORKER_SECONDS: Final = 60.0
_SAME: Final = ("numpy", "torch", "numba")
"""Packages of which a cluster's workers must have our version: others may give other bytes."""


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """Where tasks run."""

    executor: ExecutorKind = "local"
    scheduler: str | None = None
    """Of Dask: ``tcp://host:8786``, or a file that ``dask scheduler --scheduler-file`` wrote."""
    workers: int | None = None
    """Local processes; None is one for each core. A cluster has the workers it has."""

    def __post_init__(self) -> None:
        check_choice("executor", self.executor, get_args(ExecutorKind))
        if self.workers is not None:
            check_range("workers", self.workers, minimum=1, maximum=256)
        if self.executor == "local" and self.scheduler is not None:
            raise InputError("scheduler: is of a Dask cluster. Add executor=dask (--executor dask).")
        if self.executor == "dask" and not self.scheduler:
            raise InputError(
                "executor: dask needs its scheduler's address: --scheduler tcp://HOST:8786, or a scheduler file. Start "
                "one: dask scheduler"
            )
        if self.executor == "dask" and self.workers is not None:
            raise InputError("workers: a cluster has the workers that were started for it. Leave it out.")


class Executor:
    """Runs tasks, see `open_executor`."""

    def __init__(
        self,
        start: Callable[[str], FuturesExecutor] | None,
        ahead: int,
        faults: tuple[type[Exception], ...] = (),
    ) -> None:
        """``start`` makes a pool, given the module that tasks need, or None to run them here; ``ahead`` tasks are
        handed out at a time; ``faults`` are exceptions that are not a task's, but of where it was to run.
        """
        self._start, self._ahead, self._faults = start, ahead, faults
        self._pool: FuturesExecutor | None = None

    def run(
        self, function: Callable[[_Item], _Result], items: Sequence[_Item], *, ordered: bool = False
    ) -> Iterator[tuple[_Item, _Result]]:
        """Every item with what the function returns for it.

        Args:
            function: of a module, or a `functools.partial` of one.
            items: what it is called with, once each, and again where a worker is lost.
            ordered: in the order of ``items``; otherwise as they are done.

        Raises:
            UnavailableError: workers were lost again and again, or cannot run our tasks. What is done is kept.
            Exception: what the function raises.
        """
        if self._start is None:
            for item in items:
                yield item, function(item)
            return
        left = deque((item, 1) for item in items)
        waiting: dict[Future[_Result], tuple[_Item, int]] = {}
        try:
            while left or waiting:
                try:
                    while left and len(waiting) < self._ahead:
                        waiting[self._submit(function, left[0][0])] = left[0]
                        left.popleft()
                    ready = [next(iter(waiting))] if ordered else wait(waiting, return_when=FIRST_COMPLETED).done
                    for future in ready:
                        result = future.result()
                        item, _ = waiting.pop(future)
                        yield item, result
                except BrokenProcessPool as error:
                    waiting = self._begun_again(function, waiting, error)
        except self._faults as error:
            if isinstance(error, VoxfieldError):
                raise
            raise _said_of_cluster(error) from error
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, function: Callable[[_Item], _Result], item: _Item) -> "Future[_Result]":
        if self._pool is None:
            assert self._start is not None
            inner = function.func if isinstance(function, functools.partial) else function
            self._pool = self._start(inner.__module__)
        try:
            # A task may start a process.
            with main_left_out():
                return self._pool.submit(function, item)
        except BrokenProcessPool as error:
            # Killed just now: seen with the tasks that were under way.
            failed: Future[_Result] = Future()
            failed.set_exception(error)
            return failed

    def _begun_again(
        self,
        function: Callable[[_Item], _Result],
        waiting: "dict[Future[_Result], tuple[_Item, int]]",
        error: BrokenProcessPool,
    ) -> "dict[Future[_Result], tuple[_Item, int]]":
        """The same tasks in a new pool, but for those that are done."""
        self.close()
        again: dict[Future[_Result], tuple[_Item, int]] = {}
        for future, (item, attempt) in waiting.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                again[future] = item, attempt
                continue
            if attempt == _ATTEMPTS:
                raise UnavailableError(
                    f"A process was killed {attempt} times, probably for lack of memory. What is done is kept: run "
                    "the same command again, with fewer --workers."
                ) from error
            again[self._submit(function, item)] = item, attempt + 1
        return again

    def close(self) -> None:
        """End the pool; tasks that wait are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def open_executor(settings: ExecutorSettings, *, tasks: int, folders: Sequence[Path] = ()) -> Iterator[Executor]:
    """Something that runs tasks until it is left.

    Args:
        settings: where.
        tasks: how many there will be at most: no more processes are started.
        folders: absolute paths that tasks read or write; a cluster's workers must see them.

    Raises:
        MissingExtraError: Dask is not installed.
        MissingFileError: the scheduler file does not exist.
        UnavailableError: there is no scheduler, or it has no workers.
    """
    if settings.executor == "dask":
        with _dask_executor(str(settings.scheduler), folders) as executor:
            yield executor
        return
    workers = min(settings.workers or os.cpu_count() or 1, tasks)
    executor = Executor(functools.partial(_start_processes, workers) if workers > 1 else None, _AHEAD * workers)
    try:
        yield executor
    finally:
        executor.close()


def _start_processes(workers: int, module: str) -> ProcessPoolExecutor:
    try:
        return ProcessPoolExecutor(workers, mp_context=worker_context(module), initializer=_begin_worker)
    except OSError as error:
        # The queues' semaphores are files in shared memory.
        raise UnavailableError(
            f"Processes cannot be started ({error.strerror or error}): perhaps /dev/shm is full, or too many files are "
            "open. Free some room there, or run with --workers 1."
        ) from error


def _begin_worker() -> None:
    """Workers share the cores: each computes on one thread. None outlives the process that it works for."""
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever: it keeps its own queue open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# --------------------------------------------------------------------------------------------------------------- dask


@contextmanager
def _dask_executor(scheduler: str, folders: Sequence[Path]) -> Iterator[Executor]:
    try:
        import distributed.comm.core
    except ImportError as error:
        raise MissingExtraError(
            "executor: dask needs the package distributed. Run: pip install 'voxfield[cluster]'"
        ) from error
    named: dict[str, Any] = {"address": scheduler}
    if "://" not in scheduler:
        if not Path(scheduler).is_file():
            raise MissingFileError(
                f"scheduler: {scheduler}: is no address (tcp://HOST:8786), and there is no such scheduler file."
            )
        named = {"scheduler_file": scheduler}
    try:
        client = distributed.Client(**named, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnavailableError(
            f"scheduler: no Dask scheduler answers at {scheduler} ({error}). Start one (dask scheduler), or name the "
            "address that it prints."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(
                f"scheduler: {scheduler} has no workers. Start some: dask worker {scheduler} --nthreads 1"
            ) from error
        threads = sum(client.nthreads().values())
        shared = _SharedTask(versions=_versions(), folders=tuple(str(path.absolute()) for path in folders))
        pool = _DaskPool(client.get_executor(pure=False), shared)
        faults = (CancelledError, distributed.comm.core.CommClosedError, distributed.KilledWorker, ImportError)
        executor = Executor(lambda _: pool, max(_LEAST_AHEAD, _AHEAD * threads), faults)
        try:
            yield executor
        finally:
            executor.close()


class _DaskPool(FuturesExecutor):
    """A cluster that checks before every task whether a worker fits; workers come and go."""

    def __init__(self, pool: FuturesExecutor, shared: "_SharedTask") -> None:
        self._pool, self._shared = pool, shared

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """As the class it derives from."""
        return self._pool.submit(self._shared, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As the class it derives from."""
        self._pool.shutdown(wait=wait and not cancel_futures)


_turn = threading.Lock()
"""Tasks compute on one thread and change how many torch has: those of one process take turns."""


@dataclass(frozen=True, kw_only=True)
class _SharedTask:
    """What runs on a cluster's worker around every task."""

    versions: tuple[tuple[str, str], ...]
    """What must be installed there."""
    folders: tuple[str, ...]
    """What must be visible there."""

    def __call__(self, function: Callable[[Any], Any], item: Any) -> Any:
        """Run a task.

        Raises:
            UnavailableError: this worker has other versions, or does not see the folders.
        """
        import torch

        for (name, wanted), (_, here) in zip(self.versions, _versions(), strict=True):
            if wanted != here:
                raise UnavailableError(
                    f"A worker on {platform.node()} has {name} {here}, this process {wanted}. Install the same there."
                )
        for folder in self.folders:
            if not Path(folder).is_dir():
                raise UnavailableError(
                    f"A worker on {platform.node()} does not see {folder}. Workers need the same files under the same "
                    "paths: name a folder that they share."
                )
        with _turn:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return function(item)
            finally:
                torch.set_num_threads(threads)


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Python and packages that decide which bytes come out."""
    import voxfield

    python = ".".join(platform.python_version_tuple()[:2])
    packages = [(name, importlib.metadata.version(name)) for name in _SAME]
    return (("Python", python), ("voxfield", voxfield.__version__), *packages)


def _said_of_cluster(error: BaseException) -> UnavailableError:
    """What a fault of the cluster means, and what to do."""
    kept = "What is done is kept: run the same command again"
    if isinstance(error, ImportError):
        return UnavailableError(
            f"A worker of the cluster cannot import what it needs ({error}). Install Voxfield there."
        )
    if type(error).__name__ == "KilledWorker":
        return UnavailableError(
            f"The cluster lost every worker that took one of the tasks, probably for lack of memory ({error}). {kept}."
        )
    return UnavailableError(f"The Dask scheduler went away ({type(error).__name__}). {kept} when it is back.")
