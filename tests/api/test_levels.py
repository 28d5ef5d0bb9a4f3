"""Levels, lighter files and slices through the public calls and the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import InputError, VolumeFormatError
from voxfield.storage.vdb import VdbGrid, read_vdb
from voxfield.storage.voxel_pyramid import VoxelPyramid
from voxfield.storage.voxel_vdb import read_voxel_vdb, write_voxel_vdb
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.voxel_grid import VoxelGrid


@pytest.fixture
def voxels(tmp_path):
    """A file of a voxel grid, 20 of whose voxels render next to nothing."""
    grid = VoxelGrid((12, 12, 12), (-1, -1, -1, 1, 1, 1), 1)
    with torch.no_grad():
        grid.density.uniform_(1, 2, generator=torch.Generator().manual_seed(0))
        grid.density[:20] = 1e-5
    return write_voxel_vdb(tmp_path / "grid.vdb", grid, configuration={"a": 1})


@pytest.fixture
def smoke(tmp_path):
    """A fog volume and a grid that shares its tree."""
    dense = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    volume = SparseVolume.from_dense(dense)
    grids = [
        VdbGrid(name="density", volume=volume, index_to_world=np.diag([0.5, 0.5, 0.5, 1])),
        VdbGrid(name="twin", volume=volume),
    ]
    return voxfield.write_volume(tmp_path / "smoke.vdb", grids, metadata={"title": "t"}), dense


def test_levels_of_a_voxel_grid(voxels, tmp_path, capsys):
    assert main(["vdb", "lod", str(voxels), "--output", str(tmp_path / "levels"), "--levels", "9"]) == 0
    files = sorted((tmp_path / "levels").iterdir())
    assert [path.name for path in files] == ["lod_0.vdb", "lod_1.vdb", "lod_2.vdb", "lod_3.vdb"]  # 12, 6, 3, 2
    assert capsys.readouterr().out.count("Wrote") == 4
    masses = [read_voxel_vdb(path).grid.density.detach().sum() * 8**i for i, path in enumerate(files)]
    torch.testing.assert_close(masses[1], masses[0])
    assert read_voxel_vdb(files[1]).configuration == {"a": 1}
    one = tmp_path / "levels.vdb"
    assert main(["vdb", "lod", str(voxels), "--output", str(one), "--levels", "2", "--brick", "8"]) == 0
    pyramid = VoxelPyramid(one)
    assert [level.resolution[0] for level in pyramid.levels] == [12, 6]
    again = voxfield.make_levels(one, tmp_path / "more.vdb", levels=3, half=True)
    assert torch.equal(VoxelPyramid(again[0]).grid(0).density, pyramid.grid(0).density.half().float())


def test_levels_of_any_volume(smoke, tmp_path):
    path, dense = smoke
    assert main(["vdb", "lod", str(path), "--output", str(tmp_path / "lod"), "--levels", "3"]) == 0
    density, twin = read_vdb(tmp_path / "lod/lod_2.vdb")
    np.testing.assert_allclose(density.volume.to_dense(), dense.reshape(4, 4, 4, 4, 4, 4).mean(axis=(1, 3, 5)), 1e-5)
    assert twin.volume is density.volume
    np.testing.assert_allclose(density.index_to_world @ [0, 0, 0, 1], [0.75, 0.75, 0.75, 1])
    (one,) = voxfield.make_levels(path, tmp_path / "one.vdb", levels=2, half=True)
    grids = read_vdb(one)
    assert [grid.name for grid in grids] == ["density_level_0", "twin_level_0", "density_level_1", "twin_level_1"]
    assert all(grid.half for grid in grids)
    for levels in (0, 13):
        with pytest.raises(InputError, match="levels"):
            voxfield.make_levels(path, tmp_path / "none", levels=levels)


@pytest.mark.parametrize("layout", ["grids", "compact", "pyramid"])
def test_lighter_voxel_grids(voxels, tmp_path, capsys, layout):
    source = tmp_path / "source.vdb"
    if layout == "pyramid":
        voxfield.make_levels(voxels, source, levels=2)
    else:
        write_voxel_vdb(source, read_voxel_vdb(voxels).grid, layout=layout)
    before = source.stat().st_size
    assert main(["vdb", "optimise", str(source), "--precision", "half", "--compression", "zip"]) == 0
    assert "1,728 active voxels before, 1,708 now" in capsys.readouterr().out
    assert source.stat().st_size < before
    grid = VoxelPyramid(source).grid(0) if layout == "pyramid" else read_voxel_vdb(source).grid
    assert grid.num_voxels == 1708
    if layout != "pyramid":
        assert read_voxel_vdb(source).layout == layout


def test_lighter_volumes(smoke, tmp_path):
    path, dense = smoke
    done = voxfield.optimise_volume(path, tmp_path / "light.vdb", tolerance=0.5)
    assert (done.voxels_before, done.voxels_after) == (16**3, int((dense > 0.5).sum()))
    assert done.bytes_after == (tmp_path / "light.vdb").stat().st_size < done.bytes_before
    with pytest.raises(InputError, match="tolerance"):
        voxfield.optimise_volume(path, tolerance=-1)


def test_slices_are_shown(smoke, tmp_path, capsys):
    path, dense = smoke
    assert main(["vdb", "info", str(path), "--slice", "x", "--at", "3"]) == 0
    said = capsys.readouterr().out
    assert "x = 3; y from 0 to the right, z from 0 upwards" in said
    assert len(said.split("upwards\n")[1].splitlines()) == 16
    picture = tmp_path / "slice.png"
    assert main(["vdb", "info", str(path), "--png", str(picture), "--grid", "twin"]) == 0
    assert "Wrote" in capsys.readouterr().out
    shown = np.asarray(Image.open(picture))
    plane = dense[7, ::-1]
    expected = 255 * (0.15 + 0.85 * (plane - plane.min()) / (plane.max() - plane.min()))
    np.testing.assert_allclose(shown, np.repeat(expected[..., None], 3, axis=2), atol=0.51)
    assert main(["vdb", "info", str(path), "--json", "--slice", "z"]) == 0
    json.loads(capsys.readouterr().out)
    assert main(["vdb", "info", str(path), "--slice", "z", "--at", "77"]) == 2
    assert "expected z from 0 to 15" in capsys.readouterr().err


def test_files_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "a.vdb").write_bytes(b"no")
    for verb in ("lod", "optimise", "info"):
        output = [] if verb == "info" else ["--output", str(tmp_path / "b.vdb")]
        assert main(["vdb", verb, str(tmp_path / "a.vdb"), *output]) == 2
        assert "a.vdb: not an OpenVDB file" in capsys.readouterr().err
    with pytest.raises(VolumeFormatError):
        voxfield.read_volume(tmp_path / "a.vdb")
