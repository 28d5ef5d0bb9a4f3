"""``regression``: every kernel and a small run of every main job, beside what a committed file says of them.

Machines differ, and share their cores with others. So each rate is compared as a ratio to what a probe of the machine
does: products of matrices, copying, and gathering from a table, none of them this project's code. A rate is slower if
the ratio fell below ``SLOWER`` of the committed one.

    python benchmarks/run.py regression            compare with benchmarks/results/regression.json
    python benchmarks/run.py regression --write    measure what others are compared with
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kernel_rates
import numpy as np
import prerendering
import registry
import torch
import trainings
from measuring import time_call

ROOT: Final = Path(__file__).resolve().parent.parent
SCENE: Final = ROOT / "examples" / "scenes" / "workbench"
SLOWER: Final = 0.75
"""Of the committed ratio to the probe. Repeated on one machine with neighbours, ratios spread by a tenth to a fifth."""
TRAININGS: Final = {"grid-ngp": 150, "nerfacto": 40, "pynerf-occupancy-grid": 60, "plenoxels-fast": 250}
"""Steps of each recipe on the embedded scene."""
CLOUDS: Final = 20
MESHES: Final = 6
VOXELS: Final = 128


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something a user waits for."""

    name: str
    unit: str
    """What is counted."""
    rate: Callable[[Path], float]
    """Of them a second; it may write into the folder."""


def probe(seconds: float = 0.5) -> dict[str, float]:
    """What the machine does, in units a second: GFLOP of a product, GB copied, millions of rows gathered."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 1024, 1024, generator=generator)
    source, target = torch.ones(1 << 24), torch.zeros(1 << 24)
    table = torch.rand(1 << 20, 2, generator=generator)
    rows = torch.randint(len(table), (1 << 20,), generator=generator)
    return {
        "matrix": 2 * 1024**3 / 1e9 / time_call(lambda: left @ right, seconds=seconds).best,
        "copy": 2 * 4 * len(source) / 1e9 / time_call(lambda: target.copy_(source), seconds=seconds).best,
        "gather": len(rows) / 1e6 / time_call(lambda: table.index_select(0, rows), seconds=seconds).best,
    }


def measure(*, seconds: float = 0.3, kernels: bool = True, chosen: Sequence[Job] | None = None) -> list[dict[str, Any]]:
    """Rows with ``name``, ``unit`` and ``rate``, of all kernels and jobs; each is printed as it is done.

    Args:
        seconds: how long each kernel is measured.
        kernels: whether they are.
        chosen: which jobs; None: `jobs`.
    """
    rows = []
    for case in registry.cases() if kernels else ():
        if case.variant != "voxfield":
            continue
        with case.surroundings():
            prepared = case.prepare()
            timing = time_call(prepared.call, before=prepared.before, seconds=seconds)
        row = kernel_rates.row(case, timing)
        rows.append({"name": f"{row['op']}: {row['case']}", "unit": case.unit, "rate": case.count / timing.best})
        _say(rows[-1])
    with tempfile.TemporaryDirectory(prefix="voxfield-regression-") as folder:
        for job in jobs() if chosen is None else chosen:
            rows.append({"name": job.name, "unit": job.unit, "rate": job.rate(Path(folder))})
            _say(rows[-1])
    return rows


def compare(
    now: dict[str, Any], then: dict[str, Any], *, slower: float = SLOWER
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of ``now`` with ``then`` (its rate, as this machine would do it) and ``ratio``; and what got slower.

    Args:
        now, then: results with ``probe`` and ``rows``.
        slower: the ratio below which a rate got slower.

    Returns:
        The rows, the most slowed first, those that ``then`` lacks last with None for both; and names.
    """
    factor = machine_factor(now["probe"], then["probe"])
    rates = {row["name"]: row["rate"] for row in then["rows"]}
    rows = []
    for row in now["rows"]:
        expected = rates[row["name"]] * factor if row["name"] in rates else None
        rows.append({**row, "then": expected, "ratio": None if expected is None else row["rate"] / expected})
    rows.sort(key=lambda row: np.inf if row["ratio"] is None else row["ratio"])
    return rows, [row["name"] for row in rows if row["ratio"] is not None and row["ratio"] < slower]


def machine_factor(now: dict[str, float], then: dict[str, float]) -> float:
    """How much faster this machine is than that one: the geometric mean of what the probes did."""
    return float(np.exp(np.mean([np.log(now[name] / then[name]) for name in then])))


