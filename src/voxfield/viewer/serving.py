"""Opening viser's web server behind the guard of `voxfield.viewer.access`.

viser checks neither where a request comes from nor who makes it, and offers no place to do so: the call by which it
opens its port is replaced for as long as that takes. Should a release of viser open it by another way, the guard is
found missing and nothing is served.
"""

import contextlib
import dataclasses
import http
import io
import socket
import threading
from collections.abc import Callable
from typing import Any

from voxfield.errors import MissingExtraError, UnavailableError
from voxfield.viewer.access import RequestGuard, listen, url

_one_at_a_time = threading.Lock()


def require_viser() -> None:
    """Raise MissingExtraError now, before anything is loaded, where viser is missing."""
    try:
        import viser as _  # noqa: F401  (found or not is all there is to know)
    except ImportError:
        raise MissingExtraError("The viewer needs viser: pip install 'voxfield[viewer]'.") from None


def open_server(listening: socket.socket, guard: RequestGuard, *, label: str) -> Any:
    """Begin to serve viser's page on a socket; every request is first shown to the guard.

    Args:
        listening: the socket, which is the server's from here on.
        guard: decides which requests are answered.
        label: title of the page's panel.

    Returns:
        A ``viser.ViserServer``.

    Raises:
        MissingExtraError: viser is not installed. UnavailableError: this release of viser cannot be guarded.
    """
    require_viser()
    import viser
    import websockets.asyncio.server as transport

    original, guarded = transport.serve, threading.Event()

    def serve(handler: Any, *_address: Any, process_request: Any = None, **options: Any) -> Any:
        guarded.set()
        return original(handler, sock=listening, process_request=_guarding(guard, process_request), **options)

    # What viser prints of its own address would lead past the token.
    server: Any
    with _one_at_a_time, contextlib.redirect_stdout(io.StringIO()):
        transport.serve = serve  # type: ignore[assignment,misc]
        try:
            server = viser.ViserServer(host="localhost", port=listening.getsockname()[1], label=label, verbose=False)
        finally:
            transport.serve = original  # type: ignore[misc]
    if not guarded.is_set():
        close_server(server)
        raise UnavailableError(f"viser {viser.__version__} cannot be guarded against foreign pages. Install viser 1.1.")
    # The page's own request to make itself public through a server elsewhere.
    server.request_share_url = _refuse_to_share
    server.gui.configure_theme(show_share_button=False, show_logo=False, control_width="large")
    return server


def close_server(server: Any) -> None:
    """End a server of `open_server`."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


class Page:
    """A page that is served until it is closed: the address, the guard and viser's server in one."""

    def __init__(self, label: str, *, host: str | None, port: int, next_port: bool = False) -> None:
        """Begin to serve; arguments and errors as those of `voxfield.viewer.viewer.Viewer`."""
        require_viser()
        guard = RequestGuard.for_host(host)
        listening = listen(host, port, or_next=next_port)
        self.url, self.port = url(listening, guard), int(listening.getsockname()[1])
        self.server = open_server(listening, guard, label=label)
        self._closed = threading.Event()

    def wait(self) -> None:
        """Return when the page is closed; interrupted by Ctrl-C."""
        while not self._closed.wait(1.0):
            pass

    def close(self) -> None:
        """End the page."""
        if not self._closed.is_set():
            self._closed.set()
            close_server(self.server)


def _guarding(guard: RequestGuard, answer: Callable[..., Any] | None) -> Callable[..., Any]:
    """``answer`` (of a connection and a request) for the requests that the guard admits."""

    def guarded_answer(connection: Any, request: Any) -> Any:
        headers = request.headers
        refusal = guard.refusal(request.path, headers.get_all("Host"), headers.get_all("Origin"))
        if refusal is not None:
            return connection.respond(http.HTTPStatus.FORBIDDEN, f"Refused: {refusal}.\n")
        inner = dataclasses.replace(request, path=guard.inner_path(request.path))
        response = None if answer is None else answer(connection, inner)
        if response is not None:
            response.headers["Referrer-Policy"] = "no-referrer"
            response.headers["Content-Security-Policy"] = "frame-ancestors 'none'"
        return response

    return guarded_answer


def _refuse_to_share(*_arguments: Any, **_options: Any) -> None:
    """Nothing is made public."""
