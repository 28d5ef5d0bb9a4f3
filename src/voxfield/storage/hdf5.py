"""Reading HDF5 files of others: what is damaged is said in one way, and nothing leads to another file."""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from voxfield.errors import FormatError, MissingFileError, VoxfieldError

_HEAP: Final = b"GCOL"
"""What a heap of values of any length begins with: the signature, version (1 byte), 3 bytes, its length (8 bytes)."""
_HEAP_ENTRY: Final = struct.Struct("<HHIQ")
"""Before each value of a heap: its number, 0 for what is free; references; nothing; its length."""


@contextmanager
def hdf5_faults(name: object, advice: str) -> Iterator[None]:
    """Turn what the library raises inside into errors about ``name``, which end with ``advice``.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is damaged or cut short.
    """
    try:
        yield
    except VoxfieldError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{name}: no such file.") from error
    except MemoryError as error:
        raise FormatError(f"{name}: needs more memory than there is; is it damaged?") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        said = " ".join(str(error).split())[:150] or type(error).__name__
        raise FormatError(f"{name}: cannot be read ({said}): it is damaged or half-written. {advice}") from error


def item_inside(path: Path, file: Any, name: str) -> Any:
    """A dataset or group, if it lies in this file and nowhere else.

    Raises:
        FormatError: there is none of that name, or it leads to another file.
    """
    import h5py

    walked = file
    for part in name.strip("/").split("/"):
        if not isinstance(walked, h5py.Group) or part not in walked:
            raise FormatError(f"{path}: holds no {name!r}.")
        if isinstance(walked.get(part, getlink=True), h5py.ExternalLink):
            raise FormatError(f"{path}: {name!r} is a link to another file, which is not followed. Copy it in.")
        walked = walked[part]
    if isinstance(walked, h5py.Dataset) and (walked.external or walked.is_virtual):
        raise FormatError(f"{path}: {name!r} lies in other files, which are not read. Copy it in.")
    return walked


def check_heaps(path: Path) -> None:
    """Look at the heaps in which a file keeps values of any length, before the library does.

    Free room without a length keeps the library (HDF5 2.0) in a loop that nothing ends, of which no file that it wrote
    has any. Where heaps lie is known to the library alone: whatever begins like one is looked at.

    Raises:
        FormatError: a heap like that.
    """
    size = path.stat().st_size
    steps = size  # Heaps do not overlap; of a file in which they do, more would be looked at than it has bytes.
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap = content.find(_HEAP)
        while heap >= 0 and heap + 16 <= size:
            at, end = heap + 16, min(heap + int.from_bytes(content[heap + 8 : heap + 16], "little"), size)
            while at + _HEAP_ENTRY.size <= end:
                number, _, _, length = _HEAP_ENTRY.unpack_from(content, at)
                step = length if number == 0 else _HEAP_ENTRY.size + (length + 7) // 8 * 8
                steps -= 1
                if step == 0 or steps < 0:
                    raise FormatError(f"{path}: its heap of texts is damaged. Copy the file again, or make it anew.")
                at += step
            heap = content.find(_HEAP, heap + 1)
