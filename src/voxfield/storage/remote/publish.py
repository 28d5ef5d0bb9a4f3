"""Local files put to where others read them: in parallel, with attempts, what says "complete" last.

A folder counts as complete to those who read it once its own list of contents is there (``metadata.json``,
``transforms.json``, ``experiment.json``, ...: the JSON and YAML files directly in it). These are sent after everything
else has arrived; where other files are replaced, those lists are withdrawn first, so that nobody reads new files by an
old list. Runs keep theirs: each of their files is whole by itself, and a machine that is lost in the midst of a
transfer must leave a run that can be resumed.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from voxfield.storage.remote.fetch import md5_of
from voxfield.storage.remote.sources import PART_BYTES, RemoteFile, Source
from voxfield.storage.remote.transfers import BrokenOffError, Display, Transfers
from voxfield.storage.skipped import Skipped

_LISTS: Final = (".json", ".yaml")
_RUN: Final = "experiment.json"


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to publish."""

    name: str
    """Path below the folder, with ``/``."""
    path: Path
    size: int
    modified: int
    """When, in nanoseconds, as the file system has it."""

    @classmethod
    def of(cls, folder: Path, name: str) -> "LocalFile | None":
        """The file as it is now; None where there is none."""
        try:
            about = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(name=name, path=folder / name, size=about.st_size, modified=about.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was put there."""

    files: tuple[str, ...]
    """Names of the files that were sent, in order."""
    transferred: int
    """Bytes that were sent."""
    failures: tuple[Skipped, ...]
    """Files that could not be sent, with reasons. Then no list of contents was sent either."""


def publish(
    source: Source,
    files: Sequence[LocalFile],
    *,
    withdrawn: Sequence[str] = (),
    display: Display,
    leaving: Callable[[LocalFile], None],
    arrived: Callable[[LocalFile, RemoteFile], None],
) -> Published:
    """Put files there, lists of contents last.

    Args:
        source: where.
        files: which.
        withdrawn: names of lists of contents that are removed there before anything is sent.
        display: shows the transfer.
        leaving: told each file before it is sent.
        arrived: told each file that is there, and what the source says of it.

    Returns:
        What was done.

    Raises:
        TransferError: a list of contents cannot be withdrawn.
    """
    if not files:
        return Published(files=(), transferred=0, failures=())
    lists = [file for file in files if is_list(file.name)]
    content = [file for file in files if not is_list(file.name)]
    for name in withdrawn:
        source.remove(name)
    total = sum(file.size for file in files)
    uploads = _Uploads(source=source, leaving=leaving, arrived=arrived)
    with display("Publishing", total, len(files)) as watch:
        for part in (content, lists):
            if not uploads.failures:
                uploads.run(part, watch)
    return Published(
        files=tuple(sorted(uploads.complete)),
        transferred=uploads.transferred,
        failures=tuple(sorted(uploads.failures, key=lambda item: item.path)),
    )


def outdated_lists(files: Sequence[LocalFile], there: Iterable[str]) -> list[str]:
    """Names of the lists of contents there that are wrong once ``files`` replace what is there."""
    names = set(there)
    replaced = any(file.name in names and not is_list(file.name) for file in files)
    return sorted(filter(is_list, names)) if replaced and _RUN not in names else []


def is_list(name: str) -> bool:
    """Whether a file says what a folder holds."""
    return "/" not in name and name.endswith(_LISTS)


def same_content(source: Source, path: Path, file: RemoteFile) -> bool:
    """Whether a local file has the content of a remote one; by checksums, and where there are none by reading it."""
    if path.stat().st_size != file.size:
        return False
    if file.md5 is not None:
        return md5_of(path) == file.md5
    if source.protocol == "s3" and tag_of(path, source.part_bytes(file.size)) == file.version.strip('"'):
        return True
    digest = hashlib.md5(usedforsecurity=False)
    for piece in source.read(file, 0)[1]:
        digest.update(piece)
    return digest.hexdigest() == md5_of(path)


def tag_of(path: Path, part_bytes: int = PART_BYTES) -> str:
    """The ETag that S3 gives a file sent in parts of this size: of files below two parts the MD5."""
    if path.stat().st_size < 2 * part_bytes:
        return md5_of(path)
    digests = []
    with path.open("rb") as stream:
        while part := stream.read(part_bytes):
            digests.append(hashlib.md5(part, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


@dataclass(kw_only=True)
class _Uploads(Transfers[LocalFile]):
    """Files on their way there."""

    leaving: Callable[[LocalFile], None]
    arrived: Callable[[LocalFile, RemoteFile], None]

    DISK_FAULT: ClassVar[str] = "cannot be read"

    def _attempt(self, file: LocalFile) -> None:
        """Send a file.

        Raises:
            BrokenOffError: the source refused or failed. OSError: the file cannot be read.
        """
        if not file.path.exists():
            # Removed meanwhile, as old checkpoints are: the next transfer removes it there too.
            return
        self.leaving(file)
        sent = self._ask(lambda: self.source.send(file.path, file.name))
        # A log may have grown meanwhile, it never shrinks.
        if sent.size < file.size:
            raise BrokenOffError(f"only {sent.size:,} of {file.size:,} bytes arrived")
        self._count(file.size, transferred=sent.size)
        self.arrived(file, sent)
