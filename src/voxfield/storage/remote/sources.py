"""Remote folders: ``s3://``, ``gs://`` and whatever else fsspec reaches, and web pages that list files (to read).

``s3://`` uses the credentials that Amazon's own tools would (environment, profile, role), or none if there are none.
"""

import base64
import functools
import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, cast

from voxfield.checks import check_range
from voxfield.errors import InputError, MissingExtraError, TransferError
from voxfield.storage.atomic import replacing
from voxfield.storage.skipped import Skipped

CHUNK_BYTES: Final = 1 << 22
"""Most bytes asked for at once; a transfer holds no more in memory, and stops no later when interrupted."""
DEEPEST_FOLDER: Final = 8
"""Levels of folders that are looked through: pages that list each other have no end."""
LONGEST_NAME: Final = 200
"""Bytes of a file's name; file systems take 255, and a transfer's name adds to it."""
CONNECT_SECONDS: Final = 10.0
"""How long a server may take to accept a connection."""
PART_BYTES: Final = 16 << 20
"""Objects of S3 twice as large are sent in parts of this size, which their ETag then depends on."""
_MOST_PARTS: Final = 9000
_DRIVERS: Final = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko"}
"""What fsspec needs beside the extra."""
_NO_CREDENTIALS: Final = (
    "No credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with AWS_PROFILE."
)
Settings = tuple[tuple[str, str], ...]
_FORBIDDEN: Final = frozenset('\\:*?"<>|\x7f')


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How files are fetched, and sent."""

    endpoint_url: str | None = None
    """Server that speaks S3 in place of Amazon's, e.g. ``http://127.0.0.1:9000``; None: see ``AWS_ENDPOINT_URL``."""
    anonymous: bool = False
    """Use no credentials of S3, even where there are some."""
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
        url: ``s3://``, ``gs://``, ``https://``, ``http://``, ``file://``, or another address that fsspec knows.
        options: ``endpoint_url``, ``anonymous``, ``transfers`` and ``timeout`` are used.

    Raises:
        InputError: another kind of address, or a profile of credentials that there is not.
        MissingExtraError: fsspec, or what it needs for this kind, is missing.
    """

    def __init__(self, url: str, options: FetchOptions) -> None:
        self.url = url.rstrip("/")
        self.options = options
        self.protocol, colon, rest = self.url.partition("://")
        if not colon or not rest or "::" in url or not self.protocol.islower():
            raise InputError(f"source: expected an s3://, gs://, https:// or file:// address, got {url!r}.")
        self.is_web = self.protocol in {"http", "https"}
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        self._fs, self._anonymous = _connected(self.protocol, options, settings)
        self._root: str = self._fs._strip_protocol(self.url).rstrip("/")

    def kind(self) -> Literal["file", "folder"] | None:
        """What the address names; None where there is nothing.

        Raises:
            TransferError: the source cannot be reached, or refuses.
        """
        entry = self._ask(self._fs.info, self._root)
        if entry is None:
            return None
        # Of a web server, pages are what lists a folder.
        page = self.is_web and "html" in str(entry.get("mimetype", "")) and not self.url.endswith((".html", ".htm"))
        return "folder" if entry["type"] == "directory" or page else "file"

    def file(self, name: str, query: str = "") -> RemoteFile | None:
        """One file, without listing its folder (which may not be allowed); None where there is none.

        Args:
            name: path below the source.
            query: what follows it in the address: the signature of a file that is shared for a while.

        Raises:
            InputError: a name that would lead outside, or a server that does not state the file's size.
            TransferError: the source cannot be reached, or refuses.
        """
        fault = name_fault(name)
        if fault is not None:
            raise InputError(f"{self.url}/{name}: {fault}.")
        address = self._address(name) + query
        entry = self._ask(self._fs.info, address)
        if entry is None or entry["type"] == "directory":
            return None
        size = entry.get("size")
        if not isinstance(size, int) or size < 0:
            raise InputError(f"{self.url}/{name}: the server does not state its size.")
        return self._described_as(name, {**entry, "name": address})

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
        if not self.is_web:
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

    def has_own_tags(self, file: RemoteFile) -> bool:
        """Whether a server of S3 keeps a file encrypted with a key, so that its ETag is no checksum."""
        if self.protocol != "s3":
            return False
        bucket, _, key = file.address.partition("/")
        head = self._fs.call_s3("head_object", Bucket=bucket, Key=key)
        kept_as = head.get("ServerSideEncryption", "")
        return bool(kept_as.startswith("aws:kms") or head.get("SSECustomerAlgorithm"))

    def part_bytes(self, size: int) -> int:
        """Size of the parts in which a file of so many bytes is sent."""
        return max(PART_BYTES, -(-size // _MOST_PARTS))

    def send(self, path: Path, name: str) -> RemoteFile:
        """Put a local file there, whole or not at all.

        Returns:
            What the source then says of it.

        Raises:
            Whatever the libraries below raise.
        """
        address = self._address(name)
        if self.protocol == "file":
            with replacing(address) as temporary:
                shutil.copyfile(path, temporary)
        elif self.protocol == "s3":
            size = path.stat().st_size
            # Few parts at once: several files are under way, and each part is held in memory.
            self._fs.put_file(str(path), address, chunksize=self.part_bytes(size), max_concurrency=2)
        else:
            self._fs.put_file(str(path), address)
        return self._described_as(name, {**self._fs.info(address), "name": address})

    def remove(self, name: str) -> None:
        """Remove a file, where there is one.

        Raises:
            TransferError: the source cannot be reached, or refuses.
        """
        self._ask(self._fs.rm_file, self._address(name))

    def _address(self, name: str) -> str:
        quoted = urllib.parse.quote(name) if self.is_web else name
        return f"{self._root}/{quoted}"

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
        if not self.is_web and self.protocol != "file":
            return list((self._ask(self._fs.find, where, detail=True, withdirs=False) or {}).values())
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
        return self._ask(self._fs.ls, where + "/" if self.is_web else where, detail=True) or []

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the source answers; None where it has no such thing. Asked twice: one broken connection is no fault."""
        for last in (False, True):
            try:
                return call(*args, **options)
            except Exception as error:  # (libraries below raise their own kinds)
                fault = error
                if self.is_web and isinstance(error, FileNotFoundError) and error.__cause__ is not None:
                    # Whatever a web server says is called a missing file.
                    fault = cast(Exception, error.__cause__)
                status = getattr(fault, "status", None)
                if isinstance(fault, FileNotFoundError) or status in {404, 410}:
                    if "bucket does not exist" in str(fault):
                        raise TransferError(f"{self.url}: {said(fault)}. Check the source's address.") from error
                    return None
                if isinstance(fault, PermissionError) or status in {401, 403}:
                    raise TransferError(f"{self.url}: {self.refusal(fault)}") from error
                if last:
                    raise TransferError(
                        f"{self.options.endpoint_url or self.url}: cannot be reached ({said(fault)}). Check the "
                        "address and the connection."
                    ) from error
        return None

    def refusal(self, error: BaseException) -> str:
        """What to say where the source does not let somebody in."""
        advice = "Check what your credentials allow."
        if self.protocol == "s3" and self._anonymous:
            advice = "It is asked without credentials." if self.options.anonymous else _NO_CREDENTIALS
        return f"access is refused ({said(error)}). {advice}"

    def _name(self, entry: dict[str, Any]) -> str:
        name = str(entry["name"]).removeprefix(self._root).removeprefix("/")
        return urllib.parse.unquote(name) if self.is_web else name

    def _described(self, entries: Sequence[dict[str, Any]]) -> tuple[list[RemoteFile], list[Skipped]]:
        """The entries with sizes and versions, for which web servers are asked file by file."""
        if self.is_web:
            with ThreadPoolExecutor(max_workers=self.options.transfers) as pool:
                entries = list(pool.map(self._web_entry, entries))
        files, unsized = [], []
        for entry in entries:
            name, size = self._name(entry), entry.get("size")
            if not isinstance(size, int) or size < 0:
                unsized.append(Skipped(path=f"{self.url}/{name}", reason="the server does not state its size"))
                continue
            files.append(self._described_as(name, entry))
        return files, unsized

    def _described_as(self, name: str, entry: dict[str, Any]) -> RemoteFile:
        md5 = _plain_md5(entry) if self.protocol == "s3" else _stated_md5(entry)
        return RemoteFile(name=name, address=entry["name"], size=entry["size"], version=_version(entry), md5=md5)

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
    for key in ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "last_modified", "created"):
        value = entry.get(key)
        if value:
            return str(value.timestamp()) if isinstance(value, datetime) else str(value)
    return ""


