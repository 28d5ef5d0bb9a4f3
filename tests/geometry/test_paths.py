import math
from dataclasses import replace

import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.paths import PATH_KINDS, camera_path, interpolate, look_at, orbit, spiral, zoom
from voxfield.geometry.pose import is_rigid


def arc_of_cameras(degrees: float, count: int = 9):
    cameras = cameras_around(count)
    azimuth = torch.linspace(-degrees / 2, degrees / 2, count).deg2rad()
    origins = 3 * torch.stack([azimuth.cos(), azimuth.sin(), torch.full((count,), 0.3)], dim=-1)
    return replace(cameras, camera_to_world=look_at(origins, torch.zeros(count, 3)))


@pytest.mark.parametrize("kind", PATH_KINDS)
def test_paths_are_rigid_and_share_one_lens(kind):
    cameras = cameras_around(12)
    path = camera_path(kind, cameras, frames=30, height=48)
    assert len(path) == (12 if kind == "dataset" else 30)
    assert bool(is_rigid(path.camera_to_world, 1e-5).all())
    assert path.width.tolist() == [48] * len(path)
    torch.testing.assert_close(path.focal, cameras.focal[:1].expand(len(path), 2) * 48 / 64)
    assert path.distortion is None


def test_a_zoom_goes_away_eight_times_as_far_and_comes_back():
    cameras = cameras_around(30)
    path = zoom(cameras, frames=60)
    distance = path.origins.norm(dim=-1)
    assert float(distance[30] / distance[0]) == pytest.approx(8.0, rel=1e-3)
    assert bool((distance[1:31] > distance[:30]).all())
    assert bool((distance[31:] < distance[30:-1]).all())
    torch.testing.assert_close(path.forward, -path.origins / distance[:, None], atol=1e-4, rtol=0)
    azimuth = torch.atan2(path.origins[:, 1], path.origins[:, 0])
    assert float(azimuth.max() - azimuth.min()) == pytest.approx(math.radians(20), rel=0.02)
    assert float((azimuth[0] - torch.atan2(*cameras.origins[0, [1, 0]])).abs()) < 1e-4


def test_a_zoom_from_within_a_scene_narrows_the_view():
    for cameras, unbounded in ((arc_of_cameras(5.0), False), (cameras_around(12), True)):
        path = zoom(cameras, frames=40, unbounded=unbounded)
        assert torch.equal(path.camera_to_world, cameras.camera_to_world[:1].expand(40, 3, 4))
        torch.testing.assert_close(path.focal[20] / path.focal[0], torch.tensor([4.0, 4.0]), rtol=1e-3, atol=0)
        torch.testing.assert_close(path.focal[0], cameras.focal[0])


@pytest.mark.parametrize("maker", [orbit, spiral])
def test_loops_look_at_the_subject_and_close(maker):
    path = maker(cameras_around(30), frames=60)
    toward = torch.nn.functional.normalize(-path.origins, dim=-1)
    torch.testing.assert_close(path.forward, toward, atol=1e-4, rtol=0)
    steps = (path.origins - path.origins.roll(1, 0)).norm(dim=-1)
    assert float(steps[0]) <= 1.01 * float(steps[1:].max())


def test_an_orbit_is_level_at_the_cameras_mean_height_and_upright():
    cameras = cameras_around(30)
    path = orbit(cameras, frames=36)
    torch.testing.assert_close(path.origins[:, 2], cameras.origins[:, 2].mean().expand(36), atol=1e-4, rtol=0)
    assert bool((path.camera_to_world[:, 2, 1] > 0).all())
    azimuth = torch.atan2(path.origins[:, 1], path.origins[:, 0]).sort().values
    assert float(azimuth.diff().max()) == pytest.approx(2 * math.pi / 36, rel=1e-3)


@pytest.mark.parametrize("degrees", [60.0, 150.0])
def test_an_orbit_stays_within_the_arc_that_was_seen(degrees):
    path = orbit(arc_of_cameras(degrees), frames=40)
    azimuth = torch.atan2(path.origins[:, 1], path.origins[:, 0]).rad2deg()
    assert float(azimuth.abs().max()) == pytest.approx(degrees / 2, abs=1.0)


def test_interpolation_goes_through_its_ends_at_constant_speed():
    cameras = arc_of_cameras(90.0)
    path = interpolate(cameras, frames=81)
    torch.testing.assert_close(path.camera_to_world[0], cameras.camera_to_world[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.camera_to_world[-1], cameras.camera_to_world[-1], atol=1e-5, rtol=0)
    steps = path.origins.diff(dim=0).norm(dim=-1)
    assert float(steps.max() / steps.min()) < 1.3
    torch.testing.assert_close(path.origins.norm(dim=-1), cameras.origins[0].norm().expand(81), atol=2e-2, rtol=0)


def test_interpolation_visits_neighbours_whatever_the_order():
    cameras = arc_of_cameras(90.0)
    shuffled = cameras[torch.tensor([0, 5, 2, 7, 1, 4, 8, 3, 6])]
    torch.testing.assert_close(
        interpolate(shuffled, frames=20).camera_to_world, interpolate(cameras, frames=20).camera_to_world
    )


def test_many_cameras_are_thinned():
    assert len(interpolate(cameras_around(100), frames=7, keyframes=5)) == 7


@pytest.mark.parametrize("kind", PATH_KINDS)
@pytest.mark.parametrize("frames", [1, 2])
def test_one_camera_and_few_frames_work(kind, frames):
    path = camera_path(kind, cameras_around(1), frames=frames)
    assert bool(path.camera_to_world.isfinite().all())


def test_sizes_follow_the_aspect_ratio():
    cameras = cameras_around(4).resized(80, 60)
    assert [int(v[0]) for v in (orbit(cameras, frames=1).width, orbit(cameras, frames=1).height)] == [80, 60]
    tall = orbit(cameras, frames=1, height=30)
    assert (int(tall.width[0]), int(tall.height[0])) == (40, 30)
    wide = orbit(cameras, frames=1, width=40)
    assert (int(wide.width[0]), int(wide.height[0])) == (40, 30)
    both = orbit(cameras, frames=1, width=100, height=30)
    assert (int(both.width[0]), int(both.height[0])) == (100, 30)
    torch.testing.assert_close(both.focal[:, 1], cameras.focal[:1, 1] / 2)


@pytest.mark.parametrize(("model", "focal"), [("fisheye", 32.0), ("equirectangular", 32.0), ("orthographic", 64.0)])
def test_a_capture_of_any_model_gives_a_perspective_path(model, focal):
    cameras = replace(cameras_around(6), model=model, focal=torch.full((6, 2), 10.0))
    path = orbit(cameras, frames=3)
    assert path.model == "perspective"
    assert float(path.focal[0, 1]) == pytest.approx(focal)


def test_bad_requests_are_named():
    cameras = cameras_around(3)
    with pytest.raises(InputError, match="unknown value 'circle'"):
        camera_path("circle", cameras, frames=3)
    with pytest.raises(InputError, match="frames"):
        orbit(cameras, frames=0)
    with pytest.raises(InputError, match="height"):
        orbit(cameras, frames=1, height=0)
    with pytest.raises(InputError, match="cameras"):
        orbit(cameras[:0], frames=1)


def test_look_at_straight_up_and_down_is_rigid():
    origins = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0]])
    poses = look_at(origins, torch.zeros(2, 3))
    assert bool(is_rigid(poses, 1e-6).all())
    torch.testing.assert_close(-poses[:, :, 2], -origins / 2)
