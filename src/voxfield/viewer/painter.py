"""Painting what a browser looks at: coarse first, then finer, and never longer than it was given.

A picture is painted in pieces of some milliseconds by whoever calls `Painter.work`: a thread of the viewer's own, or
the thread that trains, between two steps. When the view changes, what is under way is given up, except for the first
coarse picture: while the camera moves, each of those is finished, so that something is seen. Its size follows from how
long rays were seen to take.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from voxfield.geometry.camera import Cameras
from voxfield.geometry.rays import Rays
from voxfield.viewer.subjects import Picture, Shot, Subject, develop, look

PIECE_SECONDS: Final = {True: 0.04, False: 0.1}
"""Aim for one piece of first pictures, and of later ones: how late a moved camera is noticed."""
LEAST_PIECE, LARGEST_PIECE = 1 << 10, 1 << 14
"""Rays of a piece. Fewer are slower by the ray, which would make pieces smaller still; more take more memory."""
FIRST_SECONDS: Final = 0.06
"""Aim for a first picture: ten a second with what encoding and sending them takes."""
LEAST_ROWS: Final = 24
"""Rows of the coarsest first picture."""
_FINER: Final = 3
"""Each picture has so many times the rows of the one before it: all that precede the last cost an eighth of it."""
_NEW_RATE: Final = 0.3
"""Weight of the newest measurement in the mean time of a ray."""


@dataclass(eq=False)
class _Pass:
    """One picture under way."""

    shot: Shot
    first: bool
    """Whether it is the first of its view."""
    camera: Cameras
    rays: Rays
    loading: Iterator[object] | None
    """What the camera needs is loaded before its rays; None once it is."""
    values: list[dict[str, Tensor]] = field(default_factory=list)
    done: int = 0


class Painter:
    """Paints for one browser. `want` and `forget` may be called from any thread, `work` from one."""

    def __init__(
        self,
        subject: Subject,
        deliver: Callable[[Picture, bool], None],
        *,
        background: Tensor,
        first_seconds: float = FIRST_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare to paint.

        Args:
            subject: what is looked at.
            deliver: takes every finished picture, and whether it is the last of its view.
            background: (3,) sRGB: the colour of nothing, where a box cuts the subject off.
            first_seconds: aim for the first picture of a view.
            clock: seconds from an arbitrary start, replaced in tests.
        """
        self.subject, self.first_seconds = subject, first_seconds
        self._deliver, self._background, self._clock = deliver, background, clock
        self._lock = threading.Lock()
        self._wanted: tuple[Shot, int, bool] | None = None
        self._version = self._begun = 0
        self._pass: _Pass | None = None
        # Seconds of a ray in first pictures and in later ones: small pictures are slower by the ray. Until it is known
        # rays are taken for slow, so that no first piece keeps a training waiting.
        self._ray_seconds = {True: 5e-5, False: 5e-5}
        self.most_seconds = math.inf
        """Finer pictures that would take longer are not painted."""

    def want(self, shot: Shot, rows: int, *, coarse_first: bool = True) -> None:
        """Paint this view next, finally with so many rows of pixels."""
        with self._lock:
            self._wanted, self._version = (shot, max(1, rows), coarse_first), self._version + 1

    def again(self) -> None:
        """Paint the last view once more in full, as the subject changed; nothing if it is being painted."""
        with self._lock:
            if self._wanted is not None and self._pass is None and self._begun == self._version:
                self._wanted, self._version = (*self._wanted[:2], False), self._version + 1

    def forget(self) -> None:
        """Paint nothing more until the next `want`."""
        with self._lock:
            self._wanted, self._pass, self._version = None, None, self._version + 1
            self._begun = self._version

    @property
    def busy(self) -> bool:
        """Whether there is something to paint."""
        with self._lock:
            return self._pass is not None or (self._wanted is not None and self._begun != self._version)

    @property
    def hurried(self) -> bool:
        """Whether a first picture is due."""
        with self._lock:
            return self._begun != self._version or (self._pass is not None and self._pass.first)

    def work(self, seconds: float) -> bool:
        """Paint for about so long, at least one piece; returns whether there is more to paint."""
        end = self._clock() + seconds
        while (current := self._current()) is not None:
            if self._loaded(current):
                self._paint_piece(current)
            if current.done == len(current.rays):
                self._finish(current)
            if self._clock() >= end:
                break
        return self.busy

    def _current(self) -> _Pass | None:
        """The pass to go on with; a new one, if the view changed and the first picture of the old one is out."""
        with self._lock:
            changed = self._begun != self._version
            if not changed or (self._pass is not None and self._pass.first and self._wanted is not None):
                return self._pass
            self._begun, self._pass, wanted = self._version, None, self._wanted
        if wanted is None:
            return None
        shot, rows, coarse_first = wanted
        last = self._last_rows(shot, rows)
        begun = self._begin(shot, min(last, self._first_rows(shot)) if coarse_first else last, first=coarse_first)
        with self._lock:
            self._pass = begun
        return begun

    def _first_rows(self, shot: Shot) -> int:
        """Rows of a first picture."""
        affordable = self.first_seconds / self._ray_seconds[True]
        return max(LEAST_ROWS, math.isqrt(int(affordable / shot.aspect)))

    def _last_rows(self, shot: Shot, rows: int) -> int:
        """Rows of the finest picture, of which ``rows`` are wanted."""
        affordable = self.most_seconds / self._ray_seconds[False]
        if math.isinf(affordable):
            return rows
        return min(rows, max(LEAST_ROWS, math.isqrt(int(affordable / shot.aspect))))

    def _begin(self, shot: Shot, rows: int, *, first: bool) -> _Pass:
        camera = shot.camera(rows)
        loading = self.subject.load(camera)
        return _Pass(shot=shot, first=first, camera=camera, rays=camera.image_rays(0), loading=loading)

    def _loaded(self, current: _Pass) -> bool:
        """Load for about as long as a piece is painted; whether all is there."""
        end = math.inf
        for _ in current.loading or ():
            now = self._clock()
            end = min(end, now + PIECE_SECONDS[current.first])
            if now >= end:
                return False
        current.loading = None
        return True

    def _paint_piece(self, current: _Pass) -> None:
        began = self._clock()
        rate = self._ray_seconds[current.first]
        size = min(LARGEST_PIECE, max(LEAST_PIECE, int(PIECE_SECONDS[current.first] / rate)))
        rays = current.rays[current.done : current.done + size]
        current.values.append(look(self.subject, rays, current.shot, self._background))
        current.done += len(rays)
        spent = self._clock() - began
        measured = max(spent, 1e-9) / len(rays)
        self._ray_seconds[current.first] += _NEW_RATE * (measured - rate)

    def _finish(self, current: _Pass) -> None:
        """Hand the picture over, and begin the next finer one."""
        names = current.values[0]
        values = {name: torch.cat([part[name] for part in current.values]) for name in names}
        picture = develop(values, current.shot, current.camera)
        with self._lock:
            unchanged = self._begun == self._version and self._wanted is not None
            wanted = self._wanted[1] if self._wanted is not None else 0
        rows, finest = int(current.camera.height[0]), self._last_rows(current.shot, wanted)
        # After a picture of half as many rows the next would cost as much as it shows sooner.
        finer = rows * _FINER if rows * _FINER < 0.5 * finest else finest
        following = self._begin(current.shot, finer, first=False) if unchanged and rows < finest else None
        with self._lock:
            self._pass = following
        self._deliver(picture, following is None)
