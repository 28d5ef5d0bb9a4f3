"""Photographs into the ``images`` folder of a capture, upright, each measured for sharpness.

JPEG and PNG files are copied byte for byte when they are stored upright. Others are decoded and written again: those
that EXIF says to turn (as JPEG of quality 97 or PNG, the tag then gone, the focal length kept), and kinds and modes
that COLMAP does not read, or not as we do (TIFF, BMP, WebP, GIF, palettes, CMYK, 16 bits). Poses belong to the stored
pixels, so nothing may turn them later.
"""

import io
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from voxfield.data.decode import Header, read_header, read_image
from voxfield.errors import FormatError
from voxfield.jobs.sharpness import measure_sharpness
from voxfield.storage.atomic import replacing, write_bytes
from voxfield.storage.skipped import Skipped

PHOTOGRAPH_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
"""Endings, in any case, of what is taken as a photograph."""

JPEG_QUALITY: Final = 97

_ORIENTATION: Final = 0x0112
"""The EXIF tag. Its values 2 to 8 say how the stored pixels must be turned or mirrored."""
_KEPT_MODES: Final = ("L", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True)
class PlacedPicture:
    """A picture in the capture's ``images``."""

    name: str
    """Path below ``images``, with / between folders."""
    source: str
    """Where it came from: the photograph's path below its folder, or a video's time."""
    sharpness: float
    """See `voxfield.jobs.sharpness`."""


def find_photographs(folder: Path) -> list[Path]:
    """Photographs in ``folder`` and its subfolders, hidden ones aside, in the order a person counts: 2.jpg, 10.jpg.

    Raises:
        FormatError: the folder cannot be read.
    """
    try:
        found = [
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in PHOTOGRAPH_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        ]
    except OSError as error:
        raise FormatError(f"{folder}: cannot be read ({error.strerror}). Check the folder's permissions.") from error
    return sorted(found, key=lambda path: _counting_order(path.relative_to(folder)))


def place_photographs(
    photographs: Iterable[Path], folder: Path, images: Path
) -> Iterator[tuple[PlacedPicture | None, Skipped | None]]:
    """Put photographs into ``images``, one for every item taken from the iterator.

    Args:
        photographs: below ``folder``.
        folder: what names are relative to; their subfolders are kept. Blanks and other characters that COLMAP's lists
            cannot hold become underscores.
        images: where to; files of the same names are replaced.

    Yields:
        The picture, or what was left out and why.
    """
    taken: set[str] = set()
    for photograph in photographs:
        relative = photograph.relative_to(folder)
        try:
            header = read_header(photograph)
            pixels = read_image(
                photograph, channels=4 if header.alpha else 3, size=header.size, full_size=header.size
            ).numpy()
        except FormatError as error:
            yield None, Skipped(path=_printable(relative.as_posix()), reason=_reason(error, photograph))
            continue
        picture, stored = _upright(photograph, pixels, header)
        name = _free_name(relative, stored, taken)
        if stored is None:
            with replacing(images / name) as temporary:
                shutil.copyfile(photograph, temporary)
        else:
            write_bytes(images / name, stored)
        source = _printable(relative.as_posix())
        yield PlacedPicture(name=name, source=source, sharpness=measure_sharpness(picture)), None


def write_reduced(images: Path, name: str, halvings: int) -> None:
    """Copies of a picture reduced by 2, 4, ... 2^``halvings``, beside ``images`` in ``images_2``, ``images_4``, ...;
    those that exist stay.
    """
    from PIL import Image

    targets = {2**n: images.with_name(f"images_{2**n}") / name for n in range(1, halvings + 1)}
    missing = {factor: target for factor, target in targets.items() if not target.is_file()}
    if not missing:
        return
    with Image.open(images / name) as opened:
        opened.load()
        for factor, target in missing.items():
            write_bytes(target, _encoded(opened.reduce(factor), "PNG" if target.suffix.lower() == ".png" else "JPEG"))


def _upright(path: Path, pixels: Any, header: Header) -> tuple[Any, bytes | None]:
    """(the picture with its pixels upright, what to store of it; None to copy the file)."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    with Image.open(path) as opened:
        kind, mode, exif = opened.format, opened.mode, opened.getexif()
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(exif.get(_ORIENTATION, 1))
    # A multi-picture file of phones is a JPEG to everyone who reads its first picture.
    kind = "JPEG" if kind == "MPO" else kind
    suffixes = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",)}.get(kind or "", ())
    if turn is None and mode in _KEPT_MODES and path.suffix.lower() in suffixes and picture.size == header.size:
        return picture, None
    if turn is not None:
        picture = picture.transpose(turn)
        exif.pop(_ORIENTATION, None)
    return picture, _encoded(picture, "JPEG" if kind == "JPEG" else "PNG", exif.tobytes())


def _encoded(picture: Any, kind: str, exif: bytes = b"") -> bytes:
    content = io.BytesIO()
    options: dict[str, Any] = {"exif": exif} if exif else {}
    if kind == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": 0}
    picture.save(content, format=kind, **options)
    return content.getvalue()


def _free_name(relative: Path, stored: bytes | None, taken: set[str]) -> str:
    """A name that COLMAP's lists can hold and that no other photograph has, also where capitals are not told apart."""
    suffix = relative.suffix
    if stored is not None:
        suffix = ".png" if stored.startswith(b"\x89PNG") else ".jpg"
    stem = re.sub(r"[^\w.\-/]", "_", relative.with_suffix("").as_posix())
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken:
        name, number = f"{stem}_{number}{suffix}", number + 1
    taken.add(name.lower())
    return name


def _counting_order(path: Path) -> tuple[Any, ...]:
    """Digits compare as numbers; the full text breaks ties."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return tuple((int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)), path.as_posix()


def _printable(text: str) -> str:
    """``text`` without the bytes a file system allows and JSON does not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reason(error: FormatError, path: Path) -> str:
    return _printable(str(error).removeprefix(f"{path}: "))
