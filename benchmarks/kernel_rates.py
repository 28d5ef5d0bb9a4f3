"""``kernels``: how many points, rays or rows a second each operation does, after its tests have passed."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import registry
from measuring import Timing, time_call

ROOT = Path(__file__).resolve().parent.parent


class TestsFailedError(Exception):
    """The operation is not right, so its speed says nothing."""


def run_tests(ops: Sequence[str]) -> None:
    """Run the tests of ``ops``.

    Raises:
        TestsFailedError: some failed, or an operation has none.
    """
    files = [ROOT / "tests" / "kernels" / f"test_{op}.py" for op in ops]
    missing = [str(file.relative_to(ROOT)) for file in files if not file.is_file()]
    if missing:
        raise TestsFailedError(f"There is no {', '.join(missing)}: write it, or measure with --no-tests.")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *map(str, files)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise TestsFailedError("The tests failed, so nothing was measured. Mend them, or measure with --no-tests.")


def measure(ops: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Measure every case of ``ops``, printing a line for each.

    Returns:
        One row a case: op, case, variant, unit, count, and the fields of `Timing`.
    """
    rows = []
    for case in registry.cases():
        if case.op not in ops:
            continue
        with case.surroundings():
            prepared = case.prepare()
            timing = time_call(prepared.call, before=prepared.before, seconds=seconds)
        rows.append(row(case, timing))
        rate = case.count / timing.median / 1e6
        print(f"{case.op:20} {case.case:42} {case.variant:40} {rate:9.2f} M {case.unit}/s", flush=True)
    return rows


def row(case: registry.Case, timing: Timing) -> dict[str, Any]:
    """What the results file keeps of one case."""
    about = {name: getattr(case, name) for name in ("op", "case", "variant", "unit", "count")}
    return {**about, **dataclasses.asdict(timing)}
