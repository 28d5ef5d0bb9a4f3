from typing import Any

import pytest
import torch

from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.models.baking import BakeConfig, bake_field, bake_spheres, bake_steps
from voxfield.voxels.sphere_layers import SphereLayers

BOX = Bounds(minimum=(-1.0, -1.0, 0.0), maximum=(1.0, 1.0, 1.0))


class Ball:
    """A ball whose colour is a harmonic function of the direction it is seen along, and has a side that is hidden."""

    def __init__(self, density: float = 40.0, radius: float = 0.4) -> None:
        self.inside, self.radius = density, radius
        self.coefficients = 0.2 * torch.randn(3, 9, generator=torch.Generator().manual_seed(1))

    def density(self, points: torch.Tensor) -> torch.Tensor:
        distance = (points - torch.tensor([0.0, 0.0, 0.5])).norm(dim=1)
        return torch.where(distance < self.radius, self.inside, 0.0)

    def colours(self, points: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return 0.5 + spherical_harmonics(directions, 2) @ self.coefficients.T


def origins(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def baked(field: Any = None, **settings: Any) -> Any:
    config = BakeConfig(**{"resolution": 24, **settings})
    return bake_field(field or Ball(), BOX, origins(40), config=config, generator=torch.Generator().manual_seed(0))


def test_a_ball_is_found_and_its_colour_fitted() -> None:
    ball = Ball()
    grid = baked(ball, views=40)
    assert grid.resolution == (24, 24, 12)
    assert grid.scene_bounds == BOX
    # The volume of the ball, in voxels, and a rim of those it cuts.
    whole = 4 / 3 * torch.pi * ball.radius**3 * 12**3
    full = grid.density > 0.99 * ball.inside
    assert 0.6 * whole < int(full.sum()) <= whole
    assert whole < grid.num_voxels < 1.8 * whole
    torch.testing.assert_close(grid.density.detach()[full].mean(), torch.tensor(ball.inside), rtol=1e-3, atol=0)
    # Ridge and hidden sides draw the coefficients a little.
    off = (grid.sh.detach() - ball.coefficients).abs().amax(dim=(1, 2))
    assert float(off.quantile(0.9)) < 0.08


def test_voxels_that_a_surface_cuts_are_half_opaque() -> None:
    class Half(Ball):
        def density(self, points: torch.Tensor) -> torch.Tensor:
            return torch.where(points[:, 0] < 1 / 24, 1e6, 0.0)

    grid = baked(Half(), points=512)
    side = 1 / 12
    values = grid.query(torch.tensor([[0.5 * side, 0.0, 0.5], [-0.5 * side, 0.0, 0.5]])).density
    opacity = 1 - torch.exp(-values * side)
    assert float(opacity[0].detach()) == pytest.approx(0.5, abs=0.08)
    assert float(opacity[1].detach()) > 0.999


def test_progress_is_told_to_the_end() -> None:
    told: list[int] = []
    config = BakeConfig(resolution=16)
    generator = torch.Generator().manual_seed(0)
    bake_field(Ball(), BOX, origins(3), config=config, generator=generator, advance=told.append)
    assert sum(told) == bake_steps(config, BOX)


def test_a_field_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="has no matter in its region of interest"):
        baked(Ball(density=0.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 4}, "resolution: expected a value at least 8"),
        ({"resolution": 5000}, "resolution: .* at most 1024"),
        ({"sh_degree": 4}, "sh_degree: unknown value 4"),
        ({"views": 0}, "views: expected a value at least 1"),
        ({"points": 0}, "points: expected a value at least 1"),
        ({"least_opacity": 1.5}, "least_opacity: .* at most 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BakeConfig(**settings)


def test_what_lies_beyond_goes_to_spheres() -> None:
    class Shell(Ball):
        def density(self, points: torch.Tensor) -> torch.Tensor:
            distance = points.norm(dim=1)
            return torch.where((distance > 6.0) & (distance < 8.0) & (points[:, 2] > 0), 5.0, 0.0)

    box, spheres = Bounds.from_cube(2.0), SphereLayers(16, 12)
    generator = torch.Generator().manual_seed(0)
    found = bake_spheres(Shell(), spheres, box, config=BakeConfig(points=32), generator=generator)
    up = torch.nn.functional.normalize(torch.randn(60, 3, generator=generator).abs() + 0.2, dim=1)
    up = up[up[:, 2] > 0.3]  # texels next to the plane are blended with those across it
    for side, expected in ((1.0, 1 - torch.exp(torch.tensor(-10.0))), (-1.0, torch.tensor(0.0))):
        seen = found.render(torch.zeros_like(up), up * torch.tensor([1.0, 1.0, side]))
        torch.testing.assert_close(seen.opacity.detach(), expected.expand(len(up)), rtol=0, atol=1e-3)
    seen = found.render(torch.zeros_like(up), up)
    assert bool(((seen.depth > 2.5) & (seen.depth < 4.5)).all())
    truth = Ball().colours(up, up)
    assert float((seen.rgb.detach() - truth).abs().mean()) < 0.05
