"""The server that forks a job's worker processes: it has imported what they need.

Quicker than starting each anew, and free of the threads of this process, whose locks a child forked from it could wait
for forever. Only the standard library is imported here, so that a command can have the server load PyTorch on one core
while it does so itself on another.
"""

import multiprocessing
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext


def worker_context(module: str) -> BaseContext:
    """What starts workers that run tasks of ``module``."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        # Kernels import Numba when they are first called: every worker would.
        context.set_forkserver_preload([module, "numba"])
    return context


def begin_server(module: str, *, executor: str | None, workers: int | None) -> None:
    """Start the server ahead of need, so that it loads what workers need while this process does. Does nothing where
    there will be no workers of this machine, or no server.

    Args:
        module: of the tasks that are to come.
        executor: where they run, as far as it is known: ``dask`` needs no server.
        workers: how many processes, as far as it is known: one needs none.
    """
    if sys.platform == "win32" or executor == "dask" or workers == 1:
        return
    from multiprocessing import forkserver

    worker_context(module)
    # Whether it can be started is seen, and said, when workers are.
    try:
        with main_left_out():
            forkserver.ensure_running()
    except OSError:
        return


@contextmanager
def main_left_out() -> Iterator[None]:
    """While processes start: they would import the program's main file, of which tasks need nothing. A script without
    ``if __name__ == "__main__"`` would run again in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
