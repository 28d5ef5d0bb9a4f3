"""One picture file to 8-bit RGB(A) or, for OpenEXR, linear floats, or an error that says what is wrong with it.

EXIF orientation is ignored on purpose: camera poses and intrinsics come from tools (COLMAP and what builds on it)
that look at the stored pixels. Grey, palette, CMYK and 16-bit pictures become 8 bits a channel in the file's own
colour values (sRGB is assumed, profiles are ignored); premultiplied alpha becomes straight. Files that end in ``.exr``
keep their linear light, whatever its primaries.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from voxfield.errors import FormatError, MissingFileError
from voxfield.storage.exr import SUFFIX, read_exr, read_exr_header
from voxfield.storage.npz import map_npy

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

MOST_BROKEN: Final = 0.5
"""Share of NaN and infinite pixels above which a linear picture is taken for damaged."""
_STRIP_ROWS: Final = 128
"""Rows handed from the decoder to numpy at a time."""

_MUCH: Final = 1 << 20
"""Bytes that a decoder may ask for at once without a look at how many there are."""

_ALPHA_MODES: Final = ("RGBA", "LA", "PA", "RGBa", "La")


class Header(NamedTuple):
    """What a picture file says of itself before its pixels are decoded."""

    size: Size
    """(width, height) in pixels."""
    alpha: bool
    """Whether it has transparency."""
    dtype: torch.dtype = torch.uint8
    """Of its values as they are kept: uint8 for sRGB, float16 or float32 for linear pictures."""


class Linear(NamedTuple):
    """A decoded linear picture."""

    image: Tensor
    """(H, W, C) float16 or float32, finite and at least 0, straight alpha in [0, 1]; 0 where not ``kept``."""
    kept: Tensor
    """(H, W) bool: False where a value was NaN or infinite."""
    broken: int
    """Pixels of the file that were."""
    negative: int
    """Pixels of the file with a negative value, which became 0."""


def read_header(path: Path) -> Header:
    """Open a picture without decoding it, and check that it seems whole.

    Files whose end mark is missing (PNG, JPEG: cut short) are decoded to make sure. Costs about 0.1 ms otherwise.
    Call it from one
    thread at a time: it turns Pillow's warning about very large pictures into an error, and warning filters are global.

    Raises:
        FormatError: missing, not a picture, cut short, damaged, or above 89 megapixels. The message starts with the
        path.
        MissingExtraError: an EXR file, and the OpenEXR library is not installed.
    """
    if path.suffix.lower() == SUFFIX:
        with _faults_of(path):
            exr = read_exr_header(path)
        return Header(exr.size, exr.alpha, torch.float16 if exr.half else torch.float32)
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _opened(path) as image:
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
    with _opened(path) as opened:
        _check_size(path, opened.size, size, full_size)
        image = _to_8_bits(opened, "RGBA" if channels == 4 else "RGB")
        return torch.from_numpy(_to_array(_reduced(image, size)))


def read_linear(
    path: Path, *, channels: int, size: Size, full_size: Size, dtype: torch.dtype, gain: float = 1.0
) -> Linear:
    """Decode an EXR picture. Light where alpha is 0 (a glow) is lost, as straight alpha has no place for it.

    Args:
        path, channels, size, full_size: as `read_image`; alpha is 1 where the file has none.
        dtype: float16 or float32; what float16 cannot hold becomes its largest value.
        gain: factor on all colours, above 0.

    Raises:
        FormatError: as `read_image`, or most pixels are NaN or infinite.
        MissingExtraError: the OpenEXR library is not installed.
    """
    with _faults_of(path):
        stored, header = read_exr(path)
        _check_size(path, header.size, size, full_size)
    values = torch.from_numpy(stored)
    finite = values.isfinite().all(dim=-1)
    broken = int((~finite).sum())
    if broken > MOST_BROKEN * finite.numel():
        raise FormatError(
            f"{path}: {broken} of {finite.numel()} pixels are NaN or infinite. Make the picture again, or remove its "
            "frame."
        )
    values = torch.where(finite[..., None], values, 0.0)
    negative = int((values < 0).any(dim=-1).sum())
    values.clamp_(min=0.0)
    kept = finite
    if header.size != size:
        # Premultiplied colours average right; a pixel counts only if all that it covers does.
        values = F.interpolate(values.permute(2, 0, 1)[None], size[::-1], mode="area")[0].permute(1, 2, 0)
        kept = F.interpolate(finite[None, None].float(), size[::-1], mode="area")[0, 0] > 1 - 1e-6
    colour = values[..., :3] * gain
    if header.alpha:
        alpha = values[..., 3:].clamp(max=1.0)
        colour = torch.where(alpha > 0, colour / alpha.clamp(min=1e-6), 0.0)
    else:
        alpha = torch.ones_like(colour[..., :1])
    image = torch.cat([colour, alpha], dim=-1)[..., :channels].clamp(max=torch.finfo(dtype).max).to(dtype)
    image[~kept] = 0
    return Linear(image.contiguous(), kept, broken, negative)


def read_mask(path: Path, *, size: Size, full_size: Size) -> Tensor:
    """Decode a mask: non-black means use.

    Returns:
        (height, width) bool. When reduced, a pixel is used only if all that it covers is.

    Raises:
        FormatError: as ``read_image``.
    """
    from PIL import Image

    with _opened(path) as opened:
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


def read_depth(path: Path, *, size: Size) -> Tensor:
    """Decode a depth image: 16-bit grey, in steps whose length the file does not say.

    Args:
        path: the file, of any resolution but of the shape of ``size`` to 2 %.
        size: (width, height) wanted. Each pixel takes the file's value at its centre: depths on both sides of an edge
            must not be averaged.

    Returns:
        (height, width) int16 whose bits are those of uint16, which torch cannot gather; 0 where nothing is known.

    Raises:
        FormatError: the file is missing, damaged, not 16-bit grey, of another shape, or above 89 megapixels.
    """
    from PIL import Image

    with _opened(path) as opened:
        width, height = opened.size
        if opened.mode not in ("I", "I;16", "I;16B"):
            raise FormatError(
                f"{path}: expected a depth image of 16 bits, grey, got mode {opened.mode}. Export it again."
            )
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise FormatError(f"{path}: more than 89 megapixels. Scale the depth image down.")
        _check_depth_shape(path, (width, height), size)
        values = np.asarray(opened)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65_535:
            raise FormatError(f"{path}: expected depths from 0 to 65535, got more. Export it with 16 bits.")
        return torch.from_numpy(_at_centres(values, size).astype(np.uint16).view(np.int16))


def read_depth_array(path: Path, *, size: Size) -> Tensor:
    """As ``read_depth`` for a ``.npy`` array (H, W) or (H, W, 1) of real numbers, in units the file does not say.

    Returns:
        (height, width) float32; 0 where nothing is known: where the file has 0, less, NaN or infinity.
    """
    try:
        values = map_npy(path)
    except MissingFileError as error:
        raise FormatError(f"{path}: no such file. Restore it or remove its frame.") from error
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,)):
        raise FormatError(
            f"{path}: expected rows and columns of depths, got an array {values.shape} of {values.dtype}. Export it "
            "again."
        )
    height, width = values.shape[:2]
    values = values.reshape(height, width)
    _check_depth_shape(path, (width, height), size)
    with np.errstate(over="ignore"):
        depth = _at_centres(values, size).astype(np.float32)
    return torch.from_numpy(np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0)))


def check_depth(path: Path) -> None:
    """Raise FormatError unless ``path`` begins as a depth image or array does."""
    if path.suffix == ".npy":
        try:
            map_npy(path)
        except MissingFileError as error:
            raise FormatError(f"{path}: no such file. Restore it or remove its frame.") from error
    else:
        read_header(path)


def _check_depth_shape(path: Path, came: Size, size: Size) -> None:
    width, height = came
    if abs(width * size[1] - height * size[0]) > 0.02 * width * size[1] + max(width, size[1]) or not width * height:
        raise FormatError(
            f"{path}: is {width}x{height} pixels, expected the shape of its picture, {size[0]}x{size[1]}. "
            "Export it again."
        )


def _at_centres(values: "np.ndarray[Any, np.dtype[Any]]", size: Size) -> "np.ndarray[Any, np.dtype[Any]]":
    """What an array (H, W) has at the centres of ``size``'s pixels."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * (came / wanted)).astype(np.int64)
        for wanted, came in zip(reversed(size), values.shape, strict=True)
    )
    return values[rows[:, None], columns]


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


class _WholeFile(io.BufferedReader):
    """A file of which no more is asked than it holds.

    Decoders ask for as much as a damaged file claims, and Python sets aside as much memory as is asked for.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file's."""
        if size is not None and size > _MUCH:
            size = max(0, min(size, self._size - self.tell()))
        return super().read(size)


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """A picture whose pixels are not decoded yet; all that goes wrong while it is open is a FormatError."""
    from PIL import Image

    with _faults_of(path), _WholeFile(path) as stream, Image.open(stream) as image:
        yield image


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
