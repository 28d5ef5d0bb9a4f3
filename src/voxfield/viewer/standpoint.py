"""Where the camera of a page begins, and where it comes back to.

viser's page puts its camera back where it began whenever it connects anew, be it to a viewer that was started again or
after a lost connection, and before it says where it stood. So a page at rest is told that it began where it is: there
it comes back. Its own "Reset View" then leads nowhere, and `Standpoint.begin` is a control of the viewer's.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch

from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.camera import Cameras

SETTLED: Final = 1.0
"""Seconds after which all is done that the page or the viewer asked of a camera: viser drops a message that was not
sent yet for a later one of its kind, and a page that still turns would be turned back."""
_UNTOLD: Final = (3.0, 3.0, 3.0)
"""Where viser's page has its camera before it is told; it then looks at the origin."""


@dataclass(frozen=True)
class Beginning:
    """The camera with which pages begin."""

    position: Vector
    look_at: Vector
    fov: float | None = None
    """Of the whole height, in radians; None: the page's own."""

    @classmethod
    def of(cls, bounds: Bounds, view: Cameras | None) -> "Beginning":
        """The first of ``view``, or what sees all of ``bounds``."""
        centre, reach = torch.tensor(bounds.centre), max(bounds.size)
        if view is None:
            return cls(_vector(centre + reach * torch.tensor([0.9, -1.2, 0.7])), _vector(centre))
        position, ahead = view.origins[0].cpu(), view.forward[0].cpu()
        distance = max(float((centre - position) @ ahead), 0.1 * reach)
        fov = float(2 * torch.atan(0.5 * view.height[0] / view.focal[0, 1])) if view.model == "perspective" else None
        return cls(_vector(position), _vector(position + distance * ahead), fov)


class Standpoint:
    """Where one page stands."""

    def __init__(self, client: Any, beginning: Beginning) -> None:
        """Have the page of ``client`` (a viser client handle) begin there, unless it comes back from somewhere."""
        self._client, self._beginning = client, beginning
        self._lock, self._timer = threading.Lock(), threading.Timer(0.0, lambda: None)
        self._resting: np.ndarray | None = None
        self._left: np.ndarray | None = None
        self.kept: np.ndarray | None = None
        """Position, what is looked at, up: (3, 3) of where the page comes back to, once it was told."""
        pose = _pose(client.camera)
        if np.allclose(pose[0], _UNTOLD) and np.allclose(pose[1], 0.0):
            # The first picture is painted of where the handle says that it stands, before the page has answered.
            client.camera.position, client.camera.look_at = beginning.position, beginning.look_at
            self._left = pose
            self._place()

    def begin(self) -> None:
        """Put the camera where pages begin."""
        with self._lock:
            # What it is told now would undo this, and so would what a page says that has not heard of it yet.
            self._timer.cancel()
            self._resting, self._left = None, _pose(self._client.camera)
        self._place()

    def rest(self) -> None:
        """The page has its whole picture: have it come back to where it is, if it stays there for `SETTLED` seconds."""
        with self._lock:
            pose = _pose(self._client.camera)
            if self._resting is not None and np.array_equal(pose, self._resting):
                return
            self._timer.cancel()
            self._resting, self._timer = pose, threading.Timer(SETTLED, self._keep, [pose])
            self._timer.daemon = True
            self._timer.start()

    def leave(self) -> None:
        """The page is gone."""
        with self._lock:
            self._timer.cancel()

    def _place(self) -> None:
        beginning = self._beginning
        place(self._client, beginning.position, beginning.look_at, up=(0.0, 0.0, 1.0), fov=beginning.fov)

    def _keep(self, pose: np.ndarray) -> None:
        import viser

        with self._lock:
            # By less than a picture shows it may have moved, for which none was painted.
            stays = np.allclose(pose, _pose(self._client.camera), rtol=1e-5, atol=1e-6)
            if not stays or self._resting is not pose or (self._left is not None and np.array_equal(pose, self._left)):
                self._resting = None
                return
            # viser offers this for all pages together only: it is said to one as its handle says everything.
            began = viser.InitialCameraConfig(self._client._websock_connection.queue_message)
            began.position, began.look_at, began.up = (_vector(one) for one in pose)
            self.kept = pose


def place(
    client: Any, position: Vector, look_at: Vector, *, up: Vector | None = None, fov: float | None = None
) -> None:
    """Have the camera of a page stand there; None: as it was.

    The page is told all of it. What viser's handle of the camera is given it passes on only where the page did not say
    the same: if the page says once more where it was while that happens, it is told of the position, and of what it
    moves along with, but not to look again at what it had looked at before.

    Args:
        client: viser's handle of the page; it says where the camera stands once the page has answered.
        position, look_at: in the scene's units.
        up: of any length.
        fov: of the whole height, in radians.
    """
    import viser

    # As to where pages begin, and at once.
    camera = viser.InitialCameraConfig(
        lambda message: client._websock_connection.queue_message(replace(cast(Any, message), initial=False))
    )
    with client.atomic():
        if up is not None:
            camera.up = up
        camera.position, camera.look_at = position, look_at
        if fov is not None:
            camera.fov = fov


def look_along(client: Any, position: Any, ahead: Any, *, up: Any = None, fov: float | None = None) -> None:
    """As `place`, by the direction ``ahead``, of length 1: the page will turn about what is as far away as before."""
    before, looked_at, _ = _pose(client.camera)
    there = position + max(float(np.linalg.norm(looked_at - before)), 1e-3) * ahead
    place(client, _vector(position), _vector(there), up=None if up is None else _vector(up), fov=fov)


def _pose(camera: Any) -> np.ndarray:
    """(3, 3): position, what is looked at, up."""
    return np.array([camera.position, camera.look_at, camera.up_direction])


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
