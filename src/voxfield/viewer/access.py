"""Who may talk to the viewer: the address it listens on, and which requests are answered.

Any page that a browser shows may open a websocket to 127.0.0.1, and a foreign name can be made to mean that address
(DNS rebinding). So a request must name this machine as its host, and one that a page makes must come from the viewer's
own page. On other addresses than the loopback, where any machine can ask, a random token in the URL's path is required.
"""

import errno
import hmac
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from voxfield.checks import check_range
from voxfield.errors import InputError, UnavailableError

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 7007

_LOOPBACK_NAMES: Final = ("localhost", LOOPBACK, "::1")
_PORTS_TRIED: Final = 64
"""How many of the following ports are tried for a free one."""


@dataclass(frozen=True, kw_only=True)
class RequestGuard:
    """Which requests, of pages and of websockets, are answered."""

    token: str | None
    """The first part of the URL's path that every request must have, where others than this machine can ask."""

    @classmethod
    def for_host(cls, host: str | None) -> "RequestGuard":
        """The guard of a server that listens on ``host``, with a new token; or None, the loopback, without."""
        return cls(token=None if host is None else secrets.token_urlsafe(24))

    def refusal(self, path: str, hosts: Sequence[str], origins: Sequence[str]) -> str | None:
        """Why a request is refused; None if it is not.

        Args:
            path: of the URL, from the first slash on.
            hosts: values of its ``Host`` header.
            origins: values of its ``Origin`` header: none for pages themselves, one for what a page asks for.
        """
        if len(hosts) != 1 or len(origins) > 1:
            return "expected one Host and at most one Origin header"
        if self.token is None:
            if _host_name(hosts[0]) not in _LOOPBACK_NAMES:
                return "this viewer is only for the machine it runs on: open it as localhost or 127.0.0.1"
        elif not self._has_token(path):
            return "the URL lacks the token that the viewer printed when it began"
        if origins and not _same_host(origins[0], hosts[0]):
            return "the request comes from a page of another site"
        return None

    def inner_path(self, path: str) -> str:
        """The path without the token."""
        return path if self.token is None else path.removeprefix(f"/{self.token}") or "/"

    def _has_token(self, path: str) -> bool:
        first = path.partition("?")[0].split("/")[1:2]
        return bool(first) and hmac.compare_digest(first[0].encode(), str(self.token).encode())


def listen(host: str | None, port: int, *, or_next: bool = False) -> socket.socket:
    """A socket that listens on an address.

    Args:
        host: name or address of this machine's to listen on; None: the loopback, which only this machine reaches.
        port: 1 to 65535; 0 for any that is free.
        or_next: where the port is in use, take the next that is free.

    Raises:
        InputError: no such port, or the host is no address of this machine.
        UnavailableError: the port is in use (the message names the next free one) or may not be used.
    """
    check_range("port", port, minimum=0, maximum=65535)
    try:
        family, _, _, _, address = socket.getaddrinfo(host or LOOPBACK, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f"host: expected a name or an address of this machine, got {host!r}.") from None
    try:
        return _bound(family, str(address[0]), port)
    except OSError as error:
        fault = error
    if fault.errno == errno.EADDRINUSE:
        for following in range(port + 1, min(port + _PORTS_TRIED, 65536)):
            try:
                free = _bound(family, str(address[0]), following)
            except OSError:
                continue
            if or_next:
                return free
            free.close()
            raise UnavailableError(
                f"Port {port} is in use, perhaps by another viewer. The next free one: --port {following}"
            )
        raise UnavailableError(f"Port {port} is in use, and so are those after it. Name another: --port N")
    if fault.errno in (errno.EACCES, errno.EPERM):
        raise UnavailableError(f"Port {port} may not be used by you. Take one from 1024 on: --port {PORT}")
    raise InputError(f"host: expected a name or an address of this machine, got {host!r} ({fault.strerror}).")


def url(listening: socket.socket, guard: RequestGuard) -> str:
    """Where a browser finds the viewer."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not listened on)
        host = socket.gethostname()
    named = f"[{host}]" if ":" in host else host
    return f"http://{named}:{port}/" + ("" if guard.token is None else f"{guard.token}/")


def _bound(family: int, address: str, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # A viewer that has just ended must not keep its port for minutes. (On Windows this would share ports.)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    return listening


def _host_name(host: str) -> str | None:
    """The name in a ``Host`` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
