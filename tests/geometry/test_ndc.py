import math

import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError
from voxfield.geometry.ndc import is_forward_facing, ndc_distance, ndc_points, ndc_rays

LENS = {"focal": (50.0, 40.0), "size": (64, 48), "near": 1.5}


def some_rays(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    origins = torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64) * 0.3
    directions[:, 2] = -1 - directions[:, 2].abs()
    return origins, directions


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
