"""Places that fail: full disks, folders that may not be written to, full shared memory, clocks that were wrong, two
writers at once, files that go while they are read. What was there stays, and a sentence says what to do.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.capture_reading import read_capture
from voxfield.data.voxel_datasets import PrerenderedVoxelDataset
from voxfield.errors import DiskFullError, FormatError, InputError, VoxfieldError
from voxfield.storage.atomic import replacing, write_bytes
from voxfield.storage.checkpoint import load_latest, save_checkpoint
from voxfield.storage.one_writer import only_writer
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.voxels.sparse import SparseVolume

TEXT = "another process is writing there"


def fog(size):
    dense = np.random.default_rng(0).random((size, size, size)).astype(np.float32)
    return [VdbGrid(name="fog", volume=SparseVolume.from_dense(dense))]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------ full disk


def test_a_checkpoint_that_does_not_fit_keeps_the_one_before(small_disk):
    save_checkpoint(small_disk, 1, {"model": torch.zeros(10)}, keep=1)
    with pytest.raises(DiskFullError, match="no room left"):
        save_checkpoint(small_disk, 2, {"model": torch.rand(4_000_000)}, keep=1)
    assert names(small_disk / "checkpoints") == ["step-000000001.pt"]
    assert load_latest(small_disk)[1]["step"] == 1


def test_a_volume_that_does_not_fit_keeps_the_one_before(small_disk, tmp_path, capsys):
    source = write_vdb(tmp_path / "large.vdb", fog(128), compression="none")
    old = write_vdb(small_disk / "a.vdb", fog(4)).read_bytes()
    assert main(["vdb", "convert", str(source), str(small_disk / "a.vdb"), "--compression", "none"]) == 2
    assert "a.vdb: there is no room left on its disk" in capsys.readouterr().err
    assert (small_disk / "a.vdb").read_bytes() == old
    assert names(small_disk) == ["a.vdb"]


def test_a_dataset_that_does_not_fit_is_continued_elsewhere(small_disk, tmp_path):
    corners = "v 0 0 0\nv 5 0 1\nv 0 4 0\nv 0.5 0 3\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
    (tmp_path / "wedge.obj").write_text(corners)
    settings = {"resolution": 128, "min_resolution": 8, "workers": 1, "quiet": True}
    with (small_disk / "ballast").open("wb") as stream:
        stream.write(bytes(shutil.disk_usage(small_disk).free - 700_000))
    with pytest.raises(DiskFullError, match="no room left"):
        voxfield.build_shapes(tmp_path / "wedge.obj", small_disk / "set", **settings)
    (small_disk / "ballast").unlink()
    assert voxfield.build_shapes(tmp_path / "wedge.obj", small_disk / "set", **settings).objects == 1
    voxfield.verify_shapes(small_disk / "set")


def test_errors_of_libraries_on_a_full_disk_are_named(small_disk):
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(DiskFullError), replacing(small_disk / "a") as temporary:  # noqa: PT012  (what is tested)
        temporary.touch()
        raise RuntimeError("unexpected position")
    with pytest.raises(InputError), replacing(small_disk / "a"):
        raise InputError("something else")


# ------------------------------------------------------------------------------------------------- places not to write


def test_a_read_only_folder_is_said(small_disk, tmp_path, capsys):
    write_vdb(small_disk / "a.vdb", fog(4))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert main(["vdb", "convert", str(small_disk / "a.vdb"), str(small_disk / "b.vdb")]) == 2
    said = capsys.readouterr().err
    assert "Read-only file system. Write to another place." in said
    np.save(tmp_path / "clouds.npy", np.zeros((2, 5, 3), np.float32))
    assert main(["prerender", str(tmp_path / "clouds.npy"), "--output-dir", str(small_disk / "out"), "--quiet"]) == 2
    assert f"{small_disk / 'out'}: Read-only file system" in capsys.readouterr().err


FULL_SHARED_MEMORY = """
mount -t tmpfs -o size=4k full /dev/shm && head -c 4096 /dev/zero > /dev/shm/ballast || exit 77
exec "$0" -c '
from voxfield.distributed.executors import ExecutorSettings, open_executor
from voxfield.errors import UnavailableError
with open_executor(ExecutorSettings(workers=2), tasks=2) as executor:
    try:
        print(list(executor.run(len, ["a", "b"])))
    except UnavailableError as error:
        print("said:", error)
