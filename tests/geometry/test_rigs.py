"""Rigs: what panoramas and pairs of eyes see."""

import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.camera import Cameras
from voxfield.geometry.paths import look_at
from voxfield.geometry.rigs import RIG_KINDS, make_rig, upright


def path(height: int = 64, width: int = 128) -> Cameras:
    """Two cameras that look at the origin, one from above."""
    poses = look_at(torch.tensor([[4.0, 0.0, 0.0], [0.0, -3.0, 2.0]]), torch.zeros(2, 3))
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((2, 2), 60.0),
        principal=torch.tensor([[width / 2, height / 2]]).repeat(2, 1),
        width=torch.full((2,), width, dtype=torch.int64),
        height=torch.full((2,), height, dtype=torch.int64),
    )


@pytest.mark.parametrize("kind", RIG_KINDS)
def test_frames_have_the_size_that_was_asked_for(kind) -> None:
    rig = make_rig(kind, path(), width=128, height=64)
    assert len(rig) == 2
    assert rig.size == (128, 64)
    pictures = [torch.zeros(int(eye.height[0]), int(eye.width[0]), 3) for eye in rig.eyes]
    assert rig.frame(pictures).shape == (64, 128, 3)


def test_a_panorama_sees_all_directions_with_the_paths_heading_in_the_middle() -> None:
    (eye,) = make_rig("equirectangular", path(), width=128, height=64).eyes
    rays = eye.image_rays(1)
    assert float(rays.directions.mean(0).norm()) < 0.02 + float(rays.directions[:, 2].mean().abs())
    middle = eye.rays(torch.tensor([1]), torch.tensor([[64.0, 32.0]])).directions[0]
    assert middle.tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    top = eye.rays(torch.tensor([1]), torch.tensor([[64.0, 0.0]])).directions[0]
    assert top.tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    solid = rays.pixel_area.sum()
    assert float(solid) == pytest.approx(4 * math.pi, rel=1e-3)


def test_paths_made_by_hand_are_not_turned_upright() -> None:
    (eye,) = make_rig("equirectangular", path(), width=128, height=64, level=False).eyes
    assert torch.equal(eye.camera_to_world, path().camera_to_world)


def test_vr180_is_two_fixed_half_panoramas_with_the_left_eye_on_the_left() -> None:
    rig = make_rig("vr180", path(), width=128, height=64, eye_distance=0.1)
    left, right = rig.eyes
    apart = right.origins - left.origins
    assert apart.norm(dim=1).tolist() == pytest.approx([0.1, 0.1])
    # The first camera looks along -x: its right is +y.
    assert apart[0].tolist() == pytest.approx([0.0, 0.1, 0.0], abs=1e-7)
    assert float(left.image_rays(0).pixel_area.sum()) == pytest.approx(2 * math.pi, rel=1e-3)
    assert (left.image_rays(0).directions[:, 0] < 0).all()
    frame = rig.frame([torch.zeros(64, 64), torch.ones(64, 64)])
    assert (frame[:, :64] == 0).all()


def test_the_eyes_of_omnidirectional_stereo_turn_with_the_direction() -> None:
    rig = make_rig("ods", path(), width=128, height=128, eye_distance=0.2)
    left, right = rig.eyes
    centre = path().origins[0]
    for eye, side in ((left, -1.0), (right, 1.0)):
        rays = eye.image_rays(0)
        offset = rays.origins - centre
        assert offset.norm(dim=1).sub(0.1).abs().max() < 1e-6
        # At right angles to where the ray looks, level, and on this eye's side.
        assert (offset * rays.directions).sum(1).abs().max() < 1e-6
        assert offset[:, 2].abs().max() < 1e-6
        flat = torch.nn.functional.normalize(rays.directions[:, :2], dim=1)
        to_the_right = torch.stack([flat[:, 1], -flat[:, 0]], dim=1)
        assert ((offset[:, :2] * to_the_right).sum(1) * side > 0).all()
    frame = rig.frame([torch.zeros(64, 128), torch.ones(64, 128)])
    assert (frame[:64] == 0).all()


def test_eyes_that_nobody_spaced_are_a_thirtieth_of_the_way_apart() -> None:
    left, right = make_rig("vr180", path(), width=128, height=64, target=torch.zeros(3)).eyes
    distance = float(path().origins.norm(dim=1).median())
    assert float((right.origins - left.origins).norm(dim=1)[0]) == pytest.approx(distance / 30)


def test_a_fisheye_spans_half_a_turn() -> None:
    (eye,) = make_rig("fisheye", path(), width=128, height=64).eyes
    edge = eye.rays(torch.tensor([0]), torch.tensor([[64.0, 0.0]])).directions[0]
    assert float(edge @ eye.forward[0]) == pytest.approx(0.0, abs=1e-6)


def test_upright_poses_keep_their_heading_also_straight_down_and_up() -> None:
    tilted = look_at(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 0.0]]))
    down = torch.tensor([[[1.0, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7]]])  # looks along -z, its top at +y
    up = torch.tensor([[[1.0, 0, 0, 5], [0, -1, 0, 6], [0, 0, -1, 7]]])  # looks along +z, its top at -y
    poses = upright(torch.cat([tilted, down, up]))
    assert torch.equal(poses[:, :, 1], torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1))
    heading = torch.nn.functional.normalize(torch.tensor([-1.0, -2.0, 0.0]), dim=0)
    assert (-poses[0, :, 2]).tolist() == pytest.approx(heading.tolist(), abs=1e-6)
    assert (-poses[1, :, 2]).tolist() == pytest.approx([0, 1, 0])
    assert (-poses[2, :, 2]).tolist() == pytest.approx([0, 1, 0])
    assert torch.linalg.det(poses[:, :, :3]).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vr360", {}, "unknown value"),
        ("vr180", {"width": 127}, "width: expected an even number"),
        ("ods", {"height": 63}, "height: expected an even number"),
        ("ods", {"eye_distance": 0.0}, "eye_distance: expected a value above 0"),
        ("vr180", {"eye_distance": math.nan}, "eye_distance"),
    ],
)
def test_rigs_that_cannot_be(kind, options, message) -> None:
    with pytest.raises(InputError, match=message):
        make_rig(kind, path(), **{"width": 128, "height": 64, **options})


def test_only_panoramas_have_eyes_beside_their_centre() -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="eye_offset: expected 0 for perspective"):
        replace(path(), eye_offset=0.1)
    (whole,) = make_rig("equirectangular", path(), width=128, height=64).eyes
    beside = replace(whole, eye_offset=0.1)
    assert beside[0].eye_offset == 0.1
    with pytest.raises(InputError, match="no centre to project to"):
        beside.project(torch.tensor([0]), torch.zeros(1, 3))
