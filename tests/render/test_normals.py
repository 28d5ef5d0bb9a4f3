import pytest
import torch

from voxfield.errors import InputError
from voxfield.render.normals import composite_normals, orientation_loss, predicted_normal_loss


def some_rays() -> tuple[torch.Tensor, ...]:
    """Weights (4, 5), two sets of unit normals (4, 5, 3) and directions (4, 3) in float64."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(4, 5, generator=generator, dtype=torch.float64) / 5
    vectors = torch.randn(11, 4, 3, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    return weights, unit[:5].transpose(0, 1), unit[5:10].transpose(0, 1), unit[10]


def test_losses_equal_the_formulae_written_out() -> None:
    weights, normals, predicted, directions = some_rays()
    away = [
        sum(float(weights[r, i]) * max(0.0, float(normals[r, i] @ directions[r])) ** 2 for i in range(5))
        for r in range(4)
    ]
    apart = [
        sum(float(weights[r, i]) * float(((normals[r, i] - predicted[r, i]) ** 2).sum()) for i in range(5))
        for r in range(4)
    ]
    torch.testing.assert_close(orientation_loss(weights, normals, directions), torch.tensor(away, dtype=torch.float64))
    found = predicted_normal_loss(weights, normals, predicted)
    torch.testing.assert_close(found, torch.tensor(apart, dtype=torch.float64))


def test_gradients_are_those_of_differences() -> None:
    weights, normals, predicted, directions = (tensor.clone().requires_grad_() for tensor in some_rays())
    assert torch.autograd.gradcheck(orientation_loss, (weights, normals, directions))
    assert torch.autograd.gradcheck(predicted_normal_loss, (weights, normals, predicted))
    assert torch.autograd.gradcheck(composite_normals, (weights, normals))


def test_what_faces_the_camera_costs_nothing() -> None:
    weights, _, _, directions = some_rays()
    facing = -directions[:, None].expand(4, 5, 3)
    assert not bool(orientation_loss(weights, facing, directions).any())
    torch.testing.assert_close(orientation_loss(weights, -facing, directions), weights.sum(1))


def test_rays_see_one_direction() -> None:
    weights, normals, _, _ = some_rays()
    weights[1] = 0.0
    seen = composite_normals(weights, normals)
    assert not bool(seen[1].any())
    torch.testing.assert_close(seen.norm(dim=1), torch.tensor([1.0, 0, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(composite_normals(torch.ones(2, 1), normals[:2, :1].float()), normals[:2, 0].float())


def test_shapes_are_checked() -> None:
    weights, normals, predicted, directions = some_rays()
    with pytest.raises(InputError, match="normals: expected shape"):
        composite_normals(weights, normals[:, 1:])
    with pytest.raises(InputError, match="directions: expected shape"):
        orientation_loss(weights, normals, directions[1:])
    with pytest.raises(InputError, match="predicted: expected shape"):
        predicted_normal_loss(weights, normals, predicted[:, 1:])
