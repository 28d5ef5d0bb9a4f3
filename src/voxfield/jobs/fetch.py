"""Files fetched from afar: listed, compared, transferred in parallel, continued where they were cut.

A source is a folder that fsspec reaches: ``s3://bucket/folder`` (without credentials), ``https://host/folder`` (the
pages of a web server that list its files), or a local ``file://`` address.

- A file that lies in its place with the stated size is not fetched again; ``verify`` also compares its checksum. Files
  get their name only once they are complete, so that half of one never counts.
- A transfer writes to a hidden file beside its place, whose name carries the remote file's version (size, and ETag or
  time). One that was cut is continued from its last byte; one of another version is removed.
- Complete means: the stated size and, where the ETag of S3 is an MD5 (objects uploaded in one part), that checksum.
- Names that would lead outside the target folder are refused.
"""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from voxfield.data.capture import Skipped
from voxfield.errors import InputError
from voxfield.jobs.sources import RemoteFile, Source, said

_PARTIAL: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")
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


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a transfer did."""

    files: tuple[str, ...]
    """Names of the files that were fetched, in order."""
    transferred: int
    """Bytes that came over the line."""
    present: int
    """Files that were there already."""
    failures: tuple[Skipped, ...]
    """Files that could not be had, with reasons."""


def fetch(
    source: Source, files: Sequence[RemoteFile], target: Path, *, display: Display, description: str = "Fetching"
) -> Fetched:
    """Fetch files into a folder, where they are not there already.

    Interrupted (Ctrl-C), it leaves complete files and what to continue from.

    Args:
        source: where they are.
        files: which, as ``Source.files`` lists them; of one name only once.
        target: folder, made if need be.
        display: shows the transfer.
        description: what the display calls it.

    Returns:
        What was done; a file that cannot be had is a failure and does not keep the others.

    Raises:
        InputError: the disk has no room for them.
    """
    plan = _Plan.of(files, target, verify=source.options.verify)
    _check_room(plan, target)
    if not plan.missing:
        return Fetched(files=(), transferred=0, present=plan.present, failures=())
    total = sum(file.size for file in plan.missing)
    transfers = _Transfers(source=source, target=target, bytes_done=plan.partial_bytes)
    with display(description, total, len(plan.missing)) as watch:
        transfers.run(plan.missing, watch)
    return Fetched(
        files=tuple(sorted(transfers.complete)),
        transferred=transfers.transferred,
        present=plan.present,
        failures=tuple(sorted(transfers.failures, key=lambda item: item.path)),
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is there and what is not."""

    missing: tuple[RemoteFile, ...]
    present: int
    partial_bytes: int
    """Of the missing files, what earlier transfers left."""

    @classmethod
    def of(cls, files: Sequence[RemoteFile], target: Path, *, verify: bool) -> "_Plan":
        """Compare ``files`` with the target folder; what transfers of other versions left there is removed."""
        listings: dict[Path, dict[str, int]] = {}
        missing, partial_bytes = [], 0
        for file in files:
            path = target / file.name
            if path.parent not in listings:
                listings[path.parent] = _sizes_in(path.parent)
            there = listings[path.parent]
            complete = there.get(path.name) == file.size
            if complete and verify and file.md5 is not None:
                complete = _md5_of(path) == file.md5
            if not complete:
                missing.append(file)
                partial_bytes += min(there.get(file.partial_name(), 0), file.size)
        keep = {(target / file.name).with_name(file.partial_name()) for file in missing}
        ours = {target / file.name for file in files}
        for folder, there in listings.items():
            for name in there:
                cut = _PARTIAL.fullmatch(name)
                if cut and folder / cut[1] in ours and folder / name not in keep:
                    (folder / name).unlink(missing_ok=True)
        return cls(missing=tuple(missing), present=len(files) - len(missing), partial_bytes=partial_bytes)


