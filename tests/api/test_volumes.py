"""Volumes through the public calls and the command line."""

import json

import numpy as np
import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.vdb import VdbFile, VdbGrid, read_vdb
from voxfield.voxels.sparse import SparseVolume

HALF_METRE = np.diag([0.5, 0.5, 0.5, 1.0])


def grid(name="density", value=1.0, origin=(0, 0, 0), shape=(4, 5, 6), **options):
    """A box of one value, (D, H, W) voxels large."""
    volume = SparseVolume.from_dense(np.full(shape, value, np.float32), origin=origin)
    return VdbGrid(name=name, volume=volume, index_to_world=HALF_METRE, **options)


@pytest.fixture
def file(tmp_path):
    shared = grid("density", grid_class="fog volume", metadata={"note": "x"})
    velocity = SparseVolume.from_dense(np.ones((3, 4, 5, 6), np.float32))
    grids = [
        shared,
        VdbGrid(name="twin", volume=shared.volume, index_to_world=HALF_METRE),
        VdbGrid(name="velocity", volume=velocity, half=True),
        VdbGrid(name="empty", volume=SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32))),
    ]
    return voxfield.write_volume(tmp_path / "a.vdb", grids, metadata={"title": "t"})


def test_one_grid_is_read_by_name_or_alone(file, tmp_path):
    assert voxfield.read_volume(file, "velocity").volume.channels == (3,)
    with pytest.raises(InputError, match="'density', 'twin', 'velocity', 'empty'"):
        voxfield.read_volume(file)
    voxfield.write_volume(tmp_path / "b.vdb", grid())
    assert voxfield.read_volume(tmp_path / "b.vdb").volume.active_count == 120


def test_info_and_stats(file):
    said = voxfield.volume_info(file)
    assert (said["num_grids"], said["total_active_voxels"], said["version"]) == (4, 240, 224)
    density, twin, velocity, empty = said["grids"]
    assert density["active_voxels"] == 120
    assert density["bounding_box"] == {"min": [0, 0, 0], "max": [5, 4, 3]}
    assert density["voxel_size"] == [0.5, 0.5, 0.5]
    assert (density["class"], density["metadata"]) == ("fog volume", {"note": "x"})
    assert "range" not in density
    assert twin["shares_tree_of"] == "density"
    assert (velocity["type"], velocity["half"]) == ("vec3s", True)
    assert empty["bounding_box"] is None
    measured = voxfield.volume_info(file, values=True)["grids"]
    assert measured[0]["range"] == {"min": 1.0, "max": 1.0}
    assert measured[2]["range"] == {"min": [1.0] * 3, "max": [1.0] * 3}
    assert measured[3]["range"] is None
    assert measured[0]["memory_mb"] == pytest.approx((2048 + 512 + 12) / 1e6)


def test_info_reads_values_of_small_files(file, monkeypatch):
    from voxfield.api import volume_info

    unasked = voxfield.volume_info(file, values=None)["grids"]
    assert [one.get("range") for one in unasked] == [
        one["range"] for one in voxfield.volume_info(file, values=True)["grids"]
    ]
    monkeypatch.setattr(volume_info, "_SMALL", 100)
    assert "range" not in voxfield.volume_info(file, values=None)["grids"][0]


