import math
from dataclasses import replace

import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.ndc import NdcFrame, is_forward_facing, ndc_points, ndc_rays
from voxfield.geometry.rays import Rays

LENS = {"focal": (50.0, 40.0), "size": (64, 48), "near": 1.5}


def some_rays(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    origins = torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 0.3
    directions[:, 2] = -1 - directions[:, 2].abs()
    return origins, directions


def ndc_distance(t: torch.Tensor, origins: torch.Tensor, directions: torch.Tensor, near: float) -> torch.Tensor:
    """Distances along rays, (R, S) in the lengths of ``directions``, as t' of the paper (Mildenhall et al. 2020,
    equation 30): 0 on the near plane, towards 1 at infinity.
    """
    return 1 + near / (origins[:, 2, None] + t * directions[:, 2, None])


def test_points_on_a_ray_stay_on_it():
    origins, directions = some_rays()
    start, along = ndc_rays(origins, directions, **LENS)
    for t in (0.0, 0.5, 3.0, 80.0):
        # Distances count from the near plane.
        to_near = -(LENS["near"] + origins[:, 2]) / directions[:, 2]
        point = ndc_points(origins + (to_near + t)[:, None] * directions, **LENS)
        share = ndc_distance(
            torch.full((40, 1), t, dtype=torch.float64) + to_near[:, None], origins, directions, near=1.5
        )
        torch.testing.assert_close(point, start + share * along, atol=1e-10, rtol=1e-10)


def test_the_near_plane_is_minus_one_and_infinity_plus_one():
    origins, directions = some_rays()
    start, along = ndc_rays(origins, directions, **LENS)
    torch.testing.assert_close(start[:, 2], torch.full((40,), -1.0, dtype=torch.float64))
    torch.testing.assert_close((start + along)[:, 2], torch.ones(40, dtype=torch.float64))


def test_the_frustum_fills_the_cube():
    corner = torch.tensor([[64 / 100.0, 48 / 80.0, -1.0]], dtype=torch.float64)
    for depth in (1.5, 4.0, 1e6):
        torch.testing.assert_close(
            ndc_points(corner * depth, **LENS)[:, :2], torch.ones(1, 2, dtype=torch.float64), atol=1e-12, rtol=0
        )


def test_equal_steps_are_equal_steps_in_disparity():
    origins, directions = some_rays()
    shares = []
    for disparity in (0.4, 0.3, 0.2, 0.1):
        t = (-1 / disparity - origins[:, 2]) / directions[:, 2]
        shares.append(ndc_distance(t[:, None], origins, directions, near=1.5))
    steps = torch.cat(shares, dim=1).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 3))


def test_gradients_are_right():
    origins, directions = (value[:4].requires_grad_() for value in some_rays())
    assert torch.autograd.gradcheck(lambda o, d: ndc_rays(o, d, **LENS), (origins, directions))


def test_what_cannot_be_mapped_is_an_error():
    origins, directions = some_rays()
    with pytest.raises(InputError, match="expected z < 0 for all rays"):
        ndc_rays(origins, -directions, **LENS)
    with pytest.raises(InputError, match="expected z < 0"):
        ndc_rays(origins, directions * math.nan, **LENS)
    with pytest.raises(InputError, match="near"):
        ndc_rays(origins, directions, focal=(1.0, 1.0), size=(2, 2), near=0.0)
    with pytest.raises(InputError, match="directions"):
        ndc_rays(origins, directions[:3], **LENS)


