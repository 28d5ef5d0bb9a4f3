"""Real files of Houdini, Blender and OpenVDB's site, against what OpenVDB 10 reads in them."""

import json

import numpy as np
import pytest

from voxfield.errors import FormatError
from voxfield.storage.vdb import VdbFile, read_vdb, write_vdb

pytestmark = pytest.mark.slow
FILES = [
    "dragon",
    "dragon_with_xform",
    "fluid_data_0190",
    "fogTommy",
    "smoke1_official",
    "sphere-div1",
    "sphere-div2",
    "sphere_houdini_official",
    "zeno_res_levelset_unnamed",
]


@pytest.mark.parametrize("name", FILES)
def test_real_files(shared_data, tmp_path, same, name):
    said = next(one for one in json.loads((shared_data / "vdb/vdb.json").read_text()) if one["file"] == f"{name}.vdb")
    file = VdbFile(shared_data / "vdb" / said["file"])
    assert (file.version, file.uuid) == (said["file_version"], said["uuid"])
    assert sorted(header.name for header in file.grids) == sorted(one["name"] for one in said["grids"])
    grids = [file.read(one["name"]) for one in said["grids"]]
    for grid, one in zip(grids, said["grids"], strict=True):
        volume = grid.volume
        assert volume.active_count == one["active"]
        lower, upper = volume.active_bounds
        assert [lower.tolist(), (upper - 1).tolist()] == one["bbox"]
        assert grid.grid_class == one["cls"]
        assert grid.half == bool(one["half"])
        np.testing.assert_allclose(np.linalg.norm(grid.index_to_world[:3, :3], axis=0), one["voxel"], atol=1e-5)
        if "minmax" in one:
            np.testing.assert_allclose(volume.active_range(), one["minmax"], atol=1e-5)
    path = write_vdb(tmp_path / "again.vdb", grids)
    for grid, again in zip(grids, read_vdb(path), strict=True):
        assert same(grid.volume, again.volume)
        assert np.array_equal(grid.index_to_world, again.index_to_world)
        assert list(grid.metadata) == list(again.metadata)


def test_points_are_listed_and_refused_by_name(shared_data):
    file = VdbFile(shared_data / "vdb/sphere_points.vdb")
    assert [header.kind for header in file.grids] == [None]
    with pytest.raises(FormatError, match="ptdataidx32"):
        file.read(file.grids[0])


def test_other_formats_are_refused(shared_data):
    with pytest.raises(FormatError, match="is a NanoVDB file, which is written here but not read"):
        VdbFile(shared_data / "vdb/torus.nvdb")
