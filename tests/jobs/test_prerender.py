import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from scipy.ndimage import gaussian_filter

import voxfield
from voxfield.errors import DiskFullError, FormatError, InputError, MissingFileError
from voxfield.jobs import prerender as job

DIMS = (28000.0, 28000.0, 1600.0)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory) -> Path:
    """Eight clouds, of which the fourth has no finite point and the sixth lies elsewhere."""
    path = tmp_path_factory.mktemp("clouds") / "pointclouds.h5"
    points = np.random.default_rng(0).random((8, 60, 3)) * DIMS
    points[3] = np.nan
    points[5] += 1e6
    points[1, :4] = np.inf
    with h5py.File(path, "w") as file:
        file["pointclouds"] = points.astype(np.float32)
    return path


def render(clouds, output, **parameters):
    defaults = {"voxel_size": 8, "volume_dims": DIMS, "batch_size": 3, "workers": 1, "quiet": True}
    return voxfield.prerender(clouds, output, **{**defaults, **parameters})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class DocumentsLoader:
    """Reads a folder as the document's program does: metadata, sorted batches, samples by their place in them."""

    def __init__(self, folder):
        with (folder / "metadata.yaml").open(encoding="utf-8") as stream:
            self.metadata = yaml.safe_load(stream)
        self.samples = []
        for path in sorted(folder.glob("voxels_batch_*.h5")):
            with h5py.File(path, "r") as file:
                self.samples += [(path, row) for row in range(file["voxels"].shape[0])]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, place):
        path, row = self.samples[place]
        with h5py.File(path, "r") as file:
            return file["voxels"][row].astype(np.float32)[None], int(file["indices"][row])


def test_the_documents_loader_reads_what_is_written(clouds, tmp_path):
    done = render(clouds, tmp_path / "d", mode="compatible", threshold=0.001)
    loader = DocumentsLoader(tmp_path / "d")
    assert len(loader) == loader.metadata["total_samples"] == 6
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        "failures.json", "metadata.yaml", *(f"voxels_batch_{n:04d}.h5" for n in range(3)),
    ]  # fmt: skip
    wanted = {
        "source_h5": str(clouds), "voxel_size": 8, "voxelization_method": "gaussian", "sigma": 1.0,
        "volume_dims": list(DIMS), "padding": [0.0, 0.0, 0.0], "threshold": 0.001, "precision": 10, "batch_size": 3,
    }  # fmt: skip
    assert {name: loader.metadata[name] for name in wanted} == wanted
    with h5py.File(clouds) as file:
        points = file["pointclouds"][:]
    for place, index in enumerate([0, 1, 2, 4, 6, 7]):
        voxels, number = loader[place]
        assert number == index
        one = points[index][np.isfinite(points[index]).all(1)]
        cells = np.floor(np.clip(one / np.array(DIMS) * 7, 0, 7)).astype(int)
        grid = np.zeros((8, 8, 8), np.float32)
        np.add.at(grid, tuple(cells.T[::-1]), 1)
        grid = gaussian_filter(grid, 1.0)
        grid = (grid - grid.min()) / (grid.max() - grid.min())
        grid[grid < np.float32(0.001)] = 0
        assert np.array_equal(voxels[0], np.round(grid.astype(np.float64), 10).astype(np.float32))
    assert done.metadata == loader.metadata


def test_failed_samples_are_listed_and_left_out(clouds, tmp_path):
    done = render(clouds, tmp_path / "d")
    assert (done.samples, done.made, done.batches) == (6, 6, 3)
    listed = json.loads((tmp_path / "d" / "failures.json").read_text())
    assert [item["index"] for item in listed] == [3, 5] == done.metadata["failed_samples"]
    assert "none of its 60 points is finite" in listed[0]["reason"]
    assert "lies in the volume" in listed[1]["reason"]
    assert listed[1]["name"].endswith("pointclouds.h5[5]")


def test_a_batch_of_failures_only_has_no_file(clouds, tmp_path):
    done = render(clouds, tmp_path / "d", batch_size=1)
    assert done.batches == 6
    assert not (tmp_path / "d" / "voxels_batch_0003.h5").exists()
    assert [item.index for item in done.failures] == [3, 5]
    assert render(clouds, tmp_path / "d", batch_size=1).failures == done.failures


