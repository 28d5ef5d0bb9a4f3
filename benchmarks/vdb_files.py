"""``vdb``: writing and reading ``.vdb`` files beside OpenVDB itself, and what voxels that lie far apart take.

OpenVDB comes with Debian's Python, in a process of its own, which waits while ours works. Both compress with Blosc and
leave inactive values out; OpenVDB reads all voxels at once, as we do. Our files are flushed to the disk before they get
their name, which OpenVDB's are not.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from alternation import Driver
from measuring import measured_row

HELP = "writing and reading .vdb files beside OpenVDB's own, and the memory that voxels far apart take"
PARTS = ("shell", "random", "spread")
SYSTEM_PYTHON = "/usr/bin/python3"
ACTIVE = 0.05
"""Share of the cube."""
TIMES, SIZE, MEMORY = 1.5, 1.1, 600e6
"""What is aimed at: at most so many times OpenVDB's time and bytes, and at most so many bytes of memory."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``vdb``."""
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="shell, random, spread; or all")
    parser.add_argument("--side", type=int, default=256, help="of the cube that OpenVDB writes too")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--voxels", type=int, default=1_000_000, help="far apart")
    parser.add_argument("--openvdb-python", default=SYSTEM_PYTHON, help="an interpreter that has pyopenvdb")


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of every part."""
    rows = []
    for part in options.parts or PARTS:
        if part == "spread":
            rows += spread(options.voxels)
        elif not has_openvdb(options.openvdb_python):
            raise SystemExit(
                f"vdb: {options.openvdb_python} has no pyopenvdb: apt-get install python3-openvdb, name another with "
                "--openvdb-python, or measure only: spread"
            )
        else:
            dense = {"shell": shell, "random": scattered}[part](options.side)
            rows += beside(part, dense, options.rounds, options.openvdb_python)
    return rows


def has_openvdb(python: str) -> bool:
    """Whether an interpreter finds it."""
    try:
        return (
            subprocess.run([python, "-s", "-c", "import pyopenvdb"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def shell(side: int) -> np.ndarray:
    """(D, H, W) float32: density on a thick shell, `ACTIVE` of the cube."""
    radius = 0.39 * side
    # Its volume is 8 pi r^2 h and 8/3 pi h^3, which is next to nothing.
    half = ACTIVE * side**3 / (8 * np.pi * radius**2)
    across = (np.arange(side, dtype=np.float32) - (side - 1) / 2) ** 2
    away = np.abs(np.sqrt(across[:, None, None] + across[:, None] + across) - radius)
    return np.where(away < half, 1.0 - 0.9 * away / half, 0.0).astype(np.float32)


def scattered(side: int) -> np.ndarray:
    """(D, H, W) float32: `ACTIVE` of the voxels, anywhere, of any value."""
    draw = np.random.default_rng(0)
    values = draw.random((side,) * 3, np.float32) + 0.01
    return np.where(draw.random((side,) * 3, np.float32) < ACTIVE, values, 0.0).astype(np.float32)


def beside(part: str, dense: np.ndarray, rounds: int, python: str) -> list[dict[str, Any]]:
    """Both write and read the same voxels, in turns."""
    from voxfield.storage.vdb import VdbGrid, read_vdb, write_vdb
    from voxfield.voxels.sparse import SparseVolume

    volume = SparseVolume.from_dense(dense)
    with tempfile.TemporaryDirectory(prefix="voxfield-vdb-") as temporary:
        folder = Path(temporary)
        np.save(folder / "dense.npy", dense)
        ours = folder / "ours.vdb"
        order = {"dense": str(folder / "dense.npy"), "folder": temporary}
        driver = Driver(python, "drive_openvdb.py", order, folder / "log.txt")
        work: dict[str, Callable[[], Any]] = {
            "write": lambda: write_vdb(ours, [VdbGrid(name="density", volume=volume, grid_class="fog volume")]),
            "read": lambda: read_vdb(ours),
        }
        rows = []
        try:
            version = driver.ask("version")
            where = (
                f"{len(dense)}^3, {'a thick shell' if part == 'shell' else 'random'}, {volume.active_count:,} active"
            )
            for verb, call in work.items():
                call()  # what is loaded or compiled once is not counted
                driver.ask(verb, 1)
                own, other = [], []
                for _ in range(rounds):
                    began = time.perf_counter()
                    call()
                    own.append(time.perf_counter() - began)
                    other += [wall for wall, _ in driver.ask(verb, 1)]
                times = {name: statistics.median(walls) for name, walls in (("ours", own), ("theirs", other))}
                rows.append(measured_row(f"{where}: {verb}", times["ours"], "s", best=min(own)))
                rows.append(measured_row(f"{where}: {verb}, OpenVDB {version}", times["theirs"], "s", best=min(other)))
                ratio, best = times["ours"] / times["theirs"], min(own) / min(other)
                rows.append(measured_row(f"{where}: {verb}, our time / OpenVDB's", ratio, "x", bar=TIMES, best=best))
            check_active(driver.ask("active"), volume.active_count)
            sizes = ours.stat().st_size, driver.ask("size")
        finally:
            driver.close()
    rows.append(measured_row(f"{where}: bytes", sizes[0], "B"))
    return [*rows, measured_row(f"{where}: our bytes / OpenVDB's", sizes[0] / sizes[1], "x", bar=SIZE)]


def check_active(seen: list[int], active: int) -> None:
    """OpenVDB must find the same voxels in both files."""
    if seen != [active, active]:
        raise SystemExit(
            f"vdb: {active:,} voxels are active, OpenVDB finds {seen[0]:,} in its file, {seen[1]:,} in ours."
        )


def spread(voxels: int) -> list[dict[str, Any]]:
    """Voxels on thin surfaces in a space of 100,000 a side."""
    with tempfile.TemporaryDirectory(prefix="voxfield-vdb-") as folder:
        driver = Driver(sys.executable, "drive_spread_volume.py", {"folder": folder}, Path(folder) / "log.txt")
        try:
            start = driver.ask("peak")
            active = driver.ask("make", voxels)
            what = f"{active:,} voxels on thin surfaces in 100,000^3"
            rows = [
                measured_row(f"{what}: write", driver.ask("write"), "s"),
                measured_row(f"{what}: bytes", driver.ask("size"), "B"),
                measured_row(f"{what}: read", driver.ask("read"), "s"),
                measured_row(f"{what}: sample each between its neighbours", driver.ask("sample", active), "s"),
            ]
            peak = driver.ask("peak")
        finally:
            driver.close()
    return [
        *rows,
        measured_row(f"{what}: peak memory of the process", peak, "B", bar=MEMORY),
        measured_row("of that, before there were any voxels", start, "B"),
    ]
