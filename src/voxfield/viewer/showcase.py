"""A page that shows files which a browser draws by itself: see `voxfield.viewer.exhibits`."""

import threading
from typing import Self

import numpy as np

from voxfield.viewer.access import PORT
from voxfield.viewer.exhibits import Exhibit, Exhibited, load_or_say
from voxfield.viewer.serving import Page

_POINT_SHARE = 0.004
"""Size of a point of a cloud in units of the page, on which everything is two long."""


class Showcase:
    """A page that shows ``exhibit``; use it in a ``with`` statement, or call `close`. All browsers see the same."""

    def __init__(
        self,
        exhibit: Exhibit,
        *,
        name: str,
        host: str | None = None,
        port: int = PORT,
    ) -> None:
        """Begin to serve the page, and show the first item.

        Args:
            exhibit: what is shown.
            name: what it is called on the page.
            host, port: as those of `voxfield.viewer.viewer.Viewer`.

        Raises:
            VoxfieldError: the first item cannot be shown.
            MissingExtraError: viser is not installed. InputError: there is no such host.
            UnavailableError: the port is in use.
        """
        self._exhibit, self._lock = exhibit, threading.Lock()
        self._shown, self._item = exhibit.load(exhibit.items[0]), exhibit.items[0]
        self._page = Page(name, host=host, port=port)
        self.url, self.port, self.server = self._page.url, self._page.port, self._page.server
        camera = self.server.initial_camera
        camera.position, camera.look_at = (1.8, -2.4, 1.4), (0.0, 0.0, 0.0)
        self._add_controls()
        self._draw()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        self.close()

    def wait(self) -> None:
        """Return when the page is closed; interrupted by Ctrl-C."""
        self._page.wait()

    def close(self) -> None:
        """End the page."""
        self._page.close()

    def _add_controls(self) -> None:
        gui = self.server.gui
        self._about = gui.add_markdown("")
        items = self._exhibit.items
        noun = numbered(items)
        if noun is not None:
            number = gui.add_slider(noun.capitalize(), 0, len(items) - 1, 1, 0)
            number.on_update(lambda _: self._choose(f"{noun} {int(number.value)}"))
        elif len(items) > 1:
            chosen = gui.add_dropdown("Show", items, initial_value=self._item)
            chosen.on_update(lambda _: self._choose(str(chosen.value)))
        self._size = gui.add_slider("Size of points", 0.1, 3.0, 0.1, 1.0)
        self._least = gui.add_slider("Least value", 0.0, 1.0, 0.01, 0.0, hint="Of the range that voxels have.")
        self._height = gui.add_slider("Cut off above", 0.0, 1.0, 0.01, 1.0, hint="Of the height, to look inside.")
        for control in (self._size, self._least, self._height):
            control.on_update(lambda _: self._draw())

    def _choose(self, item: str) -> None:
        """Show another item; or say why not, and keep what is shown."""
        found = load_or_say(self._exhibit, item)
        if isinstance(found, str):
            self._about.content = f"**{_plain(found)}**"
            return
        self._shown, self._item = found, item
        self._draw()

    def _draw(self) -> None:
        with self._lock:
            shown = self._shown
            self._about.content = _plain(f"{self._item}: {shown.note}")
            self._draw_item(shown)

    def _draw_item(self, shown: Exhibited) -> None:
        scene = self.server.scene
        points, scale = shown.placed()
        if shown.faces is not None:
            scene.add_mesh_simple("/exhibit", vertices=points, faces=shown.faces, color=(190, 190, 190), side="double")
            return
        low, high = points[:, 2].min(), points[:, 2].max()
        kept = points[:, 2] <= low + (high - low) * float(self._height.value)
        if shown.values is not None:
            kept &= shown.values >= float(self._least.value)
        if not kept.any():
            kept = np.zeros(len(points), dtype=bool)
            kept[0] = True
        scene.add_point_cloud(
            "/exhibit",
            points=points[kept],
            colors=shown.colours[kept],
            point_size=float(self._size.value) * (shown.spacing * scale if shown.spacing else _POINT_SHARE),
            point_shape="square" if shown.spacing else "circle",
            precision="float32",
        )


def numbered(items: tuple[str, ...]) -> str | None:
    """What at least two items are all called that only have a number besides, from 0; None of others."""
    noun = items[0].rpartition(" ")[0]
    return noun if len(items) > 1 and noun and items == tuple(f"{noun} {i}" for i in range(len(items))) else None


def _plain(text: str) -> str:
    """Text that means nothing to Markdown: names of files may hold anything."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>()#+-!|~$&" else sign for sign in text)
