"""Public calls and verbs whose paths are URLs."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.cli.options import Address
from voxfield.errors import FormatError, InputError, MissingFileError, TransferError
from voxfield.storage.remote.sources import Source


@pytest.fixture
def store():
    """Objects of ``memory://bucket`` by name."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def names(store):
    return sorted(name.removeprefix("/bucket/") for name in store.find("/bucket"))


def put_folder(store, folder, where):
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe(f"/bucket/{where}/{path.relative_to(folder).as_posix()}", path.read_bytes())


class TestVolumes:
    @pytest.fixture
    def volume(self, store, tmp_path):
        np.save(tmp_path / "ball.npy", np.indices((6, 6, 6)).sum(axis=0).astype(np.float32))
        store.pipe("/bucket/ball.npy", (tmp_path / "ball.npy").read_bytes())
        voxfield.convert_volume("memory://bucket/ball.npy", "memory://bucket/ball.vdb")
        return "memory://bucket/ball.vdb"

    def test_converted_there(self, store, volume):
        assert names(store) == ["ball.npy", "ball.vdb"]
        assert voxfield.read_volume(volume).volume.active_count == voxfield.volume_info(volume)["total_active_voxels"]
        assert voxfield.volume_info(volume)["file"] == volume

    def test_several_sources(self, store, volume):
        voxfield.write_volume("memory://bucket/other.vdb", voxfield.read_volume(volume))
        merged = voxfield.merge_volumes(
            [volume, "memory://bucket/other.vdb"], "memory://bucket/merged.vdb", same_names="sum"
        )
        assert len(merged) == 1
        assert "merged.vdb" in names(store)

    def test_in_place(self, store, volume):
        before = store.cat("/bucket/ball.vdb")
        voxfield.optimise_volume(volume, tolerance=4.0)
        assert store.cat("/bucket/ball.vdb") != before

    def test_verbs_say_urls(self, store, volume, capsys):
        assert main(["vdb", "convert", volume, "memory://bucket/thin.vdb", "--tolerance", "3"]) == 0
        assert "Wrote  memory://bucket/thin.vdb" in capsys.readouterr().out
        assert main(["vdb", "info", volume, "--png", "memory://bucket/slice.png"]) == 0
        assert "Wrote  memory://bucket/slice.png" in capsys.readouterr().out
        assert (
            main(["vdb", "compress", volume, "--output", "memory://bucket/ball.vxv", "--max-error", "0.1", "--quiet"])
            == 0
        )
        assert main(["vdb", "optimise", volume]) == 0
        assert "Wrote  memory://bucket/ball.vdb" in capsys.readouterr().out
        assert {"ball.vxv", "slice.png", "thin.vdb"} <= set(names(store))

    def test_errors_say_urls(self, store, volume, capsys):
        store.pipe("/bucket/cut.vdb", store.cat("/bucket/ball.vdb")[:100])
        with pytest.raises(FormatError, match=r"^memory://bucket/cut\.vdb: "):
            voxfield.read_volume("memory://bucket/cut.vdb")
        assert main(["vdb", "info", "memory://bucket/none.vdb"]) == 2
        assert "memory://bucket/none.vdb: there is nothing there" in capsys.readouterr().err
        assert main(["vdb", "info", "nosuch://bucket/none.vdb"]) == 2
        assert main(["vdb", "convert", volume, "https://127.0.0.1/a.vdb"]) == 2
        assert "can only be read" in capsys.readouterr().err


class TestDatasets:
    def test_splits_are_published_and_a_failed_job_is_not(self, store, shape_dataset, tmp_path, monkeypatch):
        put_folder(store, shape_dataset, "dataset")
        before = names(store)
        voxfield.split_shapes("memory://bucket/dataset", train=1.0, val=0.0, test=0.0)
        assert names(store) == before
        assert b'"test": 0' in store.cat("/bucket/dataset/splits.json")
        assert voxfield.verify_shapes("memory://bucket/dataset", quiet=True).objects == 4
        voxfield.view_shapes("memory://bucket/dataset", "memory://bucket/sheet.png", size=32)
        assert "sheet.png" in names(store)
        voxfield.convert_shapes("memory://bucket/dataset", "memory://bucket/files", layout="files")
        assert "files/metadata.json" in names(store)
        with pytest.raises(InputError):
            voxfield.trace_shapes("memory://bucket/dataset", "memory://bucket/rays", sphere_divisions=0, quiet=True)
        assert not [name for name in names(store) if name.startswith("rays")]


class TestRuns:
    @pytest.fixture
    def capture(self, store, tiny_capture):
        put_folder(store, tiny_capture, "spheres")
        return "memory://bucket/spheres"

    def test_refuses_what_is_there_and_resumes_elsewhere(self, store, capture, tiny, tmp_path, monkeypatch):
        run = voxfield.train(
            "grid-ngp", capture, output="memory://bucket/run", steps=4, quiet=True, overrides=tiny, device="cpu"
        )
        assert run.info()["path"] == "memory://bucket/run"
        assert run.info()["data"] == capture
        # The capture may also be gone from the cache, or be another machine's.
        monkeypatch.setenv("VOXFIELD_CACHE", str(tmp_path / "elsewhere"))
        with pytest.raises(InputError, match=r"^memory://bucket/run: holds a run already"):
            voxfield.train("grid-ngp", capture, output="memory://bucket/run", steps=4, quiet=True, overrides=tiny)
        again = voxfield.train("grid-ngp", output="memory://bucket/run", steps=6, resume=True, quiet=True)
        assert again.outcome == "finished"
        assert "run/checkpoints/step-000000006.pt" in names(store)
        with pytest.raises(MissingFileError, match=r"^memory://bucket/none"):
            voxfield.train("grid-ngp", output="memory://bucket/none", resume=True, quiet=True)

    def test_results_stay_here_when_the_run_cannot_be_written_to(
        self, store, capture, tiny, tmp_path, monkeypatch, capsys
    ):
        run = voxfield.train("grid-ngp", capture, output=tmp_path / "run", steps=2, quiet=True, overrides=tiny)
        put_folder(store, run.path, "run")
        shutil.rmtree(run.path)
        store.rm("/bucket/run/report.html")
        opened = voxfield.open("memory://bucket/run")

        def refuse(self, path, name):
            raise PermissionError("Access Denied")

        monkeypatch.setattr(Source, "send", refuse)
        report = opened.report()
        assert report.is_file()
        said = capsys.readouterr().err
        assert "memory://bucket/run/report.html: could not be published: access is refused (Access Denied)" in said
        with pytest.raises(TransferError, match=r"cameras\.json: could not be published"):
            opened.export_cameras("memory://bucket/cameras.json")


def test_addresses_keep_their_slashes():
    address = Address("s3://bucket/runs/lego")
    assert str(address) == "s3://bucket/runs/lego"
    assert str(address / "eval" / "metrics.json") == "s3://bucket/runs/lego/eval/metrics.json"
    assert address.suffix == ""
    assert isinstance(address, Path)
