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
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from voxfield.checks import check_range
from voxfield.data.capture import Skipped
from voxfield.errors import InputError, MissingExtraError, TransferError

CHUNK_BYTES: Final = 1 << 22
"""Most bytes asked for at once; a transfer holds no more in memory, and stops no later when interrupted."""
DEEPEST_FOLDER: Final = 8
"""Levels of folders that are looked through: pages that list each other have no end."""
LONGEST_NAME: Final = 200
"""Bytes of a file's name; file systems take 255, and a transfer's name adds to it."""
_FORBIDDEN: Final = frozenset('\\:*?"<>|\x7f')
_PARTIAL: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.partial")
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}
FAILURES_IN_A_ROW: Final = 16
"""Transfers that fail one after the other before the rest is not tried."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 8.0
"""Seconds between attempts: the first pause, doubled each time up to the longest."""
CONNECT_SECONDS: Final = 10.0
"""How long a server may take to accept a connection."""

Watch = Callable[[int, int], None]
"""Told the bytes and the files that are there so far."""
Display = Callable[[str, int, int], AbstractContextManager[Watch]]
"""Shows a transfer: what it is, its bytes and its files."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How files are fetched."""

    endpoint_url: str | None = None
    """Server that speaks S3 in place of Amazon's, e.g. ``http://127.0.0.1:9000``."""
    transfers: int = 8
    """Files transferred at the same time (1 to 64)."""
    attempts: int = 4
    """How often a file is tried (>= 1); what an attempt has got is kept."""
    timeout: float = 30.0
    """Seconds (> 0) without a byte after which an attempt has failed."""
    verify: bool = False
    """Compare the checksums of files that are there already, not only their sizes."""

    def __post_init__(self) -> None:
        check_range("transfers", self.transfers, minimum=1, maximum=64)
        check_range("attempts", self.attempts, minimum=1, maximum=100)
        check_range("timeout", self.timeout, above=0.0, maximum=3600.0)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file at its source."""

    name: str
    """Path below the source, with ``/``: also its path below the target."""
    address: str
    """What the source calls it."""
    size: int
    """Bytes, as the source states them."""
    version: str
    """Changes when the content does: ETag, or time of change."""
    md5: str | None = None
    """Checksum of the content in hexadecimal, where the source has one."""

    def partial_name(self) -> str:
        """Name of the hidden file that a transfer of this version writes to."""
        tag = hashlib.sha256(f"{self.size} {self.version}".encode()).hexdigest()[:12]
        return f".{self.name.rsplit('/', 1)[-1]}.{tag}.partial"


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


class Source:
    """A remote folder.

    Args:
        url: ``s3://``, ``https://``, ``http://`` or ``file://``.
        options: ``endpoint_url``, ``transfers`` and ``timeout`` are used.

    Raises:
        InputError: another kind of address. MissingExtraError: fsspec, or what it needs for this kind, is missing.
    """

    def __init__(self, url: str, options: FetchOptions) -> None:
        self.url = url.rstrip("/")
        self.options = options
        self.protocol, colon, rest = self.url.partition("://")
        if not colon or not rest or self.protocol not in {"s3", "http", "https", "file"}:
            raise InputError(f"source: expected an s3://, https:// or file:// address, got {url!r}.")
        self._web = self.protocol in {"http", "https"}
        try:
            import fsspec

            self._fs: Any = fsspec.filesystem(self.protocol, **self._settings())
        except ImportError as error:
            raise MissingExtraError(
                f"Fetching from {self.protocol}:// needs fsspec with its drivers ({error.name or error} is missing). "
                'Install them with: pip install "voxfield[remote]".'
            ) from error
        self._root: str = self._fs._strip_protocol(self.url).rstrip("/")

    def _settings(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        timeout = self.options.timeout
        if self.protocol == "s3":
            config = {
                "connect_timeout": min(CONNECT_SECONDS, timeout),
                "read_timeout": timeout,
                # Attempts are counted here, in one place.
                "retries": {"max_attempts": 0},
                "max_pool_connections": self.options.transfers + 2,
            }
            return {"anon": True, "endpoint_url": self.options.endpoint_url, "config_kwargs": config, **fresh}
        if self._web:
            import aiohttp

            # Without limit in all: big files take long.
            limits = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT_SECONDS, timeout), sock_read=timeout)
            return {"client_kwargs": {"timeout": limits}, **fresh}
        return {"skip_instance_cache": True}

    def folders(self) -> list[str]:
        """Names of the folders directly below the source; for messages, so empty where they cannot be listed.

        Raises:
            TransferError: the source cannot be reached.
        """
        entries = self._entries(self._root)
        names = (self._name(entry) for entry in entries if entry["type"] == "directory")
        return sorted(name.strip("/") for name in names if name.strip("/"))

    def files(
        self, folder: str, wanted: Callable[[str], bool], *, deep: bool = True
    ) -> tuple[list[RemoteFile], list[Skipped]]:
        """The files below a folder, in order of their names; none where there is no such folder.

        Args:
            folder: path below the source.
            wanted: tells by a file's name (path below the source) whether it is wanted.
            deep: look into folders below it too.

        Returns:
            The files, and names that are refused with reasons.

        Raises:
            TransferError: the source cannot be reached, or refuses.
        """
        where = f"{self._root}/{folder}".rstrip("/")
        entries = self._all_below(where) if deep else self._entries(where)
        found, refused = [], []
        for entry in entries:
            name = self._name(entry)
            if entry["type"] == "directory" or name.endswith("/"):
                continue
            fault = name_fault(name)
            if fault is not None:
                refused.append(Skipped(path=f"{self.url}/{name}", reason=fault))
            elif wanted(name):
                found.append(entry)
        files, unsized = self._described(found)
        return sorted(files, key=lambda file: file.name), [*refused, *unsized]

    def read(self, file: RemoteFile, offset: int) -> tuple[int, Iterator[bytes]]:
        """The file's content from ``offset`` on.

        Returns:
            Where the content really starts (0 where a server sends only whole files), and its pieces.
        """
        if not self._web:
            return offset, self._ranges(file, offset)
        headers = {"Accept-Encoding": "identity"}
        if offset:
            # A file that changed meanwhile then comes whole.
            headers |= {"Range": f"bytes={offset}-", **({"If-Range": file.version} if file.version else {})}
        stream = self._fs.open(file.address, "rb", block_size=0, size=file.size, headers=headers)
        return (offset if stream.r.status == 206 else 0), _pieces(stream)

    def is_unchanged(self, file: RemoteFile) -> bool:
        """Whether the source still has the version that was listed."""
        return _version(self._fs.info(file.address)) == file.version

    def _ranges(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        while offset < file.size:
            piece = self._fs.cat_file(file.address, start=offset, end=min(offset + CHUNK_BYTES, file.size))
            if not piece:
                return
            offset += len(piece)
            yield piece

    def _all_below(self, where: str) -> list[dict[str, Any]]:
        if self.protocol == "s3":
            # One listing of all keys, in place of one a folder.
            found: dict[str, dict[str, Any]] = self._ask(self._fs.find, where + "/", detail=True, withdirs=False) or {}
            return list(found.values())
        entries, folders = [], [where]
        for _ in range(DEEPEST_FOLDER):
            listed = [entry for folder in folders for entry in self._entries(folder)]
            entries += listed
            folders = [
                entry["name"].rstrip("/")
                for entry in listed
                if entry["type"] == "directory" and name_fault(self._name(entry).rstrip("/")) is None
            ]
        return entries

    def _entries(self, where: str) -> list[dict[str, Any]]:
        """What lies directly in a folder; nothing where there is none."""
        # Web servers redirect to the address that ends in a slash, against which the page's links are meant.
        return self._ask(self._fs.ls, where + "/" if self._web else where, detail=True) or []

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the source answers; None where it has no such thing. Asked twice: one broken connection is no fault."""
        for last in (False, True):
            try:
                return call(*args, **options)
            except FileNotFoundError as error:
                if "bucket does not exist" in str(error):
                    raise TransferError(f"{self.url}: {_said(error)}. Check the source's address.") from error
                return None
            except PermissionError as error:
                raise TransferError(f"{self.url}: may not be listed ({_said(error)}).") from error
            except Exception as error:  # (libraries below raise their own kinds)
                if last:
                    raise TransferError(
                        f"{self.options.endpoint_url or self.url}: cannot be reached ({_said(error)}). Check the "
                        "address and the connection."
                    ) from error
        return None

    def _name(self, entry: dict[str, Any]) -> str:
        name = str(entry["name"]).removeprefix(self._root).removeprefix("/")
        return urllib.parse.unquote(name) if self._web else name

    def _described(self, entries: Sequence[dict[str, Any]]) -> tuple[list[RemoteFile], list[Skipped]]:
        """The entries with sizes and versions, for which web servers are asked file by file."""
        if self._web:
            with ThreadPoolExecutor(max_workers=self.options.transfers) as pool:
                entries = list(pool.map(self._web_entry, entries))
        files, unsized = [], []
        for entry in entries:
            name, size = self._name(entry), entry.get("size")
            if not isinstance(size, int) or size < 0:
                unsized.append(Skipped(path=f"{self.url}/{name}", reason="the server does not state its size"))
                continue
            md5 = _plain_md5(entry) if self.protocol == "s3" else None
            version = _version(entry)
            files.append(RemoteFile(name=name, address=entry["name"], size=size, version=version, md5=md5))
        return files, unsized

    def _web_entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {**(self._ask(self._fs.info, entry["name"]) or {}), "name": entry["name"]}


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
                self._fail(file, f"cannot be written ({_said(error)})", full=error.errno in _NO_ROOM)
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
            raise _BrokenOffError(_said(error), final=True) from error
        except Exception as error:
            raise _BrokenOffError(_said(error)) from error

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