def poses_at(centres: list[tuple[float, float, float]], turns: list[float]) -> torch.Tensor:
    poses = []
    for centre, turn in zip(centres, turns, strict=True):
        cosine, sine = math.cos(turn), math.sin(turn)
        rotation = torch.tensor([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
        poses.append(torch.cat([rotation, torch.tensor(centre)[:, None]], dim=1))
    return torch.stack(poses)


def test_forward_facing_is_told_from_the_axes_and_the_nearest_thing():
    row = [(-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.2)]
    assert is_forward_facing(poses_at(row, [0.1, 0.0, -0.1]), near=1.0)
    assert not is_forward_facing(poses_at(row, [1.0, 0.0, -1.0]), near=1.0)
    # The first camera stands behind what the others see nearest.
    assert not is_forward_facing(poses_at([(0.0, 0.0, 9.0), *row[1:]], [0.0, 0.0, 0.0]), near=1.0)
    assert not is_forward_facing(cameras_around(12).camera_to_world, near=0.1)
    assert not is_forward_facing(poses_at(row[:2], [0.0, math.pi]), near=1.0)


def forward_cameras(count: int = 5) -> torch.Tensor:
    """(N, 3, 4) float64 poses about (3, 1, 2) that look along +X, turned and moved a little, +Z up."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.tensor([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    turn = rotations_from_axis_angles(0.1 * (torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5))
    centres = torch.tensor([3.0, 1.0, 2.0]) + 0.3 * (
        torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5
    )
    return torch.cat([turn @ axes, centres[:, :, None]], dim=2)


def rotations_from_axis_angles(vectors: torch.Tensor) -> torch.Tensor:
    skew = torch.zeros(len(vectors), 3, 3, dtype=vectors.dtype)
    for row, column, axis, sign in ((0, 1, 2, -1), (0, 2, 1, 1), (1, 2, 0, -1)):
        skew[:, row, column], skew[:, column, row] = sign * vectors[:, axis], -sign * vectors[:, axis]
    return torch.linalg.matrix_exp(skew)


TANGENTS = torch.tensor([[0.5, 0.4]], dtype=torch.float64)


def frame_and_rays(count: int = 200) -> tuple[NdcFrame, Rays]:
    """A frame, and rays of its cameras that show all of their pictures, in float64."""
    poses = forward_cameras()
    frame = NdcFrame.around(poses, TANGENTS.expand(5, -1), 2.0)
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(count) % 5
    across = (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1) * TANGENTS
    local = torch.nn.functional.normalize(torch.cat([across, -torch.ones(count, 1, dtype=torch.float64)], dim=1), dim=1)
    directions = torch.einsum("nij,nj->ni", poses[index, :, :3], local)
    return frame, Rays(
        origins=poses[index, :, 3], directions=directions, pixel_area=torch.ones(count), camera_index=index
    )


def test_a_frames_rays_pass_through_where_the_worlds_points_go() -> None:
    frame, rays = frame_and_rays()
    inside, ahead = frame.rays(rays)
    assert bool(ahead.all())
    torch.testing.assert_close(inside.directions.norm(dim=1), torch.ones(200, dtype=torch.float64))
    t = torch.tensor([0.0, 0.3, 1.0, 1.5], dtype=torch.float64).expand(200, -1)
    world = frame.to_world(t, inside, rays, farthest=1e6)
    for column in range(4):
        points = frame.points(rays.origins + world[:, column, None] * rays.directions)
        torch.testing.assert_close(
            points, inside.origins + t[:, column, None] * inside.directions, atol=1e-9, rtol=1e-9
        )


def test_a_frames_bounds_hold_what_its_pictures_show() -> None:
    frame, rays = frame_and_rays(2000)
    for t in (2.0, 5.0, 1e4):
        points = frame.points(rays.origins + t * rays.directions)
        before = points[:, 2] < -1
        assert bool((frame.bounds.contains(points) | before).all())
    # No larger than need be: the corners of some picture come near.
    size = torch.tensor(frame.bounds.size)
    assert bool((size[:2] < 3).all())
    assert float(size[2]) == 2.0


def test_a_frames_distances_end_at_the_farthest_and_never_fall() -> None:
    frame, rays = frame_and_rays()
    inside, _ = frame.rays(rays)
    t = torch.linspace(0, 4, 50, dtype=torch.float64).expand(200, -1)
    world = frame.to_world(t, inside, rays, farthest=100.0)
    assert bool((world.diff(dim=1) >= 0).all())
    # 100 along the frame's axis, from which rays are up to 35 degrees away; they start half a unit from its centre.
    assert bool((world[:, -1] > 99.0).all() & (world[:, -1] < 125.0).all())


def test_rays_from_beyond_the_near_plane_start_where_they_are() -> None:
    frame, rays = frame_and_rays()
    moved = replace(rays, origins=rays.origins + torch.tensor([3.0, 0, 0], dtype=torch.float64))
    inside, _ = frame.rays(moved)
    torch.testing.assert_close(inside.origins, frame.points(moved.origins), atol=1e-12, rtol=1e-12)
    start = frame.to_world(torch.zeros(200, 1, dtype=torch.float64), inside, moved, farthest=1e6)
    torch.testing.assert_close(start, torch.zeros_like(start), atol=1e-9, rtol=0)


def test_rays_that_lead_backwards_are_told() -> None:
    frame, rays = frame_and_rays(6)
    turned = replace(rays, directions=torch.cat([rays.directions[:3], -rays.directions[3:]]))
    inside, ahead = frame.rays(turned)
    assert ahead.tolist() == [True] * 3 + [False] * 3
    assert bool(inside.origins.isfinite().all() & inside.directions.isfinite().all())


def test_gradients_pass_through_a_frame() -> None:
    frame, rays = frame_and_rays(7)

    def through(origins: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside, _ = frame.rays(replace(rays, origins=origins, directions=directions))
        return inside.origins, inside.directions

    assert torch.autograd.gradcheck(
        through, (rays.origins.clone().requires_grad_(), rays.directions.clone().requires_grad_())
    )
    assert torch.autograd.gradcheck(frame.points, ((rays.origins + 4 * rays.directions).requires_grad_(),))


def test_cameras_around_a_subject_have_no_frame() -> None:
    poses = cameras_around(6, resolution=8).camera_to_world
    with pytest.raises(InputError, match="look the same way"):
        NdcFrame.around(poses, TANGENTS.expand(6, -1), 0.5)
    apart = forward_cameras()
    apart[0, 0, 3] += 5.0  # stands behind what the others see
    with pytest.raises(InputError, match="look the same way"):
        NdcFrame.around(apart, TANGENTS.expand(5, -1), 2.0)
    wide = torch.full((5, 2), 500.0)
    with pytest.raises(InputError, match="look the same way"):
        NdcFrame.around(forward_cameras(), wide, 2.0)
