"""The frames of a film as they lie on disk: which film they are of, and which an interrupted call left."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from voxfield.errors import InputError
from voxfield.geometry.rigs import Rig
from voxfield.storage.atomic import write_json

_NAME: Final = "film.json"


class Reel:
    """A folder of frames that are rendered in order and all belong to one film: the same field, cameras and looks.

    ``film.json`` in it holds the hash of what the film is, and how many frames of it there are. Frames that lie
    there of another film are rendered again.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, suffix: str = ".png", keep: bool = True) -> None:
        """Open the reel in ``folder``.

        Args:
            folder: where frames are written.
            identity: plain values that say which film it is.
            suffix: of the frames' files.
            keep: whether the frames are wanted; otherwise they lie in a folder of their own until `finish`.

        Raises:
            InputError: the folder cannot be made.

        ``film`` is the hash of ``identity``.
        """
        self.folder = folder if keep else folder.with_name(f".{folder.name}-frames")
        self._suffix, self._keep = suffix, keep
        self.film = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._done = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = json.loads((self.folder / _NAME).read_text(encoding="utf-8"))
            if held["film"] == self.film:
                self._done = int(held["frames"])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written to ({error.strerror}).") from None
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            pass  # not a film's record: nothing is known of the frames

    def file(self, index: int) -> Path:
        """Where frame ``index`` is written."""
        return self.folder / f"frame_{index:05d}{self._suffix}"

    def has(self, index: int) -> bool:
        """Whether frame ``index`` of this film is there."""
        return index < self._done and self.file(index).is_file()

    def note(self, index: int) -> None:
        """Frame ``index`` has been written, and all before it."""
        self._done = index + 1
        write_json(self.folder / _NAME, {"film": self.film, "frames": self._done})

    def picture(self, index: int) -> torch.Tensor | None:
        """Frame ``index``, (H, W, 3) uint8, if it is there and whole."""
        from PIL import Image

        if not self.has(index):
            return None
        try:
            with Image.open(self.file(index)) as image:
                return torch.from_numpy(np.asarray(image.convert("RGB")).copy())
        except (OSError, ValueError):
            return None

    def finish(self) -> None:
        """Called when the film is done: frames that nobody wants are removed."""
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def film_identity(rig: Rig, looks: Mapping[str, Any]) -> dict[str, Any]:
    """What a film is: the cameras of its frames, and plain values that say how they look."""
    digest = hashlib.sha256()
    for eye in rig.eyes:
        lens = [] if eye.distortion is None else [eye.distortion]
        for tensor in (eye.camera_to_world, eye.focal, eye.principal, eye.width, eye.height, *lens):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        digest.update(repr((eye.model, eye.eye_offset)).encode())
    return {"kind": rig.kind, "cameras": digest.hexdigest(), **looks}
