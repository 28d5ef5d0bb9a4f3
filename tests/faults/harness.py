"""Jobs that are killed at random moments and started again, until they are done.

A warm parent (``Nursery``) has imported everything, and forks a child for each call of the command line: a second saved
each time, of hundreds. The moment of a kill is counted in processor time of the job and all its processes, so that a
busy machine does not move all of them to the beginning.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MOST_SECONDS = 900.0
"""Wall-clock seconds that a job may take on however busy a machine."""


@dataclass
class Call:
    """A call of the command line, in a process group of its own."""

    process: int
    log: Path
    _ended: Callable[[], int | None]

    def wait(self) -> int:
        """Its exit code; negative for a signal."""
        limit = time.monotonic() + MOST_SECONDS
        while (code := self._ended()) is None:
            if time.monotonic() > limit:
                self.kill()
                raise AssertionError(f"the job hangs; it said:\n{self.said()[-2000:]}")
            time.sleep(0.02)
        return code

    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._ended() is not None

    def kill(self) -> None:
        """Kill -9 its whole process group, and wait until all of it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        limit = time.monotonic() + MOST_SECONDS
        while self._ended() is None or group(self.process):
            assert time.monotonic() < limit, "a killed process does not go away"
            time.sleep(0.02)

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")


def group(process: int) -> list[int]:
    """The living processes of a group, wherever they hang in the tree."""
    found = []
    for entry in Path("/proc").iterdir():
        fields = _state(entry.name) if entry.name.isdigit() else []
        if fields and int(fields[2]) == process and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def seconds_used(process: object) -> float:
    """Processor seconds of a process and those below it. Reads their few files only: it is asked often."""
    fields = _state(process)
    below = 0.0
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            below += sum(map(seconds_used, (thread / "children").read_text().split()))
    return below + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else below


def _state(process: object) -> list[str]:
    """A process's ``stat`` from its state on; nothing for one that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Nursery:
    """The warm parent. Use in a ``with`` statement."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._calls = folder, 0
        self._parent = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )
        self._ask({})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()

    def call(self, *arguments: object, **place: object) -> Call:
        """Start ``voxfield ARGUMENTS``; ``cwd`` is where."""
        self._calls += 1
        log = self._folder / f"call-{self._calls}.txt"
        order = {"arguments": [str(one) for one in arguments], "log": str(log), **place}
        process = self._ask(order)
        return Call(process=process, log=log, _ended=lambda: self._ask({"ended": process}))

    def _ask(self, order: dict) -> int | None:
        self._parent.stdin.write(json.dumps(order) + "\n")
        answer = self._parent.stdout.readline()
        assert answer, "the nursery is gone"
        return json.loads(answer)


def nurse() -> None:
    """What the warm parent does: fork a child for each order, and say how children ended."""
    import numba  # noqa: F401
    import torch  # noqa: F401

    import voxfield
    from voxfield.cli.__main__ import main

    for name in voxfield.__all__:
        getattr(voxfield, name)
    voice = os.fdopen(os.dup(1), "w", buffering=1)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "ended" in order:
            process = order["ended"]
            if process not in ended:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    ended[process] = os.waitstatus_to_exitcode(status)
            voice.write(json.dumps(ended.get(process)) + "\n")
        elif "arguments" in order:
            process = os.fork()
            if process == 0:
                _be_child(order, main)
            voice.write(json.dumps(process) + "\n")
        else:
            voice.write(json.dumps(0) + "\n")


def _be_child(order: dict, main: Callable[[list[str]], int]) -> None:
    os.setpgid(0, 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, opened in enumerate((nothing, log, log)):
        os.dup2(opened, number)
    code = 1
    try:
        if "cwd" in order:
            os.chdir(order["cwd"])
        code = main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # As a process of its own ends: with what is registered for that, such as ending pools.
        import multiprocessing.util

        multiprocessing.util._exit_function()
        os._exit(code)


# ---------------------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """Something that may be killed and started again."""

    name: str
    arguments: Callable[[Path], list[object]]
    """Of the command line, for the given folder of results: asked again before each call."""
    same: Callable[[Path, Path], None]
    """Raises AssertionError unless two folders of results are as they should be: the second one was never disturbed."""
    whole: Callable[[Path], None] = lambda folder: None
    """Raises AssertionError unless what is in the folder, after a kill, can be used or continued."""
    prepare: Callable[[Path], None] = lambda folder: folder.mkdir()
    """Makes the folder of results as it is before the first call."""


@dataclass
class Record:
    """What a campaign did."""

    kills: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        """In Markdown."""
        rows = [f"| {name} | {kills} | {self.rounds[name]} |" for name, kills in self.kills.items()]
        total = f"| all | {sum(self.kills.values())} | {sum(self.rounds.values())} |"
        return "\n".join(["| job | kills | runs brought to their end |", "|---|--:|--:|", *rows, total])


def torment(nursery: Nursery, job: Job, folder: Path, *, kills: int, seed: int, record: Record) -> None:
    """Kill a job ``kills`` times in all, in rounds of one to four, each then brought to its end and compared."""
    draw = random.Random(f"{job.name} {seed}")
    undisturbed = folder / f"{job.name}-undisturbed"
    job.prepare(undisturbed)
    needed = _finish(nursery, job, undisturbed)
    record.kills.setdefault(job.name, 0)
    record.rounds.setdefault(job.name, 0)
    done = number = 0
    while done < kills:
        results = folder / f"{job.name}-{seed}-{number}"
        job.prepare(results)
        for _ in range(min(draw.choice((1, 1, 2, 4)), kills - done)):
            if not _killed(nursery, job, results, draw.uniform(0.0, 1.05 * needed), draw.uniform(0.0, 0.01)):
                break
            done += 1
            record.kills[job.name] += 1
            job.whole(results)
        _finish(nursery, job, results)
        job.same(results, undisturbed)
        record.rounds[job.name] += 1
        number += 1


def _finish(nursery: Nursery, job: Job, results: Path) -> float:
    """Call a job until it says that it is done, without disturbing it; returns the processor seconds it took."""
    call = nursery.call(*job.arguments(results))
    used = 0.0
    while not call.is_done():
        used = max(used, seconds_used(call.process))
        time.sleep(0.02)
    assert call.wait() == 0, call.said()
    return used


def _killed(nursery: Nursery, job: Job, results: Path, after: float, then: float) -> bool:
    """Kill a job once it has used ``after`` seconds of processors and ``then`` of time; False if it ended before."""
    call = nursery.call(*job.arguments(results))
    limit = time.monotonic() + MOST_SECONDS
    while not call.is_done() and seconds_used(call.process) < after:
        assert time.monotonic() < limit, "the job hangs"
        time.sleep(0.01)
    time.sleep(then)
    ended = call.is_done()
    call.kill()
    assert not ended or call.wait() == 0, call.said()
    return not ended


if __name__ == "__main__":
    assert sys.argv[1:] == ["--nursery"]
    nurse()
