"""Reading a run's ``log.jsonl``: one JSON object a line, in the order things happened.

The kinds of line are ``start`` (recipe, data, seed, device, machine), ``train``, ``eval``, ``event`` and ``end``.
``voxfield.training.log`` writes them; reports and other readers use this module.
"""

import json
import os
from pathlib import Path
from typing import Any

from voxfield.errors import FormatError, MissingFileError

LOG_NAME = "log.jsonl"


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the lines of a log, also while a run is still writing it.

    A line that is not a JSON object is left out: a run that was killed may have cut one short.

    Args:
        path: a run directory or its ``log.jsonl``.

    Returns:
        One dictionary a line, in file order. Empty for an empty file.

    Raises:
        MissingFileError: when there is no such file.
        FormatError: when the file has content but no line of it can be read.
    """
    file = Path(path)
    if file.is_dir():
        file = file / LOG_NAME
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{file}: expected the log of a run, but there is no such file.") from None
    # errors="replace": a cut multi-byte character must not hide the lines before it.
    lines = content.decode("utf-8", errors="replace").split("\n")
    entries = [entry for line in lines if (entry := _parse(line)) is not None]
    if not entries and content.strip():
        raise FormatError(f"{file}: expected one JSON object a line, but no line can be read. Is it a log of a run?")
    return entries


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
