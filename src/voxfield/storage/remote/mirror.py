"""Local copies of what lies at a URL, and URLs as places to write to.

Programs read and write local files; a URL therefore has a *mirror*: a folder in the cache that holds what lies there,
as far as it was asked for. `local` brings it up to date and says where it is; `published` lets a job work in it and
puts what the job wrote to the URL.

- The cache is ``VOXFIELD_CACHE``, or ``voxfield`` in ``XDG_CACHE_HOME`` (``~/.cache``). Only its owner removes anything
  from it: a mirror that was deleted is fetched again.
- A file is fetched when its remote version (ETag, or size and time) is not the one that was fetched before.
- A file that was changed here and there is fetched, and the local one is set aside: nothing is lost.
- One process at a time brings a mirror up to date; ranks of one training on one machine share it.
"""

import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from voxfield.errors import InputError, MissingFileError, TransferError, VoxfieldError
from voxfield.storage.atomic import write_text
from voxfield.storage.checkpoint import list_checkpoints
from voxfield.storage.remote.fetch import fetch, md5_of
from voxfield.storage.remote.ledger import Entry, Ledger
from voxfield.storage.remote.publish import LocalFile, is_list, outdated_lists, publish, same_content, tag_of
from voxfield.storage.remote.sources import FetchOptions, RemoteFile, Source, endpoint_of_s3, name_fault
from voxfield.storage.remote.transfers import Display, Watch
from voxfield.storage.skipped import Skipped
from voxfield.storage.urls import url_of

_FILE: Final = re.compile(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,5}$")
"""How a name ends that is a file's."""
_MOST_TOLD: Final = 5
"""Files left out that are named."""
_LOOKS: Final = 1.0
"""Seconds between two looks for new checkpoints."""
_OPEN: dict[Path, "Mirror"] = {}
"""Mirrors that this process has used, by their folders."""

Place = str | os.PathLike[str]


@contextmanager
def _unseen(description: str, total_bytes: int, total_files: int) -> Iterator[Watch]:  # noqa: ARG001  (a Display)
    yield lambda _bytes, _files: None


