import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.paths import look_at
from voxfield.geometry.pose import (
    SceneTransform,
    focus,
    is_rigid,
    normalise,
    orthonormalise,
    rotation_between,
    similarity_between,
)


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(Rotation.random(count, random_state=seed).as_matrix())


def random_transform(seed: int = 0, scale: float = 2.5) -> SceneTransform:
    return SceneTransform.from_parts(random_rotations(1, seed)[0], scale, torch.tensor([1.0, -2.0, 3.0]))


def poses_of(rotations: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return torch.cat([rotations, centres[:, :, None]], dim=2)


def test_rigid_matrices_are_told_from_others():
    rotations = random_rotations(5)
    assert bool(is_rigid(rotations).all())
    assert not bool(is_rigid(rotations * 1.1).any())
    mirrored = rotations @ torch.diag(torch.tensor([1.0, 1.0, -1.0])).double()
    assert not bool(is_rigid(mirrored).any())
    broken = poses_of(rotations, torch.zeros(5, 3).double())
    broken[2, 0, 3] = math.nan
    broken[4, 1, 1] = math.inf
    assert is_rigid(broken).tolist() == [True, True, False, True, False]


def test_orthonormalise_repairs_rounding():
    rotations = random_rotations(8)
    repaired = orthonormalise(rotations.round(decimals=3))
    assert bool(is_rigid(repaired, 1e-12).all())
    torch.testing.assert_close(repaired, rotations, atol=2e-3, rtol=0)


def test_transforms_form_a_group():
    first, second = random_transform(1), random_transform(2, 0.3)
    points = torch.rand(10, 3).double()
    torch.testing.assert_close(
        second.after(first).apply_points(points), second.apply_points(first.apply_points(points))
    )
    torch.testing.assert_close(first.inverse().apply_points(first.apply_points(points)), points)
    torch.testing.assert_close(first.inverse().after(first).matrix, torch.eye(4).double(), atol=1e-12, rtol=0)
    assert first.inverse().scale == pytest.approx(1 / 2.5)


def test_transformed_poses_stay_rigid_and_follow_points():
    transform = random_transform()
    cameras = cameras_around(6)
    moved = transform.apply_poses(cameras.camera_to_world)
    assert moved.dtype == torch.float32
    assert bool(is_rigid(moved, 1e-5).all())
    # What a camera sees 2 units ahead is 2 * scale ahead after the transform.
    ahead = cameras.origins + 2 * cameras.forward
    expected = moved[:, :, 3] - 2 * 2.5 * moved[:, :, 2]
    torch.testing.assert_close(transform.apply_points(ahead), expected, atol=1e-4, rtol=1e-4)


def test_a_transform_survives_json():
    import json

    transform = random_transform()
    back = SceneTransform.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert torch.equal(back.matrix, transform.matrix)


def test_matrices_that_shear_or_mirror_are_refused():
    for matrix in (torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0])), torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))):
        with pytest.raises(InputError, match="rotation with one positive scale"):
            SceneTransform(matrix=matrix)


def test_focus_finds_the_common_point():
    point = torch.tensor([3.0, -1.0, 0.5]).double()
    centres = point + 4 * torch.nn.functional.normalize(
        torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    found = focus(look_at(centres.double(), point.expand(12, 3)))
    torch.testing.assert_close(found.point, point, atol=1e-6, rtol=0)
    assert found.inward


def test_parallel_cameras_do_not_look_inward():
    centres = torch.tensor([[float(x), float(y), 0.0] for x in range(3) for y in range(3)]).double()
    poses = look_at(centres, centres + torch.tensor([0.0, 5.0, 0.0]).double())
    found = focus(poses)
    assert not found.inward
    assert bool(found.point.isfinite().all())


def test_outward_cameras_do_not_look_inward():
    cameras = cameras_around(10)
    outward = look_at(cameras.origins, 2 * cameras.origins)
    assert not focus(outward).inward


@pytest.mark.parametrize("seed", range(3))
def test_normalising_undoes_an_arbitrary_similarity(seed):
    """Turned, scaled and shifted captures end in the same world, up to a turn about +Z."""
    poses = cameras_around(20).camera_to_world.double()
    away = random_transform(seed, 7.0)
    moved = away.apply_poses(poses)
    there = normalise(moved).apply_poses(moved)
    assert float(there[:, :, 3].abs().max()) == pytest.approx(1.0)
    up = torch.nn.functional.normalize(there[:, :, 1].mean(0), dim=0)
    torch.testing.assert_close(up, torch.tensor([0.0, 0.0, 1.0]).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(focus(there).point, torch.zeros(3).double(), atol=1e-6, rtol=0)
    distances = torch.cdist(there[:, :, 3], there[:, :, 3])
    before = torch.cdist(poses[:, :, 3], poses[:, :, 3])
    torch.testing.assert_close(distances / distances.max(), before / before.max(), atol=1e-6, rtol=0)


def test_each_part_of_normalising_can_be_left_out():
    poses = random_transform().apply_poses(cameras_around(8).camera_to_world.double())
    kept = normalise(poses, orientation="none", centre="none", auto_scale=False)
    torch.testing.assert_close(kept.matrix, torch.eye(4).double())
    middle = normalise(poses, orientation="none", centre="poses", auto_scale=False).apply_poses(poses)
    torch.testing.assert_close(middle[:, :, 3].mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    with pytest.raises(InputError, match="orientation"):
        normalise(poses, orientation="pca")


def test_one_camera_can_be_normalised():
    pose = cameras_around(1).camera_to_world
    assert bool(normalise(pose).matrix.isfinite().all())


@pytest.mark.parametrize("target", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.6, 0.0, 0.8)])
def test_rotation_between_turns_one_vector_into_the_other(target):
    source, goal = (torch.tensor(vector, dtype=torch.float64) for vector in ((0.0, 0.0, 1.0), target))
    rotation = rotation_between(source, goal)
    torch.testing.assert_close(rotation @ source, goal)
    assert bool(is_rigid(rotation, 1e-12))


def test_a_drift_of_all_poses_is_found():
    transform = random_transform(scale=1.3)
    poses = cameras_around(7).camera_to_world.double()
    tilt = transform.matrix.clone()
    small = torch.tensor(Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix())
    transform = SceneTransform.from_parts(small, 1.3, tilt[:3, 3])
    found = similarity_between(poses, transform.apply_poses(poses))
    torch.testing.assert_close(found.matrix, transform.matrix, rtol=0, atol=1e-9)


def test_the_drift_of_noisy_poses_is_their_mean():
    poses = cameras_around(40).camera_to_world.double()
    generator = torch.Generator().manual_seed(0)
    noisy = poses.clone()
    noisy[:, :, 3] += 0.01 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    found = similarity_between(poses, noisy)
    assert found.scale == pytest.approx(1.0, abs=2e-3)
    assert float((found.matrix[:3, 3]).norm()) < 0.02


@pytest.mark.parametrize("count", [1, 3])
def test_poses_in_one_place_keep_their_scale(count: int):
    rotations = random_rotations(count)
    source = poses_of(rotations, torch.ones(count, 3).double())
    target = poses_of(rotations, torch.full((count, 3), 2.0).double())
    found = similarity_between(source, target)
    assert found.scale == pytest.approx(1.0)
    torch.testing.assert_close(found.apply_poses(source), target)


def test_drift_needs_the_same_cameras():
    with pytest.raises(InputError, match=r"target: expected shape \(7, 3, 4\), got \(6, 3, 4\)"):
        similarity_between(cameras_around(7).camera_to_world, cameras_around(6).camera_to_world)
