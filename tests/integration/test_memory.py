"""Jobs say what memory they need, and keep to it: their peaks beside what they said, at two sizes each.

A peak is the most that a job's process, or it and its workers together, ever held. It must stay within what was said;
and what was said must not be far above it, nor may its growth be, or nobody could go by it.
"""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import voxfield
from voxfield.data.synthetic import posed_images, write_nerfstudio
from voxfield.errors import InputError
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.voxels.sparse import SparseVolume

_CHILD = """
import sys
import torch
from voxfield.cli.__main__ import main
from voxfield.distributed.devices import device_memory
code = main(sys.argv[1:])
print("PEAK", device_memory(torch.device("cpu")).peak, file=sys.stderr)
raise SystemExit(code)
"""
_UNITS = {"MB": 10**6, "GB": 10**9}
_FAR = 2.5
"""Times the peak that a job may have said it needs."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what a process held at most")


class Measured(NamedTuple):
    """Of a job, in bytes."""

    said: int
    peak: int


def run(*arguments: object, whole_tree: bool = False) -> Measured:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", _CHILD, *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    most = [0]
    watch = threading.Thread(target=_follow, args=(process, most), daemon=True)
    if whole_tree:
        watch.start()
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    found = re.search(r"Needs about ([\d.]+) (MB|GB) of memory", errors)
    assert found is not None, errors
    peak = most[0] if whole_tree else int(errors.rsplit("PEAK ", 1)[1].split()[0])
    return Measured(int(float(found[1]) * _UNITS[found[2]]), peak)


def _follow(process: "subprocess.Popen[str]", most: list[int]) -> None:
    """Keep in ``most`` what a process and those it started hold, pages that they share counted once."""
    while process.poll() is None:
        most[0] = max(most[0], sum(_proportional(one) for one in _family(process.pid)))
        time.sleep(0.02)


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    except OSError:
        pass
    return found


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def check(small: Measured, large: Measured) -> None:
    """Both kept to what was said, which was not far off and grew with the job."""
    for job in (small, large):
        assert job.peak <= job.said, job
        assert job.said <= _FAR * job.peak, job
    assert large.peak > small.peak
    assert large.said - small.said >= large.peak - small.peak


@pytest.fixture
def clouds(tmp_path: Path) -> Path:
    path = tmp_path / "clouds.npy"
    np.save(path, np.random.default_rng(0).random((2, 20_000, 3), np.float32))
    return path


def test_prerender(clouds: Path, tmp_path: Path) -> None:
    def job(side: int) -> Measured:
        common = ("--voxel-size", side, "--volume-dims", 1, 1, 1, "--workers", 1, "--compression", "lzf")
        return run("prerender", clouds, "--output-dir", tmp_path / f"out{side}", *common)

    check(job(64), job(256))


def test_too_little_is_refused_before_anything_is_written(clouds: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs about .* --memory allows 100 MB\. Take a smaller --voxel-size"):
        voxfield.prerender(clouds, tmp_path / "out", memory="100MB", quiet=True)
    write_nerfstudio(tmp_path / "capture", posed_images(count=4, resolution=16))
    with pytest.raises(InputError, match=r"field and optimiser .* --memory allows 200 MB\. Train a smaller model"):
        voxfield.train("grid-ngp", tmp_path / "capture", output=tmp_path / "run", steps=2, memory="200MB", quiet=True)
    mesh = tmp_path / "mesh.off"
    mesh.write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n", encoding="ascii")
    with pytest.raises(InputError, match=r"allows 1\.00 GB\. Take a lower --resolution"):
        voxfield.build_shapes(mesh, tmp_path / "shapes", resolution=1024, memory="1GB", quiet=True)
    with pytest.raises(InputError, match=r"allows 1\.00 GB\. Take a lower --resolution"):
        voxfield.voxelise_mesh(mesh, tmp_path / "mesh.vdb", resolution=1024, memory="1GB")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture", "clouds.npy", "mesh.off"]


@pytest.mark.slow
def test_prerender_with_workers(clouds: Path, tmp_path: Path) -> None:
    def job(side: int) -> Measured:
        common = ("--voxel-size", side, "--volume-dims", 1, 1, 1, "--workers", 2, "--compression", "lzf")
        return run("prerender", clouds, "--output-dir", tmp_path / f"out{side}", *common, whole_tree=True)

    check(job(64), job(320))
    # Room for one worker only.
    alone = run("prerender", clouds, "--output-dir", tmp_path / "alone", "--voxel-size", 256, "--memory", "1.2GB")
    assert alone.peak <= alone.said <= 1.2e9


@pytest.mark.slow
def test_dataset_build_and_trace(shared_data: Path, tmp_path: Path) -> None:
    def built(side: int) -> Measured:
        mesh = shared_data / "meshes" / "bunny.obj"
        return run(
            "dataset", "build", mesh, "--output-dir", tmp_path / f"shapes{side}", "--resolution", side, "--workers", 1
        )

    check(built(64), built(512))

    def traced(samples: int) -> Measured:
        rays = ("--samples-per-view", samples, "--max-level", 0, "--workers", 1)
        return run("dataset", "trace", tmp_path / "shapes64", "--output-dir", tmp_path / f"rays{samples}", *rays)

    check(traced(3_000), traced(60_000))


@pytest.mark.slow
def test_voxelise_and_volumes(shared_data: Path, tmp_path: Path) -> None:
    def voxelised(side: int) -> Measured:
        output = tmp_path / f"{side}.vdb"
        mesh = shared_data / "meshes" / "armadillo.obj"
        return run("voxelise", mesh, output, "--resolution", side, "--memory", "16GB")

    check(voxelised(128), voxelised(384))
    for job in (
        ("vdb", "convert", "{}", tmp_path / "out.vdb"),
        ("vdb", "merge", "{}", "{}", "--same-names", "sum", "--output", tmp_path / "out.vdb"),
        ("vdb", "lod", "{}", "--output", tmp_path / "out.vdb"),
        ("vdb", "optimise", "{}", "--output", tmp_path / "out.vdb"),
        ("vdb", "compress", "{}", "--output", tmp_path / "out.vxv", "--max-error", 0.01),
        ("vdb", "mesh", "{}", tmp_path / "out.ply"),
    ):
        sizes = [
            run(*(str(part).format(tmp_path / f"{side}.vdb") for part in job), "--memory", "16GB")
            for side in (128, 384)
        ]
        check(*sizes)


@pytest.mark.slow
def test_training_on_photographs(shared_data: Path, tmp_path: Path) -> None:
    lego = shared_data / "images" / "nerf_synthetic" / "lego"

    def trained(recipe: str, *options: object) -> Measured:
        output = tmp_path / f"{recipe}{len(list(tmp_path.iterdir()))}"
        return run("train", recipe, lego, "--steps", 40, "--output", output, *options)

    def batches(samples: int) -> Measured:
        sizes = (f"model.{name}={samples}" for name in ("samples_per_batch", "final_samples_per_batch"))
        return trained("grid-ngp", *(word for size in sizes for word in ("--set", size)))

    check(batches(1 << 15), batches(1 << 18))
    # Fewer pictures are held where they do not all fit.
    part = trained("grid-ngp", "--memory", "1.5GB")
    assert part.peak <= part.said <= 1.5e9


@pytest.mark.slow
def test_training_voxels(shared_data: Path, tmp_path: Path) -> None:
    lego = shared_data / "images" / "nerf_synthetic" / "lego"

    def trained(*options: object) -> Measured:
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        few = ("--set", "model.pruning_rays=20000", "--set", "trainer.evaluation_images=1")
        return run("train", "plenoxels", lego, "--steps", 12, "--output", output, *few, *options)

    check(trained("--max-memory", "200MB"), trained("--max-memory", "1GB"))
    bounded = trained("--memory", "5GB")
    assert bounded.peak <= bounded.said <= 5e9


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "sizes"), [("diffusion", (32, 64)), ("voxel-autoencoder", (16, 32))])
def test_training_on_volumes(recipe: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip("monai")

    def trained(side: int) -> Measured:
        data = ("--set", "data.procedural_count=16", "--set", f"data.procedural_resolution={side}")
        return run("train", recipe, "procedural", "--output", tmp_path / f"{side}", "--steps", 2, *data)

    check(trained(sizes[0]), trained(sizes[1]))


@pytest.mark.slow
def test_comparing_volumes(tmp_path: Path) -> None:
    def compared(side: int, shift: float) -> Measured:
        files = []
        for name, step in (("a", 0.0), ("b", shift)):
            distance = np.linalg.norm(np.indices((side,) * 3) + 0.5 - side / 2, axis=0).astype(np.float32)
            volume = SparseVolume.from_dense((0.5 * side - distance).clip(min=0))
            matrix = np.eye(4)
            matrix[:3, 3] = step
            file = tmp_path / f"{name}{side}.vdb"
            write_vdb(file, [VdbGrid(name="density", volume=volume, index_to_world=matrix)])
            files.append(file)
        return run("vdb", "compare", *files, "--memory", "16GB")

    check(compared(96, 0.0), compared(288, 0.0))
    # Volumes at other places are interpolated.
    check(compared(96, 0.3), compared(288, 0.3))


@pytest.mark.slow
def test_points_of_a_field(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path / "capture", posed_images(count=6, resolution=48))
    voxfield.train("grid-ngp", tmp_path / "capture", output=tmp_path / "run", steps=150, quiet=True)

    def exported(points: int) -> Measured:
        output = tmp_path / f"{points}.ply"
        return run("export", "pointcloud", tmp_path / "run", "--output", output, "--points", points, "--memory", "16GB")

    check(exported(10_000), exported(250_000))


@pytest.mark.slow
def test_sampling_volumes(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    data = {"data.procedural_count": 16, "data.procedural_resolution": 64}
    settings = [f"{name}={value}" for name, value in {**data, "model.batch_size": 2}.items()]
    voxfield.train("diffusion", "procedural", output=tmp_path / "run", steps=1, overrides=settings, quiet=True)

    def drawn(batch: int) -> Measured:
        options = ("--num", batch, "--batch", batch, "--steps", 2, "--memory", "16GB", "--formats", "hdf5")
        return run("sample", "diffusion", tmp_path / "run", "--output", tmp_path / f"{batch}", *options)

    check(drawn(1), drawn(24))
