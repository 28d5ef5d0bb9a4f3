import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.ray_box import ray_box

IMPLEMENTATIONS = ["numba", "triton"]
BOX = torch.tensor([[-1.0, -2.0, 0.5], [1.0, 0.0, 3.0]])
INF = math.inf


def random_rays(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from around the box, towards points in and near it; some parallel to one or two axes."""
    generator = torch.Generator().manual_seed(count)
    origins = BOX.mean(0) + 3 * torch.randn(count, 3, generator=generator)
    targets = BOX.mean(0) + torch.randn(count, 3, generator=generator)
    directions = targets - origins
    directions[::3, 0] = 0
    directions[::5, 2] = 0
    return origins, torch.nn.functional.normalize(directions, dim=1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("count", [0, 1, 301])
def test_matches_the_reference(implementation, count, device):
    origins, directions = random_rays(count)
    actual = ray_box(origins.to(device), directions.to(device), BOX.to(device), implementation=implementation)
    expected = ray_box(origins, directions, BOX, implementation="reference")
    for ours, theirs in zip(actual, expected, strict=True):
        # One subtraction and one division: the same roundings, whatever the implementation.
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    origins, directions = (tensor.to(device) for tensor in random_rays(40))
    box = BOX.to(device)
    wide = torch.cat([origins, directions], dim=1)
    actual = ray_box(wide[:, :3], wide[:, 3:], box.T.contiguous().T, implementation=implementation)
    expected = ray_box(origins, directions, box, implementation=implementation)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


CASES = {
    "through": ([0.0, -1, 0], [0.0, 0, 1], 0.5, 3.0),
    "scaled direction": ([0.0, -1, 0], [0.0, 0, 2], 0.25, 1.5),
    "from inside": ([0.0, -1, 1], [0.0, 0, 1], 0.0, 2.0),
    "beside": ([1.5, -1, 0], [0.0, 0, 1], INF, -INF),
    "behind": ([0.0, -1, 5], [0.0, 0, 1], INF, -INF),
    "towards, short of it": ([0.0, -1, -1], [0.0, 0, -1], INF, -INF),
    "along a face": ([1.0, -1, 0], [0.0, 0, 1], 0.5, 3.0),
    "along an edge, starting on it": ([1.0, 0, 0.5], [0.0, 0, 1], 0.0, 2.5),
    "touching the far face from outside": ([0.0, -1, 3], [0.0, 0, 1], 0.0, 0.0),
    "tiny direction on a face": ([1.0, -1, 0], [-1e-40, 0, 1], 0.5, 3.0),
    "diagonal": ([-2.0, -3, -0.5], [1.0, 1, 1], 1.0, 3.0),
    "NaN origin": ([math.nan, -1, 0], [0.0, 0, 1], INF, -INF),
    "NaN direction": ([0.0, -1, 0], [0.0, math.nan, 1], INF, -INF),
}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's, under Triton's interpreter
@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_hand_made_cases(implementation, device):
    origins, directions, near, far = (
        torch.tensor(column, device=device) for column in zip(*CASES.values(), strict=True)
    )
    t_near, t_far = ray_box(origins, directions, BOX.to(device), implementation=implementation)
    for i, name in enumerate(CASES):
        assert (t_near[i], t_far[i]) == (near[i], far[i]), name


def test_reference_agrees_with_points_along_the_ray():
    origins, directions = (tensor.double() for tensor in random_rays(60))
    box = BOX.double()
    t_near, t_far = ray_box(origins, directions, box, implementation="reference")
    t = torch.linspace(0, 15, 3001, dtype=torch.float64)
    points = origins[:, None] + directions[:, None] * t[:, None]
    inside = ((points >= box[0]) & (points <= box[1])).all(2)
    assert (t_near <= t_far).any()
    for ray in range(60):
        within = (t >= t_near[ray]) & (t <= t_far[ray])
        # A sampled point may fall on either side within rounding of the ends.
        near_an_end = ((t - t_near[ray]).abs() < 1e-9) | ((t - t_far[ray]).abs() < 1e-9)
        assert torch.equal(inside[ray] & ~near_an_end, within & ~near_an_end)


def test_is_not_differentiable():
    origins, directions = random_rays(3)
    t_near, _ = ray_box(origins.requires_grad_(), directions, BOX, implementation="reference")
    assert not t_near.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(3), BOX), r"origins: expected shape \(R, 3\), got \(3,\)"),
        ((torch.zeros(4, 3), torch.zeros(5, 3), BOX), r"directions: expected shape \(4, 3\), got \(5, 3\)"),
        ((torch.zeros(4, 3), torch.zeros(4, 3), BOX[0]), r"box: expected shape \(2, 3\)"),
        ((torch.zeros(4, 3), torch.zeros(4, 3), BOX.double()), "box: expected dtype torch.float32, got torch.float64"),
    ],
)
def test_errors_teach(arguments, message):
    with pytest.raises(InputError, match=message):
        ray_box(*arguments)
