import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.sh_grid import GridLinks, link_grid
from voxfield.kernels.total_variation import CellRange, total_variation

IMPLEMENTATIONS = ["numba", "triton"]
RANGES = {
    "all": CellRange(start=0, count=7 * 5 * 6),
    "some": CellRange(start=31, count=50),
    "over the end": CellRange(start=200, count=25),
    "one": CellRange(start=209, count=1),
}


def random_values(fill=0.6, channels=(3, 4), size=(7, 5, 6)) -> tuple[torch.Tensor, GridLinks]:
    generator = torch.Generator().manual_seed(1)
    stored = torch.rand(size, generator=generator) < fill
    count = int(stored.sum())
    links = torch.full(size, -1, dtype=torch.int32)
    links[stored] = torch.randperm(count, generator=generator).int()
    return torch.randn(count, *channels, generator=generator), link_grid(links, count)


def evaluate(values, links, cells, implementation, device="cpu"):
    values = values.double() if implementation == "reference" else values.clone().to(device)
    loss = total_variation(values.requires_grad_(), links.to(device), cells, implementation=implementation)
    (gradient,) = torch.autograd.grad(1.5 * loss, values)
    return loss.detach().cpu().double(), gradient.cpu().double()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("fill", [0.6, 2.0, -1.0])
@pytest.mark.parametrize("channels", [(), (3, 4)])
@pytest.mark.parametrize("cells", RANGES.values(), ids=RANGES)
def test_matches_the_reference(implementation, fill, channels, cells, device):
    values, links = random_values(fill, channels)
    actual = evaluate(values, links, cells, implementation, device)
    for ours, theirs in zip(actual, evaluate(values, links, cells, "reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_reference_is_the_sum_in_the_contract():
    values, links = random_values(0.5, ())
    depth, height, width = links.links.shape

    def at(z, y, x):
        row = int(links.links[z, y, x])
        return float(values[row]) if row >= 0 else 0.0

    total = 0.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                here = at(z, y, x)
                dx = (at(z, y, x + 1) - here) * width / 256 if x + 1 < width else 0.0
                dy = (at(z, y + 1, x) - here) * height / 256 if y + 1 < height else 0.0
                dz = (at(z + 1, y, x) - here) * depth / 256 if z + 1 < depth else 0.0
                total += (1e-5 + dx * dx + dy * dy + dz * dz) ** 0.5
    found = total_variation(values.double(), links, RANGES["all"], implementation="reference")
    assert float(found) == pytest.approx(total / (depth * height * width), rel=1e-9)


def test_reference_gradient_by_finite_differences():
    values, links = random_values(0.7, (2,), size=(3, 2, 4))
    assert torch.autograd.gradcheck(
        lambda v: total_variation(v, links, CellRange(start=5, count=17)), values.double().requires_grad_()
    )


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
def test_gradients_go_to_buffers(implementation, device):
    values, links = random_values()
    values, links = (values.double() if implementation == "reference" else values).to(device), links.to(device)
    cells = RANGES["some"]
    _, expected = evaluate(values, links, cells, implementation, device)
    buffer, touched = torch.ones_like(values), torch.zeros(len(values), dtype=torch.uint8, device=device)
    leaf = values.detach().clone().requires_grad_()
    loss = total_variation(leaf, links, cells, gradient=buffer, touched=touched, implementation=implementation)
    (1.5 * loss).backward()
    assert leaf.grad is None
    torch.testing.assert_close(buffer.cpu().double(), 1 + expected, rtol=1e-6, atol=1e-6)
    assert expected[touched.cpu() == 0].eq(0).all()
    assert 0 < int((touched == 0).sum()) < len(touched)


def test_errors_teach():
    values, links = random_values()
    with pytest.raises(InputError, match=r"values: expected a contiguous tensor of \d+ rows, got \(3, 3, 4\)"):
        total_variation(values[:3], links, RANGES["all"])
    with pytest.raises(InputError, match="give both or neither"):
        total_variation(values, links, RANGES["all"], gradient=torch.zeros_like(values))
    with pytest.raises(InputError, match=r"cells\.start: expected a value at most 209, got 210"):
        total_variation(values, links, CellRange(start=210, count=1))
    with pytest.raises(InputError, match="count: expected a value at least 1"):
        CellRange(start=0, count=0)
