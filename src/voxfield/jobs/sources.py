"""Remote folders that files are fetched from: ``s3://`` without credentials, web pages that list files, local ones."""

import hashlib
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from voxfield.checks import check_range
from voxfield.data.capture import Skipped
from voxfield.errors import InputError, MissingExtraError, TransferError

CHUNK_BYTES: Final = 1 << 22
"""Most bytes asked for at once; a transfer holds no more in memory, and stops no later when interrupted."""
DEEPEST_FOLDER: Final = 8
"""Levels of folders that are looked through: pages that list each other have no end."""
LONGEST_NAME: Final = 200
"""Bytes of a file's name; file systems take 255, and a transfer's name adds to it."""
CONNECT_SECONDS: Final = 10.0
"""How long a server may take to accept a connection."""
_FORBIDDEN: Final = frozenset('\\:*?"<>|\x7f')


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
                    raise TransferError(f"{self.url}: {said(error)}. Check the source's address.") from error
                return None
            except PermissionError as error:
                raise TransferError(f"{self.url}: may not be listed ({said(error)}).") from error
            except Exception as error:  # (libraries below raise their own kinds)
                if last:
                    raise TransferError(
                        f"{self.options.endpoint_url or self.url}: cannot be reached ({said(error)}). Check the "
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


def said(error: BaseException) -> str:
    """An error's own words in one line, or its kind where it has none."""
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
