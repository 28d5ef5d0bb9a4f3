import pytest
import torch

from voxfield.errors import InputError
from voxfield.fields.contraction import contract_to_unit_cube
from voxfield.kernels.interval_points import interval_points

BOX = torch.tensor([[-1.0, -2.0, 0.0], [1.5, 2.0, 3.0]])


def problem(rays: int, samples: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rays + samples)
    origins = torch.randn(rays, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=1)
    edges = torch.rand(rays, samples + 1, generator=generator).cumsum(1) ** 2
    return tuple(tensor.to(dtype) for tensor in (origins, directions, edges, BOX))


@pytest.mark.parametrize("contracted", [True, False])
@pytest.mark.parametrize(("rays", "samples"), [(1, 1), (3, 5), (77, 96), (200, 1), (0, 4), (5, 0)])
def test_numba_equals_the_reference_in_float64(rays: int, samples: int, contracted: bool) -> None:
    found = interval_points(*problem(rays, samples), contracted=contracted, implementation="numba")
    exact = interval_points(*problem(rays, samples, torch.float64), contracted=contracted, implementation="reference")
    assert found.shape == (rays * samples, 3)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-6)


def test_the_formula_point_by_point() -> None:
    origins, directions, edges, box = problem(4, 3, torch.float64)
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    world = (origins[:, None] + directions[:, None] * middles[..., None]).reshape(-1, 3)
    centre = box.mean(0)
    torch.testing.assert_close(
        interval_points(origins, directions, edges, box, contracted=True),
        contract_to_unit_cube((world - centre) / 2.0),
    )
    torch.testing.assert_close(
        interval_points(origins, directions, edges, box, contracted=False), (world - box[0]) / (box[1] - box[0])
    )


@pytest.mark.parametrize("contracted", [True, False])
def test_contracted_points_fill_the_cube_and_never_leave_it(contracted: bool) -> None:
    origins, directions, edges, box = problem(50, 40)
    points = interval_points(origins, directions, edges * 1e6, box, contracted=contracted)
    assert bool(points.isfinite().all())
    if contracted:
        assert float(points.min()) >= -1e-6
        assert float(points.max()) <= 1.0 + 1e-6


@pytest.mark.parametrize("contracted", [True, False])
def test_gradients_to_rays(contracted: bool) -> None:
    origins, directions, edges, box = problem(3, 4, torch.float64)
    assert torch.autograd.gradcheck(
        lambda o, d: interval_points(o, d, edges, box, contracted=contracted),
        (origins.requires_grad_(), directions.requires_grad_()),
    )


def test_rays_that_learn_take_the_reference() -> None:
    origins, directions, edges, box = problem(3, 4)
    points = interval_points(origins.requires_grad_(), directions, edges, box, contracted=True)
    points.sum().backward()
    assert bool(origins.grad.any())


def test_strides_do_not_matter() -> None:
    origins, directions, edges, box = problem(9, 7)
    expected = interval_points(origins, directions, edges, box, contracted=True)
    found = interval_points(
        origins.T.contiguous().T, directions.T.contiguous().T, edges.T.contiguous().T, box, contracted=True
    )
    torch.testing.assert_close(found, expected)


def test_errors_teach() -> None:
    origins, directions, edges, box = problem(3, 4)
    with pytest.raises(InputError, match="edges: expected shape"):
        interval_points(origins, directions, edges[:2], box, contracted=True)
    with pytest.raises(InputError, match="directions: expected dtype"):
        interval_points(origins, directions.double(), edges, box, contracted=True)
