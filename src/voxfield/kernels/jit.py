"""Numba's ``njit`` with a cache of machine code that is right for these kernels.

Numba keeps a function's machine code as fresh as the one file it is written in. A kernel has the constants of others
compiled in (the tiles of `voxfield.kernels.simd`), and functions of other files: after an upgrade that leaves its own
file alone it would go on with the old ones, and two halves that disagree compute nonsense. And Numba numbers the files
of a function's specialisations, so that two processes that compile at once may each take the other's. Here code is as
fresh as all sources of the kernels, and a file is named after what is in it.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numba
from numba.core.serialize import dumps

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_ABANDONED_AFTER: Final = 3600.0
"""Seconds since a temporary file was last written to, after which its process was killed: writing one takes a few
thousandths of a second. (Names that say whose they are, as `voxfield.storage.atomic` has, are of a layer above.)"""


def njit(**options: Any) -> Callable[[FunctionT], FunctionT]:
    """``numba.njit(cache=True, **options)``, for the functions of kernels."""

    def compiled(function: FunctionT) -> FunctionT:
        dispatcher = numba.njit(cache=True, **options)(function)
        cache: Any = getattr(dispatcher, "_cache", None)
        if hasattr(cache, "_cache_file"):  # Not with NUMBA_DISABLE_JIT.
            cache._cache_file = CodeFiles(Path(cache.cache_path), cache._impl.filename_base)
        return dispatcher

    return compiled


class CodeFiles:
    """The machine code of one function, a file for each types of arguments and processor. Stands in for Numba's own."""

    def __init__(self, folder: Path, base: str, stamp: str | None = None) -> None:
        """``stamp``: of the sources; theirs where absent."""
        self._folder, self._base = folder, base
        self._stamp = sources_stamp() if stamp is None else stamp

    def load(self, key: object) -> Any:
        """What was saved under ``key``, or None."""
        try:
            held, data = pickle.loads(self._path(key).read_bytes())  # noqa: S301 Numba's own form, in its own folder.
        except (OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError):
            return None  # Not there, cut short, or not ours: compiled.
        return data if held == str(key) else None

    def save(self, key: object, data: Any) -> None:
        """Keep ``data`` under ``key``; a full disk costs the next process its time, and this one nothing."""
        path = self._path(key)
        content = dumps((str(key), data))
        with contextlib.suppress(OSError):
            handle, partial = tempfile.mkstemp(prefix=f"{path.name}.", dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                self._remove_stale(Path(partial).stat().st_mtime)
                Path(partial).replace(path)
            except OSError:
                Path(partial).unlink()
                raise

    def flush(self) -> None:
        """Forget all."""
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: object) -> Path:
        return self._folder / f"{self._base}.{self._stamp}.{hashlib.sha256(str(key).encode()).hexdigest()[:16]}.nbc"

    def _remove_stale(self, now: float) -> None:
        """Remove the code of other sources, and what killed processes left half written; ``now`` by the clock of the
        file system.
        """
        for path in (*self._folder.glob(f"{self._base}.*.nbc"), self._folder / f"{self._base}.nbi"):
            if not path.name.startswith(f"{self._base}.{self._stamp}."):
                path.unlink(missing_ok=True)
        for path in self._folder.glob(f"{self._base}.*.nbc.*"):
            # Another process may rename or remove it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < now - _ABANDONED_AFTER:
                    path.unlink()


@functools.cache
def sources_stamp() -> str:
    """Of Numba and of everything that kernels are compiled from, 16 digits."""
    stamp = hashlib.sha256(numba.__version__.encode())
    home = Path(__file__).parent
    for path in sorted((*home.glob("*.py"), *home.glob("*/numba_cpu.py"))):
        stamp.update(path.read_bytes())
    return stamp.hexdigest()[:16]
