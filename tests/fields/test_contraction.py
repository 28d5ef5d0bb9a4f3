import pytest
import torch

from voxfield.errors import InputError
from voxfield.fields.contraction import contract, contract_to_unit_cube

NORMS = ["linf", "l2"]


def random_points(count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return directions * torch.logspace(-3, 4, count, dtype=torch.float64)[:, None]


def size_of(points: torch.Tensor, norm: str) -> torch.Tensor:
    return points.abs().amax(1) if norm == "linf" else points.norm(dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_is_the_formula_of_the_paper(norm):
    points = random_points()
    for point, contracted in zip(points, contract(points, norm=norm), strict=True):
        size = float(size_of(point[None], norm))
        expected = point if size <= 1 else (2 - 1 / size) * point / size
        torch.testing.assert_close(contracted, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_near_points_stay_and_far_ones_keep_direction_and_order(norm):
    points = random_points()
    contracted = contract(points, norm=norm)
    near = size_of(points, norm) <= 1
    assert near.any()
    assert torch.equal(contracted[near], points[near])
    sizes = size_of(contracted, norm)
    assert (sizes < 2).all()
    torch.testing.assert_close(
        torch.nn.functional.normalize(contracted, dim=1), torch.nn.functional.normalize(points, dim=1)
    )
    order = size_of(points, norm).argsort()
    assert (sizes[order].diff() > 0).all()


def test_unit_cube_holds_the_scene_in_its_middle_half():
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5], [1e30, 0.0, -1e30], [2.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.75, 0.25, 0.625], [1.0, 0.5, 0.0], [0.875, 0.5, 0.5]])
    torch.testing.assert_close(contract_to_unit_cube(points), expected)
    everywhere = contract_to_unit_cube(random_points().float())
    assert everywhere.min() >= 0
    assert everywhere.max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_by_finite_differences(norm):
    # Away from points whose two largest coordinates are equal, where the cube's contraction has an edge.
    assert torch.autograd.gradcheck(lambda x: contract(x, norm=norm), random_points(40).requires_grad_())


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_is_finite_everywhere(norm):
    points = [[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [-1, 1, 0], [3, 3, 3], [-5, 5, 0], [1e-40, 0, 0], [1e15, 1e15, 0]]
    x = torch.tensor(points, requires_grad=True)
    for axis in range(3):
        (gradient,) = torch.autograd.grad(contract_to_unit_cube(x, norm=norm)[:, axis].sum(), x)
        assert gradient.isfinite().all()
        # At and around the origin the map is x / 4 + 1 / 2.
        assert gradient[0].tolist() == [0.25 if other == axis else 0.0 for other in range(3)]


@pytest.mark.parametrize("norm", NORMS)
def test_the_slope_does_not_jump_at_the_boundary(norm):
    x = torch.tensor([[1 - 1e-9, 0.2e-3, 0], [1 + 1e-9, 0.2e-3, 0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(contract(x, norm=norm)[:, 0].sum(), x)
    torch.testing.assert_close(gradient[0], gradient[1], rtol=0, atol=1e-7)


def test_no_points():
    assert contract_to_unit_cube(torch.zeros(0, 3)).shape == (0, 3)


def test_errors_teach():
    with pytest.raises(InputError, match=r"points: expected shape \(N, 3\), got \(3,\)"):
        contract(torch.zeros(3))
    with pytest.raises(InputError, match="norm: unknown value 'l1'"):
        contract(torch.zeros(1, 3), norm="l1")