def test_processes_change_nothing(clouds, tmp_path):
    render(clouds, tmp_path / "one")
    render(clouds, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_second_run_does_nothing_again(clouds, tmp_path):
    render(clouds, tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").glob("*.h5")}
    done = render(clouds, tmp_path / "d")
    assert (done.samples, done.made) == (6, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").glob("*.h5")} == before


@pytest.mark.parametrize("normalise", ["sample", "global"])
def test_a_trial_does_not_poison_the_full_run(clouds, tmp_path, normalise):
    options = {"normalise": normalise, "volume_dims": None}
    trial = render(clouds, tmp_path / "d", max_samples=4, **options)
    assert trial.samples == 3
    full = render(clouds, tmp_path / "d", **options)
    render(clouds, tmp_path / "fresh", **options)
    assert content(tmp_path / "d") == content(tmp_path / "fresh")
    # The first batch was whole.
    assert full.made == full.samples - 3
    with pytest.raises(InputError, match="holds more than the 4 samples wanted"):
        render(clouds, tmp_path / "d", max_samples=4, **options)
    assert render(clouds, tmp_path / "d", max_samples=4, overwrite=True, **options).samples == 3


def test_other_parameters_are_refused(clouds, tmp_path):
    render(clouds, tmp_path / "d")
    before = content(tmp_path / "d")
    for change, said in (
        ({"sigma": 2.0}, r"with sigma=1\.0, not 2\.0"),
        ({"batch_size": 2}, "with batch_size=3, not 2"),
        ({"dtype": "uint8"}, "with dtype=float32, not uint8"),
        ({"compression": "lzf"}, "with compression=gzip, not lzf"),
    ):
        with pytest.raises(InputError, match=f"{said}.*Name another folder, or remove them with --overwrite"):
            render(clouds, tmp_path / "d", **change)
    assert content(tmp_path / "d") == before
    assert render(clouds, tmp_path / "d", sigma=2.0, batch_size=2, overwrite=True).batches == 4
    render(clouds, tmp_path / "fresh", sigma=2.0, batch_size=2)
    assert content(tmp_path / "d") == content(tmp_path / "fresh")


def test_other_points_are_refused(clouds, tmp_path):
    render(clouds, tmp_path / "d")
    with h5py.File(clouds) as file:
        points = file["pointclouds"][:]
    points[0, 0, 0] += 1
    with h5py.File(tmp_path / "pointclouds.h5", "w") as file:
        file["pointclouds"] = points
    with pytest.raises(InputError, match="rendered from other points"):
        render(tmp_path / "pointclouds.h5", tmp_path / "d")
    (tmp_path / "d" / "metadata.yaml").unlink()
    with pytest.raises(InputError, match="with other parameters or from other points"):
        render(tmp_path / "pointclouds.h5", tmp_path / "d")


def test_batches_of_other_programs_are_refused(clouds, tmp_path):
    (tmp_path / "d").mkdir()
    with h5py.File(tmp_path / "d" / "voxels_batch_0000.h5", "w") as file:
        file["voxels"] = np.zeros((2, 8, 8, 8), np.float32)
    with pytest.raises(InputError, match="other parameters"):
        render(clouds, tmp_path / "d")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"is a file\. Name a folder"):
        render(clouds, tmp_path / "file")


def test_a_damaged_batch_is_made_again(clouds, tmp_path):
    render(clouds, tmp_path / "d")
    before = content(tmp_path / "d")
    path = tmp_path / "d" / "voxels_batch_0001.h5"
    path.write_bytes(path.read_bytes()[:3000])
    (tmp_path / "d" / ".voxels_batch_0002.h5.0123.partial").write_bytes(b"left behind")
    done = render(clouds, tmp_path / "d")
    assert done.made == 1
    assert content(tmp_path / "d") == before


def test_stored_types_and_ranges(clouds, tmp_path):
    full = render(clouds, tmp_path / "f", voxelization_method="density", normalise="none")
    assert full.metadata["value_range"][0] == 0
    assert full.metadata["value_range"][1] >= 1
    assert full.metadata["largest_storage_error"] == 0
    small = render(clouds, tmp_path / "q", dtype="uint8")
    assert 0 < small.metadata["largest_storage_error"] <= 0.5 / 255 * 1.01
    assert small.metadata["value_range"] == [0, 1]
    shared = render(clouds, tmp_path / "g", normalise="global", voxelization_method="density")
    with h5py.File(tmp_path / "g" / "voxels_batch_0000.h5") as file:
        ranges, stored = file["source_ranges"][:], file["stored_ranges"][:]
    assert np.allclose(stored[:, 1], ranges[:, 1] / full.metadata["value_range"][1])
    assert shared.metadata["parameters"]["value_range"] == full.metadata["value_range"]


def test_a_full_disk_keeps_what_is_done(clouds, tmp_path, monkeypatch):
    original = job.BatchWriter.add

    def add(self, chunk, facts):
        if facts.index >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, chunk, facts)

    monkeypatch.setattr(job.BatchWriter, "add", add)
    with pytest.raises(DiskFullError, match=r"voxels_batch_0002\.h5: there is no room left.*Free some"):
        render(clouds, tmp_path / "d")
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["voxels_batch_0000.h5", "voxels_batch_0001.h5"]
    assert render(clouds, tmp_path / "d").made == 2


def test_nothing_to_render(clouds, tmp_path):
    with pytest.raises(InputError, match=r"none of 8 samples could be rendered; .*lies in the volume"):
        render(clouds, tmp_path / "d", volume_origin=(-1e9, 0, 0))
    assert not (tmp_path / "d" / "metadata.yaml").exists()
    with pytest.raises(InputError, match="points: name point clouds"):
        voxfield.prerender(output=tmp_path / "d")
    with pytest.raises(InputError, match="output: name a folder"):
        voxfield.prerender(clouds)
    with pytest.raises(MissingFileError):
        render(tmp_path / "none.h5", tmp_path / "d")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"voxel_size": 0}, "voxel_size"),
        ({"sgima": 1}, "unknown parameter 'sgima'. Did you mean sigma"),
        ({"compression": "gzp"}, "compression takes gzip or lzf"),
        ({"voxelization_method": "splat"}, "voxelization_method takes occupancy or"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_samples": 0}, "max_samples"),
        ({"workers": 0}, "workers"),
        ({"compression_level": 10}, "compression_level"),
        ({"volume_dims": (1, 0, 1)}, "volume_dims: expected a value above 0"),
        ({"data_key": "clouds"}, "expected 'clouds', holds pointclouds. Name one: --data-key"),
    ],
)
def test_bad_parameters(clouds, tmp_path, parameters, message):
    with pytest.raises(InputError, match=message):
        render(clouds, tmp_path / "d", **parameters)
    assert not (tmp_path / "d").exists()


