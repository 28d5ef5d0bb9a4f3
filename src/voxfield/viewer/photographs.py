"""The photographs of a capture, drawn where they were taken."""

import contextlib
import math
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from voxfield.colour import display
from voxfield.data.posed_images import PosedImages
from voxfield.errors import VoxfieldError
from voxfield.geometry.rotations import quaternions_from_rotations
from voxfield.render.image import to_uint8
from voxfield.viewer.standpoint import look_along

MOST_DRAWN: Final = 120
"""Photographs drawn of a capture, evenly spread: more hide what they show."""
THUMBNAIL_PIXELS: Final = 96
"""Longest side of a thumbnail."""


class Photographs:
    """A split of a capture for the viewer. Pictures are read when first drawn, and kept small."""

    def __init__(self, captures: PosedImages) -> None:
        """Draw those of ``captures``; copies at other scales are left out."""
        self._captures, self._lock = captures, threading.Lock()
        self.cameras = captures.image_cameras.to("cpu")
        pictures = range(len(captures)) if captures.scales is None else captures.scales.finest
        spread = torch.linspace(0, len(self.cameras) - 1, min(len(self.cameras), MOST_DRAWN)).round().long().tolist()
        self._drawn = [(camera, int(pictures[camera])) for camera in dict.fromkeys(spread)]
        self._thumbnails: dict[int, np.ndarray | None] = {}
        spread_out = float((self.cameras.origins - self.cameras.origins.mean(0)).norm(dim=1).median())
        self._scale = max(0.04 * spread_out, 1e-3)

    def add_to(self, client: Any) -> list[Any]:
        """Draw them in a browser; a click on one takes its place. Returns viser's handles, to remove them by."""
        cameras = self.cameras
        # The browser's axes are x right, y down, z ahead.
        rotations = cameras.camera_to_world[:, :, :3] * torch.tensor([1.0, -1.0, -1.0])
        quaternions = quaternions_from_rotations(rotations).tolist()
        handles = []
        for camera, picture in self._drawn:
            fov, aspect = self._shape(camera)
            handle = client.scene.add_camera_frustum(
                f"/photographs/{camera}",
                fov=fov,
                aspect=aspect,
                scale=self._scale,
                color=(20, 110, 110),
                image=self._thumbnail(picture),
                format="jpeg",
                wxyz=tuple(quaternions[camera]),
                position=tuple(cameras.origins[camera].tolist()),
            )
            handle.on_click(lambda _, camera=camera: self._go_to(client, camera))
            handles.append(handle)
        return handles

    def make_way(self, handles: Sequence[Any], position: Sequence[float]) -> None:
        """Hide those of ``handles`` that a browser's camera stands in: their pictures would hide everything else."""
        here = torch.tensor([float(value) for value in position])
        for handle, (camera, _) in zip(handles, self._drawn, strict=True):
            shown = float((self.cameras.origins[camera] - here).norm()) > self._reach(camera)
            if handle.visible != shown:
                handle.visible = shown

    def _shape(self, camera: int) -> tuple[float, float]:
        """Vertical field of view, radians, and width over height, as drawn."""
        cameras = self.cameras
        fov = float(2 * torch.atan(0.5 * cameras.height[camera] / cameras.focal[camera, 1]))
        return min(fov, 2.0), float(cameras.width[camera] / cameras.height[camera])

    def _reach(self, camera: int) -> float:
        """How far before its place a photograph is drawn: all are drawn as pyramids of one volume."""
        fov, aspect = self._shape(camera)
        return self._scale / (math.tan(fov / 2) ** 2 * aspect / 3) ** (1 / 3)

    def _go_to(self, client: Any, camera: int) -> None:
        look_along(client, self.cameras.origins[camera], self.cameras.forward[camera])

    def _thumbnail(self, picture: int) -> np.ndarray | None:
        """The picture made small, (h, w, 3) uint8; None where it cannot be read any more."""
        with self._lock:
            if picture not in self._thumbnails:
                self._thumbnails[picture] = None
                with contextlib.suppress(VoxfieldError, OSError):
                    self._thumbnails[picture] = self._reduced(picture)
            return self._thumbnails[picture]

    def _reduced(self, picture: int) -> np.ndarray:
        from PIL import Image

        image, _ = self._captures.images.decode(picture)
        rgb = image[..., :3]
        if self._captures.tone is not None:
            rgb = display(rgb.float() * self._captures.tone.exposure, stops=0.0, tone_map="none")
        shown = Image.fromarray(np.ascontiguousarray(to_uint8(rgb).numpy()))
        if image.shape[-1] == 4:
            white = Image.new("RGB", shown.size, "white")
            alpha = to_uint8(image[..., 3:]).numpy()[..., 0]
            shown = Image.composite(shown, white, Image.fromarray(np.ascontiguousarray(alpha)))
        shown.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        return np.asarray(shown)
