"""Files go both ways between this codec and the real OpenVDB, bit for bit."""

import shutil
import subprocess

import numpy as np
import pytest

from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb

BOX = (-16, -16, -16), (24, 24, 24)
STATISTICS = {"file_bbox_max", "file_bbox_min", "file_compression", "file_mem_bytes", "file_voxel_count"}
OWN = {"name", "class", "is_saved_as_half_float"}


def assert_alike(grids, described, arrays):
    """Our grids hold what OpenVDB says it read: values of active and inactive voxels, states, place, metadata."""
    # OpenVDB lists grids by their unique names.
    assert [grid.name for grid in grids] == [one["name"] for one in described["grids"]]
    for grid, said, (values, on) in zip(grids, described["grids"], arrays, strict=True):
        volume = grid.volume
        assert np.array_equal(volume.to_dense(*BOX).T, values), grid.name
        assert np.array_equal(volume.to_dense_mask(*BOX).T, on), grid.name
        assert volume.active_count == said["active"]
        if said["active"]:
            assert [volume.active_bounds[0].tolist(), (volume.active_bounds[1] - 1).tolist()] == said["bounds"]
        assert grid.grid_class == said["class"]
        assert grid.half == said["half"] or volume.values.dtype == np.bool_
        assert np.array_equal(volume.background, np.array(said["background"]).astype(volume.background.dtype))
        corners = grid.index_to_world @ np.array([[0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]).T
        np.testing.assert_allclose(corners[:3].T, said["ends"], rtol=1e-14)
        assert {*grid.metadata, *OWN} >= {*said["metadata"]} - STATISTICS


def by_unique_name(path):
    file = VdbFile(path)
    return file, [file.read(header) for header in sorted(file.grids, key=lambda one: one.unique_name)]


@pytest.fixture(scope="module")
def theirs(openvdb):
    """Of OpenVDB's own files, in full and half precision: the path, and what OpenVDB reads in it."""
    paths = openvdb.full, openvdb.half
    return dict(zip(("full", "half"), zip(paths, openvdb.read(*paths), strict=True), strict=True))


@pytest.mark.parametrize("precision", ["full", "half"])
def test_openvdbs_files_are_read(theirs, precision):
    path, read = theirs[precision]
    file, grids = by_unique_name(path)
    assert_alike(grids, *read)
    assert file.metadata == {"title": "oracle", "count": 3}
    fog, twin = file.read("fog"), file.read("twin")
    assert twin.volume is fog.volume
    assert twin.index_to_world[0, 0] == 2.0
    assert fog.metadata["text"] == "näher"
    assert fog.metadata["whole"] == 7
    assert fog.metadata["number"] == 2.5
    assert fog.metadata["yes"] is True
    np.testing.assert_array_equal(fog.metadata["triple"], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("precision", ["full", "half"])
def test_openvdb_reads_what_we_write(openvdb, theirs, tmp_path, precision):
    path, (expected, _) = theirs[precision]
    file, grids = by_unique_name(path)
    ours = [
        write_vdb(
            tmp_path / f"{compression}-{active_mask}.vdb",
            grids,
            compression=compression,
            active_mask=active_mask,
            metadata=file.metadata,
        )
        for compression in ("none", "zip", "blosc")
        for active_mask in (True, False)
    ]
    for described, arrays in openvdb.read(*ours):
        assert_alike(grids, described, arrays)
        assert described["metadata"] == expected["metadata"]
        for one, other in zip(described["grids"], expected["grids"], strict=True):
            for name in {*one["metadata"], *other["metadata"]} - STATISTICS - OWN:
                assert one["metadata"][name] == other["metadata"][name], name


def test_openvdb_reads_every_sort_of_inactive_value_and_tile(openvdb, make_volume, tmp_path):
    turned = np.array([[0, -2.0, 0, 5], [1, 0, 0.5, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    grids = [
        VdbGrid(name=f"{kind}{seed}", volume=make_volume(kind, seed), index_to_world=turned)
        for kind in ("bool", "float", "vec3s")
        for seed in range(2)
    ]
    (read,) = openvdb.read(write_vdb(tmp_path / "ours.vdb", grids))
    assert_alike(grids, *read)


@pytest.mark.skipif(shutil.which("vdb_print") is None, reason="needs vdb_print: apt-get install libopenvdb-tools")
@pytest.mark.parametrize("kind", ["float", "double", "int32", "int64", "bool", "vec3s", "vec3d", "vec3i"])
def test_openvdbs_tool_describes_every_type(make_volume, tmp_path, kind):
    volume = make_volume(kind)
    path = write_vdb(tmp_path / "ours.vdb", [VdbGrid(name="one", volume=volume)])
    done = subprocess.run(["vdb_print", "-l", str(path)], capture_output=True, text=True, check=True)
    assert f"Tree_{kind}_5_4_3" in done.stdout
    assert f"Number of active voxels:       {volume.active_count:,}\n" in done.stdout
    assert f"Leaf({len(volume.origins)} x 8^3)" in done.stdout
    if not volume.channels:
        low, high = volume.active_range()
        shown = {"bool": lambda one: str(int(one))}.get(kind, lambda one: f"{one:.6g}" if kind[0] in "fd" else str(one))
        assert f"Min value: {shown(low)}\n" in done.stdout
        assert f"Max value: {shown(high)}\n" in done.stdout
