import math

import pytest
import torch

from voxfield.errors import InputError
from voxfield.kernels.sphere_layers import LayerGradients, LayerValues, RenderedSpheres, render_spheres, sphere_radii

OUTPUTS = ("rgb", "opacity", "depth")
CPU = torch.device("cpu")


def moved(layers: LayerValues, device: torch.device) -> LayerValues:
    return LayerValues(links=layers.links.to(device), density=layers.density.to(device), rgb=layers.rgb.to(device))


def random_layers(fill: float = 0.7, shape: tuple[int, int, int] = (5, 6, 12)) -> LayerValues:
    generator = torch.Generator().manual_seed(0)
    stored = torch.rand(shape, generator=generator) < fill
    count = int(stored.sum())
    links = torch.full(shape, -1, dtype=torch.int32)
    links[stored] = torch.randperm(count, generator=generator).int()
    return LayerValues(
        links=links,
        density=torch.randn(count, generator=generator) * 0.3 + 0.2,
        rgb=torch.randn(count, 3, generator=generator),
    )


def random_rays(count: int, spread: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    origins = spread * torch.randn(count, 3, generator=generator)
    return origins, torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def evaluate(
    implementation: str,
    layers: LayerValues,
    origins: torch.Tensor,
    directions: torch.Tensor,
    device: torch.device = CPU,
):
    layers, origins, directions = moved(layers, device), origins.to(device), directions.to(device)
    kind = torch.float64 if implementation == "reference" else torch.float32
    values = LayerValues(
        links=layers.links,
        density=layers.density.to(kind).requires_grad_(),
        rgb=layers.rgb.to(kind).requires_grad_(),
    )
    seen = render_spheres(origins.to(kind), directions.to(kind), values, implementation=implementation)
    generator = torch.Generator().manual_seed(2)
    loss = sum((getattr(seen, name) * torch.randn(getattr(seen, name).shape, generator=generator).to(device)).sum()
               for name in OUTPUTS)  # fmt: skip
    gradients = torch.autograd.grad(loss, [values.density, values.rgb])
    return [getattr(seen, name).cpu() for name in OUTPUTS], [gradient.cpu() for gradient in gradients]


@pytest.mark.parametrize("fill", [0.7, 2.0, -1.0])
@pytest.mark.parametrize("count", [0, 1, 333])
@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("implementation", ["numba", "triton"])
def test_matches_the_reference(implementation: str, fill: float, count: int, spread: float, device) -> None:
    layers, rays = random_layers(fill), random_rays(count, spread)
    ours, theirs = evaluate(implementation, layers, *rays, device), evaluate("reference", layers, *rays)
    for found, expected in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]], strict=True):
        scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-5 * max(scale, 1e-3))


@pytest.mark.parametrize("implementation", ["reference", "numba", "triton"])
def test_an_even_sphere_is_a_formula(implementation: str, device: torch.device) -> None:
    # From the middle every ray leaves sphere k at r_k, whatever its direction.
    links = torch.arange(3 * 4 * 8, dtype=torch.int32).reshape(3, 4, 8)
    density = torch.tensor([0.3, 0.5, 2.0]).repeat_interleave(32)
    rgb = torch.tensor([[1.0, 0.0, -3.0]]).repeat(96, 1)
    _, directions = random_rays(40)
    seen = render_spheres(
        torch.zeros(40, 3, device=device), directions.to(device),
        moved(LayerValues(links=links, density=density, rgb=rgb), device), implementation=implementation,
    )  # fmt: skip
    seen = RenderedSpheres(**{name: getattr(seen, name).cpu() for name in OUTPUTS})
    radii = sphere_radii(3)
    assert radii.tolist() == pytest.approx([1.2, 2.0, 6.0])
    delta = torch.diff(torch.cat([torch.ones(1), radii.float()]))
    alpha = 1 - torch.exp(-delta * torch.tensor([0.3, 0.5, 2.0]))
    weights = alpha * torch.cumprod(torch.cat([torch.ones(1), 1 - alpha]), 0)[:-1]
    torch.testing.assert_close(seen.opacity, weights.sum().expand(40), rtol=1e-5, atol=0)
    torch.testing.assert_close(seen.depth, (weights * radii.float()).sum().expand(40), rtol=1e-5, atol=0)
    colour = torch.tensor([0.5 + 0.2820948, 0.5, 0.0])
    torch.testing.assert_close(seen.rgb, weights.sum() * colour.expand(40, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "numba", "triton"])
