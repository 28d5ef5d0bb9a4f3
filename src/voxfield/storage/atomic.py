"""Files, and folders of them, appear whole or not at all: written beside their place under a temporary name, flushed,
then renamed.

A reader therefore never sees half a file, and a crash, a full disk or Ctrl-C leaves the previous version in place.

A process that is killed cannot remove what it was writing. Temporary names therefore say whose they are, and the first
file that a process writes into a folder removes those there whose process is gone.
"""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from voxfield.errors import DiskFullError, InputError, VoxfieldError
from voxfield.storage.urls import url_of

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_LEAST_FREE: Final = 1 << 16
"""Bytes below which a disk is full."""
_TEMPORARY: Final = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.partial.*")


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
    temporary = temporary_beside(target)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException as error:
        # Asked while what filled the disk is there.
        is_full = _says_full(error, target.parent)
        temporary.unlink(missing_ok=True)
        if is_full:
            full = DiskFullError(
                f"{target}: there is no room left on its disk, or in your quota of it. What was there before stays. "
                "Free some, or write to another place."
            )
            full.errno = getattr(error, "errno", None) or errno.ENOSPC
            raise full from error
        raise


def _says_full(error: BaseException, folder: Path) -> bool:
    """Whether an error of writing to ``folder`` is that of a full disk: libraries have errors of their own for it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    if not isinstance(error, Exception) or isinstance(error, VoxfieldError):
        return False
    try:
        return shutil.disk_usage(folder).free < _LEAST_FREE
    except OSError:
        return False


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on leaving without an exception it becomes ``target``, else it is removed.

    Raises:
        InputError: ``target`` is there, and not an empty folder.
        OSError: it cannot be made or written to.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: exists already. Name a new or empty folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = temporary_beside(target)
    try:
        work.mkdir()
        yield work
        if target.exists():
            target.rmdir()
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def temporary_beside(target: Path) -> Path:
    """A name for what becomes ``target``, in its folder, which is there. What killed processes left is removed."""
    _remove_abandoned(target.parent.absolute(), os.getpid())
    # A leading dot keeps globs such as *.png from meeting a file in the making; the last part keeps threads apart. Of
    # a long name, in whatever script, only so much that the file system takes what is added.
    own = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return target.parent / f".{target.name[:50]}.{own}.partial"


@functools.lru_cache(maxsize=1024)
def _remove_abandoned(folder: Path, process: int) -> None:
    """Remove temporary files of processes of this machine that are gone; once in each folder that ``process`` writes
    to, as looking through a folder for every file in it would take as long as writing them.
    """
    if sys.platform == "win32":
        # There os.kill is no question.
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or found["machine"] != _machine() or int(found["process"]) == process:
                continue
            try:
                os.kill(int(found["process"]), 0)
            except ProcessLookupError:
                _remove(Path(entry.path))
            except (OSError, OverflowError):
                continue


def _remove(path: Path) -> None:
    # What stands for a folder, such as an array in chunks, is one.
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Where process numbers mean what they do here: the same folder may be another machine's, or a container's, too."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Replace ``path`` by ``content`` as UTF-8 in one step."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Replace ``path`` by ``value`` as JSON in one step.

    Args:
        path: the file.
        value: what it will hold.
        indent: of each level; None: one line, which takes a fifth of the time where there are 100,000 entries.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
        TypeError: for values JSON does not have.
    """
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")
