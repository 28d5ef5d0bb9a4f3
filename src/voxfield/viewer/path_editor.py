"""Camera paths made in the browser: keyframes set where the camera is, played, saved and loaded."""

import contextlib
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch

from voxfield.data.camera_path import CameraPath, View, parse_camera_path
from voxfield.errors import VoxfieldError
from voxfield.geometry.rigs import RigKind
from voxfield.geometry.rotations import quaternions_from_rotations
from voxfield.viewer.standpoint import look_along
from voxfield.viewer.subjects import Shot

_LARGEST_UPLOAD: Final = 1 << 25
_MOST_KEYFRAMES: Final = 500
_LINE_POINTS: Final = 200
_PLAYED_PER_SECOND: Final = 15.0
"""How often the browser's camera is moved while a path is played."""
_LEAST_UP: Final = 0.05
"""Of a page's own up along a view's: below it the view's is taken, as viser does."""


class PathEditor:
    """The part of a browser's controls that makes a camera path."""

    def __init__(
        self,
        client: Any,
        *,
        shot: Callable[[], Shot | None],
        say: Callable[[str, str], None],
        folder: Path | None,
        size: float,
    ) -> None:
        """Add the controls.

        Args:
            client: the browser, a viser client handle.
            shot: what the browser sees now.
            say: tells the person something, by a title and a text.
            folder: where paths are saved; None: they are only handed over.
            size: of the subject, world units, which keyframes are drawn in proportion to.
        """
        self._client, self._shot, self._say, self._folder, self._size = client, shot, say, folder, size
        self._path = CameraPath(frames=())
        self._drawn: list[Any] = []
        self._flight: threading.Thread | None = None
        self._ends = threading.Event()
        gui = client.gui
        with gui.add_folder("Camera path", expand_by_default=False):
            self._count = gui.add_markdown("No keyframes yet.")
            buttons: dict[str, Callable[[], None]] = {
                "Add keyframe": self.add,
                "Remove last keyframe": self.remove,
                "Remove all": self.clear,
                "Play or stop": self.play,
            }
            for label, act in buttons.items():
                gui.add_button(label).on_click(_calling(act))
            self._seconds = gui.add_number("Seconds", 6.0, min=0.1, max=3600.0, step=0.5)
            self._fps = gui.add_number("Frames a second", 24.0, min=1.0, max=240.0, step=1.0)
            self._loop = gui.add_checkbox("Loop", False)
            self._camera = gui.add_dropdown("Camera", get_args(RigKind), initial_value="perspective")
            self._width = gui.add_number("Width", 1920, min=2, max=16384, step=2)
            self._height = gui.add_number("Height", 1080, min=2, max=16384, step=2)
            self._name = gui.add_text("Name", "path")
            gui.add_button("Save").on_click(_calling(self.save))
            upload = gui.add_upload_button("Load", mime_type="application/json")
        upload.on_upload(lambda event: self.load(event.target.value.name, event.target.value.content))
        self._loop.on_update(lambda _: self._draw())

    @property
    def drawn(self) -> bool:
        """Whether keyframes stand in the scene."""
        return bool(self._drawn)

    @property
    def path(self) -> CameraPath:
        """The path as the controls have it, with its frames; none while there are no keyframes."""
        path = replace(
            self._path,
            camera=self._camera.value,
            width=int(self._width.value),
            height=int(self._height.value),
            fps=float(self._fps.value),
            seconds=float(self._seconds.value),
            loop=bool(self._loop.value),
        )
        return path.through_keyframes() if path.keyframes else path

    def add(self) -> None:
        """Set a keyframe where the camera is."""
        shot = self._shot()
        if shot is None:
            return
        if len(self._path.keyframes) >= _MOST_KEYFRAMES:
            self._say("Camera path", f"It has {_MOST_KEYFRAMES} keyframes, which is the most there can be.")
            return
        key = View.from_pose(shot.camera_to_world, fov=math.degrees(shot.fov), aspect=shot.aspect)
        self._set_keyframes((*self._path.keyframes, key))

    def remove(self) -> None:
        """Take the last keyframe away."""
        self._set_keyframes(self._path.keyframes[:-1])

    def clear(self) -> None:
        """Take all keyframes away."""
        self._set_keyframes(())

    def play(self) -> None:
        """Move the browser's camera along the path; or stop, if it moves."""
        if self.playing:
            self.close()
            return
        if not self._path.keyframes:
            self._say("Camera path", "There is nothing to play: add keyframes.")
            return
        self._ends = threading.Event()
        self._flight = threading.Thread(
            target=self._play, args=(self.path, self._ends), name="voxfield-camera-path", daemon=True
        )
        self._flight.start()

    @property
    def playing(self) -> bool:
        """Whether the browser's camera is moved along the path."""
        return self._flight is not None and self._flight.is_alive()

    def close(self) -> None:
        """Move the browser's camera no more: when this returns nothing does."""
        self._ends.set()
        if self._flight is not None:
            self._flight.join()

    def save(self) -> None:
        """Write the path beside the run, and hand it over as a file."""
        path = self.path
        if not path.frames:
            self._say("Camera path", "There is nothing to save: add keyframes.")
            return
        name = re.sub(r"[^\w-]+", "_", str(self._name.value), flags=re.ASCII)[:64] or "path"
        content = json.dumps(path.to_json()).encode()
        self._client.send_file_download(f"{name}.json", content, save_immediately=self._folder is None)
        if self._folder is None:
            return
        try:
            file = path.write(self._folder / f"{name}.json")
        except OSError as error:
            self._say("Camera path", f"It could not be saved beside the run ({error.strerror}). Take the download.")
            return
        self._say("Camera path saved", f"Render it: voxfield render {self._folder.parent} --path {file}")

    def load(self, name: str, content: bytes) -> None:
        """Go on with the path in a file that the browser sent."""
        try:
            if len(content) > _LARGEST_UPLOAD:
                self._say("Camera path", f"{name}: larger than {_LARGEST_UPLOAD >> 20} MiB.")
                return
            path = parse_camera_path(json.loads(content.decode("utf-8")), source=name)
        except VoxfieldError as error:
            self._say("Camera path", str(error))
            return
        except (ValueError, RecursionError):
            self._say("Camera path", f"{name}: expected a camera path as JSON, but it is not valid JSON.")
            return
        # A file of frames alone is edited by some of them.
        spread = torch.linspace(0, len(path.frames) - 1, min(len(path.frames), 24)).round().long().tolist()
        keyframes = path.keyframes or tuple(path.frames[index] for index in spread)
        self._camera.value, self._loop.value = path.camera, path.loop
        self._width.value, self._height.value = path.width, path.height
        self._fps.value, self._seconds.value = max(path.fps, 1.0), max(path.seconds, 0.1)
        self._path = path
        self._set_keyframes(keyframes[:_MOST_KEYFRAMES])

    def _set_keyframes(self, keyframes: tuple[View, ...]) -> None:
        self._path = replace(self._path, keyframes=keyframes, frames=())
        self._count.content = f"{len(keyframes)} keyframes." if keyframes else "No keyframes yet."
        self._draw()

    def _draw(self) -> None:
        """Draw the keyframes and the way between them."""
        for handle in self._drawn:
            handle.remove()
        self._drawn = []
        keys = self._path.keyframes
        if not keys:
            return
        scene, scale = self._client.scene, 0.05 * self._size
        for index, key in enumerate(keys):
            wxyz, position = _browser_pose(key)
            frustum = scene.add_camera_frustum(
                f"/camera path/{index}",
                fov=math.radians(min(key.fov, 120.0)),
                aspect=key.aspect,
                scale=scale,
                color=(200, 80, 20),
                wxyz=wxyz,
                position=position,
            )
            frustum.on_click(lambda _, key=key: self._go_to(key))
            self._drawn.append(frustum)
        if len(keys) > 1:
            line = replace(self._path, loop=bool(self._loop.value)).through_keyframes(_LINE_POINTS)
            points = np.array([_browser_pose(view)[1] for view in line.frames], dtype=np.float32)
            segments = np.stack([points[:-1], points[1:]], axis=1)
            self._drawn.append(
                scene.add_line_segments(
                    "/camera path/way", points=segments, colors=(200, 80, 20), thickness=0.004 * self._size
                )
            )

    def _go_to(self, view: View) -> None:
        right, up, back, position = view.pose.numpy().T
        # A page turns about its own up: what the view's roll leaves of it stays, unless that leads elsewhere.
        own = np.asarray(self._client.camera.up_direction)
        level = own - (own @ right) * right
        if level @ up < _LEAST_UP:
            level = up
        look_along(self._client, position, -back, up=level, fov=math.radians(view.fov))

    def _play(self, path: CameraPath, ends: threading.Event) -> None:
        count = max(2, round(path.seconds * _PLAYED_PER_SECOND))
        # A browser that is gone no longer takes anything: nothing is left to do then.
        with contextlib.suppress(Exception):
            for number, view in enumerate(path.through_keyframes(count).frames):
                if ends.wait(1.0 / _PLAYED_PER_SECOND if number else 0.0):
                    break
                self._go_to(view)


def _calling(act: Callable[[], None]) -> Callable[[Any], None]:
    """``act`` for a button, whose event says nothing of use."""

    def on_click(_event: Any) -> None:
        act()

    return on_click


def _browser_pose(view: View) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(wxyz, position) of a view in the browser's axes: x right, y down, z ahead."""
    pose = view.pose
    rotation = pose[:, :3] * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    return tuple(quaternions_from_rotations(rotation[None])[0].tolist()), tuple(pose[:, 3].tolist())