def test_info_of_damaged_values_says_what_it_can(file, capsys):
    raw = bytearray(file.read_bytes())
    # Behind the first leaf's mask: how its inactive values are to be had.
    raw[VdbFile(file).grids[0].blocks + 64] = 200
    file.write_bytes(raw)
    with pytest.raises(FormatError, match=r"a\.vdb"):
        voxfield.volume_info(file, values=True)
    assert "unread" in voxfield.volume_info(file, values=None)["grids"][0]
    assert main(["vdb", "info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Values of density are not read: " in shown
    assert "fog volume" in shown


def test_transforms_are_told(tmp_path, capsys):
    turned = np.eye(4)
    turned[:3, :3] = 0.5 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned[:3, 3] = 1, -2, 0.25
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    mirrored = np.diag([-1.0, 1, 1, 1])
    grids = [
        VdbGrid(name=name, volume=SparseVolume.from_dense(np.full((2, 2, 2), 3, np.float32)), index_to_world=matrix)
        for name, matrix in (("turned", turned), ("sheared", sheared), ("mirrored", mirrored), ("plain", np.eye(4)))
    ]
    file = voxfield.write_volume(tmp_path / "a.vdb", grids)
    said = voxfield.volume_info(file)["grids"]
    assert said[0]["translation"] == [1, -2, 0.25]
    assert [one["rotation"] for one in said] == [
        "turned 90 degrees about (0, 0, 1)",
        "sheared",
        "mirrored in all axes and turned 180 degrees about (1, 0, 0)",
        None,
    ]
    assert main(["vdb", "info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "moved by (1, -2, 0.25), turned 90 degrees about (0, 0, 1)" in shown
    assert "3 to 3" in shown


@pytest.mark.parametrize("verb", ["info", "stats"])
def test_info_on_the_command_line(file, capsys, verb):
    assert main(["vdb", verb, str(file)]) == 0
    shown = capsys.readouterr().out
    assert "density" in shown
    assert "blosc + active values" in shown
    assert main(["vdb", verb, str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_grids"] == 4


def test_grids_that_are_not_read_are_listed(file, capsys):
    file.write_bytes(file.read_bytes().replace(b"Tree_vec3s_5_4_3", b"Tree_point_5_4_3"))
    assert main(["vdb", "info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "not read" in shown
    assert "fog volume" in shown


def test_convert_changes_what_it_is_told(file, tmp_path):
    small = tmp_path / "small.vdb"
    arguments = ["--grids", "density", "--compression", "zip", "--precision", "half", "--level", "1"]
    assert main(["vdb", "convert", str(file), str(small), *arguments]) == 0
    (one,) = read_vdb(small)
    assert one.half
    assert one.metadata == {"note": "x"}
    assert np.array_equal(one.volume.to_dense(), np.ones((4, 5, 6)))
    assert VdbFile(small).metadata == {"title": "t"}
    assert voxfield.volume_info(small)["grids"][0]["compression"] == "zip + active values"


def test_convert_keeps_sharing_and_precision(file):
    voxfield.convert_volume(file, file)
    assert [header.parent for header in VdbFile(file).grids] == ["", "density", "", ""]
    assert [header.half for header in VdbFile(file).grids] == [False, False, True, False]


def test_convert_thins_by_a_tolerance(tmp_path):
    dense = np.linspace(0, 1, 4096, dtype=np.float32).reshape(16, 16, 16)
    voxfield.write_volume(tmp_path / "a.vdb", VdbGrid(name="a", volume=SparseVolume.from_dense(dense)))
    (thin,) = voxfield.convert_volume(tmp_path / "a.vdb", tmp_path / "b.vdb", tolerance=0.3)
    back = read_vdb(tmp_path / "b.vdb")[0].volume
    assert thin.volume.active_count == back.active_count < 4096
    assert np.abs(back.to_dense((0, 0, 0), (16, 16, 16)) - dense).max() <= 0.3


def test_arrays_there_and_back(tmp_path):
    dense = np.random.default_rng(0).normal(size=(3, 9, 10, 11)).astype(np.float32)
    np.save(tmp_path / "colour.npy", dense)
    vdb, again = tmp_path / "colour.vdb", tmp_path / "again.npy"
    assert main(["vdb", "convert", str(tmp_path / "colour.npy"), str(vdb), "--voxel-size", "0.25"]) == 0
    one = voxfield.read_volume(vdb)
    assert one.name == "colour"
    assert one.index_to_world[0, 0] == 0.25
    assert main(["vdb", "convert", str(vdb), str(again)]) == 0
    assert np.array_equal(np.load(again), dense)


def test_merge_brings_grids_together(tmp_path):
    first = voxfield.write_volume(tmp_path / "a.vdb", grid("density"), metadata={"a": 1, "b": 1})
    second = voxfield.write_volume(tmp_path / "b.vdb", grid("heat"), metadata={"b": 2})
    output = tmp_path / "both.vdb"
    assert main(["vdb", "merge", str(first), str(second), "--output", str(output)]) == 0
    assert [header.name for header in VdbFile(output).grids] == ["density", "heat"]
    assert VdbFile(output).metadata == {"a": 1, "b": 2}


@pytest.mark.parametrize(("how", "values"), [("over", [1, 2, 2]), ("sum", [1, 3, 2]), ("max", [1, 2, 2])])
def test_merge_of_one_name(tmp_path, how, values):
    files = [
        voxfield.write_volume(tmp_path / f"{value}.vdb", grid(value=float(value), origin=(2 * value, 0, 0)))
        for value in (1, 2)
    ]
    (merged,) = voxfield.merge_volumes(files, tmp_path / "both.vdb", same_names=how)
    assert merged.volume.values_at(np.array([[3, 1, 1], [5, 1, 1], [9, 1, 1]]))[0].tolist() == values
    kept = voxfield.merge_volumes(files, tmp_path / "both.vdb", same_names="keep")
    assert [one.name for one in kept] == ["density", "density"]
    with pytest.raises(InputError, match="'density' is in an earlier file"):
        voxfield.merge_volumes(files, tmp_path / "both.vdb")


def test_crop_by_voxels_and_by_the_world(file, tmp_path):
    output = tmp_path / "part.vdb"
    box = ["--lower", "1", "1", "1", "--upper", "3", "3", "3"]
    assert main(["vdb", "crop", str(file), str(output), *box]) == 0
    lower, upper = read_vdb(output)[0].volume.active_bounds
    assert (lower.tolist(), upper.tolist()) == ([1, 1, 1], [3, 3, 3])
    # Half a metre a voxel: those from 0.5 to 1.0 m are voxels 1 and 2. The velocity's voxels are a metre.
    assert (
        main(
            ["vdb", "crop", str(file), str(output), "--lower", "0.5", "0.5", "0.5", "--upper", "1", "1", "1", "--world"]
        )
        == 0
    )
    density, twin, velocity, _ = read_vdb(output)
    assert (density.volume.active_bounds[0].tolist(), density.volume.active_bounds[1].tolist()) == (
        [1, 1, 1],
        [3, 3, 3],
    )
    assert twin.volume is density.volume
    assert velocity.volume.active_count == 1


def test_a_box_beside_everything_is_refused(file, tmp_path, capsys):
    output = tmp_path / "part.vdb"
    box = ["--lower", "50", "0", "0", "--upper", "60", "8", "8"]
    assert main(["vdb", "crop", str(file), str(output), *box]) == 2
    said = capsys.readouterr().err
    assert "box: (50, 0, 0) to (60, 8, 8) holds no active voxel of" in said
    assert "'density' from (0, 0, 0) to (5, 4, 3)" in said
    with pytest.raises(InputError, match=r"'density' from \(0, 0, 0\) to \(2\.5, 2, 1\.5\).*in world coordinates"):
        voxfield.crop_volume(file, output, (50, 0, 0), (60, 8, 8), world=True)
    assert not output.exists()
    # A hole within the volume is no mistake.
    corners = SparseVolume.from_voxels(np.array([[0, 0, 0], [90, 90, 90]]), np.ones(2, np.float32))
    hollow = voxfield.write_volume(tmp_path / "b.vdb", VdbGrid(name="density", volume=corners))
    assert voxfield.crop_volume(hollow, output, (40, 40, 40), (50, 50, 50))[0].volume.active_count == 0


def test_nanovdb_is_what_the_ending_asks_for(tmp_path):
    grid = VdbGrid(name="density", volume=SparseVolume.from_dense(np.ones((2, 3, 4), np.float32)))
    written = voxfield.write_volume(tmp_path / "a.nvdb", grid)
    voxfield.convert_volume(voxfield.write_volume(tmp_path / "a.vdb", grid), tmp_path / "b.nvdb")
    assert written.read_bytes().startswith(b"NanoVDB")
    assert written.read_bytes() == (tmp_path / "b.nvdb").read_bytes()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda a: voxfield.convert_volume(a, "x.ply"),
            InputError,
            "x.ply: expected a file that ends in .vdb, .nvdb",
        ),
        (lambda a: voxfield.convert_volume(a, "x.npy"), InputError, "one dense array, got 4 grids"),
        (lambda a: voxfield.convert_volume("none.npy", a), MissingFileError, "none.npy"),
        (lambda a: voxfield.convert_volume(a, "x.vdb", names=["densty"]), InputError, "Did you mean density"),
        (lambda a: voxfield.merge_volumes([a], "x.vdb", same_names="mean"), InputError, "same_names"),
        (lambda a: voxfield.crop_volume(a, "x.vdb", (0, 0, 0.5), (1, 1, 1)), InputError, "whole voxels"),
        (lambda a: voxfield.crop_volume(a, "x.vdb", (0, 0, 0), (1, 1, np.nan)), InputError, "finite"),
        (lambda a: voxfield.crop_volume(a, "x.vdb", (0, 0, 0), (0, 1, 1)), InputError, "box"),
        (lambda a: voxfield.volume_info("none.vdb"), MissingFileError, "none.vdb"),
    ],
)
def test_bad_input_is_named(file, monkeypatch, call, error, message):
    monkeypatch.chdir(file.parent)
    with pytest.raises(error, match=message):
        call(file)
    assert [item.name for item in file.parent.iterdir()] == ["a.vdb"]


def test_pickles_and_other_files_are_no_arrays(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("text")
    for name in ("objects.npy", "text.npy"):
        with pytest.raises(FormatError, match=name):
            voxfield.convert_volume(tmp_path / name, tmp_path / "x.vdb")


def test_objects_of_datasets_become_volumes(tmp_path, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for number in range(2):
        corners = "".join(f"v {x} {y} {z}\n" for x, y, z in ((5, 5, 5), (14, 5, 5), (5, 14, 5), (5, 5, 8 + number)))
        (meshes / f"wedge{number}.obj").write_text(corners + "f 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    voxfield.build_shapes(meshes, tmp_path / "set", resolution=16, min_resolution=4, workers=1, quiet=True)
    output = tmp_path / "object.vdb"
    assert main(["vdb", "convert", str(tmp_path / "set"), str(output), "--index", "1", "--compression", "zip"]) == 0
    alone = voxfield.voxelise_mesh(meshes / "wedge1.obj", tmp_path / "alone.vdb", resolution=16)
    read = voxfield.read_volume(output)
    assert (read.name, read.grid_class, read.metadata["object_id"]) == ("density", "fog volume", "0001")
    assert np.array_equal(read.volume.active_voxels()[0], alone.volume.active_voxels()[0])
    assert np.allclose(read.index_to_world, alone.index_to_world)
    capsys.readouterr()
    for options, message in (
        ([], "holds 2 objects. Say which one: --index 0 to 1"),
        (["--index", "2"], "holds 2 objects, 0 to 1, got 2"),
    ):
        assert main(["vdb", "convert", str(tmp_path / "set"), str(output), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["vdb", "convert", str(output), str(output), "--index", "0"]) == 2
    assert "index: only voxel datasets and HDF5 files" in capsys.readouterr().err


def test_samples_become_volumes(tmp_path):
    import h5py

    voxels = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)
    with h5py.File(tmp_path / "samples.h5", "w") as file:
        file["voxels"] = voxels
    (one,) = voxfield.convert_volume(tmp_path / "samples.h5", tmp_path / "a.vdb", index=2, voxel_size=0.5)
    assert np.array_equal(one.volume.to_dense((0, 0, 0), (6, 5, 4)), voxels[2])
    assert voxfield.read_volume(tmp_path / "a.vdb").index_to_world[0, 0] == 0.5
    voxfield.convert_volume(tmp_path / "samples.h5", tmp_path / "a.npy", index=0)
    assert np.array_equal(np.load(tmp_path / "a.npy"), voxels[0])
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).random((50, 3)))
    voxfield.prerender(
        [tmp_path / "cloud.npy"], tmp_path / "rendered", voxel_size=8, dtype="uint8", workers=1, quiet=True
    )
    (batch,) = (tmp_path / "rendered").glob("voxels_batch_*.h5")
    (one,) = voxfield.convert_volume(batch, tmp_path / "b.vdb")
    known = voxfield.PrerenderedVoxelDataset(tmp_path / "rendered", normalise=False)[0]["voxels"][0].numpy()
    assert np.allclose(one.volume.to_dense((0, 0, 0), (8, 8, 8)), known)
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"bad\.h5"):
        voxfield.convert_volume(tmp_path / "bad.h5", tmp_path / "c.vdb")


def test_grids_of_svox2_become_volumes(tmp_path, capsys):
    from voxfield.storage.voxel_files import write_svox2
    from voxfield.storage.voxel_vdb import read_voxel_vdb

    grid = voxfield.VoxelGrid(6, (-1, -1, -1, 1, 1, 1), 1).prune(keep=np_mask(6**3))
    path = write_svox2(tmp_path / "ckpt.npz", grid)
    arrays = dict(np.load(path))
    np.savez(path, **arrays, background_data=np.zeros(3))
    assert main(["vdb", "convert", str(path), str(tmp_path / "a.vdb")]) == 0
    said = capsys.readouterr()
    assert "density (" in said.out
    assert "its background (background_data) is left out" in said.err
    back = read_voxel_vdb(tmp_path / "a.vdb").grid
    assert (back.links == grid.links).all()
    assert (back.density == grid.density).all()
    for options, message in (
        ({"tolerance": 0.1}, "tolerance: "),
        ({"names": ["a"]}, "names: "),
        ({"index": 1}, "index"),
    ):
        with pytest.raises(InputError, match=message):
            voxfield.convert_volume(path, tmp_path / "b.vdb", **options)
    with pytest.raises(InputError, match=r"ends in \.vdb, as"):
        voxfield.convert_volume(path, tmp_path / "b.npy")


def np_mask(count):
    import torch

    return torch.from_numpy(np.arange(count) % 3 == 0)
