"""Reading a file's bytes in order, never past their end."""

import struct
from pathlib import Path
from typing import Any

from voxfield.errors import VolumeFormatError


class CutShortError(VolumeFormatError):
    """Bytes end before what they announce does."""


class Cursor:
    """Walks through bytes; whatever would go past their end raises, so that no count in a file is believed unchecked.

    Args:
        raw: the bytes.
        path: the file they come from, for messages.
        start: where in the file they begin, for messages.
    """

    def __init__(self, raw: bytes, path: Path, start: int = 0) -> None:
        self.raw = raw
        self.path = path
        self.start = start
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self.raw) - self.at

    def require(self, count: int, item_bytes: int, what: str) -> None:
        """Raise unless ``count`` items of at least ``item_bytes`` each can still follow."""
        if count < 0 or count * item_bytes > self.left:
            raise CutShortError(self._message(f"{count:,} {what} cannot follow in {self.left:,} bytes"))

    def skip(self, count: int) -> int:
        """Step over ``count`` bytes and return where they begin in ``raw``."""
        begin = self.at
        if not 0 <= count <= len(self.raw) - begin:
            raise CutShortError(self._message("it ends too soon"))
        self.at = begin + count
        return begin

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        begin = self.skip(count)
        return self.raw[begin : self.at]

    def unpack(self, form: str) -> tuple[Any, ...]:
        """The next values of a little-endian `struct` format."""
        begin = self.skip(struct.calcsize("<" + form))
        return struct.unpack_from("<" + form, self.raw, begin)

    def text(self) -> str:
        """A text after its length. Bytes that are not UTF-8 survive a round trip."""
        (length,) = self.unpack("I")
        self.require(length, 1, "bytes of text")
        return self.take(length).decode("utf-8", "surrogateescape")

    def fault(self, detail: str) -> VolumeFormatError:
        """The error for what was found here."""
        return VolumeFormatError(self._message(detail))

    def _message(self, detail: str) -> str:
        at = self.start + self.at
        return f"{self.path}: cut short or damaged at byte {at:,} ({detail}). Copy or export it again."


def packed_text(text: str) -> bytes:
    """A text with its length before it: the inverse of `Cursor.text`."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(raw)) + raw
