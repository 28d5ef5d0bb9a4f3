"""The mutation campaign: thousands of spoiled files, each read in a process that may not grow, hang or reach out.

    python tests/faults/mutations.py --count 100000 --table campaign.md

A file is read, or refused with a `VoxfieldError`: anything else is a finding. A worker reads file after file and says
how each went; the supervisor sees it die or stand still, notes that, and starts another one at the next file. Every
file follows from its number, so that a finding can be had again: ``--only FORMAT/NAME --first N --count 1 --keep DIR``.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MOST_SECONDS = 5.0
"""Processor time that reading a file of a few kilobytes may take."""
MOST_SILENCE = 600.0
"""Wall-clock seconds without a sign of life, on however busy a machine."""
MOST_BYTES = 1 << 30
"""Address space that a worker may take beyond what it has when all its readers are loaded."""
HOME = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Finding:
    """A file that was neither read nor refused."""

    specimen: str
    number: int
    kind: str
    """``exception``, ``crash``, ``hang``, ``memory``, ``escape``."""
    said: str


@dataclass
class Tally:
    """How it went."""

    read: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def table(self) -> str:
        """One row a format, in Markdown."""
        lines = ["| format | files | read | refused | findings |", "|---|--:|--:|--:|--:|"]
        found = Counter(finding.specimen.split("/")[0] for finding in self.findings)
        rows = [(name, self.read[name], self.refused[name], found[name]) for name in {**self.read, **self.refused}]
        rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
        lines += [
            f"| {name} | {sum(counts):,} | " + " | ".join(f"{n:,}" for n in counts) + " |" for name, *counts in rows
        ]
        return "\n".join(lines)


def spoiled(specimen, raw: bytes, number: int) -> bytes:
    """File ``number`` of a specimen."""
    return specimen.spoil(raw, random.Random(f"{specimen.format}/{specimen.name}/{number}"))


# --------------------------------------------------------------------------------------------------------------- worker


class _Hang(BaseException):
    """Raised where a reader uses too much processor time; no reader catches it."""


class _Escape(BaseException):
    """Raised where a reader reaches for what is not its own."""


class _Watch:
    """Sees what the readers open, run and remove."""

    FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class", "socket.connect")

    def __init__(self, outside: Path) -> None:
        self.outside, self.on = str(outside), False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in self.FORBIDDEN:
            raise _Escape(f"{event} {arguments[:2]}")
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0])) if b"\0" not in os.fsencode(arguments[0]) else ""
            if path.startswith(self.outside) or path == "/etc/passwd":
                raise _Escape(f"opened {path}")


def work() -> None:
    """Read orders (specimen, first, stop) from stdin, spoil and read, and say on stdout how each went."""
    orders = [json.loads(line) for line in sys.stdin]
    voice = os.fdopen(os.dup(1), "w", buffering=1)
    # Libraries print what they think of a file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()
    sys.path.insert(0, str(HOME))
    import warnings

    import specimens

    warnings.simplefilter("ignore")
    sandbox = Path(tempfile.mkdtemp(prefix="mutations-", dir=sys.argv[2]))
    outside = sandbox / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (outside / "a.mtl").write_text("newmtl stone\n")
    watch = _Watch(outside)
    signal.signal(signal.SIGPROF, _hang)
    ready = []
    for number, order in enumerate(orders):
        specimen = next(one for one in specimens.SPECIMENS if f"{one.format}/{one.name}" == order["specimen"])
        home = sandbox / f"{number}"
        home.mkdir()
        path = specimen.write(home)
        raw = path.read_bytes()
        # Unwatched once: kernels are compiled, or come from Numba's own cache, which is pickled.
        with contextlib.suppress(Exception):
            specimen.read(path)
        outcome, said = _read(specimen, path, watch)
        if outcome != ("refused" if specimen.refused else "read"):
            voice.write(json.dumps([order["specimen"], -1, "exception", f"the good file: {outcome} {said}"]) + "\n")
        ready.append((specimen, order, path, raw))
    # Now that every reader is loaded: what it takes from here on is a file's doing.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MOST_BYTES, resource.RLIM_INFINITY))
    for specimen, order, path, raw in ready:
        for number in range(order["first"], order["stop"]):
            voice.write(json.dumps([order["specimen"], number, "begun", ""]) + "\n")
            path.write_bytes(spoiled(specimen, raw, number))
            before = _names(sandbox, outside)
            outcome, said = _read(specimen, path, watch)
            if _names(sandbox, outside) != before:
                outcome, said = "escape", "files were made or removed outside"
            voice.write(json.dumps([order["specimen"], number, outcome, said]) + "\n")
        path.write_bytes(raw)
    shutil.rmtree(sandbox)
    voice.write(json.dumps(["", 0, "done", ""]) + "\n")


def _names(*folders: Path) -> list[set[str]]:
    return [{path.name for path in folder.iterdir()} for folder in folders]


def _hang(signum, frame) -> None:
    raise _Hang("".join(traceback.format_stack(frame)[-3:]))


def _read(specimen, path: Path, watch: _Watch) -> tuple[str, str]:
    """Read a file; returns what became of it, and what is to be said of that."""
    from voxfield.errors import VoxfieldError

    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    watch.on = True
    try:
        specimen.read(path)
    except VoxfieldError as error:
        lacking = any(isinstance(one, MemoryError) for one in _causes(error))
        return ("memory", _trace(error)) if lacking else ("refused", str(error)[:200])
    except MemoryError as error:
        return "memory", _trace(error)
    except _Hang as error:
        return "hang", str(error)
    except _Escape as error:
        return "escape", _trace(error)
    except Exception as error:  # noqa: BLE001  (what is looked for)
        return "exception", _trace(error)
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", ""


def _causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _trace(error: BaseException) -> str:
    """The error, and the innermost of our lines that it passed."""
    ours = [entry for entry in traceback.extract_tb(error.__traceback__) if "voxfield" in entry.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


# ----------------------------------------------------------------------------------------------------------- supervisor


def campaign(orders: list[tuple[str, int, int]], folder: Path, *, say=lambda text: None) -> Tally:
    """Read the files of ``orders`` (specimen, first, stop), with as many workers, one after another, as it takes."""
    tally = Tally()
    left = list(orders)
    while left:
        left = _one_worker(left, folder, tally, say)
    return tally


def _one_worker(orders, folder: Path, tally: Tally, say) -> list[tuple[str, int, int]]:
    """Have one worker read until it is done or lost; returns what is left."""
    complaints = folder / "complaints.txt"
    with complaints.open("w") as stderr:
        worker = subprocess.Popen(
            [sys.executable, str(HOME / "mutations.py"), "--worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    listed = [{"specimen": name, "first": first, "stop": stop} for name, first, stop in orders]
    worker.stdin.write("".join(json.dumps(order) + "\n" for order in listed))
    worker.stdin.close()
    at = None
    try:
        while True:
            line = _line(worker, reading=at is not None)
            if line is None:
                finding, left = _lost(worker, at, orders, complaints)
                _note(finding, tally, say)
                return left
            name, number, outcome, said = json.loads(line)
            if outcome == "done":
                return []
            if outcome == "begun":
                at = name, number
                continue
            counter = {"read": tally.read, "refused": tally.refused}.get(outcome)
            if counter is not None:
                counter[name.split("/")[0]] += 1
            else:
                _note(Finding(name, number, outcome, said), tally, say)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def _line(worker: subprocess.Popen, *, reading: bool) -> str | None:
    """What the worker says next; None when it is dead, or stands still and is killed.

    Before its first file it may have kernels to compile, which takes as long as it takes.
    """
    waited, used = 0.0, _cpu_seconds(worker.pid)
    while not select.select([worker.stdout], [], [], 1.0)[0]:
        waited += 1.0
        too_long = reading and _cpu_seconds(worker.pid) - used > 12 * MOST_SECONDS
        if worker.poll() is None and (too_long or waited > MOST_SILENCE):
            worker.kill()
            worker.returncode = -signal.SIGALRM
            return None
    return worker.stdout.readline() or None


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lost(worker, at, orders, complaints: Path) -> tuple[Finding, list[tuple[str, int, int]]]:
    """How a worker ended, and what is left to read after the file that ended it."""
    code = worker.returncode if worker.returncode is not None else worker.wait()
    said = complaints.read_text(errors="replace")
    if at is None:
        raise RuntimeError(f"a worker ended with {code} before it read anything:\n{said[-3000:]}")
    name, number = at
    ours = [line.strip() for line in said.splitlines() if "voxfield/" in line]
    kind = "hang" if code == -signal.SIGALRM else "crash"
    finding = Finding(name, number, kind, f"ended with {code}; {' '.join(ours[:2])}")
    names = [order[0] for order in orders]
    place = names.index(name)
    rest = [(name, number + 1, orders[place][2])] if number + 1 < orders[place][2] else []
    return finding, rest + list(orders[place + 1 :])


def _note(finding: Finding, tally: Tally, say) -> None:
    tally.findings.append(finding)
    say(f"{finding.specimen} #{finding.number} {finding.kind}: {finding.said}")


def orders_for(count: int, *, only: str = "", first: int = 0) -> list[tuple[str, int, int]]:
    """About ``count`` files in all, as many of each format, shared out over its specimens."""
    sys.path.insert(0, str(HOME))
    import specimens

    chosen = [one for one in specimens.SPECIMENS if f"{one.format}/{one.name}".startswith(only)]
    formats = Counter(one.format for one in chosen)
    each = count / len(formats)
    return [(f"{one.format}/{one.name}", first, first + max(1, round(each / formats[one.format]))) for one in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files in all")
    parser.add_argument("--only", default="", help="specimens whose format/name begins with this")
    parser.add_argument("--first", type=int, default=0, help="number of the first file of each specimen")
    parser.add_argument("--table", type=Path, help="file for the table of results")
    parser.add_argument("--keep", type=Path, help="folder to write the spoiled files to instead of reading them")
    options = parser.parse_args()
    orders = orders_for(options.count, only=options.only, first=options.first)
    if options.keep is not None:
        import specimens

        for name, first, stop in orders:
            specimen = next(one for one in specimens.SPECIMENS if f"{one.format}/{one.name}" == name)
            for number in range(first, stop):
                home = options.keep / name.replace("/", "-").replace(" ", "-") / str(number)
                home.mkdir(parents=True)
                path = specimen.write(home)
                path.write_bytes(spoiled(specimen, path.read_bytes(), number))
                print(path)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(orders, Path(folder), say=lambda text: print(text, flush=True))
    table = tally.table()
    print(f"{table}\n\n{len(tally.findings)} findings, {time.monotonic() - began:.0f} s")
    if options.table is not None:
        options.table.write_text(table + "\n")
    sys.exit(bool(tally.findings))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work()
    else:
        main()
