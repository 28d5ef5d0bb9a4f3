import pytest
import torch

from voxfield.fields.normal_head import NormalHead


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 7, generator=generator), torch.rand(count, 3, generator=generator)


@pytest.mark.parametrize("count", [0, 1, 65])
def test_it_is_its_formula_in_float64(count: int) -> None:
    head = NormalHead(7, 16, torch.Generator().manual_seed(0))
    geometry, positions = inputs(count)
    found = head(geometry, positions)
    wide, x = geometry.double(), positions.double() * 2 * torch.pi
    hidden = torch.cat([wide, x.sin(), (2 * x).sin(), x.cos(), (2 * x).cos()], dim=1)
    for layer, weight in enumerate(head.net):
        hidden = (hidden.relu() if layer else hidden) @ weight.double().T
    expected = hidden / hidden.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-6)


def test_gradients_reach_features_and_weights_but_not_positions() -> None:
    head = NormalHead(7, 16, torch.Generator().manual_seed(0)).double()
    geometry, positions = (tensor.double().requires_grad_() for tensor in inputs(5))
    target = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda g: head(g, positions), (geometry,))
    (head(geometry, positions) * target).sum().backward()
    assert positions.grad is None
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in head.net)
