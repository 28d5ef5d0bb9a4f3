"""Files that a person names: one by one, by folder or by pattern."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from voxfield.errors import InputError, MissingFileError


def named_files(
    sources: Sequence[str | Path], accepts: Callable[[Path], bool], *, unnamed: str, unknown: str, absent: str
) -> list[Path]:
    """The files that are named: files, folders (looked through, subfolders too) and patterns such as ``a/*.stl``.

    Args:
        sources: what is named.
        accepts: whether a path is one of the files that are wanted, by its name.
        unnamed: what to say where ``sources`` is empty.
        unknown: what to say, after its path, of a file that is named and not accepted.
        absent: what to say, after its name, of a folder or pattern without such files.

    Returns:
        Each file once, those of a folder or pattern sorted by path.

    Raises:
        MissingFileError: a path that does not exist, or a pattern or folder without such files.
        InputError: nothing named, or a file that is not accepted.
    """
    if not sources:
        raise InputError(unnamed)
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if accepts(one) and one.is_file())
        elif path.exists():
            if not accepts(path):
                raise InputError(f"{path}: {unknown}")
            files = [path]
        elif any(sign in str(source) for sign in "*?["):
            # glob.glob, as Path.glob takes no absolute patterns.
            files = sorted(Path(one) for one in glob.glob(str(source), recursive=True) if accepts(Path(one)))  # noqa: PTH207
        else:
            raise MissingFileError(f"{path}: no such file or folder.")
        if not files:
            raise MissingFileError(f"{source}: {absent}")
        found.update(dict.fromkeys(files))
    return list(found)
