"""Files appear whole or not at all: written beside their place under a temporary name, flushed, then renamed.

A reader therefore never sees half a file, and a crash, a full disk or Ctrl-C leaves the previous version in place.
"""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from voxfield.errors import DiskFullError, InputError
from voxfield.storage.urls import url_of

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; on leaving without an exception it replaces ``path`` in one step.

    Folders that lead to ``path`` are made. When the block raises, the temporary file is removed and ``path`` keeps
    what it held.

    Args:
        path: the file to make or replace. Symbolic links are replaced, not followed.

    Yields:
        A path in the same folder, not yet existing. Its name does not end like ``path``: name the format to writers
        that guess it from the ending.

    Raises:
        InputError: ``path`` is a URL. Calls that take those hand on paths, see `voxfield.storage.remote.published`.
        DiskFullError: there is no room for the file.
        OSError: the folder cannot be made or written to.
    """
    url = url_of(path)
    if url is not None:
        # A path made of it would quietly be a local folder of that name.
        raise InputError(f"{url}: this call writes to this machine only. Write to a path, and copy the file there.")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps globs such as *.png from meeting a file in the making; the uuid keeps two writers apart.
    temporary = target.parent / f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.partial"
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            full = DiskFullError(
                f"{target}: there is no room left on its disk, or in your quota of it. What was there before stays. "
                "Free some, or write to another place."
            )
            full.errno = error.errno
            raise full from error
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace ``path`` by ``content`` as UTF-8 in one step."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON in one step.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
        TypeError: for values JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
