"""Pictures and videos of a run as data URIs, made small enough to live inside a page."""

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxfield.render.image import SEPARATOR_PIXELS

if TYPE_CHECKING:
    from PIL import Image

PANEL_WIDTH = 1640
"""Widest a panel is embedded, pixels: four pictures of about 400."""

VIDEO_BYTES = 3_000_000
"""Largest video embedded rather than linked."""

_FEW_PIXELS = 300_000


def embed_panel(path: Path, budget: int) -> str | None:
    """A picture as a data URI, at most ``PANEL_WIDTH`` wide, as JPEG, or as PNG where that is smaller.

    Args:
        path: an image file.
        budget: most bytes the encoded picture may have.

    Returns:
        The URI, or None when the file is missing, no image, or does not fit the budget.
    """
    picture = _read(path)
    return None if picture is None else _embed(picture, budget)


def embed_comparison(panel: Path, aligned: Path | None, budget: int) -> str | None:
    """Truth, prediction and error of a panel, and beside them what the aligned camera sees and its error.

    Args:
        panel: a file as `voxfield.render.image.panel` makes it.
        aligned: a file of two pictures of the same height; left out when None, missing or no image.
        budget: as in `embed_panel`.

    Returns:
        As `embed_panel`.
    """
    from PIL import Image

    picture = _read(panel)
    if picture is None:
        return None
    one = (picture.width - 3 * SEPARATOR_PIXELS) // 4
    parts = [picture.crop((0, 0, 3 * one + 2 * SEPARATOR_PIXELS, picture.height))]
    beside = _read(aligned) if aligned is not None else None
    if beside is not None and beside.height == picture.height:
        parts.append(beside)
    width = sum(part.width for part in parts) + SEPARATOR_PIXELS * (len(parts) - 1)
    joined = Image.new("RGB", (width, picture.height), (128, 128, 128))
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width + SEPARATOR_PIXELS
    return _embed(joined, budget)


def embed_video(path: Path, budget: int) -> str | None:
    """An MP4 file as a data URI, or None when it is missing, empty or larger than ``VIDEO_BYTES`` or the budget."""
    try:
        size = path.stat().st_size
        if not 0 < size <= min(VIDEO_BYTES, budget):
            return None
        return _data_uri("video/mp4", path.read_bytes())
    except OSError:
        return None


def _read(path: Path) -> "Image.Image | None":
    """A picture in RGB, or None when the file is missing, no image, or too large to be one."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # A huge picture is worth no more than a broken one here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _embed(picture: "Image.Image", budget: int) -> str | None:
    from PIL import Image

    if picture.width > PANEL_WIDTH:
        height = max(round(picture.height * PANEL_WIDTH / picture.width), 1)
        picture = picture.resize((PANEL_WIDTH, height), Image.Resampling.LANCZOS)
    kind, content = "jpeg", _encode(picture, "JPEG", quality=88, optimize=True)
    if picture.width * picture.height <= _FEW_PIXELS:
        lossless = _encode(picture, "PNG", optimize=True)
        if len(lossless) <= len(content):
            kind, content = "png", lossless
    return _data_uri(f"image/{kind}", content) if len(content) <= budget else None


def _encode(picture: "Image.Image", kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
