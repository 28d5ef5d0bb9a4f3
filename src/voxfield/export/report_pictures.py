"""Pictures and videos of a run as data URIs, made small enough to live inside a page."""

import base64
import io
import warnings
from pathlib import Path

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
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # A huge picture is worth no more than a broken one here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    if picture.width > PANEL_WIDTH:
        height = max(round(picture.height * PANEL_WIDTH / picture.width), 1)
        picture = picture.resize((PANEL_WIDTH, height), Image.Resampling.LANCZOS)
    kind, content = "jpeg", _encode(picture, "JPEG", quality=88, optimize=True)
    if picture.width * picture.height <= _FEW_PIXELS:
        lossless = _encode(picture, "PNG", optimize=True)
        if len(lossless) <= len(content):
            kind, content = "png", lossless
    return _data_uri(f"image/{kind}", content) if len(content) <= budget else None


def embed_video(path: Path, budget: int) -> str | None:
    """An MP4 file as a data URI, or None when it is missing, empty or larger than ``VIDEO_BYTES`` or the budget."""
    try:
        size = path.stat().st_size
        if not 0 < size <= min(VIDEO_BYTES, budget):
            return None
        return _data_uri("video/mp4", path.read_bytes())
    except OSError:
        return None


def _encode(picture: object, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)  # type: ignore[attr-defined]
    return stream.getvalue()


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
