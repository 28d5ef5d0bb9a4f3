"""``shapes``: voxelising, building datasets, following rays through voxels beside Embree, and loading traced rays."""

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import job_scaling
import numpy as np
import torch
from measuring import Timing, time_call

PARTS = ("voxelise", "symmetry", "build", "traverse", "executors", "loading")
BARS: dict[str, tuple[float, str]] = {
    "armadillo at 128^3, solid": (0.010, "s"),
    "armadillo at 512^3, solid": (0.200, "s"),
    "armadillo at 128^3, surface": (0.020, "s"),
    "building, an object": (0.25, "s"),
    "different blocks up to symmetry, share of those of exact comparison": (2 / 3, ""),
    "Embree's time / ours, 128^3, coherent": (1.0, "x"),
    "Embree's time / ours, 128^3, incoherent": (1.0, "x"),
    "Embree's time / ours, 512^3, coherent": (1.0, "x"),
    "Embree's time / ours, 512^3, incoherent": (1.0, "x"),
    "a task's overhead, local processes": (0.020, "s"),
    "a task's overhead, Dask on loopback": (0.020, "s"),
    "loading, batches of 65,536 rays, 1 worker": (10e6, "rays/s"),
    "loading a random sample": (0.0005, "s"),
}
"""What is aimed at, on 2 cores: at most so many seconds or so large a share, at least such a rate."""
OBJECTS = 12
"""Objects whose rays are loaded."""
LEVEL = 3
"""Of the blocks that are loaded: 16 voxels across."""
RAYS = 1 << 16
EPOCHS = 5
"""Of one pass through the loader."""


def measure(parts: list[str], meshes: Path, keep: Path | None) -> list[dict[str, Any]]:
    """Rows with ``what``, ``value``, ``best``, ``unit`` and ``bar``."""
    measured: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "voxelise": lambda: voxelising(meshes),
        "symmetry": lambda: symmetry(meshes),
        "build": lambda: building(meshes),
        "traverse": lambda: traversing(meshes),
        "executors": executors,
        "loading": lambda: loading(meshes, keep),
    }
    return [{"part": part, **found} for part in parts for found in measured[part]()]


def row(what: str, value: float, unit: str, best: float | None = None) -> dict[str, Any]:
    """A row of the table."""
    return {"what": what, "value": value, "best": best, "unit": unit, "bar": BARS.get(what, (None,))[0]}


def timed(what: str, timing: Timing) -> dict[str, Any]:
    """A row of seconds."""
    return row(what, timing.median, "s", timing.best)


# ----------------------------------------------------------------------------------------------------------- voxelise
def voxelising(meshes: Path) -> list[dict[str, Any]]:
    """Arrays to words; reading the file is not measured."""
    from voxfield.data.formats.meshes import read_mesh
    from voxfield.voxels.voxelise import voxelise

    mesh = read_mesh(meshes / "armadillo.obj")
    cases = [(128, "solid"), (512, "solid"), (128, "surface"), (128, "conservative")]
    return [
        timed(
            f"armadillo at {side}^3, {coverage}",
            time_call(lambda: voxelise(mesh.vertices, mesh.faces, side, coverage=coverage), seconds=2.0),  # noqa: B023
        )
        for side, coverage in cases
    ]


# -------------------------------------------------------------------------------------------------------------- build
def symmetry(meshes: Path) -> list[dict[str, Any]]:
    """How many blocks are kept, of what there is."""
    import voxfield

    with tempfile.TemporaryDirectory(prefix="voxfield-shapes-") as temporary:
        built = voxfield.build_shapes(meshes, Path(temporary) / "dataset", symmetry=True, quiet=True)
        size = folder_bytes(Path(temporary) / "dataset")
        plain = voxfield.build_shapes(meshes, Path(temporary) / "plain", quiet=True)
        levels = built.stats["deduplication_stats"]
        oriented, kept = (sum(level[name] for level in levels.values()) for name in ("oriented", "unique"))
        rows = [row("different blocks up to symmetry, share of those of exact comparison", kept / oriented, "")]
        for level in levels.values():
            side = 128 >> level["level"]
            rows.append(row(f"the same, blocks of {side} voxels across", level["unique"] / level["oriented"], ""))
        rows.append(row("bytes an object, packed", folder_bytes(Path(temporary) / "plain") / plain.objects, "B"))
        rows.append(row("bytes an object, packed, up to symmetry", size / built.objects, "B"))
        grids = [np.packbits(cube) for cube in dense_grids(Path(temporary) / "plain")]
        np.savez_compressed(Path(temporary) / "grids.npz", *grids)
        whole = (Path(temporary) / "grids.npz").stat().st_size
        rows.append(row("bytes an object, whole grids as bits, zipped", whole / plain.objects, "B"))
    return rows