'
"""


def test_full_shared_memory_is_said():
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, for shared memory of its own")
    command = ["unshare", "--mount", "sh", "-c", FULL_SHARED_MEMORY, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"shared memory of its own is not allowed here: {done.stderr.strip()}")
    assert "said: Processes cannot be started" in done.stdout, done.stdout + done.stderr
    assert "--workers 1" in done.stdout


# --------------------------------------------------------------------------------------------------------- two writers


@pytest.fixture
def wedge(tmp_path):
    corners = "v 0 0 0\nv 5 0 1\nv 0 4 0\nv 0.5 0 3\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
    (tmp_path / "wedge.obj").write_text(corners)
    return tmp_path / "wedge.obj"


def build(wedge, folder):
    return voxfield.build_shapes(wedge, folder, resolution=16, min_resolution=8, workers=1, quiet=True)


def test_a_second_writer_is_refused_and_nothing_is_touched(wedge, tmp_path, tiny_capture, tiny):
    np.save(tmp_path / "clouds.npy", np.random.default_rng(0).random((3, 20, 3)).astype(np.float32))
    options = {"voxel_size": (8,), "volume_dims": (1, 1, 1), "workers": 1, "quiet": True}
    build(wedge, tmp_path / "set")
    calls = {
        "set": lambda out: build(wedge, out),
        "rays": lambda out: voxfield.trace_shapes(tmp_path / "set", out, sphere_divisions=1, workers=1, quiet=True),
        "voxels": lambda out: voxfield.prerender([tmp_path / "clouds.npy"], out, **options),
        "run": lambda out: voxfield.train(
            "grid-ngp", tiny_capture, output=out, steps=1, device="cpu", quiet=True, overrides=tiny
        ),
    }
    for name, call in calls.items():
        with only_writer(tmp_path / name):
            before = {path: path.stat().st_mtime_ns for path in (tmp_path / name).rglob("*")}
            with pytest.raises(InputError, match=TEXT):
                call(tmp_path / name)
            assert {path: path.stat().st_mtime_ns for path in (tmp_path / name).rglob("*")} == before
    # A folder that was only held is gone again, one with something in it stays.
    assert not (tmp_path / "run").exists()
    assert build(wedge, tmp_path / "set").made == 0


def test_a_killed_writer_holds_nothing_and_leaves_nothing(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from voxfield.storage.atomic import replacing; from voxfield.storage.one_writer import only_writer\n"
        "with only_writer(Path(sys.argv[1])), replacing(Path(sys.argv[1]) / 'a') as half:\n"
        "    half.write_text('half'); print('holds', flush=True); time.sleep(900)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "holds\n"
    with pytest.raises(InputError, match=TEXT), only_writer(tmp_path / "out"):
        pass
    # Its file stays while it lives.
    write_bytes(tmp_path / "out" / "b", b"")
    assert len(names(tmp_path / "out")) == 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with only_writer(tmp_path / "out"):
        subprocess.run([sys.executable, "-c", WRITE_ONE, str(tmp_path / "out" / "c")], check=True)
    assert names(tmp_path / "out") == ["b", "c"]


WRITE_ONE = "import sys; from voxfield.storage.atomic import write_bytes; write_bytes(sys.argv[1], b'whole')"


def test_what_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="lies in a file"), only_writer(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match="is a file"), only_writer(tmp_path / "file"):
        pass


# --------------------------------------------------------------------------------------------------------- wrong clocks


@pytest.mark.parametrize("seconds", [-1e9, 1e10, 1e12])
def test_times_of_files_may_be_anything(wedge, tmp_path, seconds):
    os.utime(wedge, (seconds, seconds))
    build(wedge, tmp_path / "set")
    for path in (tmp_path / "set").rglob("*"):
        os.utime(path, (4e9, 4e9))
    assert build(wedge, tmp_path / "set").made == 0


# ------------------------------------------------------------------------------------------ files that go while in use


def test_pictures_that_go_while_they_are_read(tiny_capture, tmp_path):
    shutil.copytree(tiny_capture, tmp_path / "scene")
    photos = read_capture(tmp_path / "scene")
    first, second, third = (tmp_path / "scene" / "train" / name for name in names(tmp_path / "scene" / "train")[:3])
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    third.write_bytes(b"")
    refused = 0
    for index in range(photos.num_images):
        try:
            photos.images.read(index)
        except FormatError:
            refused += 1
    assert refused == 3


def test_voxels_that_go_while_they_are_read(tmp_path):
    np.save(tmp_path / "clouds.npy", np.random.default_rng(0).random((3, 20, 3)).astype(np.float32))
    options = {"voxel_size": (8,), "volume_dims": (1, 1, 1), "batch_size": 1, "workers": 1, "quiet": True}
    voxfield.prerender([tmp_path / "clouds.npy"], tmp_path / "out", **options)
    found = PrerenderedVoxelDataset(tmp_path / "out")
    batches = sorted((tmp_path / "out").glob("*.h5"))
    batches[1].unlink()
    batches[2].write_bytes(batches[2].read_bytes()[:1000])
    found[0]
    for index in (1, 2):
        with pytest.raises(VoxfieldError, match=r"voxels_batch_000[12]\.h5"):
            found[index]


def test_a_volume_that_is_cut_after_it_was_opened(tmp_path):
    path = write_vdb(tmp_path / "a.vdb", fog(16), compression="none")
    file = VdbFile(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FormatError, match=r"a\.vdb"):
        file.read("fog")
    Path(path).unlink()
    with pytest.raises(VoxfieldError, match=r"a\.vdb"):
        file.read("fog")
