import os
import pickle

import h5py
import numpy as np
import pytest

from voxfield.data.point_arrays import PointArrays
from voxfield.data.point_clouds import PointClouds
from voxfield.errors import FormatError, InputError, MissingFileError


def cloud(seed: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3), np.float32)


CLOUDS = [cloud(0, 4), cloud(1, 7), cloud(2, 1)]


def write_layout(path, layout: str) -> None:
    with h5py.File(path, "w") as file:
        if layout == "stack":
            file["pointclouds"] = np.stack([cloud(seed) for seed in range(3)])
        elif layout == "offsets":
            file["data"] = np.concatenate(CLOUDS)
            file["data_offsets"] = np.cumsum([0, *map(len, CLOUDS)])
        elif layout == "grouped offsets":
            file["points/xyz"] = np.concatenate(CLOUDS)
            file["points/offsets"] = np.cumsum([0, *map(len, CLOUDS)])
        elif layout == "variable":
            data = file.create_dataset("point_clouds", 3, h5py.vlen_dtype(np.float32))
            for index, one in enumerate(CLOUDS):
                data[index] = one.ravel()
        elif layout == "members":
            for index, one in zip((2, 10, 1), (CLOUDS[1], CLOUDS[2], CLOUDS[0]), strict=True):
                file[f"points/cloud{index}"] = one
        else:
            file["data"] = CLOUDS[0]


@pytest.mark.parametrize("layout", ["stack", "offsets", "grouped offsets", "variable", "members", "single"])
def test_layouts_of_hdf5(tmp_path, layout):
    path = tmp_path / "a.h5"
    write_layout(path, layout)
    clouds = PointClouds([path], data_key="points/xyz" if layout == "grouped offsets" else None)
    expected = [cloud(seed) for seed in range(3)] if layout == "stack" else CLOUDS[: 1 if layout == "single" else 3]
    assert len(clouds) == len(expected)
    for index, one in enumerate(expected):
        np.testing.assert_array_equal(clouds.read(index), one)
        assert str(path) in clouds.name(index)
    copied = pickle.loads(pickle.dumps(clouds))
    np.testing.assert_array_equal(copied.read(0), expected[0])
    with pytest.raises(InputError, match="index"):
        clouds.read(len(expected))


def test_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([cloud(0), cloud(1)]))
    np.save(tmp_path / "b.npy", CLOUDS[1].astype(np.float64))
    np.savez(tmp_path / "c.npz", one=CLOUDS[0], many=np.stack([cloud(2), cloud(3)]))
    clouds = PointClouds([tmp_path])
    assert len(clouds) == 6
    assert [clouds.read(index).shape for index in range(6)] == [(5, 3), (5, 3), (7, 3), (5, 3), (5, 3), (4, 3)]
    assert clouds.read(2).dtype == np.float64
    assert clouds.name(1).endswith("a.npy[1]")
    named = PointClouds([tmp_path / "c.npz"], data_key="many")
    assert len(named) == 2
    with pytest.raises(InputError, match=r"holds no array 'mny'\. Did you mean many"):
        PointClouds([tmp_path / "c.npz"], data_key="mny")


def test_more_columns_and_other_numbers(tmp_path):
    wide = np.arange(24, dtype=np.int16).reshape(4, 6)
    np.save(tmp_path / "a.npy", wide)
    found = PointClouds([tmp_path / "a.npy"]).read(0)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wide[:, :3])