def dense_grids(dataset: Path) -> list[np.ndarray]:
    """The objects of a dataset, (R, R, R) bool each."""
    from voxfield.kernels.voxel_words import unpack_blocks
    from voxfield.storage.shape_dataset import open_shapes

    shapes = open_shapes(dataset)
    side = shapes.about.base_resolution
    return [unpack_blocks(shapes.root_words(index)[None], side)[0] for index in range(len(shapes))]


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def building(meshes: Path) -> list[dict[str, Any]]:
    """All meshes of a folder, start of the processes and splits included."""
    import voxfield

    rows = []
    for symmetric in (False, True):
        with tempfile.TemporaryDirectory(prefix="voxfield-shapes-") as temporary:
            began = time.perf_counter()
            built = voxfield.build_shapes(meshes, Path(temporary) / "dataset", symmetry=symmetric, quiet=True)
            seconds = (time.perf_counter() - began) / built.objects
        rows.append(row(f"building, an object{', up to symmetry' if symmetric else ''}", seconds, "s"))
    return rows


# ----------------------------------------------------------------------------------------------------------- traverse
def traversing(meshes: Path) -> list[dict[str, Any]]:
    """First hits in voxels, beside Embree's with the faces between full and empty voxels; also the whole way."""
    from voxfield.data.formats.meshes import read_mesh
    from voxfield.kernels.traverse_voxels import traverse_voxels
    from voxfield.voxels.voxelise import voxelise

    mesh, rows = read_mesh(meshes / "armadillo.obj"), []
    for side in (128, 512):
        grid = voxelise(mesh.vertices, mesh.faces, side)
        embree = embree_scene(boundary_triangles(grid.dense().numpy()))
        for kind, (origins, directions) in {"coherent": camera_rays(side), "incoherent": random_rays(side)}.items():
            rays = (torch.from_numpy(origins), torch.from_numpy(directions), grid.words, side)
            ours = time_call(lambda: traverse_voxels(*rays, first_hit_only=True))  # noqa: B023
            theirs = time_call(lambda: embree.run(origins, directions, output=True))  # noqa: B023
            whole = time_call(lambda: traverse_voxels(*rays))  # noqa: B023
            check_hits(traverse_voxels(*rays, first_hit_only=True), embree.run(origins, directions, output=True))
            rows.append(timed(f"{RAYS:,} rays, {side}^3, {kind}: ours", ours))
            rows.append(timed(f"{RAYS:,} rays, {side}^3, {kind}: Embree", theirs))
            ratio, best = theirs.median / ours.median, theirs.best / ours.best
            rows.append(row(f"Embree's time / ours, {side}^3, {kind}", ratio, "x", best))
            rows.append(timed(f"{RAYS:,} rays, {side}^3, {kind}: ours, chords too", whole))
    return rows


def boundary_triangles(voxels: np.ndarray) -> np.ndarray:
    """(T, 3, 3) float32 x, y, z: two triangles for every face between a full and an empty voxel."""
    padded, triangles = np.pad(voxels, 1), []
    for axis in range(3):
        for change in (1, -1):
            faces = np.argwhere(np.diff(padded.astype(np.int8), axis=axis) == change) - 1
            faces[:, axis] += 1
            square = np.zeros((4, 3), np.int64)
            square[[1, 2], (axis + 1) % 3] = 1
            square[[2, 3], (axis + 2) % 3] = 1
            corners = (faces[:, None] + square)[:, :, ::-1]
            triangles += [corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]]
    return np.concatenate(triangles).astype(np.float32)