def name_fault(name: str) -> str | None:
    """Why a remote name cannot be a path below a folder on every system; None where it can."""
    for part in name.split("/"):
        if part in {"", ".", ".."}:
            return "its name would lead outside the folder"
        if any(character in _FORBIDDEN or ord(character) < 32 for character in part):
            return "its name holds characters that file names cannot"
        if len(part.encode("utf-8", errors="replace")) > LONGEST_NAME:
            return f"its name is longer than {LONGEST_NAME} bytes"
    return None


def _pieces(stream: Any) -> Iterator[bytes]:
    with closing(stream):
        while piece := stream.read(CHUNK_BYTES):
            yield piece


def _version(entry: dict[str, Any]) -> str:
    """ETag, else the time of the last change; empty where the source states neither."""
    for key in ("ETag", "Last-Modified", "LastModified", "mtime"):
        if entry.get(key):
            return str(entry[key])
    return ""


def _plain_md5(entry: dict[str, Any]) -> str | None:
    """S3's ETag where it is an MD5: of objects uploaded in parts it ends in their number."""
    tag = str(entry.get("ETag", "")).strip('"').lower()
    return tag if len(tag) == 32 and set(tag) <= set("0123456789abcdef") else None


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


def _said(error: BaseException) -> str:
    """An error's own words in one line, or its kind where it has none."""
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