CONFIG = {
    "data": {
        "h5_file_path": "CLOUDS", "data_key": "pointclouds", "train_ratio": 0.95, "use_prerendered": True,
        "prerendered_dir": "D", "voxel_size": 8, "voxelization_method": "density", "sigma": 0.05, "padding": [0, 0, 0],
        "volume_dims": [28000.0, 28000.0, 1600.0], "normalize": True, "augment": True, "cache_voxels": False,
        "max_cache_size": 32,
    },
    "model": {"model_channels": 32},
    "prerender": {
        "output_dir": "OUTPUT", "max_samples": None, "batch_size": 4, "threshold": 0.05, "precision": 10,
        "compression": "gzip", "overwrite": False,
    },
}  # fmt: skip


def write_config(path: Path, clouds: Path, output: Path, **changes) -> Path:
    text = yaml.safe_dump({**CONFIG, **changes}).replace("CLOUDS", str(clouds)).replace("OUTPUT", str(output))
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(clouds, tmp_path):
    config = write_config(tmp_path / "config.yaml", clouds, tmp_path / "d")
    done = voxfield.prerender(config=config, quiet=True, workers=1)
    parameters = done.metadata["parameters"]
    assert (done.output, done.batches) == (tmp_path / "d", 2)
    assert (parameters["voxelization_method"], parameters["sigma"], parameters["threshold"]) == ("density", 0.05, 0.05)
    assert parameters["mode"] == "corrected"
    explicit = voxfield.prerender(
        clouds, tmp_path / "e", config=config, voxelization_method="occupancy", threshold=0.0, batch_size=2, quiet=True,
        workers=1,
    )  # fmt: skip
    parameters = explicit.metadata["parameters"]
    assert (parameters["voxelization_method"], parameters["sigma"], parameters["threshold"]) == ("occupancy", 0.05, 0)
    assert explicit.batches == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prerender": {"treshold": 0.1}}, "unknown name prerender.treshold. Did you mean threshold"),
        ({"data": {"voxel_sizes": 8}}, "unknown name data.voxel_sizes. Did you mean voxel_size"),
        ({"prerender": {"threshold": "much"}}, "config.yaml: threshold takes a number, got 'much'"),
        ({"prerender": [1]}, "expected a mapping in the section prerender"),
    ],
)
def test_bad_files(clouds, tmp_path, changes, message):
    config = write_config(tmp_path / "config.yaml", clouds, tmp_path / "d", **changes)
    with pytest.raises((InputError, FormatError), match=message):
        voxfield.prerender(clouds, tmp_path / "d", config=config, quiet=True)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_resumes_after_being_killed(clouds, tmp_path):
    render(clouds, tmp_path / "whole", batch_size=1, voxel_size=48)
    code = (
        "import sys, voxfield\n"
        f"voxfield.prerender(sys.argv[1], sys.argv[2], voxel_size=48, volume_dims={DIMS}, batch_size=1, workers=1, "
        "quiet=True)"
    )
    command = [sys.executable, "-c", code, str(clouds), str(tmp_path / "d")]
    rng = random.Random(0)
    for target in (1, 3):
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and len(list((tmp_path / "d").glob("voxels_batch_*.h5"))) < target:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    render(clouds, tmp_path / "d", batch_size=1, voxel_size=48)
    assert content(tmp_path / "d") == content(tmp_path / "whole")
