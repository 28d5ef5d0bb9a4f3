"""Structure from motion with COLMAP, on the CPU: features, matches, and the model of cameras and points.

Each step is one run of `voxfield.jobs.colmap_worker`, whose output goes to a log beside the database.
"""

import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import voxfield
from voxfield.errors import MissingExtraError, UnavailableError

Matching = Literal["exhaustive", "sequential"]

NEIGHBOURS: Final = 10
"""Pictures after each one that sequential matching compares it with; then those 16, 32, 64, ... later."""
MOST_ANCHORS: Final = 40
"""Pictures, evenly spread, that sequential matching compares with one another to find where a path closes."""


def require_colmap() -> None:
    """Raise MissingExtraError now, before anything is made, where pycolmap is missing."""
    if importlib.util.find_spec("pycolmap") is None:
        raise MissingExtraError(
            'Placing photographs needs pycolmap. Install it with: pip install "voxfield[photos]" (it has no wheel for '
            "Linux on ARM)."
        )


def pairs_to_match(names: Sequence[str], matching: Matching) -> list[tuple[str, str]]:
    """Pairs of pictures to compare.

    Args:
        names: in the order they were taken.
        matching: ``exhaustive``: all pairs. ``sequential``: each with its next `NEIGHBOURS`, with those 2^k later, and
            up to `MOST_ANCHORS` evenly spread ones with one another. The anchors close loops, for which COLMAP itself
            would want a vocabulary tree, a file to be downloaded.
    """
    count = len(names)
    if matching == "exhaustive":
        chosen = {(i, j) for i in range(count) for j in range(i + 1, count)}
    else:
        steps = [*range(1, NEIGHBOURS + 1), *(2**k for k in range(4, count.bit_length()))]
        chosen = {(i, i + step) for i in range(count) for step in steps if i + step < count}
        anchors = range(0, count, max(math.ceil(count / MOST_ANCHORS), 1))
        chosen |= {(i, j) for i in anchors for j in anchors if i < j}
    return [(names[i], names[j]) for i, j in sorted(chosen)]


def run_colmap(log: Path, command: str, advance: Callable[[int], None], **request: Any) -> dict[str, Any]:
    """Run one command of the worker and return its result.

    Args:
        log: what COLMAP prints is appended to it.
        command: a name of ``colmap_worker.COMMANDS``.
        advance: called with the number of pieces done, as they are.
        request: the command's arguments; paths as text.

    Raises:
        UnavailableError: pycolmap failed or ended; the message names the log.
    """
    package = str(Path(voxfield.__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": package + (os.pathsep + before if before else "")}
    result: dict[str, Any] | None = None
    reason = ""
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [sys.executable, "-m", "voxfield.jobs.colmap_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early; what it said is in the log
                process.stdin.write(json.dumps({"command": command, **request}))
                process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "advance" in answer:
                    advance(answer["advance"])
                result = answer.get("result", result)
                reason = answer.get("error", reason)
        except BaseException:
            process.kill()
            raise
    if result is None:
        why = reason or f"it ended with {process.returncode}"
        raise UnavailableError(f"pycolmap failed at {command}: {why}. Its messages are in {log}.")
    return result
