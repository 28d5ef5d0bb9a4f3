"""What an MP4 tells headsets of its pictures: Google's Spherical Video V2 boxes.

Source: https://github.com/google/spatial-media/blob/master/docs/spherical-video-v2-rfc.md. ``st3d`` says how two eyes
share a frame, ``sv3d`` that frames are equirectangular and which part of the sphere they cover. Both stand in the video
track's sample entry (``moov/trak/mdia/minf/stbl/stsd/avc1``). As that makes ``moov`` longer, media data behind it moves
and so do the offsets of its chunks (``stco``, ``co64``).
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final, Literal

from voxfield.checks import check_choice
from voxfield.errors import FormatError
from voxfield.storage.atomic import replacing

Layout = Literal["mono360", "top-bottom360", "left-right180"]

_STEREO: Final = {"mono360": 0, "top-bottom360": 1, "left-right180": 2}
_QUARTER: Final = 1 << 30
"""A quarter of the sphere's width as a fraction of 32 bits: what a half panorama leaves out on each side."""
_SOURCE: Final = b"Voxfield\0"
_HEADER: Final = 8
_VISUAL_ENTRY_BYTES: Final = 78
"""Of a video's sample entry before the boxes it holds."""
_MOST_MOOV_BYTES: Final = 1 << 28
_INTO: Final = (b"trak", b"mdia", b"minf", b"stbl")


def write_spherical(path: str | os.PathLike[str], layout: Layout) -> None:
    """Add the boxes to an MP4 of one H.264 track, in place; the file is replaced whole or not at all.

    Args:
        path: the file, as `voxfield.render.video.write_video` writes it.
        layout: ``mono360``; ``top-bottom360``, the left eye on top; or ``left-right180``, half panoramas.

    Raises:
        FormatError: it is no such file, or has the boxes already.
    """
    check_choice("layout", layout, _STEREO)
    path = Path(path)
    boxes = _spherical_boxes(layout)
    with path.open("rb") as source:
        size = path.stat().st_size
        top = _top_boxes(source, size, path)
        start, length = next(((at, long) for kind, at, long in top if kind == b"moov"), (-1, 0))
        if start < 0 or length > _MOST_MOOV_BYTES:
            raise FormatError(f"{path}: expected an MP4 file with its index, 'moov', of at most 256 MiB.")
        source.seek(start)
        moov = source.read(length)
        if b"sv3d" in moov:
            raise FormatError(f"{path}: has spherical metadata already.")
        with replacing(path) as temporary, temporary.open("wb") as target:
            source.seek(0)
            _copy(source, target, start)
            target.write(_with_boxes(moov, boxes, start, path))
            source.seek(start + length)
            _copy(source, target, size - start - length)


def _spherical_boxes(layout: Layout) -> bytes:
    side = _QUARTER if layout == "left-right180" else 0
    projection = _box(
        b"proj",
        _full_box(b"prhd", struct.pack(">3i", 0, 0, 0)) + _full_box(b"equi", struct.pack(">4I", 0, 0, side, side)),
    )
    return _full_box(b"st3d", bytes([_STEREO[layout]])) + _box(b"sv3d", _full_box(b"svhd", _SOURCE) + projection)


def _with_boxes(moov: bytes, boxes: bytes, start: int, path: Path) -> bytes:
    """``moov`` with ``boxes`` in its video's sample entry, and chunks behind it found where they then are."""
    fault = FormatError(f"{path}: expected an MP4 file with one H.264 video track.")
    grown = bytearray(moov)
    parents, at, end = [0], _HEADER, len(moov)
    for kind in _INTO:
        at, end = _child(moov, at, end, kind, fault)
        parents.append(at - _HEADER)
    tables = at, end
    at, end = _child(moov, at, end, b"stsd", fault)
    parents.append(at - _HEADER)
    # A version, flags and a count stand before the entries.
    at, end = _child(moov, at + 8, end, b"avc1", fault)
    parents.append(at - _HEADER)
    for kind, width in ((b"stco", "I"), (b"co64", "Q")):
        try:
            first, last = _child(moov, *tables, kind, fault)
        except FormatError:
            continue
        count = struct.unpack_from(">I", moov, first + 4)[0]
        if first + 8 + count * struct.calcsize(width) > last:
            raise fault
        offsets = struct.unpack_from(f">{count}{width}", moov, first + 8)
        moved = [offset + len(boxes) if offset > start else offset for offset in offsets]
        struct.pack_into(f">{count}{width}", grown, first + 8, *moved)
    for parent in parents:
        struct.pack_into(">I", grown, parent, struct.unpack_from(">I", moov, parent)[0] + len(boxes))
    return bytes(grown[:end]) + boxes + bytes(grown[end:])


def _child(data: bytes, start: int, end: int, kind: bytes, fault: FormatError) -> tuple[int, int]:
    """Where the content of the first box of a kind within [start, end) begins and ends."""
    at = start
    while at + _HEADER <= end:
        size, found = struct.unpack_from(">I4s", data, at)
        if size < _HEADER or at + size > end:
            raise fault
        if found == kind:
            return at + _HEADER, at + size
        at += size
    raise fault


def _top_boxes(source: BinaryIO, size: int, path: Path) -> list[tuple[bytes, int, int]]:
    """(kind, start, length) of the file's boxes."""
    boxes, at = [], 0
    while at + _HEADER <= size:
        source.seek(at)
        length, kind = struct.unpack(">I4s", source.read(_HEADER))
        if length == 1:
            length = struct.unpack(">Q", source.read(8))[0]
        elif length == 0:
            length = size - at
        if length < _HEADER or at + length > size:
            raise FormatError(f"{path}: expected an MP4 file; it is cut short or damaged at byte {at}.")
        boxes.append((kind, at, length))
        at += length
    return boxes


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0:
        part = source.read(min(count, 1 << 20))
        if not part:
            return
        target.write(part)
        count -= len(part)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", _HEADER + len(content), kind) + content


def _full_box(kind: bytes, content: bytes) -> bytes:
    """A box that begins with its version and flags, all zero."""
    return _box(kind, bytes(4) + content)
