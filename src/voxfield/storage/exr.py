"""OpenEXR pictures: their headers, their colours as floats, and writing them.

Source: https://openexr.com/en/latest/OpenEXRFileLayout.html. Colours in a file are linear light, unbounded, and
premultiplied by alpha. A picture is what the display window shows; data windows may be smaller or larger. Headers are
parsed here, within bounds, so that nothing is allocated on a hostile file's word and pixel types are known before
anything is decoded; pixels are the OpenEXR library's, from the extra ``images``, imported on first use.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np

from voxfield.errors import FormatError, InputError, MissingExtraError
from voxfield.storage.atomic import replacing

SUFFIX: Final = ".exr"
MOST_PIXELS: Final = 89_478_485
"""Largest picture read, the same as Pillow's bound for the others."""
MOST_CHANNELS: Final = 8
"""Channels of that size decoded at most; of smaller pictures more: the library decodes also those not asked for."""
_MOST_HEADER_BYTES: Final = 1 << 20
_MAGIC: Final = b"\x76\x2f\x31\x01"
_LONG_NAMES, _DEEP, _MULTIPART = 0x400, 0x800, 0x1000  # bits of the version field
_HALF, _FLOAT = 1, 2  # pixel types of the format
_LINES_PER_CHUNK: Final = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}  # by compression
_COLOURS: Final = ("R", "G", "B")

Window = tuple[int, int, int, int]
"""(x_min, y_min, x_max, y_max) in pixels, both ends inside."""


@dataclass(frozen=True, kw_only=True)
class ExrHeader:
    """What an EXR file says of its picture."""

    display: Window
    """What is to be seen."""
    data: Window
    """Where pixels are stored."""
    channels: tuple[str, ...]
    """Those of the picture: R, G, B, or Y alone, and A where there is alpha."""
    half: bool
    """Whether all of them are 16-bit floats; 32 bits otherwise."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the display window."""
        return _extent(self.display)

    @property
    def alpha(self) -> bool:
        """Whether there is an alpha channel."""
        return "A" in self.channels


def read_exr_header(path: Path) -> ExrHeader:
    """Read and check a picture's header, and that the file is not cut short, without decoding it.

    Raises:
        FormatError: no EXR file, malformed, cut short, above ``MOST_PIXELS``, deep, or without a colour picture. The
            message starts with the path.
        MissingExtraError: the OpenEXR library is not installed, so that pixels could not be read.
        FileNotFoundError, OSError: the file cannot be opened.
    """
    _import_openexr()
    with path.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8 or start[:4] != _MAGIC:
            raise FormatError(f"{path}: not an OpenEXR file, whatever its name says. Copy the picture again.")
        (version,) = struct.unpack("<I", start[4:])
        if version & 0xFF != 2 or version & ~(0xFF | 0x200 | _LONG_NAMES | _DEEP | _MULTIPART):
            raise FormatError(f"{path}: OpenEXR version {version & 0xFF} is not known. Save it as version 2.")
        if version & (_DEEP | _MULTIPART):
            kind = "deep samples" if version & _DEEP else "several parts"
            raise FormatError(f"{path}: holds {kind}. Save one flat picture with channels R, G, B.")
        try:
            attributes = _attributes(stream)
            header = _header_of(path, attributes)
            _check_complete(stream, header, attributes)
        except (struct.error, ValueError, LookupError) as error:
            if isinstance(error, FormatError):
                raise
            detail = str(error)[:80] or type(error).__name__
            raise FormatError(f"{path}: cut short or damaged ({detail}). Copy the picture again.") from error
    return header


def read_exr(path: Path) -> tuple[np.ndarray, ExrHeader]:
    """Decode a picture.

    Returns:
        (H, W, C) float32 as the file has it: premultiplied by alpha, NaN, infinite and negative values included; C = 3
        or, with alpha, 4; luminance alone becomes three equal colours. What the data window leaves empty is transparent
        where there is alpha, else NaN.

    Raises:
        As `read_exr_header`.
    """
    header = read_exr_header(path)
    width, height = header.size
    x0, y0, _, _ = header.display
    dx0, dy0, dx1, dy1 = header.data
    # The part of the data window that shows, in pixels of the display.
    left, top = max(dx0, x0) - x0, max(dy0, y0) - y0
    right, bottom = min(dx1 - x0 + 1, width), min(dy1 - y0 + 1, height)
    stored = _planes(path, header)
    names = (*(_COLOURS if "Y" not in header.channels else ("Y",) * 3), *(("A",) if header.alpha else ()))
    picture = np.full((height, width, len(names)), 0.0 if header.alpha else np.nan, dtype=np.float32)
    if left < right and top < bottom:
        rows = slice(top + y0 - dy0, bottom + y0 - dy0)
        columns = slice(left + x0 - dx0, right + x0 - dx0)
        for index, name in enumerate(names):
            picture[top:bottom, left:right, index] = stored[name][rows, columns]
    return picture, header


