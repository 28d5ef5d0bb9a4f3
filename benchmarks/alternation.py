"""Two systems measured in turns: each in a process of its own, one at work while the other waits.

A driver calls ``serve`` with what it can do; ``Driver`` starts it and asks. Questions and answers are lines of JSON on
standard input and on what was standard output; whatever the driver's libraries print goes to standard error. Only the
standard library is used: a driver may run in another environment.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHOWN_BYTES = 2000


class DriverError(RuntimeError):
    """A driver ended before it answered."""


class Driver:
    """A process that does pieces of work when asked.

    Args:
        python: the interpreter of its environment.
        script: its name in this folder.
        order: what to set up, as its ``main`` takes it.
        log: file for what it prints.
    """

    def __init__(self, python: str, script: str, order: Mapping[str, Any], log: Path) -> None:
        self.script, self._log = script, log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [python, str(HERE / script), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def ask(self, question: str, count: int = 0) -> Any:
        """The answer to ``question`` for ``count`` pieces.

        Raises:
            DriverError: it ended instead; with the end of what it printed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([question, count]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words follow
        answer = self._process.stdout.readline()
        if not answer:
            said = self._log.read_text(encoding="utf-8", errors="replace")[-SHOWN_BYTES:]
            raise DriverError(f"{self.script} ended without an answer to {question!r}:\n{said}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def serve(prepare: Callable[[dict[str, Any]], Mapping[str, Callable[[int], Any]]]) -> None:
    """Answer questions until there are no more.

    Args:
        prepare: takes the order of the command line; returns, by question, what to call with the number of pieces.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    known = prepare(json.loads(sys.argv[1]))
    for line in sys.stdin:
        question, count = json.loads(line)
        answers.write(json.dumps(known[question](count)) + "\n")
        answers.flush()
    # Without waiting for worker processes of libraries, which may not end.
    os._exit(0)


def in_turns(drivers: Sequence[Driver], question: str, *, rounds: int, count: int) -> list[list[Any]]:
    """Every driver's answers: a round of the first, one of the second, and again."""
    answers: list[list[Any]] = [[] for _ in drivers]
    for _ in range(rounds):
        for driver, own in zip(drivers, answers, strict=True):
            own.append(driver.ask(question, count))
    return answers
