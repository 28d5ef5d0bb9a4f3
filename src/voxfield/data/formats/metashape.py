"""Agisoft Metashape captures: the cameras exported as XML, beside the photographs.

``File > Export > Export Cameras``, format Agisoft XML. The photographs lie in ``images`` beside it, or anywhere below
its folder; a camera is matched to the picture of its label, with or without the ending, in the folder of its camera
group where labels repeat. Masks exported to ``masks`` as ``<label>_mask.png`` or ``<label>.png`` are used. Reading the
XML is ``metashape_xml``'s business: lenses, rigs, components, what is left out and why.

Poses come in the coordinates of the exported world (metres where the chunk is referenced).
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Final

from voxfield.data.capture import (
    IMAGE_SUFFIXES,
    Capture,
    CaptureOptions,
    Frame,
    Split,
    digest,
    resolve_inside,
)
from voxfield.data.formats import eyefultower
from voxfield.data.formats.metashape_xml import AlignedCamera, looks_like_export, read_export
from voxfield.data.formats.photo_capture import find_mask, mask_names, photo_capture
from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.skipped import Skipped

PICTURES: Final = "images"
_NOT_PICTURES: Final = re.compile(r"\..*|masks?|depths?")
"""Folders that hold no photographs: hidden ones, masks, depth maps."""
_REDUCED: Final = re.compile(r"(.+)_\d+")
"""Folders of reduced copies, if the folder without the number lies beside them: ``images_4``."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a Metashape XML export or a folder with one, and not a capture of the EyefulTower."""
    if eyefultower.recognises(path):
        return False
    return bool(_exports(path)) if path.is_dir() else path.suffix.lower() == ".xml" and looks_like_export(path)


def read(path: Path, split: Split, options: CaptureOptions) -> Capture:
    """Read one split: pictures in order of their path.

    Raises:
        MissingFileError: no export. FormatError: several of them, malformed XML, no camera that can be used.
    """
    file = path
    if path.is_dir():
        exports = _exports(path) or sorted(path.glob("*.xml"))
        if not exports:
            raise MissingFileError(f"{path}: no XML of cameras in it. Export the cameras as XML from Metashape.")
        if len(exports) > 1:
            names = ", ".join(one.name for one in exports[:4])
            raise FormatError(f"{path}: holds several exports of cameras ({names}). Name the one to read.")
        file = exports[0]
    root = file.parent
    export = read_export(file)
    pictures = _Pictures(root / PICTURES if (root / PICTURES).is_dir() else root, root)
    frames, left_out = [], list(export.left_out)
    meant = [pictures.of(camera) for camera in export.cameras]
    claims = Counter(found[0] for found in meant if len(found) == 1)
    for camera, found in zip(export.cameras, meant, strict=True):
        where = f"{file}: camera {camera.label!r}"
        if len(found) > 1:
            reason = f"{where}: {len(found)} pictures have this name ({found[0]}, {found[1]}); rename them"
            left_out.append(Skipped(path=camera.label, reason=reason))
            continue
        name = found[0] if found else camera.label
        if claims[name] > 1:
            reason = f"{where}: {claims[name]} cameras mean {name}; put each group's pictures in a folder of its name"
            left_out.append(Skipped(path=camera.label, reason=reason))
            continue
        picture = resolve_inside(root, name, listed_in=where, allow_outside=options.allow_outside)
        frames.append(
            Frame(
                name=name,
                path=picture,
                mask_path=find_mask(root, _mask_names(name), listed_in=where, allow_outside=options.allow_outside),
                pose=camera.pose,
                intrinsics=camera.intrinsics,
            )
        )
    return photo_capture(
        format="metashape",
        file=file,
        root=root,
        frames=sorted(frames, key=lambda frame: frame.name),
        left_out=left_out,
        split=split,
        options=options,
        source={"json_hash": digest(export.raw)},
    )


def _exports(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".xml" and looks_like_export(file)]


def _mask_names(name: str) -> tuple[str, ...]:
    picture = Path(name)
    return f"{picture.stem}_mask.png", *mask_names(picture.name)


def _holds_no_photographs(name: str, beside: list[str]) -> bool:
    reduced = _REDUCED.fullmatch(name)
    return bool(_NOT_PICTURES.fullmatch(name)) or (reduced is not None and reduced[1] in beside)


class _Pictures:
    """The pictures below a folder, by name."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._by_name: dict[str, list[str]] = {}
        for place, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not _holds_no_photographs(name, folders))
            for name in sorted(files):
                if Path(name).suffix in IMAGE_SUFFIXES:
                    path = Path(place, name).relative_to(root).as_posix()
                    for key in {name, Path(name).stem}:
                        self._by_name.setdefault(key, []).append(path)

    def of(self, camera: AlignedCamera) -> list[str]:
        """The pictures, relative to the root, that a camera may mean: its label's, of its group's folder if several."""
        label = camera.label.replace("\\", "/")
        found = self._by_name.get(label.rsplit("/", 1)[-1], [])
        for folder in (label.rsplit("/", 1)[0] if "/" in label else None, camera.group):
            within = [path for path in found if folder and f"/{path}".rsplit("/", 1)[0].endswith(f"/{folder}")]
            found = within if len(found) > 1 and within else found
        return found
