"""One writer at a time: a folder that a job builds up is held for it, and a second job is told so before it touches it.

The operating system holds the lock and lets go of it however a process ends, so that none is left behind by one that
was killed, and no file says that somebody writes. File systems and systems without such locks on folders (Windows, some
network file systems) have none: two jobs are then kept apart by nothing.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from voxfield.errors import InputError

_TAKEN: Final = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for the block. It is made when absent, and removed again when the block leaves it empty.

    Raises:
        InputError: another process, or another thread of this one, writes to it; or it is a file.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file. Name a folder.") from error
    except NotADirectoryError as error:
        raise InputError(f"{folder}: lies in a file. Name a folder elsewhere.") from error
    held = _lock(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        if held is not None:
            os.close(held)


def _lock(folder: Path) -> int | None:
    """The open, locked folder; None where folders cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if error.errno in _TAKEN:
            raise InputError(
                f"{folder}: another process is writing there. Wait until it is done, or name another folder."
            ) from error
        return None
    return held
