"""How much sooner two workers do a job than one: of `shapes.py`, its part ``executors``.

A worker has one thread. Starting workers takes the same seconds however long a job is, so what is compared is the time
of further inputs (meshes, objects to trace, point clouds): that of a long job less that of a short one.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from alternation import Driver
from measuring import measured_row

BAR = 1.8
"""Aimed at: two workers are at least so many times as fast as one."""
KINDS = {False: "local processes", True: "Dask workers"}
SIZES = {"build": (16, 112), "trace": (2, 8), "prerender": (16, 80)}
"""Inputs of the short job and of the long one."""


def measure(
    sizes: Mapping[str, tuple[int, int]] = SIZES, *, rounds: int = 3, kinds: Sequence[bool] = (False, True)
) -> list[dict[str, Any]]:
    """Rows of every job, of local processes and of Dask workers.

    Args:
        sizes: inputs of the short and the long one of each of the jobs of `SIZES`, or of some.
        rounds: of each, one worker and two in turns.
        kinds: whether of Dask.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="voxfield-jobs-") as temporary:
        folder = Path(temporary)
        write_inputs(folder, sizes)
        for dask in kinds:
            drivers = [
                Driver(
                    sys.executable,
                    "drive_jobs.py",
                    {"inputs": temporary, "workers": workers, "dask": dask},
                    folder / f"log-{dask}-{workers}.txt",
                )
                for workers in (1, 2)
            ]
            try:
                for job, (short, long) in sizes.items():
                    for driver in drivers:
                        driver.ask(job, short)  # kernels are compiled
                    times = [[further(driver, job, short, long) for driver in drivers] for _ in range(rounds)]
                    rows += compared(f"{job}, {KINDS[dask]}", times)
            finally:
                for driver in drivers:
                    driver.close()
    return rows


def further(driver: Driver, job: str, short: int, long: int) -> float:
    """Seconds of an input beyond the first ones."""
    first = float(driver.ask(job, short))
    return (float(driver.ask(job, long)) - first) / (long - short)


def compared(what: str, times: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Rows of (rounds, 2) seconds of an input, of one worker and of two."""
    one, two = ([turn[index] for turn in times] for index in (0, 1))
    ratios = [first / second for first, second in times]
    return [
        measured_row(f"{what}: a further input, 1 worker", statistics.median(one), "s", best=min(one)),
        measured_row(f"{what}: a further input, 2 workers", statistics.median(two), "s", best=min(two)),
        measured_row(f"{what}: 2 workers against 1", statistics.median(ratios), "x", bar=BAR, best=max(ratios)),
    ]


def write_inputs(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """The meshes, the datasets and the point clouds that jobs of these sizes take."""
    import h5py
    import trimesh

    import voxfield

    draw = np.random.default_rng(0)
    (folder / "meshes").mkdir()
    ball = trimesh.creation.icosphere(subdivisions=4)
    for index in range(max(max(sizes.get(job, (0,))) for job in ("build", "trace"))):
        # No two have a block in common but by chance.
        waves, phase = draw.normal(size=(3, 6)) * 3, draw.uniform(0, 6, 6)
        bumps = 1 + 0.06 * np.sin(ball.vertices @ waves + phase).sum(axis=1)
        mesh = trimesh.Trimesh(ball.vertices * bumps[:, None], ball.faces, process=False)
        mesh.export(folder / "meshes" / f"{index:03d}.ply")
    meshes = sorted((folder / "meshes").iterdir())
    for count in sizes.get("trace", ()):
        voxfield.build_shapes(meshes[:count], folder / f"dataset-{count}", quiet=True)
    with h5py.File(folder / "pointclouds.h5", "w") as file:
        clouds = file.create_dataset("pointclouds", (max(sizes.get("prerender", (1,))), 100_000, 3), "f4")
        for index in range(len(clouds)):
            points = draw.normal(size=(100_000, 3))
            clouds[index] = 0.5 + 0.4 * points / np.linalg.norm(points, axis=1, keepdims=True)
