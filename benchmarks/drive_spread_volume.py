"""Voxels on thin surfaces far apart: made, written, read and sampled in a process whose memory is watched."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from alternation import serve

SPACE = 100_000
"""Side of the index space."""
SPHERES = 100
AT_ONCE = 100_000
"""Positions sampled together."""


def surfaces(active: int, draw: np.random.Generator) -> np.ndarray:
    """(M, 3) int32: about ``active`` voxels of `SPHERES` spheres, one voxel thick, anywhere in the space."""
    wanted = active / SPHERES
    # Of voxels on a sphere there are about 0.83 for each unit of area: the mean of the largest of |x|, |y|, |z|.
    radius = (wanted / (4 * np.pi * 0.83)) ** 0.5 + 0.4
    found = []
    for centre in draw.integers(1000, SPACE - 1000, (SPHERES, 3)):
        side = np.arange(-int(radius) - 2, int(radius) + 3)
        x, y, z = np.meshgrid(side, side, side, indexing="ij")
        inside = x**2 + y**2 + z**2 <= radius**2
        edge = inside.copy()
        for axis in range(3):
            edge &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
        found.append((np.stack([x, y, z], axis=-1)[inside & ~edge] + centre).astype(np.int32))
    return np.concatenate(found)


def prepare(order: dict[str, Any]) -> dict[str, Any]:
    """What can be asked: ``make`` the voxels, ``write``, ``read`` and ``sample`` them (seconds), and ``peak`` bytes."""
    from measuring import peak_memory_bytes

    from voxfield.storage.vdb import VdbGrid, read_vdb, write_vdb
    from voxfield.voxels.sparse import SparseVolume

    draw, file = np.random.default_rng(0), Path(order["folder"]) / "spread.vdb"
    held: dict[str, Any] = {}

    def make(count: int) -> int:
        coordinates = surfaces(count, draw)
        held["volume"] = SparseVolume.from_voxels(coordinates, draw.random(len(coordinates), np.float32))
        return held["volume"].active_count

    def write(_: int) -> float:
        began = time.perf_counter()
        write_vdb(file, [VdbGrid(name="density", volume=held.pop("volume"))])
        return time.perf_counter() - began

    def read(_: int) -> float:
        began = time.perf_counter()
        held["volume"] = read_vdb(file)[0].volume
        return time.perf_counter() - began

    def sample(count: int) -> float:
        seconds, volume = 0.0, held["volume"]
        coordinates, values = volume.active_voxels()
        for start in range(0, min(count, len(coordinates)), AT_ONCE):
            some = slice(start, min(count, start + AT_ONCE))
            began = time.perf_counter()
            found = volume.interpolate(coordinates[some].astype(float))
            seconds += time.perf_counter() - began
            assert np.array_equal(found, values[some])
        return seconds

    def size(_: int) -> int:
        return file.stat().st_size

    def peak(_: int) -> int | None:
        return peak_memory_bytes()

    return {"make": make, "write": write, "read": read, "sample": sample, "size": size, "peak": peak}


if __name__ == "__main__":
    serve(prepare)