def embree_scene(triangles: np.ndarray) -> Any:
    """Embree's structure over triangles, built once and not measured."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, triangles)
    return scene


def camera_rays(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions (RAYS, 3) float32 of a picture taken from outside, row by row."""
    across = int(RAYS**0.5)
    u, v = np.meshgrid(np.linspace(-0.5, 0.5, across), np.linspace(-0.5, 0.5, across))
    directions = np.stack([u, np.ones_like(u), v], -1).reshape(-1, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins = np.broadcast_to([side * 0.5 + 0.1, -side * 0.6, side * 0.5 + 0.1], directions.shape)
    return origins.astype(np.float32), directions.astype(np.float32)


def random_rays(side: int) -> tuple[np.ndarray, np.ndarray]:
    """As `camera_rays`, each from a point of its own on a sphere through the middle of the grid."""
    random = np.random.default_rng(0)
    around = random.standard_normal((RAYS, 3))
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    origins = side * (0.5 + around)
    directions = side * random.uniform(0.2, 0.8, (RAYS, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32)


def check_hits(ours: Any, theirs: dict[str, np.ndarray]) -> None:
    """Both must have met the same: apart from rays that graze an edge."""
    hit, met = torch.isfinite(ours.distance).numpy(), theirs["primID"] >= 0
    both = hit & met
    near = np.abs(ours.distance.numpy()[both] - theirs["tfar"][both]) < 0.05
    if (hit != met).mean() > 1e-3 or near.mean() < 0.999:
        raise SystemExit(
            f"traverse: {(hit != met).mean():.2%} of the hits and {1 - near.mean():.2%} of the distances differ."
        )


# ---------------------------------------------------------------------------------------------------------- executors
def executors() -> list[dict[str, Any]]:
    """Tasks that do nothing, handed out and gathered, whose workers are there already; then jobs on one and two."""
    from voxfield.distributed.executors import ExecutorSettings, open_executor

    rows = []
    with dask_cluster() as scheduler:
        for name, settings in {
            "local processes": ExecutorSettings(workers=2),
            "Dask on loopback": ExecutorSettings(executor="dask", scheduler=scheduler),
        }.items():
            with open_executor(settings, tasks=1000) as executor:
                list(executor.run(abs, range(100)))
                began = time.perf_counter()
                list(executor.run(abs, range(500)))
                rows.append(row(f"a task's overhead, {name}", (time.perf_counter() - began) / 500, "s"))
    return [*rows, *job_scaling.measure()]


@contextmanager
def dask_cluster() -> Any:
    """The address of a scheduler with two workers on loopback."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        yield cluster.scheduler_address


# ------------------------------------------------------------------------------------------------------------ loading
def loading(meshes: Path, keep: Path | None) -> list[dict[str, Any]]:
    """Rays that one worker delivers, and samples with all rays of a block."""
    from voxfield.data.shape_rays import HierarchicalVoxelRayDataset

    with tempfile.TemporaryDirectory(prefix="voxfield-shapes-") as temporary:
        folder = keep or Path(temporary)
        prepare(meshes, folder)
        dataset = HierarchicalVoxelRayDataset(folder / "dataset", folder / "rays", cache_size=1 << 20)
        order = torch.randint(len(dataset), (500,), generator=torch.Generator().manual_seed(0)).tolist()
        walls = []
        for index in order:
            began = time.perf_counter()
            dataset[index]
            walls.append(time.perf_counter() - began)
        rows = [row("loading a random sample", statistics.median(walls), "s", min(walls))]
        for size in (4096, 1 << 16):
            rates = delivered(dataset, size)
            rows.append(
                row(f"loading, batches of {size:,} rays, 1 worker", statistics.median(rates), "rays/s", max(rates))
            )
        rows.append(row("kept by the cache for it", dataset.cache.bytes, "B"))
    return rows


def prepare(meshes: Path, folder: Path) -> None:
    """A dataset of some objects and its rays, unless they are there."""
    import voxfield

    voxfield.build_shapes(meshes, folder / "dataset", num_objects=OBJECTS, quiet=True)
    options = {"min_level": LEVEL, "max_level": LEVEL, "samples_per_view": 300, "layout": "packed"}
    if not (folder / "rays" / "packed").is_dir():
        shutil.rmtree(folder / "rays", ignore_errors=True)
        voxfield.trace_shapes(folder / "dataset", folder / "rays", quiet=True, **options)


def delivered(dataset: Any, rays_per_batch: int, passes: int = 3) -> list[float]:
    """Rays a second of each pass by one worker, which stays from pass to pass; its start does not count."""
    from torch.utils.data import DataLoader, Sampler

    from voxfield.data.shape_rays import RayBatchSampler, collate_ray_batch

    class Epochs(Sampler[Any]):
        """Several, without a pause between them."""

        def __iter__(self) -> Any:
            once = RayBatchSampler(dataset, rays_per_batch=rays_per_batch, subvolumes_per_batch=64)
            return itertools.chain.from_iterable(itertools.repeat(once, EPOCHS))

    sampler = Epochs()
    loader = DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate_ray_batch, num_workers=1, persistent_workers=True
    )
    rates = []
    for turn in range(passes + 1):
        began, rays = time.perf_counter(), 0
        for batch in loader:
            rays += len(batch["origins"])
        if turn:
            rates.append(rays / (time.perf_counter() - began))
    return rates