def _plain_md5(entry: dict[str, Any]) -> str | None:
    """S3's ETag where it is an MD5: of objects uploaded in parts it ends in their number."""
    tag = str(entry.get("ETag", "")).strip('"').lower()
    return tag if len(tag) == 32 and set(tag) <= set("0123456789abcdef") else None


def _stated_md5(entry: dict[str, Any]) -> str | None:
    """The checksum that Google's storage states."""
    stated = entry.get("md5Hash")
    return base64.b64decode(stated).hex() if isinstance(stated, str) else None


@functools.lru_cache(maxsize=16)
def _connected(protocol: str, options: FetchOptions, settings: Settings) -> tuple[Any, bool]:  # noqa: ARG001  (a key)
    """What reaches a kind of source, and whether without credentials; kept, as clients of S3 take long to make.

    Args:
        protocol: of the URL.
        options: see `Source`.
        settings: variables of the environment that clients of S3 look at: others need another client.

    Raises:
        InputError, MissingExtraError: see `Source`.
    """
    try:
        import fsspec

        if protocol not in fsspec.available_protocols():
            raise InputError(
                f"{protocol}://: is none that fsspec knows. Expected an s3://, gs://, https:// or file:// address."
            )
        fresh: dict[str, Any] = {"skip_instance_cache": True}
        if protocol == "s3":
            anonymous = options.anonymous or not _has_credentials()
            return fsspec.filesystem("s3", **_s3_settings(options), anon=anonymous, **fresh), anonymous
        if protocol in {"http", "https"}:
            import aiohttp

            # Without limit in all: big files take long.
            connect = min(CONNECT_SECONDS, options.timeout)
            limits = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=options.timeout)
            fresh |= {"client_kwargs": {"timeout": limits}, "use_listings_cache": False}
        return fsspec.filesystem(protocol, **fresh), False
    except ImportError as error:
        driver = f" {_DRIVERS[protocol]}" if protocol in _DRIVERS else ""
        raise MissingExtraError(
            f"{protocol}:// needs fsspec with its drivers ({said(error)}). Install them with: pip install "
            f'"voxfield[remote]"{driver}.'
        ) from error


def _s3_settings(options: FetchOptions) -> dict[str, Any]:
    config = {
        "connect_timeout": min(CONNECT_SECONDS, options.timeout),
        "read_timeout": options.timeout,
        # Attempts are counted here, in one place.
        "retries": {"max_attempts": 0},
        "max_pool_connections": options.transfers + 2,
    }
    return {"endpoint_url": options.endpoint_url, "config_kwargs": config, "use_listings_cache": False}


def endpoint_of_s3() -> str:
    """The server that the environment names in place of Amazon's; empty where it names none."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _has_credentials() -> bool:
    """Whether there are any for S3, wherever Amazon's tools would look.

    Raises:
        InputError: settings name a profile that there is not.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        return botocore.session.Session().get_credentials() is not None
    except BotoCoreError as error:
        raise InputError(f"s3: the credentials cannot be read ({said(error)}). Check AWS_PROFILE.") from error


def said(error: BaseException) -> str:
    """An error's own words in one line, or its kind where it has none."""
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
