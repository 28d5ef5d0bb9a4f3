"""Where the camera of a page begins, and where it comes back to.

viser's page puts its camera back where it began whenever it connects anew, be it to a viewer that was started again or
after a lost connection, and before it says where it stood. So a page at rest is told that it began where it is: there
it comes back. Its own "Reset View" then leads nowhere, and `Standpoint.begin` is a control of the viewer's.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.camera import Cameras

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
        self._said, self._kept = _pose(client.camera), np.zeros((3, 3))
        if np.allclose(self._said[0], _UNTOLD) and np.allclose(self._said[1], 0.0):
            self.begin()

    def begin(self) -> None:
        """Put the camera where pages begin."""
        camera, beginning = self._client.camera, self._beginning
        camera.up_direction = (0.0, 0.0, 1.0)
        camera.position, camera.look_at = beginning.position, beginning.look_at
        if beginning.fov is not None:
            camera.fov = beginning.fov

    def moved(self) -> None:
        """Note what the page just said of its camera."""
        self._said = _pose(self._client.camera)

    def keep(self) -> None:
        """Have the page come back to where it is now; called while it rests."""
        if np.array_equal(self._said, self._kept) or not np.array_equal(self._said, _pose(self._client.camera)):
            # It is on the way to where it was sent, and that message must not be taken for outdated by this one.
            return
        import viser

        self._kept = self._said
        # viser offers this for all pages together only: it is said to one as its handle says everything.
        began = viser.InitialCameraConfig(self._client._websock_connection.queue_message)
        began.position, began.look_at, began.up = (_vector(one) for one in self._said)


def _pose(camera: Any) -> np.ndarray:
    """(3, 3): position, what is looked at, up."""
    return np.array([camera.position, camera.look_at, camera.up_direction])


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
