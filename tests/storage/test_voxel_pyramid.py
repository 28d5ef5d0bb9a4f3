"""Several resolutions in one file: levels come back exactly, hostile files are refused."""

import json

import numpy as np
import pytest
import torch

from voxfield.errors import InputError, VolumeFormatError
from voxfield.storage.vdb import VdbFile, read_vdb, write_vdb
from voxfield.storage.voxel_pyramid import Brick, VoxelPyramid, write_pyramid
from voxfield.storage.voxel_vdb import METADATA_NAME, read_voxel_vdb, write_voxel_vdb
from voxfield.voxels.lod import grid_levels
from voxfield.voxels.voxel_grid import VoxelGrid


@pytest.fixture(scope="module")
def levels():
    generator = torch.Generator().manual_seed(0)
    stored = torch.rand(18, 20, 33, generator=generator) < 0.1
    stored[:, :8, 16:] = False
    grid = VoxelGrid((33, 20, 18), (-1.0, 0.0, 0.0, 1.0, 1.0, 1.0), 1, stored=stored)
    with torch.no_grad():
        grid.density.normal_(generator=generator)
        grid.sh.normal_(generator=generator)
    return grid_levels(grid, 3)


@pytest.mark.parametrize(("brick", "half"), [(8, False), (16, True), (128, False)])
def test_levels_come_back(levels, tmp_path, brick, half):
    path = write_pyramid(tmp_path / "levels.vdb", levels, brick=brick, half=half, configuration={"a": 1})
    pyramid = VoxelPyramid(path)
    assert (pyramid.brick, len(pyramid.levels), pyramid.configuration) == (brick, 3, {"a": 1})
    for number, grid in enumerate(levels):
        found = pyramid.grid(number)
        assert (found.resolution, found.scene_bounds) == (grid.resolution, grid.scene_bounds)
        assert torch.equal(found.links, grid.links)
        expected = (grid.density.half().float(), grid.sh.half().float()) if half else (grid.density, grid.sh)
        assert torch.equal(found.density, expected[0])
        assert torch.equal(found.sh, expected[1])
    assert sum(count for one, count in pyramid.voxels.items() if one.level == 0) == levels[0].num_voxels
    names = [header.name for header in VdbFile(path).grids]
    assert names[0].startswith("level_2_")
    assert names[-1].startswith("level_0_")


def test_one_brick_at_a_time(levels, tmp_path):
    pyramid = VoxelPyramid(write_pyramid(tmp_path / "levels.vdb", levels, brick=8))
    brick = Brick(0, 1, 2, 0)
    voxels = pyramid.read(brick)
    assert voxels.coordinates.min(axis=0).tolist() >= [8, 16, 0]
    x, y, z = voxels.coordinates.T
    rows = levels[0].links[z, y, x].long()
    assert np.array_equal(voxels.values[:, 0], levels[0].density.detach()[rows])
    assert len(rows) == pyramid.voxels[brick] > 0
    assert len(pyramid.read(Brick(0, 3, 0, 1)).values) == 0
    assert brick.parent == Brick(1, 0, 1, 0)
    bounds = pyramid.bounds_of(brick)
    np.testing.assert_allclose(bounds.minimum, [-1 + 8 / 33 * 2, 16 / 20, 0])
    np.testing.assert_allclose(bounds.size, [8 / 33 * 2, 8 / 20, 8 / 18])


def test_levels_that_do_not_follow_each_other(levels, tmp_path):
    for wrong in (levels[::2], levels[::-1], []):
        with pytest.raises(InputError, match="levels"):
            write_pyramid(tmp_path / "levels.vdb", wrong)
    with pytest.raises(InputError, match="brick"):
        write_pyramid(tmp_path / "levels.vdb", levels, brick=12)
    with pytest.raises(InputError, match="level"):
        VoxelPyramid(write_pyramid(tmp_path / "levels.vdb", levels)).grid(3)


@pytest.mark.parametrize(
    "changes",
    [{"brick": 12}, {"brick": None}, {"levels": []}, {"levels": [{}]}, {"bricks": [[0, 0, 0]]}, {"bricks": None},
     {"bricks": [[0, 0, 0, 0, 10**9]]}, {"bricks": [[9, 0, 0, 0, 1]]}, {"bricks": [[0, -1, 0, 0, 1]]},
     {"bricks": [[0, 0, 0, 0, "1"]]}, {"bricks": [[0, 77, 0, 0, 1]]}, {"layout": "grids"}],
    ids=str,
)  # fmt: skip
def test_descriptions_that_are_none(levels, tmp_path, changes):
    path = write_pyramid(tmp_path / "levels.vdb", levels)
    said = {**json.loads(VdbFile(path).metadata[METADATA_NAME]), **changes}
    altered = write_vdb(tmp_path / "altered.vdb", read_vdb(path), metadata={METADATA_NAME: json.dumps(said)})
    with pytest.raises(VolumeFormatError, match=r"altered\.vdb: "):
        VoxelPyramid(altered)


def test_bricks_that_hold_other_voxels(levels, tmp_path):
    path = write_pyramid(tmp_path / "levels.vdb", levels, brick=8)
    said = json.loads(VdbFile(path).metadata[METADATA_NAME])
    said["bricks"] = [[*one[:4], one[4] - 1] for one in said["bricks"]]
    altered = write_vdb(tmp_path / "altered.vdb", read_vdb(path), metadata={METADATA_NAME: json.dumps(said)})
    with pytest.raises(VolumeFormatError, match="does not hold the voxels of that brick"):
        VoxelPyramid(altered).grid(0)


def test_one_layout_is_not_taken_for_another(levels, tmp_path):
    with pytest.raises(VolumeFormatError, match="voxfield vdb lod"):
        VoxelPyramid(write_voxel_vdb(tmp_path / "grid.vdb", levels[0]))
    with pytest.raises(VolumeFormatError, match="expected the layout grids or compact, got 'pyramid'"):
        read_voxel_vdb(write_pyramid(tmp_path / "levels.vdb", levels))
