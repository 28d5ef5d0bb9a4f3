import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.near_gradients import scale_near_gradients


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (0, 4), (1, 1, 1)])
def test_values_stay_and_gradients_fall_with_the_squared_distance(shape):
    values = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    distances = torch.linspace(0, 2, shape[0] * shape[1], dtype=torch.float64).view(shape[:2])
    came = scale_near_gradients(values, distances)
    assert torch.equal(came, values)
    came.backward(torch.full(shape, 3.0, dtype=torch.float64))
    expected = 3.0 * torch.minimum(distances**2, torch.ones(()).double())
    torch.testing.assert_close(values.grad, expected.view(*shape[:2], *[1] * (len(shape) - 2)).expand(shape))


def test_no_gradient_flows_to_the_distances():
    values, distances = torch.ones(2, 3, requires_grad=True), torch.full((2, 3), 0.5, requires_grad=True)
    scale_near_gradients(values, distances).sum().backward()
    assert distances.grad is None


def test_distances_are_one_a_sample():
    with pytest.raises(InputError, match="distances: expected shape"):
        scale_near_gradients(torch.ones(2, 3, 3), torch.ones(2, 4))