def write_exr(
    path: str | os.PathLike[str],
    channels: Mapping[str, np.ndarray],
    *,
    precision: Literal["half", "float"] = "half",
    float_channels: tuple[str, ...] = ("Z",),
) -> Path:
    """Write a picture, ZIP-compressed. The file appears whole or not at all; folders are made.

    Args:
        path: the file to make or replace.
        channels: (H, W) floats by name, all of one size: R, G, B in linear light, premultiplied where there is A; Z for
            distances.
        precision: ``half`` keeps 11 bits and values up to 65504 (larger ones are clipped); ``float`` all.
        float_channels: channels kept in 32 bits either way.

    Returns:
        The path.

    Raises:
        InputError: no channel, or other shapes.
        MissingExtraError: the OpenEXR library is not installed.
    """
    exr = _import_openexr()
    shapes = {array.shape for array in channels.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise InputError(f"{path}: expected channels (H, W) of one size, got {sorted(shapes)}.")
    planes = {}
    for name, array in channels.items():
        plane = np.ascontiguousarray(array, dtype=np.float32)
        if precision == "half" and name not in float_channels:
            plane = np.clip(plane, -65504.0, 65504.0).astype(np.float16)
        planes[name] = plane
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with replacing(path) as temporary:
        exr.File(header, planes, num_threads=0).write(str(temporary))
    return Path(path)


def require_exr() -> None:
    """Raise MissingExtraError now, before anything is rendered, when EXR files cannot be read or written here."""
    _import_openexr()


def _attributes(stream: BinaryIO) -> dict[str, tuple[str, bytes]]:
    """Name -> (type, value) of a single-part header; the stream is left after it."""
    raw = stream.read(_MOST_HEADER_BYTES)
    found: dict[str, tuple[str, bytes]] = {}
    at = 0
    while raw[at : at + 1] != b"\0":
        name, at = _text(raw, at)
        kind, at = _text(raw, at)
        (length,) = struct.unpack_from("<i", raw, at)
        at += 4
        if not 0 <= length <= len(raw) - at:
            raise ValueError(f"attribute {name!r} is {length} bytes long")
        found[name] = kind, raw[at : at + length]
        at += length
    stream.seek(8 + at + 1)
    return found


def _text(raw: bytes, at: int) -> tuple[str, int]:
    """A zero-terminated name at ``at``, and where it ends."""
    end = raw.index(b"\0", at, at + 257)
    return raw[at:end].decode("utf-8"), end + 1


def _header_of(path: Path, attributes: Mapping[str, tuple[str, bytes]]) -> ExrHeader:
    display: Window = struct.unpack("<4i", attributes["displayWindow"][1])
    data: Window = struct.unpack("<4i", attributes["dataWindow"][1])
    for window in (display, data):
        width, height = _extent(window)
        if width < 1 or height < 1:
            raise ValueError(f"a window of {width}x{height} pixels")
        if width * height > MOST_PIXELS:
            raise FormatError(f"{path}: more than 89 megapixels ({width}x{height}). Scale the picture down.")
    stored = _channels(attributes["channels"][1])
    if len(stored) * width * height > MOST_CHANNELS * MOST_PIXELS:
        raise FormatError(f"{path}: {len(stored)} channels of {width}x{height} are too many. Save R, G, B alone.")
    if all(name in stored for name in _COLOURS):
        wanted: tuple[str, ...] = _COLOURS
    elif "Y" in stored and not {"RY", "BY"} & set(stored):
        wanted = ("Y",)
    else:
        raise FormatError(
            f"{path}: expected channels R, G, B (and A), or Y, got {', '.join(sorted(stored))[:120]}. "
            "Save the picture's colours under these names."
        )
    if "A" in stored:
        wanted = (*wanted, "A")
    odd = [name for name in wanted if stored[name][0] not in (_HALF, _FLOAT) or stored[name][1:] != (1, 1)]
    if odd:
        raise FormatError(
            f"{path}: channel {odd[0]} holds whole numbers or is subsampled. Save it as half or float in full size."
        )
    return ExrHeader(display=display, data=data, channels=wanted, half=all(stored[n][0] == _HALF for n in wanted))


def _channels(raw: bytes) -> dict[str, tuple[int, int, int]]:
    """Name -> (pixel type, sampling along x, along y)."""
    found: dict[str, tuple[int, int, int]] = {}
    at = 0
    while raw[at : at + 1] != b"\0":
        name, at = _text(raw, at)
        kind, x_step, y_step = struct.unpack_from("<i4xii", raw, at)
        found[name] = kind, x_step, y_step
        at += 16
    return found


def _check_complete(stream: BinaryIO, header: ExrHeader, attributes: Mapping[str, tuple[str, bytes]]) -> None:
    """Raise ValueError unless every chunk of the offset table, where ``stream`` stands, starts within the file, as
    those of a download or rendering that stopped do not. The library finds what is missing of tiles.
    """
    lines = _LINES_PER_CHUNK.get(attributes["compression"][1][0])
    if lines is None or "tiles" in attributes:
        return
    count = -(-_extent(header.data)[1] // lines)
    length = os.fstat(stream.fileno()).st_size
    offsets = np.frombuffer(stream.read(8 * count), dtype="<u8")
    if len(offsets) < count or offsets.min() == 0 or offsets.max() >= length:
        raise ValueError("pixels are missing")


def _planes(path: Path, header: ExrHeader) -> dict[str, np.ndarray]:
    """The header's channels as the library decodes them, of the data window's size."""
    exr = _import_openexr()
    width, height = _extent(header.data)
    try:
        with exr.File(str(path), separate_channels=True, num_threads=0) as file:
            # A part whose pixels could not be read is left out by the library, with a warning on the console.
            found = {name: file.channels()[name].pixels for name in header.channels}
    except (RuntimeError, ValueError, LookupError, MemoryError) as error:
        detail = str(error).split("\n", maxsplit=1)[0][:100]
        raise FormatError(f"{path}: cut short or damaged ({detail}). Copy the picture again.") from error
    for name, plane in found.items():
        if plane is None or plane.shape != (height, width):
            raise FormatError(f"{path}: channel {name} is not of the header's size. Copy the picture again.")
    return found


def _extent(window: Window) -> tuple[int, int]:
    """(width, height)."""
    return window[2] - window[0] + 1, window[3] - window[1] + 1


def _import_openexr() -> Any:
    try:
        import OpenEXR
    except ImportError:
        raise MissingExtraError(
            'Reading and writing EXR needs OpenEXR. Install it with: pip install "voxfield[images]".'
        ) from None
    return OpenEXR