def test_texels_lie_where_the_contract_says(implementation: str, device: torch.device) -> None:
    # One texel of one sphere: the ray through its centre sees it whole, the one through its neighbour's not at all.
    height, width = 8, 16
    for row, column in ((0, 3), (4, 0), (7, 15)):
        links = torch.full((1, height, width), -1, dtype=torch.int32)
        links[0, row, column] = 0
        layers = LayerValues(links=links, density=torch.tensor([50.0]), rgb=torch.zeros(1, 3))
        polar = torch.tensor([(row + 0.5) / height * math.pi] * 2)
        longitude = ((column + torch.tensor([0.5, 1.5])) / width - 0.5) * 2 * math.pi
        directions = torch.stack([polar.sin() * longitude.cos(), polar.sin() * longitude.sin(), polar.cos()], dim=1)
        rays = torch.zeros(2, 3, device=device), directions.to(device)
        opacity = render_spheres(*rays, moved(layers, device), implementation=implementation).opacity
        assert float(opacity[0]) > 0.999
        assert float(opacity[1]) < 0.01


@pytest.mark.parametrize("implementation", ["reference", "numba", "triton"])
def test_what_rays_meet_nothing_of(implementation: str, device: torch.device) -> None:
    layers = random_layers(2.0)
    origins = torch.tensor([[0.0, 0.0, 50.0], [torch.nan, 0.0, 0.0], [0.0, 30.0, 0.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    rays = origins.to(device), directions.to(device)
    seen = render_spheres(*rays, moved(layers, device), implementation=implementation)
    for name in OUTPUTS:
        assert not bool(getattr(seen, name).any())


@pytest.mark.parametrize("implementation", ["reference", "numba", "triton"])
def test_gradients_go_into_buffers(implementation: str, device: torch.device) -> None:
    layers, rays = moved(random_layers(), device), [tensor.to(device) for tensor in random_rays(50)]
    values = LayerValues(
        links=layers.links, density=layers.density.clone().requires_grad_(), rgb=layers.rgb.clone().requires_grad_()
    )
    plain = torch.autograd.grad(
        render_spheres(*rays, values, implementation=implementation).rgb.sum(), [values.density, values.rgb]
    )
    into = LayerGradients(
        density=torch.ones_like(layers.density),
        rgb=torch.ones_like(layers.rgb),
        touched=torch.zeros(len(layers.density), dtype=torch.uint8, device=device),
    )
    render_spheres(*rays, values, gradients=into, implementation=implementation).rgb.sum().backward()
    assert values.density.grad is None
    torch.testing.assert_close(into.density - 1, plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(into.rgb - 1, plain[1], rtol=1e-4, atol=1e-5)
    changed = (plain[0] != 0) | (plain[1] != 0).any(1)
    assert bool((into.touched.bool() >= changed).all())


def test_gradients_of_rays_are_those_of_finite_differences() -> None:
    layers = random_layers(2.0)
    layers = LayerValues(links=layers.links, density=layers.density.double().abs(), rgb=layers.rgb.double())
    origins, directions = (tensor.double().requires_grad_() for tensor in random_rays(6, 0.2))
    assert torch.autograd.gradcheck(
        lambda o, d: render_spheres(o, d, layers).rgb, (origins, directions), eps=1e-7, atol=1e-4
    )


def test_bad_arguments_are_refused() -> None:
    layers, (origins, directions) = random_layers(), random_rays(3)
    with pytest.raises(InputError, match="directions: expected shape"):
        render_spheres(origins, directions[:2], layers)
    with pytest.raises(InputError, match="at least 2 x 2 texels"):
        render_spheres(
            origins, directions, LayerValues(links=layers.links[:, :1], density=layers.density, rgb=layers.rgb)
        )
    with pytest.raises(InputError, match="rgb: expected shape"):
        render_spheres(origins, directions, LayerValues(links=layers.links, density=layers.density, rgb=layers.rgb[1:]))
    with pytest.raises(InputError, match="only implementation='reference' has gradients to rays"):
        render_spheres(origins.requires_grad_(), directions, layers, implementation="numba")
