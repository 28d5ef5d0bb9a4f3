import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.chamfer import chamfer_distances

IMPLEMENTATIONS = ["numba", "triton"]


def point_sets(sets: int, points: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(sets, points, 3) in the unit cube."""
    return torch.rand(sets, points, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("first", "second"), [((1, 1), (1, 1)), ((3, 67), (2, 130)), ((2, 3), (5, 64)), ((0, 4), (2, 5)), ((1, 6), (0, 2))]
)
def test_matches_the_reference(implementation, first, second, device):
    one, other = point_sets(*first), point_sets(*second, seed=1)
    actual = chamfer_distances(one.to(device), other.to(device), implementation=implementation)
    expected = chamfer_distances(one.double(), other.double(), implementation="reference")
    assert actual.shape == (first[0], second[0])
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_takes_any_strides(implementation, device):
    one, other = point_sets(2, 9).to(device), point_sets(3, 5, seed=1).to(device)
    strided = chamfer_distances(
        one.mT.contiguous().mT,
        other.flip(1).transpose(0, 1).contiguous().transpose(0, 1),
        implementation=implementation,
    )
    torch.testing.assert_close(strided, chamfer_distances(one, other, implementation=implementation))


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_is_zero_between_a_set_and_its_shuffled_copy_and_symmetric(implementation):
    one = point_sets(4, 50)
    shuffled = one[:, torch.randperm(50, generator=torch.Generator().manual_seed(2))]
    distances = chamfer_distances(one, shuffled, implementation=implementation)
    assert torch.equal(distances.diagonal(), torch.zeros(4))
    torch.testing.assert_close(distances, distances.T)
    assert (distances[~torch.eye(4, dtype=torch.bool)] > 0).all()


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_of_known_points(implementation):
    one = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    other = torch.tensor([[[0.0, 0, 2], [1, 0, 0], [1, 0, 0]]])
    # Forth: 1 to (1, 0, 0), and 0. Back: 4, 0, 0.
    expected = torch.tensor([[1 / 2 + 4 / 3]])
    torch.testing.assert_close(chamfer_distances(one, other, implementation=implementation), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_near_points_far_from_the_origin_keep_their_distance(implementation, device):
    """The expanded square, |a|^2 - 2 a b + |b|^2, would lose it."""
    one = torch.full((1, 1, 3), 1000.0, device=device)
    other = one + torch.tensor([0.0, 0.0, 2.0**-10], device=device)
    distances = chamfer_distances(one, other, implementation=implementation)
    torch.testing.assert_close(distances.cpu(), torch.tensor([[2 * 2.0**-20]]))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 2, 3), "first: expected shape"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), "second: expected shape"),
        (torch.zeros(1, 0, 3), torch.zeros(1, 2, 3), "first: expected at least one point"),
        (torch.zeros(1, 2, 3), torch.full((1, 2, 3), torch.nan), "second: some coordinates are NaN"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.float64), "second: expected"),
    ],
)
def test_refuses(first, second, said):
    with pytest.raises(InputError, match=said):
        chamfer_distances(first, second)
