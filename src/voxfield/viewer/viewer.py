"""The viewer: a page that shows a subject to any number of browsers.

Pictures are painted in one place only, `Viewer.work`, so that one thread owns the model: a thread of the viewer's own
(`Viewer.start`), or that of a training, between its steps.
"""

import math
import sys
import threading
from pathlib import Path
from typing import Any, Final, Self

import torch

from voxfield.kernels.threads import kernels_own_the_cores
from voxfield.viewer.access import PORT
from voxfield.viewer.painter import Painter
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.serving import Page
from voxfield.viewer.session import Session
from voxfield.viewer.standpoint import Beginning, Standpoint
from voxfield.viewer.subjects import Subject

_TURN_SECONDS: Final = 0.05
"""Painting for one browser before another's turn comes."""


class Viewer:
    """A page that shows ``subject``; use it in a ``with`` statement, or call `close`."""

    def __init__(
        self,
        subject: Subject,
        *,
        name: str,
        photographs: Photographs | None = None,
        paths: Path | None = None,
        background: torch.Tensor | None = None,
        host: str | None = None,
        port: int = PORT,
        next_port: bool = False,
    ) -> None:
        """Begin to serve the page; nothing is painted until `start` or `work`.

        Args:
            subject: what is shown.
            name: what it is called on the page and in names of files.
            photographs: can be drawn, and browsers begin at the first; None: they see all of ``subject.bounds``.
            paths: folder in which camera paths are saved; None: they are only handed over to the browser.
            background: (3,) sRGB: the colour of nothing; None: white.
            host: name or address of this machine's on which to listen: anyone who can reach it and has the URL, which
                then holds a secret, can look. None: only this machine.
            port: 1 to 65535; 0: any that is free.
            next_port: take the next port where this one is in use.

        Raises:
            MissingExtraError: viser is not installed. InputError: there is no such host.
            UnavailableError: the port is in use.
        """
        self.subject, self.name, self._photographs, self._paths = subject, name, photographs, paths
        self._background = torch.ones(3) if background is None else background
        self._sessions: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._most_seconds = math.inf
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._page = Page(name, host=host, port=port, next_port=next_port)
        self.url, self.port, self.server = self._page.url, self._page.port, self._page.server
        self.beginning = Beginning.of(subject.bounds, None if photographs is None else photographs.cameras)
        """Where pages begin."""
        self.server.on_client_connect(self._enter)
        self.server.on_client_disconnect(self._leave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        self.close()

    def start(self) -> None:
        """Paint in a thread of the viewer's own."""
        self._thread = threading.Thread(target=self._paint_until_closed, name="voxfield-viewer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the viewer is closed; interrupted by Ctrl-C."""
        self._page.wait()

    def close(self) -> None:
        """Stop painting and serving."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30.0)
        for session in self.sessions():
            session.close()
        self._page.close()

    @property
    def browsers(self) -> int:
        """How many look."""
        with self._lock:
            return len(self._sessions)

    def sessions(self) -> list[Session]:
        """Those of the browsers that look now."""
        with self._lock:
            return list(self._sessions.values())

    def limit_pictures(self, seconds: float | None) -> None:
        """Paint no picture that takes longer; None: as fine as is wanted."""
        self._most_seconds = math.inf if seconds is None else seconds
        for session in self.sessions():
            session.painter.most_seconds = self._most_seconds
            session.refresh()

    def paint_again(self) -> None:
        """Paint what browsers see once more, as the subject changed; pictures under way are finished first."""
        for session in self.sessions():
            session.painter.again()

    def work(self, seconds: float) -> bool:
        """Paint for about so long; returns whether there is more to paint. First pictures come first."""
        jobs = [(session, painter) for session in self.sessions() for painter in (session.painter, session.still)]
        busy = [(session, painter) for session, painter in jobs if painter.busy]
        hurried = [job for job in busy if job[1].hurried and job[1] is job[0].painter]
        turns = hurried or busy
        for session, painter in turns:
            self._paint(session, painter, seconds / len(turns))
        return any(painter.busy for _, painter in jobs)

    def _paint(self, session: Session, painter: Painter, seconds: float) -> None:
        try:
            painter.work(seconds)
        except Exception as error:  # noqa: BLE001  (a picture that fails must end neither the viewer nor a training)
            painter.forget()
            if session.gone:
                # It went while a picture was being sent.
                return
            said = " ".join(str(error).split())[:200]
            print(f"The viewer could not paint a picture: {type(error).__name__}: {said}", file=sys.stderr)  # noqa: T201

    def _paint_until_closed(self) -> None:
        with kernels_own_the_cores():
            while not self._closing.is_set():
                self._wake.clear()
                while not self._closing.is_set() and self.work(_TURN_SECONDS):
                    pass
                self._wake.wait()

    def _enter(self, client: Any) -> None:
        session = Session(
            client,
            self.subject,
            name=self.name,
            standpoint=Standpoint(client, self.beginning),
            background=self._background,
            photographs=self._photographs,
            paths=self._paths,
            wake=self._wake.set,
        )
        session.painter.most_seconds = self._most_seconds
        with self._lock:
            self._sessions[client.client_id] = session
        # Who left meanwhile was not there yet to be shown out.
        if client.client_id not in self.server.get_clients():
            self._leave(client)
        self._wake.set()

    def _leave(self, client: Any) -> None:
        with self._lock:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()