def _unsaid(message: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class Onlooker:
    """Who watches transfers."""

    display: Display = _unseen
    say: Callable[[str], None] = _unsaid


NOBODY: Final = Onlooker()
_WATCHING: ContextVar[Onlooker] = ContextVar("watching", default=NOBODY)


@contextmanager
def watched_by(onlooker: Onlooker) -> Iterator[None]:
    """Let somebody watch the transfers of the block."""
    before = _WATCHING.set(onlooker)
    try:
        yield
    finally:
        _WATCHING.reset(before)


def cache_folder() -> Path:
    """Where local copies are kept."""
    named = os.environ.get("VOXFIELD_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "voxfield"


def local(place: Place, *, alone: bool = False) -> Path:
    """A path on this machine that holds what lies at a place: of a URL, its mirror brought up to date.

    Args:
        place: a path, which is returned, or the URL of a file or folder.
        alone: fetch of a JSON file only itself. Captures, runs and scenes name their files in one: of theirs the folder
            is fetched.

    Raises:
        MissingFileError: there is nothing at the URL.
        InputError: a URL of an unknown kind, names that lead outside the folder, or the disk has no room.
        TransferError: the source cannot be reached or refuses, or a file could not be had.
        MissingExtraError: fsspec, or what it needs for this kind of URL, is missing.
    """
    url = url_of(place)
    if url is None:
        return Path(place)
    address, mark, query = url.partition("?") if url.startswith("http") else (url, "", "")
    source = Source(url, FetchOptions())
    kind = "folder" if url.endswith("/") else source.kind()
    if kind is None:
        raise MissingFileError(f"{url}: there is nothing there, neither a file nor a folder. Check the address.")
    if kind == "folder":
        return Mirror.of(address).pull().folder
    parent, name = address.rsplit("/", 1)
    mirror = Mirror.of(parent)
    if name.endswith(".json") and not alone:
        mirror.pull()
    else:
        mirror.pull(name=name, query=mark + query)
    return mirror.folder / name


@contextmanager
def published(place: Place, *, folder: bool | None = None, live: bool = False, leads: bool = True) -> Iterator[Path]:
    """Yield a path to write to; what was written there is put to the place when the block ends, if it is a URL.

    A folder is brought up to date first, so that a job continues from what is there. When the block raises, nothing is
    published; what it wrote stays in the mirror, and is continued from the next time.

    Args:
        place: a path, which is yielded, or a URL.
        folder: whether it is one; None: by its ending.
        live: publish a run also after each checkpoint, by a thread of its own, and when the block raises.
        leads: False of ranks that only read what rank 0 writes: they publish nothing.

    Raises:
        InputError: a URL that cannot be written to.
        TransferError: something could not be published; the message says where the local copy is.
    """
    url = url_of(place)
    if url is None:
        yield Path(place)
        return
    if url.startswith("http"):
        raise InputError(f"{url}: can only be read. Write to an s3:// or gs:// address, or to a folder.")
    if folder is None:
        folder = url.count("/") == 2 or _FILE.search(url.rsplit("/", 1)[1]) is None
    mirror = Mirror.of(url if folder else url.rsplit("/", 1)[0])
    if folder:
        mirror.pull(needed=False)
    before = None if folder else mirror.files()
    mirror.folder.mkdir(parents=True, exist_ok=True)
    with mirror.in_work(), _Follower(mirror) if live and leads else nullcontext():
        yield mirror.folder if folder else mirror.folder / url.rsplit("/", 1)[1]
    if leads:
        mirror.push(since=before)


@contextmanager
def publishing_back(path: Path) -> Iterator[None]:
    """Publish what the block writes into a folder, where that is the mirror of a URL: a run that gets a report.

    Where the URL cannot be written to, the results stay in the mirror, and who watches is told so.
    """
    mirror = mirror_of(path)
    if mirror is None or mirror.is_in_work:
        yield
        return
    before = mirror.files()
    yield
    if mirror.files() == before:
        return
    try:
        if mirror.url.startswith("http"):
            raise TransferError(f"{mirror.url}: can only be read. The local copy is complete: {mirror.folder}")
        mirror.push(since=before)
    except TransferError as error:
        _WATCHING.get().say(str(error))


def mirror_of(path: Path) -> "Mirror | None":
    """The mirror that this process has used and that a path lies in."""
    return next((_OPEN[folder] for folder in (path, *path.parents) if folder in _OPEN), None)


def shown(path: Path) -> str:
    """What a person calls a path: in a mirror its URL."""
    mirror = mirror_of(path)
    if mirror is None:
        return str(path)
    below = path.relative_to(mirror.folder).as_posix()
    return mirror.url if below == "." else f"{mirror.url}/{below}"


@contextmanager
def told_by_url() -> Iterator[None]:
    """In the messages of errors, say URLs in place of the mirrors' folders."""
    try:
        yield
    except TransferError:
        # They say where the local copy is.
        raise
    except VoxfieldError as error:
        message = str(error)
        for folder in sorted(_OPEN, key=lambda one: len(str(one)), reverse=True):
            message = message.replace(str(folder), _OPEN[folder].url)
        error.args = (message,)
        raise


@dataclass(kw_only=True, eq=False)
class Mirror:
    """The local copy of a remote folder, or of some of its files."""

    url: str
    home: Path
    """Folder of the copy and its books."""
    is_in_work: bool = False
    """Whether a job writes to it, which will publish it."""

    @classmethod
    def of(cls, url: str) -> "Mirror":
        """The mirror of a folder's URL."""
        url = url.rstrip("/")
        # Buckets of one name at different servers are different.
        server = endpoint_of_s3() if url.startswith("s3://") else ""
        key = hashlib.sha256(f"{server}{url}".encode()).hexdigest()[:16]
        home = cache_folder().absolute() / "remote" / key
        mirror = cls(url=url, home=home)
        return _OPEN.setdefault(mirror.folder, mirror)

    @property
    def folder(self) -> Path:
        """Where the files are: its name is the remote folder's, by which runs are named."""
        name = self.url.rsplit("/", 1)[1]
        return self.home / (re.sub(r"[^\w.\- ]", "_", name).lstrip(".") or "files")

    @contextmanager
    def in_work(self) -> Iterator[None]:
        """While the block lasts, nothing but its job publishes."""
        outer, self.is_in_work = self.is_in_work, True
        try:
            yield
        finally:
            self.is_in_work = outer

    def files(self) -> dict[str, LocalFile]:
        """The files that are here, hidden ones (unfinished) left out."""
        found = {}
        for where, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = (Path(where) / name).relative_to(self.folder).as_posix()
                file = None if name.startswith(".") else LocalFile.of(self.folder, path)
                if file is not None:
                    found[path] = file
        return found

    def pull(self, *, name: str | None = None, query: str = "", needed: bool = True) -> "Mirror":
        """Fetch what is not here as it is there.

        Args:
            name: only this file.
            query: see `Source.file`.
            needed: False: there may be nothing yet.

        Returns:
            The mirror.

        Raises:
            MissingFileError, InputError, TransferError: see `local`.
        """
        source = Source(self.url, FetchOptions())
        with self._locked() as ledger:
            remote = self._remote(source, name, query)
            if not remote and needed:
                where = self.url if name is None else f"{self.url}/{name}"
                listed = " A web server has to list the folder's files." if source.is_web and name is None else ""
                raise MissingFileError(f"{where}: there are no files there. Check the address.{listed}")
            present = self._compared(source, ledger, remote)
            done = fetch(
                source,
                list(remote.values()),
                self.folder,
                display=_WATCHING.get().display,
                description=f"Fetching {self.url}",
                is_there=lambda file: file.name in present,
                landed=lambda file: self._landed(ledger, file),
            )
            if done.failures:
                raise TransferError(_told(done.failures, f"could not be fetched to {self.folder}", "fetched"))
            if name is None:
                self._forget(ledger, remote)
        return self

    def push(self, *, since: Mapping[str, LocalFile] | None = None) -> None:
        """Put what has changed here to the URL.

        Args:
            since: publish only what has changed since the files were these; None: all that differs, and remove there
                what was removed here.

        Raises:
            TransferError: something could not be published.
        """
        source = Source(self.url, FetchOptions())
        with self._locked() as ledger, self._kept_here():
            files = self.files()
            wanted = {name: file for name, file in files.items() if since is None or since.get(name) != file}
            for name in wanted:
                fault = name_fault(name)
                if fault is not None:
                    raise TransferError(f"{self.folder / name}: {fault}")
            there = self._there(source, wanted, whole=since is None)
            to_send = self._changed(source, ledger, wanted, there, continued=since is None)
            withdrawn = outdated_lists(to_send, there) if since is None else []
            again = [files[name] for name in withdrawn if name in files and files[name] not in to_send]
            for name in withdrawn:
                # From now on it is a file of ours alone, whenever this ends.
                ledger.note(name, None)
            done = publish(
                source,
                [*to_send, *again],
                withdrawn=withdrawn,
                display=_WATCHING.get().display,
                leaving=lambda file: self._leaving(source, ledger, file),
                arrived=ledger.agree,
            )
            if done.failures:
                raise TransferError(_told(done.failures, "could not be published", "published"))
            if since is None:
                for name in [name for name in ledger.entries if name not in files]:
                    if name in there:
                        source.remove(name)
                    ledger.note(name, None)
        if done.files:
            one = f"/{done.files[0]}" if len(done.files) == 1 else f" ({len(done.files)} files)"
            _WATCHING.get().say(f"Published {self.url}{one}")

    def _remote(self, source: Source, name: str | None, query: str) -> dict[str, RemoteFile]:
        """What is there."""
        if name is not None:
            file = source.file(name, query)
            return {} if file is None else {name: file}
        files, refused = source.files("", lambda _: True)
        for item in refused[:_MOST_TOLD]:
            _WATCHING.get().say(f"{item.path}: {item.reason}. It is left out.")
        return {file.name: file for file in files}

    def _compared(self, source: Source, ledger: Ledger, remote: Mapping[str, RemoteFile]) -> set[str]:
        """Names of the files that need not be fetched; those changed here and there are set aside."""
        present, changed = set(), []
        for name, file in remote.items():
            here, entry = LocalFile.of(self.folder, name), ledger.entries.get(name)
            if here is None:
                continue
            known = entry is not None and entry.knows(file)
            if known:
                # As it was, or changed here since: what is here is newer.
                present.add(name)
            elif entry is None or not entry.is_of(here):
                if same_content(source, here.path, file):
                    ledger.agree(here, file)
                    present.add(name)
                else:
                    changed.append(here)
        if changed:
            aside = self.home / "set-aside" / time.strftime("%Y%m%d-%H%M%S")
            for here in changed:
                target = aside / here.name
                target.parent.mkdir(parents=True, exist_ok=True)
                here.path.replace(target)
            _WATCHING.get().say(f"{len(changed)} files were changed here and at {self.url}: ours are kept in {aside}")
        return present

    def _landed(self, ledger: Ledger, file: RemoteFile) -> None:
        here = LocalFile.of(self.folder, file.name)
        if here is not None:
            ledger.agree(here, file)

    def _forget(self, ledger: Ledger, remote: Mapping[str, RemoteFile]) -> None:
        """Remove what was removed there, unless it was changed here."""
        for name, entry in list(ledger.entries.items()):
            if name not in remote and entry.version:
                here = LocalFile.of(self.folder, name)
                if here is not None and entry.is_of(here):
                    here.path.unlink(missing_ok=True)
                ledger.note(name, None)

    def _there(self, source: Source, wanted: Mapping[str, LocalFile], *, whole: bool) -> dict[str, RemoteFile]:
        """What is there of the files to publish."""
        if whole:
            return {file.name: file for file in source.files("", lambda _: True)[0]}
        found = {name: source.file(name) for name in wanted}
        return {name: file for name, file in found.items() if file is not None}

    def _changed(
        self,
        source: Source,
        ledger: Ledger,
        wanted: Mapping[str, LocalFile],
        there: Mapping[str, RemoteFile],
        *,
        continued: bool,
    ) -> list[LocalFile]:
        """The files that are not there as they are here.

        Raises:
            TransferError: what is there was ``continued`` here, and by another machine since.
        """
        changed = []
        for name, file in wanted.items():
            entry, remote = ledger.entries.get(name), there.get(name)
            if remote is not None:
                if entry is not None and entry.is_of(file) and entry.version == remote.version:
                    continue
                if same_content(source, file.path, remote):
                    ledger.agree(file, remote)
                    continue
                ours = entry is None or not entry.version or entry.knows(remote) or is_list(name)
                if continued and not ours:
                    raise TransferError(f"{self.url}/{name}: was changed by somebody else since it was read here.")
            changed.append(file)
        return changed

    def _leaving(self, source: Source, ledger: Ledger, file: LocalFile) -> None:
        entry = ledger.entries.get(file.name) or Entry(size=-1, modified=-1, version="")
        tag = tag_of(file.path, source.part_bytes(file.size)) if source.protocol == "s3" else md5_of(file.path)
        ledger.note(file.name, replace(entry, sending=tag))

    @contextmanager
    def _locked(self) -> Iterator[Ledger]:
        """The books, while no other process has them."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.home / "url.txt").exists():
            write_text(self.home / "url.txt", f"{self.url}\n")
        with (self.home / "lock").open("a+b") as stream:
            # Released when the file is closed, also by a process that is killed.
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
            else:
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX)
            yield Ledger(self.home / "ledger.jsonl")

    @contextmanager
    def _kept_here(self) -> Iterator[None]:
        """Whatever keeps something from being published, say where the local copy is."""
        try:
            yield
        except TransferError as error:
            message = f"{error} The local copy is complete: {self.folder}\nThe same command publishes it again."
            raise TransferError(message) from error


class _Follower(AbstractContextManager[None]):
    """Publishes a run after each checkpoint, until the block ends; when it raises, once more."""

    def __init__(self, mirror: Mirror) -> None:
        # Contexts do not reach into threads.
        self._mirror, self._onlooker = mirror, _WATCHING.get()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._seen = self._checkpoints()
        self._told = ""

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        if kind is not None and issubclass(kind, Exception):
            self._push()

    def _follow(self) -> None:
        while not self._ends.wait(_LOOKS):
            now = self._checkpoints()
            if now and now != self._seen:
                self._seen = now
                self._push()

    def _checkpoints(self) -> list[str]:
        return [path.name for path in list_checkpoints(self._mirror.folder)]

    def _push(self) -> None:
        try:
            self._mirror.push()
        except (VoxfieldError, OSError) as error:
            # Training goes on; the next checkpoint may find the way, and so does the end.
            if str(error) != self._told:
                self._told = str(error)
                self._onlooker.say(f"{self._told}\nTraining goes on.")


def _told(failures: tuple[Skipped, ...], what: str, done: str) -> str:
    more = "" if len(failures) == 1 else f" Nor could {len(failures) - 1} other files be {done}."
    return f"{failures[0].path}: {what}: {failures[0].reason.rstrip('.')}.{more}"
