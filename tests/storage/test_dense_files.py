"""Arrays of voxels in other programs' files come back with their place in the world."""

import importlib
import json

import numpy as np
import pytest

import voxfield
from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError
from voxfield.storage.dense_files import DenseVolume, dense_ending, read_dense, write_dense
from voxfield.storage.vdb import VdbGrid, read_vdb
from voxfield.voxels.sparse import SparseVolume

ENDINGS = [".npy", ".zarr", ".nii", ".nii.gz", ".raw"]
MATRIX = np.array([[0.5, 0, 0, 3], [0, 0.25, 0.1, -4], [0, 0, 2, 5], [0, 0, 0, 1.0]])


def needs(ending):
    package = {".zarr": "zarr", ".nii": "nibabel", ".nii.gz": "nibabel"}.get(ending)
    if package:
        pytest.importorskip(package)


def world(volume, place):
    """Where the array's element (x, y, z) stands."""
    matrix = np.eye(4) if volume.index_to_world is None else volume.index_to_world
    return matrix @ np.array([*(np.array(volume.origin) + place), 1.0])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_values_and_places_come_back(tmp_path, ending, dtype, channels):
    needs(ending)
    values = (np.random.default_rng(0).normal(size=(*channels, 4, 5, 6)) * 100).astype(dtype)
    volume = DenseVolume(values=values, index_to_world=MATRIX, origin=(-7, 8, 9))
    again = read_dense(write_dense(tmp_path / f"new/a{ending}", volume))
    assert again.values.dtype == dtype
    assert np.array_equal(again.values, values)
    if ending != ".npy":
        np.testing.assert_allclose(world(again, (1, 2, 3)), world(volume, (1, 2, 3)), rtol=1e-5)
    assert sorted(path.name for path in (tmp_path / "new").iterdir() if path.name.startswith(".")) == []
    write_dense(tmp_path / f"new/a{ending}", volume)  # over the old one
    assert np.array_equal(read_dense(tmp_path / f"new/a{ending}").values, values)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_volume_goes_there_and_back(tmp_path, ending):
    needs(ending)
    dense = np.zeros((4, 5, 6), np.float32)
    dense[1:, 1:3, 2:] = np.arange(1, 25).reshape(3, 2, 4)
    grid = VdbGrid(
        name="a",
        volume=SparseVolume.from_dense(dense, origin=(3, -4, 5)),
        index_to_world=np.diag([2, 2, 2, 1]),
        grid_class="fog volume",
    )
    source = voxfield.write_volume(tmp_path / "a.vdb", grid)
    voxfield.convert_volume(source, tmp_path / f"a{ending}")
    (again,) = voxfield.convert_volume(tmp_path / f"a{ending}", tmp_path / "b.vdb", voxel_size=2.0)
    assert again.name == "a"
    assert again.grid_class == ("fog volume" if ending in (".zarr", ".raw") else "unknown")
    coordinates, values = grid.volume.active_voxels()
    found, values_again = read_vdb(tmp_path / "b.vdb")[0].volume.active_voxels()
    # The tree's order depends on where the first voxel is.
    order, again_order = np.lexsort(coordinates.T), np.lexsort(found.T)
    coordinates, found = coordinates[order], found[again_order]
    assert np.array_equal(values[order], values_again[again_order])
    if ending != ".npy":
        places = again.index_to_world @ np.c_[found, np.ones(len(found))].T
        expected = grid.index_to_world @ np.c_[coordinates, np.ones(len(found))].T
        np.testing.assert_allclose(places, expected)


def test_a_volume_becomes_nanovdb(tmp_path):
    source = voxfield.write_volume(
        tmp_path / "a.vdb", VdbGrid(name="a", volume=SparseVolume.from_dense(np.ones((2, 2, 2), np.float32)))
    )
    voxfield.convert_volume(source, tmp_path / "a.nvdb")
    voxfield.convert_volume(source, tmp_path / "b.nvdb", compression="zip")
    assert (tmp_path / "a.nvdb").read_bytes()[:8] == b"NanoVDB0"
    assert (tmp_path / "b.nvdb").stat().st_size < (tmp_path / "a.nvdb").stat().st_size / 50
    with pytest.raises(InputError, match=r"a\.nvdb: expected a file that ends in \.vdb, \.npy"):
        voxfield.convert_volume(tmp_path / "a.nvdb", tmp_path / "c.vdb")


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_and_damaged_files(tmp_path, ending):
    needs(ending)
    path = tmp_path / f"a{ending}"
    with pytest.raises(MissingFileError, match="no such file"):
        read_dense(path)
    if ending == ".zarr":
        path.mkdir()
    else:
        path.write_bytes(b"nothing of the sort")
    if ending == ".raw":
        path.with_name("a.raw.json").write_text("{}")
    with pytest.raises(FormatError, match="a"):
        read_dense(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4, 5, 7]},
        {"shape": [2**40, 2**40, 2**40]},
        {"shape": [-4, -5, 6]},
        {"shape": "abc"},
        {"dtype": "O"},
        {"dtype": "nonsense"},
        {"version": 2},
        {"index_to_world": [1, 2]},
        {"index_to_world": [[float("nan")] * 4] * 4},
        {"origin": [0, 0]},
    ],
)
def test_raw_files_whose_json_lies(tmp_path, change):
    path = write_dense(tmp_path / "a.raw", DenseVolume(values=np.ones((4, 5, 6), np.float32)))
    sidecar = tmp_path / "a.raw.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(FormatError, match=r"a\.raw"):
        read_dense(path)
    sidecar.unlink()
    with pytest.raises(MissingFileError, match=r"a\.raw\.json"):
        read_dense(path)


def test_arrays_that_are_no_volume(tmp_path):
    for values in (np.ones((2, 2)), np.array([[["x"]]])):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(FormatError, match=r"a\.npy: expected numbers of shape"):
            read_dense(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"a\.npy"):
        read_dense(tmp_path / "a.npy")


def test_endings():
    assert dense_ending("B.NII.GZ") == ".nii.gz"
    assert dense_ending("a.vdb") is None
    with pytest.raises(InputError, match=r"\.npy, \.zarr"):
        read_dense("a.txt")


@pytest.mark.parametrize(("ending", "package"), [(".zarr", "zarr"), (".nii", "nibabel")])
def test_packages_that_are_missing_are_named(tmp_path, monkeypatch, ending, package):
    real = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=f"needs {package}"):
        write_dense(tmp_path / f"a{ending}", DenseVolume(values=np.ones((2, 2, 2), np.float32)))
    assert list(tmp_path.iterdir()) == []
