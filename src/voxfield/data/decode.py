"""One picture file to 8-bit RGB(A), whatever it holds, or an error that says what is wrong with it.

EXIF orientation is ignored on purpose: camera poses and intrinsics come from tools (COLMAP and what builds on it)
that look at the stored pixels. Grey, palette, CMYK and 16-bit pictures become 8 bits a channel in the file's own
colour values (sRGB is assumed, profiles are ignored); premultiplied alpha becomes straight.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from voxfield.errors import FormatError

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""(width, height) in pixels."""

_DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
)
"""What decoders raise on damaged files: a picture that cannot be read must never end a run."""

_STRIP_ROWS: Final = 128
"""Rows handed from the decoder to numpy at a time."""

_ALPHA_MODES: Final = ("RGBA", "LA", "PA", "RGBa", "La")


class Header(NamedTuple):
    """What a picture file says of itself before its pixels are decoded."""

    size: Size
    """(width, height) in pixels."""
    alpha: bool
    """Whether it has transparency."""


def read_header(path: Path) -> Header:
    """Open a picture without decoding it, and check that it seems whole.

    Files whose end mark is missing (PNG, JPEG: cut short) are decoded to make sure. Costs about 0.1 ms otherwise.
    Call it from one
    thread at a time: it turns Pillow's warning about very large pictures into an error, and warning filters are global.

    Raises:
        FormatError: missing, not a picture, cut short, damaged, or above 89 megapixels. The message starts with the
        path.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _faults_of(path), Image.open(path) as image:
            header = Header(image.size, _has_alpha(image))
            kind = image.format
            if _lacks_end(path, kind):
                image.load()
    return header


def read_image(path: Path, *, channels: int, size: Size, full_size: Size) -> Tensor:
    """Decode a picture.

    Args:
        path: the file.
        channels: 3 for RGB (alpha is dropped) or 4 for RGBA (alpha is 255 where the file has none).
        size: (width, height) wanted.
        full_size: what the file may hold instead: it is then reduced by area averaging, with colours weighted by alpha.

    Returns:
        (height, width, channels) uint8, straight alpha.

    Raises:
        FormatError: the file is missing, damaged or of another size.
    """
    from PIL import Image

    with _faults_of(path), Image.open(path) as opened:
        _check_size(path, opened.size, size, full_size)
        image = _to_8_bits(opened, "RGBA" if channels == 4 else "RGB")
        return torch.from_numpy(_to_array(_reduced(image, size)))


def read_mask(path: Path, *, size: Size, full_size: Size) -> Tensor:
    """Decode a mask: non-black means use.

    Returns:
        (height, width) bool. When reduced, a pixel is used only if all that it covers is.

    Raises:
        FormatError: as ``read_image``.
    """
    from PIL import Image

    with _faults_of(path), Image.open(path) as opened:
        _check_size(path, opened.size, size, full_size)
        if opened.mode in ("1", "L"):  # as masks mostly are: no colours, no copies of an 8k picture
            opened.load()
            kept = np.asarray(opened) > 0
        else:
            kept = np.asarray(_to_8_bits(opened, "RGB")).max(axis=2) > 0
        if opened.size == size:
            return torch.from_numpy(kept)
        image = Image.fromarray(kept.astype(np.uint8) * np.uint8(255))
        return torch.from_numpy(np.array(_reduced(image, size)) == 255)


def _check_size(path: Path, came: Size, size: Size, full_size: Size) -> None:
    if came not in (size, full_size):
        raise FormatError(
            f"{path}: is {came[0]}x{came[1]} pixels, expected {full_size[0]}x{full_size[1]}. "
            "Restore the picture the capture was made from."
        )


def _has_alpha(image: "Image") -> bool:
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _to_8_bits(image: "Image", mode: str) -> "Image":
    """``image`` as "RGB" or "RGBA"."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion of 16 bits to 8 clips instead of scaling. Floats are taken as [0, 1].
        values = np.asarray(image).astype(np.float32) * (1.0 if image.mode == "F" else 1 / 65535)
        image = Image.fromarray((np.nan_to_num(values).clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _reduced(image: "Image", size: Size) -> "Image":
    """``image`` at ``size`` by averaging the area each new pixel covers (Pillow weights colours by alpha)."""
    from PIL import Image

    if image.size == size:
        return image
    width, height = image.size
    factor = width // size[0]
    if (size[0] * factor, size[1] * factor) == (width, height):
        return image.reduce(factor)
    return image.resize(size, Image.Resampling.BOX)


def _to_array(image: "Image") -> "np.ndarray[Any, np.dtype[Any]]":
    """``image`` (H, W, C) as numpy has it, without the two whole copies that ``np.array(image)`` makes on the way: of
    an 8k picture they are 300 MB, and take two thirds of the time that decoding took.
    """
    width, height = image.size
    pixels = np.empty((height, width, len(image.getbands())), dtype=np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(height, top + _STRIP_ROWS)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _lacks_end(path: Path, kind: str | None) -> bool:
    """Whether a PNG or JPEG does not end as it must: it may be cut short, or have something appended."""
    mark = {"PNG": b"IEND\xaeB\x60\x82", "JPEG": b"\xff\xd9"}.get(kind or "")
    if mark is None:
        return False
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - len(mark)))
        return stream.read() != mark


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one FormatError about ``path``."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except FormatError:
        raise
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file. Restore it or remove its frame.") from error
    except UnidentifiedImageError as error:
        raise FormatError(f"{path}: not a picture in a known format. Replace it or remove its frame.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FormatError(f"{path}: more than 89 megapixels. Scale the picture down.") from error
    except _DECODER_ERRORS as error:
        detail = str(error).split("\n", maxsplit=1)[0][:100] or type(error).__name__
        raise FormatError(f"{path}: cut short or damaged ({detail}). Copy the picture again.") from error
