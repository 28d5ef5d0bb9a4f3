"""Which places are URLs."""

import os
import re
from typing import Final

_URL: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_FLATTENED: Final = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss|https?|memory|file|sftp|hdfs):/(?=[^/])")
"""What `Path` makes of a URL."""


def url_of(place: object) -> str | None:
    """The URL that a place is; None of a path on this machine, and of what is no place at all."""
    if not isinstance(place, str | os.PathLike):
        return None
    text = os.fspath(place)
    if not isinstance(text, str):
        return None
    text = _FLATTENED.sub(r"\1://", text, count=1) if _FLATTENED.match(text) else text
    return text if _URL.match(text) else None