def test_files_folders_and_patterns(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.xyz", "a.xyz", "deep/c.csv", ".hidden.xyz", "notes.md"):
        (tmp_path / name).write_text("1,2,3\n" if name.endswith("csv") else "1 2 3\n")
    assert [path.name for path in PointClouds([tmp_path]).paths] == ["a.xyz", "b.xyz", "c.csv"]
    chosen = PointClouds([str(tmp_path / "*.xyz"), tmp_path / "deep" / "c.csv", tmp_path / "a.xyz"])
    assert [path.name for path in chosen.paths] == ["a.xyz", "b.xyz", "c.csv"]
    with pytest.raises(MissingFileError, match="holds no point clouds"):
        PointClouds([str(tmp_path / "*.ply")])
    with pytest.raises(MissingFileError, match="no such file"):
        PointClouds([tmp_path / "none.h5"])
    with pytest.raises(InputError, match="is no file of point clouds"):
        PointClouds([tmp_path / "notes.md"])
    with pytest.raises(InputError, match="at least one"):
        PointClouds([])


def test_fingerprint_changes_with_content(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, CLOUDS[0])
    first = PointClouds([path]).fingerprint()
    assert PointClouds([path]).fingerprint() == first
    changed = CLOUDS[0].copy()
    changed[2, 1] += 1
    np.save(path, changed)
    assert PointClouds([path]).fingerprint() != first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "expected pointclouds or point_clouds or data or points, holds nothing"),
        (lambda file: file.__setitem__("other", CLOUDS[0]), "holds other. Name one: --data-key"),
        (lambda file: file.__setitem__("data", np.zeros((2, 4, 2))), r"of shape \(N, M, 3\) or \(M, 3\), got"),
        (lambda file: file.__setitem__("data", 3.0), r"of shape \(N, M, 3\) or \(M, 3\), got"),
        (lambda file: file.__setitem__("data", [b"abc", b"d"]), "expected numbers"),
        (lambda file: file.create_dataset("data", (0, 5, 3), "f4"), "holds 0 clouds"),
        (lambda file: file.create_group("data"), "holds 0 clouds"),
        (lambda file: file.create_dataset("data", (1, 1 << 40, 3), "f4", chunks=(1, 64, 3)), "larger than the"),
        (lambda file: file.__setitem__("data", h5py.ExternalLink("other.h5", "/data")), "link to another file"),
        (lambda file: file.__setitem__("points/a", h5py.ExternalLink("other.h5", "/data")), "link to another file"),
    ],
)
def test_says_what_is_wrong_with_hdf5(tmp_path, make, message):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises((InputError, FormatError), match=message) as caught:
        PointClouds([path])
    assert str(path) in str(caught.value)


def test_data_outside_the_file_is_not_read(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(120))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("data", (1, 5, 3), "f4", external=[(str(tmp_path / "raw"), 0, 60)])
    write_layout(tmp_path / "a.h5", "stack")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 5, 3), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "a.h5", "pointclouds", (3, 5, 3))
        file.create_virtual_dataset("data", layout)
    for name in ("external.h5", "virtual.h5"):
        with pytest.raises(FormatError, match="lies in other files"):
            PointClouds([tmp_path / name])


@pytest.mark.parametrize("offsets", [[0, 3], [1, 12], [0, 9, 4, 12], [[0, 12]], [0.0, 12.0]])
def test_offsets_must_divide_the_points(tmp_path, offsets):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.concatenate(CLOUDS)
        file["offsets"] = offsets
    with pytest.raises(FormatError, match="offsets"):
        PointClouds([tmp_path / "a.h5"])


@pytest.mark.parametrize("name", ["a.h5", "a.npy", "a.npz"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    if name == "a.h5":
        write_layout(path, "stack")
    elif name == "a.npy":
        np.save(path, CLOUDS[0])
    else:
        np.savez(path, CLOUDS[0])
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(FormatError) as caught:
            PointClouds([path])
        assert str(path) in str(caught.value)


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", np.array([{"x": 1}], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(FormatError):
            PointClouds([tmp_path / name])


def test_a_damaged_sample_is_named(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("pointclouds", (2, 5, 3), "f4", chunks=(1, 5, 3), compression="gzip")
        data[:] = np.stack([cloud(0), cloud(1)])
        data.id.write_direct_chunk((1, 0, 0), b"damaged")
    clouds = PointClouds([path])
    assert clouds.read(0).shape == (5, 3)
    with pytest.raises(FormatError, match=r"a\.h5\[1\]: cannot be read"):
        clouds.read(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_files_anew(tmp_path):
    write_layout(tmp_path / "a.h5", "stack")
    arrays = PointArrays(tmp_path / "a.h5")
    expected = arrays.read(1)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(arrays.read(1), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    arrays.close()
