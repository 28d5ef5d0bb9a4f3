"""Timing a call, and describing the machine it ran on.

On a machine that others use too, one number misleads: the *median* says what a caller gets, the *best* what the code
can do, and the *processor time* tells waiting from working. All three are kept, beside the load of the machine.
"""

import datetime
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VECTOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
"""Processor features that decide how fast the kernels run, as the system names them."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Repeated calls, measured. Seconds of one call."""

    median: float
    """Wall-clock time of the middle call."""
    best: float
    """Wall-clock time of the fastest call."""
    processor: float
    """Processor time of the middle call, all threads together; divided by ``median``: cores kept busy."""
    calls: int
    """How many were measured."""


def time_call(
    call: Callable[[], Any],
    *,
    before: Callable[[], Any] | None = None,
    seconds: float = 1.0,
    least: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    processor_clock: Callable[[], float] = time.process_time,
) -> Timing:
    """Call until ``seconds`` of measured time have passed, at least ``least`` times, after one uncounted call.

    Args:
        call: what is measured.
        before: done before every call and not measured, such as restoring what the call consumes.
        seconds: how long to measure.
        least: fewest calls.
        clock, processor_clock: seconds; replaced in tests.
    """
    walls: list[float] = []
    processors: list[float] = []
    for index in range(1_000_000):
        if before is not None:
            before()
        wall, processor = clock(), processor_clock()
        call()
        wall, processor = clock() - wall, processor_clock() - processor
        if index == 0:  # compilation, caches, first touches of memory
            continue
        walls.append(wall)
        processors.append(processor)
        if len(walls) >= least and sum(walls) >= seconds:
            break
    return Timing(
        median=statistics.median(walls), best=min(walls), processor=statistics.median(processors), calls=len(walls)
    )


def measured_row(
    what: str, value: float | None, unit: str, *, bar: float | None = None, best: float | None = None
) -> dict[str, Any]:
    """A row of a table of single measurements, as `pages.py` shows them.

    Args:
        what: was measured.
        value: the figure, the middle one of several; None: there is none.
        unit: ``s``, ``1/s``, ``rays/s``, ``B``, ``dB``, ``rows``, ``voxels``, ``x``, ``number``, or empty for a share.
        bar: what is aimed at.
        best: of several measurements.
    """
    return {"what": what, "value": value, "best": best, "unit": unit, "bar": bar}


def describe_machine() -> dict[str, Any]:
    """What a result must say about where and when it was measured."""
    from voxfield.api.trained_run import machine
    from voxfield.training.experiment import git_state

    return {
        "line": machine(),
        "vectors": vector_flags(_read("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "git": git_state(),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """``describe_machine`` in one line."""
    commit = (machine.get("git") or {}).get("commit")
    parts = [
        machine["line"],
        " ".join(machine["vectors"]) or "no vector extensions named",
        f"{machine['cores']} cores",
        f"load average {machine['load']}" if machine.get("load") is not None else None,
        machine["date"],
        f"commit {commit[:10]}" if commit else None,
    ]
    return ", ".join(part for part in parts if part)


def vector_flags(cpuinfo: str) -> list[str]:
    """Those of `VECTOR_FLAGS` that the text of ``/proc/cpuinfo`` lists."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            present = set(value.split())
            return [flag for flag in VECTOR_FLAGS if flag in present]
    return []


def peak_memory_bytes() -> int | None:
    """Most memory this process has held at once, or None where the system does not say."""
    import torch

    from voxfield.distributed.devices import device_memory

    return device_memory(torch.device("cpu")).peak


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
