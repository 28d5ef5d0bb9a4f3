"""``prerender``: point clouds to voxels, a command of 100 samples, and reading one sample back.

Clouds are points on twelve spheres each, in a flat volume as of tissue: a tenth of the voxels is not zero.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from measuring import Timing, time_call

SIDE = 128
DIMS = (28000.0, 28000.0, 1600.0)
BARS = {
    "gaussian, 100,000 points": 0.030,
    "gaussian, 1,000,000 points": 0.045,
    "`voxfield prerender`, 100 samples, gzip": 8.0,
    "`voxfield prerender`, 100 samples, blosc": 5.0,
    "`voxfield prerender`, 100 samples, zstd": 5.0,
    "reading a random sample, gzip": 0.020,
    "reading a random sample, blosc": 0.004,
    "reading a random sample, zstd": 0.004,
}
"""Seconds aimed at, on 2 cores."""


def measure(samples: int = 100, rounds: int = 3) -> list[dict[str, Any]]:
    """Rows with ``what``, ``bar``, ``median``, ``best`` and ``processor`` seconds."""
    rows = []
    for count in (100_000, 1_000_000):
        points = cloud(np.random.default_rng(count), count)
        rows.append(row(f"gaussian, {count:,} points", time_call(lambda points=points: ours(points))))
        rows.append(row(f"by numpy and scipy, {count:,} points", time_call(lambda points=points: scipys(points))))
    with tempfile.TemporaryDirectory(prefix="voxfield-prerender-") as temporary:
        source = Path(temporary) / "pointclouds.h5"
        write_clouds(source, samples)
        for compression in ("gzip", "blosc", "zstd"):
            folders = [Path(temporary) / f"{compression}{number}" for number in range(rounds)]
            walls = sorted(run_command(source, folder, compression) for folder in folders)
            processor = one_process(source, Path(temporary) / f"{compression}-alone", compression)
            timing = Timing(median=walls[rounds // 2], best=walls[0], processor=processor, calls=rounds)
            rows.append(row(f"`voxfield prerender`, {samples} samples, {compression}", timing))
            rows.append(row(f"reading a random sample, {compression}", reading(folders[0])))
    return rows


def row(what: str, timing: Timing) -> dict[str, Any]:
    """A row of the table."""
    return {
        "what": what,
        "bar": BARS.get(what),
        "median": timing.median,
        "best": timing.best,
        "processor": timing.processor,
    }


def cloud(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) float32."""
    centres, radii = rng.uniform(0.2, 0.8, (12, 3)), rng.uniform(0.05, 0.18, 12)
    which, around = rng.integers(0, 12, count), rng.standard_normal((count, 3))
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    return ((centres[which] + around * radii[which, None]) * DIMS).astype(np.float32)


def ours(points: np.ndarray) -> torch.Tensor:
    """The kernel's public call."""
    from voxfield.kernels.scatter_points import scatter_points

    return scatter_points(torch.from_numpy(points), (SIDE,) * 3, (0.0, 0.0, 0.0), DIMS).grid


def scipys(points: np.ndarray) -> np.ndarray:
    """What a person would write."""
    from scipy.ndimage import gaussian_filter

    cells = np.minimum((points / np.array(DIMS, np.float32) * SIDE).astype(np.int64), SIDE - 1)
    flat = (cells[:, 2] * SIDE + cells[:, 1]) * SIDE + cells[:, 0]
    counts = np.bincount(flat, minlength=SIDE**3).reshape((SIDE,) * 3)
    return gaussian_filter(counts.astype(np.float32), 1.0)


def write_clouds(path: Path, samples: int) -> None:
    """Clouds of 100,000 points."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("pointclouds", (samples, 100_000, 3), "f4")
        for index in range(samples):
            data[index] = cloud(rng, 100_000)


def options(compression: str) -> dict[str, Any]:
    """What every run is given."""
    return {"voxel_size": SIDE, "volume_dims": DIMS, "threshold": 0.001, "compression": compression}


def run_command(source: Path, folder: Path, compression: str) -> float:
    """Seconds of the whole process, start-up included."""
    dims = [f"{one:g}" for one in DIMS]
    words = ["prerender", str(source), "--output-dir", str(folder), "--voxel-size", str(SIDE), "--volume-dims", *dims]
    command = [
        sys.executable,
        "-m",
        "voxfield.cli.__main__",
        *words,
        "--threshold",
        "0.001",
        "--compression",
        compression,
    ]
    start = time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True, capture_output=True, text=True)
    return time.perf_counter() - start


def one_process(source: Path, folder: Path, compression: str) -> float:
    """Processor seconds of the work itself, in one process."""
    import voxfield

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    voxfield.prerender(source, folder, workers=1, quiet=True, **options(compression))
    torch.set_num_threads(threads)
    return time.process_time() - start


def reading(folder: Path) -> Timing:
    """Items of the dataset, as they are stored."""
    import voxfield

    dataset = voxfield.PrerenderedVoxelDataset(folder, normalise=False)
    rng = np.random.default_rng(0)
    return time_call(lambda: dataset[int(rng.integers(len(dataset)))], seconds=0.5)
