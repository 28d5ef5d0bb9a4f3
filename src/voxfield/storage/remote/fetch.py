"""Files fetched from afar: listed, compared, transferred in parallel, continued where they were cut.

A source is a folder that fsspec reaches, see `storage.remote.sources`.

- A file that lies in its place with the stated size is not fetched again; ``verify`` also compares its checksum. Files
  get their name only once they are complete, so that half of one never counts.
- A transfer writes to a hidden file beside its place, whose name carries the remote file's version (size, and ETag or
  time). One that was cut is continued from its last byte; one of another version is removed.
- Complete means: the stated size and, where the ETag of S3 is an MD5 (objects uploaded in one part), that checksum.
- Names that would lead outside the target folder are refused.
"""

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Final

from voxfield.errors import InputError
from voxfield.storage.remote.sources import RemoteFile, Source
from voxfield.storage.remote.transfers import BrokenOffError, Display, Transfers
from voxfield.storage.skipped import Skipped

_PARTIAL: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")


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
    source: Source,
    files: Sequence[RemoteFile],
    target: Path,
    *,
    display: Display,
    description: str = "Fetching",
    is_there: Callable[[RemoteFile], bool] | None = None,
    landed: Callable[[RemoteFile], None] | None = None,
) -> Fetched:
    """Fetch files into a folder, where they are not there already.

    Interrupted (Ctrl-C), it leaves complete files and what to continue from.

    Args:
        source: where they are.
        files: which, as ``Source.files`` lists them; of one name only once.
        target: folder, made if need be.
        display: shows the transfer.
        description: what the display calls it.
        is_there: tells which files lie in their places already, for those who know better than by their sizes.
        landed: told each file that is complete, by the thread that fetched it.

    Returns:
        What was done; a file that cannot be had is a failure and does not keep the others.

    Raises:
        InputError: the disk has no room for them.
    """
    plan = _Plan.of(files, target, is_there or functools.partial(_lies_there, target, source.options.verify))
    _check_room(plan, target)
    if not plan.missing:
        return Fetched(files=(), transferred=0, present=plan.present, failures=())
    total = sum(file.size for file in plan.missing)
    transfers = _Downloads(
        source=source, target=target, bytes_done=plan.partial_bytes, landed=landed or (lambda _: None)
    )
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
    def of(cls, files: Sequence[RemoteFile], target: Path, is_there: Callable[[RemoteFile], bool]) -> "_Plan":
        """Compare ``files`` with the target folder; what transfers of other versions left there is removed."""
        listings: dict[Path, dict[str, int]] = {}
        missing, partial_bytes = [], 0
        for file in files:
            path = target / file.name
            if path.parent not in listings:
                listings[path.parent] = _sizes_in(path.parent)
            there = listings[path.parent]
            if not is_there(file):
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


def _lies_there(target: Path, verify: bool, file: RemoteFile) -> bool:
    """Whether a file of the stated size lies in its place, and if need be with the stated checksum."""
    path = target / file.name
    try:
        complete = path.is_file() and path.stat().st_size == file.size
    except OSError:
        return False
    return complete and (not verify or file.md5 is None or md5_of(path) == file.md5)


@dataclass(kw_only=True)
class _Downloads(Transfers[RemoteFile]):
    """Files on their way here."""

    target: Path
    landed: Callable[[RemoteFile], None]
    """Told each file that is complete."""

    DISK_FAULT: ClassVar[str] = "cannot be written"

    def _attempt(self, file: RemoteFile) -> None:
        """Fetch what is missing of a file and give it its name.

        Raises:
            BrokenOffError: the source failed, or sent something else. OSError: the file cannot be written.
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
            intact = md5_of(partial) == file.md5 or self._ask(lambda: self.source.has_own_tags(file))
        else:
            intact = self._ask(lambda: self.source.is_unchanged(file))
        if not intact:
            partial.unlink(missing_ok=True)
            self._count(-file.size)
            changed = "its checksum is not the one stated" if file.md5 else "it changed while it was fetched"
            raise BrokenOffError(changed)
        partial.replace(path)
        self.landed(file)

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
                raise BrokenOffError(f"more bytes came than the {file.size:,} stated")
            stream.write(piece)
            at += len(piece)
            self._count(len(piece), transferred=len(piece))
        if at != file.size:
            raise BrokenOffError(f"ended after {at:,} of {file.size:,} bytes")


def md5_of(path: Path) -> str:
    """The checksum of a file's content, in hexadecimal."""
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
