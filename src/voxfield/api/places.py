"""Public calls whose paths may be URLs: what they read is fetched before, what they write is published after."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from voxfield.distributed.ranks import launched
from voxfield.storage.remote import Onlooker, local, published, publishing_back, told_by_url, url_of, watched_by
from voxfield.storage.remote.transfers import Watch
from voxfield.training.progress import Progress

P = ParamSpec("P")
R = TypeVar("R")


def anywhere(
    *inputs: str,
    alone: Sequence[str] = (),
    output: str | None = None,
    folder: str | None = None,
    back: str | None = None,
    live: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let arguments of a call be URLs. The call itself gets paths on this machine in their place.

    Args:
        inputs: names of arguments to read from: places, or sequences of places.
        alone: those of which a JSON file is fetched by itself, see `voxfield.storage.remote.local`.
        output: name of the argument to write to, a file or folder by its ending.
        folder: the same, always a folder, which the call continues.
        back: name of the argument, or ``self`` with a ``path``, into whose folder the call writes: what it wrote is
            published too, where it lies at a URL.
        live: publish also at each checkpoint.
    """

    def reaching(call: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(call)
        target = output or folder

        @functools.wraps(call)
        def reach(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            with ExitStack() as stack:
                stack.enter_context(watched_by(_onlooker(bool(given.get("quiet", False)))))
                for name in (*inputs, *alone):
                    if name in given:
                        given[name] = _fetched(given[name], name in alone)
                if target is not None and url_of(given.get(target)) is not None:
                    whole = True if folder is not None else None
                    place = published(given[target], folder=whole, live=live, leads=launched().leads)
                    given[target] = stack.enter_context(place)
                if back is not None:
                    home = given[back]
                    stack.enter_context(publishing_back(Path(getattr(home, "path", home))))
                stack.enter_context(told_by_url())
                return call(*bound.args, **bound.kwargs)

        return reach

    return reaching


def _onlooker(quiet: bool) -> Onlooker:
    """Shows transfers as a command shows what it does; of several ranks only rank 0."""

    @contextmanager
    def display(description: str, total_bytes: int, total_files: int) -> Iterator[Watch]:
        unseen = quiet or not launched().leads
        with Progress(quiet=unseen) as progress, progress.transfer(description, total_bytes, total_files) as watch:
            yield watch

    return Onlooker(display=display, say=lambda message: Progress(quiet=quiet or not launched().leads).say(message))


def _fetched(value: Any, alone: bool) -> Any:
    """The argument with paths in place of URLs."""
    if isinstance(value, list | tuple):
        return [_fetched(one, alone) for one in value]
    return value if url_of(value) is None else local(value, alone=alone)
