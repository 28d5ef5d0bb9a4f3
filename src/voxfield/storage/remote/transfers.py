"""Many files on their way at once: attempts with pauses between them, books of what arrived, an end when it is vain."""

import errno
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from voxfield.storage.remote.sources import Source, said
from voxfield.storage.skipped import Skipped

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
FAILURES_IN_A_ROW: Final = 16
"""Transfers that fail one after the other before the rest is not tried."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 8.0
"""Seconds between attempts: the first pause, doubled each time up to the longest."""

Watch = Callable[[int, int], None]
"""Told the bytes and the files that are there so far."""
Display = Callable[[str, int, int], AbstractContextManager[Watch]]
"""Shows a transfer: what it is, its bytes and its files."""


class Named(Protocol):
    """What is transferred."""

    @property
    def name(self) -> str:
        """Path below the source, with ``/``."""
        ...


File = TypeVar("File", bound=Named)


class BrokenOffError(Exception):
    """An attempt failed; ``final`` when another would too."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(kw_only=True)
class Transfers(ABC, Generic[File]):
    """Transfers in parallel, and their books."""

    source: Source
    bytes_done: int = 0
    """Of the files to transfer, bytes that have arrived."""
    transferred: int = 0
    complete: list[str] = field(default_factory=list)
    failures: list[Skipped] = field(default_factory=list)
    _in_a_row: int = 0
    _stopped: str = ""
    """Why no more is tried, if so."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    DISK_FAULT: ClassVar[str]
    """What this machine's disk may refuse: "cannot be written"."""

    @abstractmethod
    def _attempt(self, file: File) -> None:
        """Transfer a file.

        Raises:
            BrokenOffError: the source failed. OSError: this machine's disk did.
        """

    def run(self, files: Sequence[File], watch: Watch) -> None:
        """Transfer ``files``; an interrupt ends transfers at their next piece and is passed on."""
        with ThreadPoolExecutor(max_workers=self.source.options.transfers) as pool:
            try:
                pending: set[Future[None]] = {pool.submit(self._transfer, file) for file in files}
                while pending:
                    done, pending = wait(pending, timeout=0.2)
                    for future in done:
                        future.result()
                    watch(self.bytes_done, len(self.complete))
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _transfer(self, file: File) -> None:
        reason = ""
        for attempt in range(self.source.options.attempts):
            if attempt:
                self._stop.wait(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            if self._stop.is_set():
                reason = reason or f"not tried: {self._stopped}"
                break
            try:
                self._attempt(file)
            except BrokenOffError as error:
                reason = str(error)
                if error.final:
                    break
            except OSError as error:
                # Of this machine's disk: what the source raises has been reworded.
                self._fail(file, f"{self.DISK_FAULT} ({said(error)})", full=error.errno in _NO_ROOM)
                return
            else:
                self._succeed(file)
                return
        self._fail(file, reason)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What the source answers.

        Raises:
            BrokenOffError: it does not.
        """
        try:
            return call()
        except FileNotFoundError as error:
            raise BrokenOffError(said(error), final=True) from error
        except PermissionError as error:
            raise BrokenOffError(self.source.refusal(error), final=True) from error
        except Exception as error:  # (libraries below raise their own kinds)
            raise BrokenOffError(said(error)) from error

    def _count(self, change: int, *, transferred: int = 0) -> None:
        with self._lock:
            self.bytes_done += change
            self.transferred += transferred

    def _succeed(self, file: File) -> None:
        with self._lock:
            self._in_a_row = 0
            self.complete.append(file.name)

    def _fail(self, file: File, reason: str, *, full: bool = False) -> None:
        with self._lock:
            self._in_a_row += 1
            self.failures.append(Skipped(path=f"{self.source.url}/{file.name}", reason=reason))
            if full or self._in_a_row == FAILURES_IN_A_ROW:
                self._stopped = "the disk is full" if full else f"{FAILURES_IN_A_ROW} files in a row failed"
                self._stop.set()