class _BrokenOffError(Exception):
    """An attempt failed; ``final`` when another would too."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(kw_only=True)
class _Transfers:
    """Transfers in parallel, and their books."""

    source: Source
    target: Path
    bytes_done: int
    """Of the files to fetch, bytes that are there."""
    transferred: int = 0
    complete: list[str] = field(default_factory=list)
    failures: list[Skipped] = field(default_factory=list)
    _in_a_row: int = 0
    _stopped: str = ""
    """Why no more is tried, if so."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, files: Sequence[RemoteFile], watch: Watch) -> None:
        """Fetch ``files``; an interrupt ends transfers at their next piece and is passed on."""
        with ThreadPoolExecutor(max_workers=self.source.options.transfers) as pool:
            try:
                pending: set[Future[None]] = {pool.submit(self._fetch, file) for file in files}
                while pending:
                    done, pending = wait(pending, timeout=0.2)
                    for future in done:
                        future.result()
                    watch(self.bytes_done, len(self.complete))
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _fetch(self, file: RemoteFile) -> None:
        reason = ""
        for attempt in range(self.source.options.attempts):
            if attempt:
                self._stop.wait(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            if self._stop.is_set():
                reason = reason or f"not tried: {self._stopped}"
                break
            try:
                self._attempt(file)
            except _BrokenOffError as error:
                reason = str(error)
                if error.final:
                    break
            except OSError as error:
                # Of this machine's disk: what the source raises has been reworded.
                self._fail(file, f"cannot be written ({said(error)})", full=error.errno in _NO_ROOM)
                return
            else:
                self._succeed(file)
                return
        self._fail(file, reason)

    def _attempt(self, file: RemoteFile) -> None:
        """Fetch what is missing of a file and give it its name.

        Raises:
            _BrokenOffError: the source failed, or sent something else. OSError: the file cannot be written.
        """
        path = self.target / file.name
        partial = path.with_name(file.partial_name())
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        # Written in place, never shortened while it grows: another process at the same file writes the same bytes.
        with partial.open("r+b") as stream:
            self._fill(file, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if file.md5 is not None:
            intact = _md5_of(partial) == file.md5
        else:
            intact = self._ask(lambda: self.source.is_unchanged(file))
        if not intact:
            partial.unlink(missing_ok=True)
            self._count(-file.size)
            changed = "its checksum is not the one stated" if file.md5 else "it changed while it was fetched"
            raise _BrokenOffError(changed)
        partial.replace(path)

    def _fill(self, file: RemoteFile, stream: BinaryIO) -> None:
        have = stream.seek(0, os.SEEK_END)
        if have > file.size:
            stream.truncate(0)
            have = 0
        if have == file.size:
            return
        at, pieces = self._ask(lambda: self.source.read(file, have))
        self._count(at - have)
        stream.seek(at)
        while (piece := self._ask(lambda: next(pieces, b""))) and not self._stop.is_set():
            if at + len(piece) > file.size:
                raise _BrokenOffError(f"more bytes came than the {file.size:,} stated")
            stream.write(piece)
            at += len(piece)
            self._count(len(piece), transferred=len(piece))
        if at != file.size:
            raise _BrokenOffError(f"ended after {at:,} of {file.size:,} bytes")

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (FileNotFoundError, PermissionError) as error:
            raise _BrokenOffError(said(error), final=True) from error
        except Exception as error:
            raise _BrokenOffError(said(error)) from error

    def _count(self, change: int, *, transferred: int = 0) -> None:
        with self._lock:
            self.bytes_done += change
            self.transferred += transferred

    def _succeed(self, file: RemoteFile) -> None:
        with self._lock:
            self._in_a_row = 0
            self.complete.append(file.name)

    def _fail(self, file: RemoteFile, reason: str, *, full: bool = False) -> None:
        with self._lock:
            self._in_a_row += 1
            self.failures.append(Skipped(path=f"{self.source.url}/{file.name}", reason=reason))
            if full or self._in_a_row == FAILURES_IN_A_ROW:
                self._stopped = "the disk is full" if full else f"{FAILURES_IN_A_ROW} files in a row could not be had"
                self._stop.set()


def _md5_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder, by name; empty where there is none."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _check_room(plan: _Plan, target: Path) -> None:
    needed = sum(file.size for file in plan.missing) - plan.partial_bytes
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"{target}: {format_bytes(needed)} are to be fetched, but only {format_bytes(free)} are free. Make room, "
            "or fetch less."
        )


def format_bytes(count: float) -> str:
    """Bytes as a person says them: ``"512 bytes"``, ``"1.4 MB"``, ``"123 GB"``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"