def report(now: dict[str, Any], then: dict[str, Any]) -> str:
    """The comparison in words."""
    rows, slower = compare(now, then)
    factor = machine_factor(now["probe"], then["probe"])
    lines = [f"This machine does {factor:.2f} times what that one did, by the probe.", ""]
    lines.append(f"{'':62} {'now':>12} {'expected':>12} {'ratio':>6}")
    for row in rows:
        expected, ratio = ("new", "") if row["ratio"] is None else (f"{row['then']:,.4g}", f"{row['ratio']:.2f}")
        lines.append(f"{row['name'][:62]:62} {row['rate']:>12,.4g} {expected:>12} {ratio:>6}  {row['unit']}/s")
    missing = {row["name"] for row in then["rows"]} - {row["name"] for row in rows}
    lines += ["", *(f"No longer measured: {name}" for name in sorted(missing))]
    lines += [f"SLOWER: {name}" for name in slower] or ["Nothing got slower."]
    return "\n".join(lines)


def jobs() -> Iterator[Job]:
    """The main jobs, each a few seconds long."""
    for recipe, steps in TRAININGS.items():
        yield Job(
            name=f"train {recipe}, embedded scene, {steps} steps",
            unit="rays",
            rate=lambda _, recipe=recipe, steps=steps: training_rate(recipe, steps),
        )
    yield Job(name=f"prerender {CLOUDS} clouds, blosc", unit="clouds", rate=prerender_rate)
    yield Job(name=f"dataset build, {MESHES} meshes", unit="meshes", rate=build_rate)
    yield Job(name="vdb write and read, a shell", unit="voxels", rate=vdb_rate)
    yield Job(name="vdb compress and decompress, a shell", unit="voxels", rate=compress_rate)


def training_rate(recipe: str, steps: int) -> float:
    """Rays trained a second, in the second half of a short run."""
    settings = ("trainer.log_every=5",)
    point = trainings.train_and_measure(SCENE, recipe=recipe, steps=steps, evaluate=False, overrides=settings)
    rate: float | None = point["rays_per_second"]
    if rate is None:
        raise ValueError(f"{recipe}: {steps} steps leave too few lines in the log to tell a rate.")
    return rate


def prerender_rate(folder: Path) -> float:
    """Clouds a second by the whole command."""
    prerendering.write_clouds(folder / "clouds.h5", CLOUDS)
    return CLOUDS / prerendering.run_command(folder / "clouds.h5", folder / "voxels", "blosc")


def build_rate(folder: Path) -> float:
    """Meshes a second, voxelised at 128, split into blocks and written; the processes' start counts."""
    import trimesh

    import voxfield

    meshes = folder / "meshes"
    meshes.mkdir()
    for index in range(MESHES):
        trimesh.creation.torus(1.0, 0.15 + 0.05 * index, 128, 64).export(meshes / f"{index}.stl")
    began = time.perf_counter()
    voxfield.build_shapes(meshes, folder / "dataset", resolution=VOXELS, min_resolution=4, quiet=True)
    return MESHES / (time.perf_counter() - began)


def vdb_rate(folder: Path) -> float:
    """Active voxels a second, there and back."""
    from voxfield.storage.vdb import read_vdb, write_vdb

    grid = shell()
    timing = time_call(lambda: read_vdb(write_vdb(folder / "shell.vdb", [grid])))
    return grid.volume.active_count / timing.best


def compress_rate(folder: Path) -> float:
    """The same, quantised to a hundredth of the range."""
    import voxfield
    from voxfield.storage.vdb import write_vdb

    grid = shell()
    plain, packed, back = (folder / name for name in ("plain.vdb", "packed.vxv", "back.vdb"))
    write_vdb(plain, [grid])
    config = voxfield.CompressionConfig(relative_error=0.01)

    def there_and_back() -> None:
        voxfield.compress_volume(plain, packed, config, quiet=True)
        voxfield.decompress_volume(packed, back, quiet=True)

    return grid.volume.active_count / time_call(there_and_back).best


def shell() -> Any:
    """A smooth field on a thick sphere within 128 voxels, as a fog grid."""
    from voxfield.storage.vdb import VdbGrid
    from voxfield.voxels.sparse import SparseVolume

    axis = torch.linspace(-1.0, 1.0, VOXELS)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = (x * x + y * y + z * z).sqrt()
    values = torch.where((radius - 0.7).abs() < 0.1, 1.0 + 0.5 * torch.sin(9.0 * x) * torch.cos(7.0 * y + z), 0.0)
    return VdbGrid(name="density", volume=SparseVolume.from_dense(values.numpy()), grid_class="fog volume")


def _say(row: dict[str, Any]) -> None:
    print(f"{row['name'][:70]:70} {row['rate']:14,.4g} {row['unit']}/s", flush=True)
