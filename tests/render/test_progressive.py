"""Loading by need: what is loaded is what is seen, within the budget, and all of it is the grid itself."""

import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.render.metrics import psnr
from voxfield.render.progressive import ProgressiveVoxels
from voxfield.storage.voxel_pyramid import VoxelPyramid, write_pyramid
from voxfield.voxels.lod import grid_levels
from voxfield.voxels.voxel_grid import VoxelGrid

WHITE = torch.ones(3)


@pytest.fixture(scope="module")
def grid():
    """A shell with a pattern finer than its coarse levels."""
    axis = torch.linspace(-1, 1, 32)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    distance = points.norm(dim=-1)
    stored = (distance < 0.8) & (distance > 0.55)
    made = VoxelGrid(32, (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), 1, stored=stored)
    with torch.no_grad():
        rows = made.links[stored].long()
        made.density[rows] = 40.0
        made.sh[rows, :, 0] = torch.sin(9 * points[stored])
    return made


@pytest.fixture(scope="module")
def pyramid(grid, tmp_path_factory):
    return VoxelPyramid(write_pyramid(tmp_path_factory.mktemp("levels") / "levels.vdb", grid_levels(grid, 3), brick=8))


def camera(z=2.5, *, looks_away=False, model="perspective"):
    pose = torch.eye(3, 4)[None].clone()
    pose[0, 2, 3] = z
    if looks_away:
        pose[0, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    focal = 40.0 if model == "perspective" else 12.0
    return Cameras(
        camera_to_world=pose,
        focal=torch.tensor([[focal, focal]]),
        principal=torch.tensor([[16.0, 16.0]]),
        width=torch.tensor([32]),
        height=torch.tensor([32]),
        model=model,
    )


def truth(grid, cameras):
    with torch.no_grad():
        seen = grid.render(cameras.image_rays(0))
    return (seen.rgb + (1 - seen.opacity)[:, None]).reshape(32, 32, 3)


def quality(voxels, grid, cameras):
    seen = voxels.render(cameras.image_rays(0), background=WHITE)
    return float(psnr(seen["rgb"].reshape(32, 32, 3), truth(grid, cameras)))


def test_pictures_get_better_until_they_are_the_grid(pyramid, grid):
    cameras, voxels = camera(), ProgressiveVoxels(pyramid, "50MB")
    assert {brick.level for brick in voxels.resident} == {2}
    qualities, last = [quality(voxels, grid, cameras)], 2
    for brick in voxels.refine(cameras, pixels=0.5):
        if brick.level != last:
            qualities.append(quality(voxels, grid, cameras))
            last = brick.level
    qualities.append(quality(voxels, grid, cameras))
    assert qualities[0] < 20
    assert qualities[-1] > 60
    assert list(voxels.refine(cameras, pixels=0.5)) == []  # all is there
    points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    density, sh, level = voxels.query(points)
    expected = grid.query(points)
    torch.testing.assert_close(density, expected.density.detach(), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(sh, expected.sh.detach(), atol=1e-4, rtol=1e-3)
    assert set(level.tolist()) <= {-1, 0}


def test_budgets_are_kept(pyramid, grid):
    cameras, last = camera(), 0.0
    whole = sum(pyramid.voxels.values()) * 13 * 4
    for budget in (120_000, whole // 2, 4 * whole):
        voxels = ProgressiveVoxels(pyramid, budget)
        wanted = voxels.wanted(cameras, pixels=0.5)
        assert sum(pyramid.voxels[brick] * 13 * 4 + 8**3 * 4 for brick in wanted) <= budget
        list(voxels.refine(cameras, pixels=0.5))
        assert voxels.nbytes <= budget
        assert set(wanted) == set(voxels.resident)
        found = quality(voxels, grid, cameras)
        assert found > last
        last = found
    with pytest.raises(InputError, match="do not hold the coarsest level"):
        ProgressiveVoxels(pyramid, 1000)


def test_what_is_not_in_view_is_not_loaded(pyramid):
    voxels = ProgressiveVoxels(pyramid, "50MB")
    assert {brick.level for brick in voxels.wanted(camera(looks_away=True), pixels=0.5)} == {2}
    finest = [brick for brick in voxels.wanted(camera(0.0), pixels=0.5) if brick.level == 0]
    assert 0 < len(finest) < len([brick for brick in pyramid.voxels if brick.level == 0])


def test_far_cameras_need_less(pyramid):
    voxels = ProgressiveVoxels(pyramid, "50MB")
    counts = [len(voxels.wanted(camera(z), pixels=1.0)) for z in (2.5, 10.0, 40.0)]
    assert counts[0] > counts[1] > counts[2]
    # Whose pixels do not widen: 1/12, while voxels are 1/16, 1/8 and 1/4.
    flat = camera(model="orthographic")
    for pixels, finest in ((1.0, 0), (1.6, 1), (3.1, 2)):
        assert min(brick.level for brick in voxels.wanted(flat, pixels=pixels)) == finest
    with pytest.raises(InputError, match="pixels"):
        voxels.wanted(flat, pixels=0.0)


def test_what_other_views_needed_makes_room(pyramid, grid):
    whole = sum(pyramid.voxels.values()) * 13 * 4
    voxels = ProgressiveVoxels(pyramid, whole // 2)
    views = [camera(0.0), camera(0.0, looks_away=True)]
    for _ in range(2):
        for view in views:
            list(voxels.refine(view, pixels=0.5))
            assert set(voxels.wanted(view, pixels=0.5)) <= set(voxels.resident)
            assert quality(voxels, grid, view) > 20


def test_points_outside_and_rays_that_miss(pyramid):
    voxels = ProgressiveVoxels(pyramid, "50MB")
    density, sh, level = voxels.query(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert density.tolist() == [0, 0]
    assert level.tolist()[0] == -1
    assert not sh.any()
    seen = voxels.render(camera(looks_away=True).image_rays(0), background=WHITE)
    assert torch.equal(seen["rgb"], torch.ones(32 * 32, 3))
    assert not seen["opacity"].any()
