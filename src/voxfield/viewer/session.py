"""One browser: its camera, its controls, its pictures."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import torch

from voxfield.colour import ToneMap
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds, Vector
from voxfield.geometry.rotations import rotations_from_quaternions
from voxfield.viewer.painter import Painter
from voxfield.viewer.path_editor import PathEditor
from voxfield.viewer.photographs import Photographs
from voxfield.viewer.standpoint import Standpoint
from voxfield.viewer.subjects import Mode, Picture, Shot, Subject

STANDARD_ROWS: Final = 768
"""Most rows of a picture at rest; of high quality as many as the canvas has."""
MOST_ROWS: Final = 2160
"""Most rows of any picture: those of 4K."""
_SIZES: Final = {"Canvas": 0, "1080 rows": 1080, "2160 rows (4K)": 2160}
_MOST_STOPS: Final = 10.0
"""Exposure can be changed by so many stops: from a thousandth of the light to a thousand times as much."""
_WIDEST: Final = 3.0
_NARROWEST: Final = 0.01


class Session:
    """What one browser has: made when it connects, dropped when it is gone."""

    def __init__(
        self,
        client: Any,
        subject: Subject,
        *,
        name: str,
        standpoint: Standpoint,
        background: torch.Tensor,
        photographs: Photographs | None,
        paths: Path | None,
        wake: Callable[[], None],
    ) -> None:
        """Show ``subject`` in the browser of ``client`` (a viser client handle).

        Args:
            client: the browser.
            subject: what it looks at.
            name: of screenshots.
            standpoint: where the browser stands.
            background: (3,) sRGB: the colour of nothing.
            photographs: can be drawn where they were taken; None: there are none.
            paths: folder in which camera paths are saved; None: they are only handed over.
            wake: called when there is something to paint.
        """
        self.client, self.subject, self._name, self._wake = client, subject, name, wake
        self.gone = False
        """Whether the browser is not there any more."""
        self._photographs, self._drawn = photographs, list[Any]()
        self._told_of_box, self._standpoint = False, standpoint
        self.painter = Painter(subject, self._show, background=background)
        self.still = Painter(subject, self._send_screenshot, background=background)
        self._add_controls()
        self.path_editor = PathEditor(client, shot=self.shot, say=self.say, folder=paths, size=max(subject.bounds.size))
        client.camera.on_update(lambda _: self.refresh())
        self.refresh()

    def close(self) -> None:
        """Paint nothing more: the browser is gone."""
        self.gone = True
        self._standpoint.leave()
        self.path_editor.close()
        self.painter.forget()
        self.still.forget()

    def refresh(self) -> None:
        """Paint what the camera sees now; called after every change of camera or controls."""
        shot = self.shot()
        if shot is not None:
            if self._drawn and self._photographs is not None:
                self._photographs.make_way(self._drawn, shot.camera_to_world[:, 3].tolist())
            self.painter.want(shot, self._rows())
            self._wake()

    def _add_controls(self) -> None:
        gui, low, high = self.client.gui, self.subject.bounds.minimum, self.subject.bounds.maximum
        with gui.add_folder("Picture"):
            self._mode = gui.add_dropdown("Show", self.subject.modes, initial_value=self.subject.modes[0])
            self._quality = gui.add_checkbox(
                "High quality", False, hint=f"At rest as many rows as the canvas has, up to {MOST_ROWS}."
            )
            if self.subject.linear:
                self._exposure = gui.add_slider(
                    "Exposure", -_MOST_STOPS, _MOST_STOPS, 0.25, 0.0, hint="In stops: one more doubles the light."
                )
                self._tone_map = gui.add_dropdown(
                    "Tone map",
                    get_args(ToneMap),
                    initial_value="none",
                    hint="filmic rolls off what none clips at white.",
                )
                for control in (self._exposure, self._tone_map):
                    control.on_update(lambda _: self.refresh())
            if self._photographs is not None:
                draw = gui.add_checkbox("Photographs", False, hint="Where they were taken. Click one to go there.")
                draw.on_update(lambda _: self._draw_photographs(bool(draw.value)))
            begin = gui.add_button("Begin anew", hint="Puts the camera where it was when the page was opened.")
            begin.on_click(lambda _: self._standpoint.begin())
        with gui.add_folder("Crop box", expand_by_default=False):
            self._cropping = gui.add_checkbox("Crop", False)
            self._low = gui.add_vector3("From", low, step=0.01)
            self._high = gui.add_vector3("To", high, step=0.01)
        with gui.add_folder("Screenshot", expand_by_default=False):
            self._size = gui.add_dropdown("Size", tuple(_SIZES), initial_value="Canvas")
            take = gui.add_button("Take screenshot")
        for control in (self._mode, self._quality, self._cropping, self._low, self._high):
            control.on_update(lambda _: self.refresh())
        take.on_click(lambda _: self._take_screenshot())

    def _draw_photographs(self, wanted: bool) -> None:
        for handle in self._drawn:
            handle.remove()
        self._drawn = self._photographs.add_to(self.client) if wanted and self._photographs is not None else []
        self.refresh()

    def _rows(self) -> int:
        rows = int(self.client.camera.image_height) or STANDARD_ROWS
        return max(1, min(rows, MOST_ROWS if self._quality.value else STANDARD_ROWS))

    def shot(self) -> Shot | None:
        """What the browser wants to see; None while that makes no picture."""
        camera = self.client.camera
        values = torch.tensor([*camera.wxyz, *camera.position, camera.fov, camera.aspect], dtype=torch.float64)
        fov, aspect = float(values[7]), float(values[8])
        if not (bool(values.isfinite().all()) and float(values[:4].norm()) > 1e-6 and aspect > 0):
            return None
        rotation = rotations_from_quaternions(values[None, :4])[0]
        # The browser's axes are x right, y down, z ahead.
        axes = rotation * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
        return Shot(
            camera_to_world=torch.cat([axes, values[4:7, None]], dim=1).float(),
            fov=min(max(fov, _NARROWEST), _WIDEST),
            aspect=min(max(aspect, 0.05), 20.0),
            mode=cast(Mode, self._mode.value),
            crop=self._crop(),
            exposure=float(self._exposure.value) if self.subject.linear else 0.0,
            tone_map=cast(ToneMap, self._tone_map.value) if self.subject.linear else "none",
        )

    def _crop(self) -> Bounds | None:
        if not self._cropping.value:
            return None
        try:
            box = Bounds(minimum=_vector(self._low.value), maximum=_vector(self._high.value))
        except InputError:
            # Once, not for every picture of a moving camera.
            if not self._told_of_box:
                self._told_of_box = True
                self.say("Crop box", "Every value of From must be below that of To: nothing is cropped.")
            return None
        self._told_of_box = False
        return box

    def _take_screenshot(self) -> None:
        shot = self.shot()
        if shot is not None:
            rows = _SIZES[self._size.value] or int(self.client.camera.image_height)
            self.still.want(shot, min(rows, MOST_ROWS), coarse_first=False)
            self.say("Screenshot", "It is being painted and will be offered for download.")
            self._wake()

    def say(self, title: str, body: str) -> None:
        """Tell the person something."""
        self.client.add_notification(title, body, auto_close_seconds=8.0)

    def _show(self, picture: Picture, last: bool) -> None:
        if self.gone:
            return
        # Depth costs more than the picture itself to send: only where something else is drawn among the matter.
        depth = picture.depth.numpy()[..., None] if self._drawn or self.path_editor.drawn else None
        self.client.scene.set_background_image(
            picture.rgb.numpy(), format="jpeg", jpeg_quality=92 if last else 75, depth=depth
        )
        if last:
            self._standpoint.rest()
        self.client.flush()

    def _send_screenshot(self, picture: Picture, _last: bool) -> None:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture.rgb.numpy())).save(stream, format="PNG", compress_level=3)
        self.client.send_file_download(f"{self._name}.png", stream.getvalue(), save_immediately=True)


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
