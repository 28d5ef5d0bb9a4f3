import dataclasses
from typing import Any

import pytest
import torch

from voxfield.data.synthetic import posed_images
from voxfield.errors import InputError
from voxfield.fields.occupancy import Occupancy, OccupancyConfig
from voxfield.geometry.bounds import Bounds
from voxfield.models.base import Model
from voxfield.models.plenoxels_config import PlenoxelsConfig, SpheresConfig
from voxfield.models.point_fields import point_field
from voxfield.recipes import build_model, smallest_model

RECIPES = ["grid-ngp", "nerfacto", "pynerf", "pynerf-occupancy-grid", "plenoxels"]
CAPTURES = posed_images(count=3, resolution=16)


def make(recipe: str, **changes: Any) -> Model:
    captures, config = dataclasses.replace(CAPTURES, **changes), smallest_model(recipe)
    if isinstance(config, PlenoxelsConfig):
        # Points are asked about in the box; spheres around it are not part of what they say.
        config = dataclasses.replace(config, spheres=SpheresConfig(layers=0))
    return build_model(recipe, config, captures, 0)


def some_points(count: int, half: float = 0.9) -> torch.Tensor:
    low, high = CAPTURES.bounds.tensor()
    unit = torch.rand(count, 3, generator=torch.Generator().manual_seed(3)) - 0.5
    return (low + high) / 2 + unit * half * (high - low)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("count", [0, 1, 77])
def test_every_model_tells_what_is_at_points(recipe: str, count: int) -> None:
    field = point_field(make(recipe), 0.01)
    points = some_points(count)
    towards = torch.nn.functional.normalize(points + torch.tensor([0.0, 3.0, 0.1]), dim=1)
    density, colours = field.density(points), field.colours(points, towards)
    assert density.shape == (count,)
    assert colours.shape == (count, 3)
    assert not density.requires_grad
    assert bool((density > 0).all())
    assert bool((colours >= 0).all())


@pytest.mark.parametrize("recipe", RECIPES)
def test_there_is_nothing_outside_a_bounded_model(recipe: str) -> None:
    points = 3 * some_points(300)
    outside = ~CAPTURES.bounds.contains(points)
    density = point_field(make(recipe), 0.01).density(points)
    assert bool(outside.any())
    assert not bool(density[outside].any())


@pytest.mark.parametrize("recipe", ["grid-ngp", "nerfacto", "plenoxels"])
def test_what_rays_meet_is_what_points_say(recipe: str) -> None:
    model = make(recipe)
    rays = CAPTURES.cameras.image_rays(0)[torch.tensor([8 * 16 + 8, 7 * 16 + 5])]
    seen = model.render_rays(rays, background=torch.zeros(3))
    field, steps = point_field(model, 0.01), 4000
    t = (torch.arange(steps) + 0.5) / steps * 8
    points = rays.origins[:, None] + t[:, None] * rays.directions[:, None]
    thickness = field.density(points.reshape(-1, 3)).view(2, steps).sum(1) * 8 / steps
    assert float(seen["opacity"].min()) > 0.05
    # The eight intervals of the small nerfacto leave out the ends of the box.
    tolerance = 0.15 if recipe == "nerfacto" else 0.03
    torch.testing.assert_close(seen["opacity"], 1 - torch.exp(-thickness), rtol=tolerance, atol=0)


def test_empty_cells_have_no_density() -> None:
    model = make("grid-ngp")
    model.occupancy.occupied[:, :, :, :8] = False
    points = some_points(200)
    density = point_field(model, 0.01).density(points)
    assert torch.equal(density > 0, points[:, 0] >= model.box.mean(0)[0])


def test_points_are_looked_up_in_the_finest_cascade_around_them() -> None:
    occupancy = Occupancy(Bounds.from_cube(1.0), 3, 0.01, OccupancyConfig(resolution=16))
    occupancy.occupied[1] = False
    points = torch.tensor([[0.5, 0.0, 0.0], [1.5, 0.0, 0.0], [-3.9, 0.0, 0.0], [4.1, 0.0, 0.0], [torch.nan, 0.0, 0.0]])
    assert occupancy.holds(points).tolist()[:4] == [True, False, True, False]


def test_runs_in_device_coordinates_are_refused() -> None:
    from voxfield.geometry.ndc import NdcFrame

    model = make("nerfacto")
    model.ndc = object.__new__(NdcFrame)
    with pytest.raises(InputError, match="normalised device coordinates"):
        point_field(model, 0.01)


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(InputError, match="A Linear is no function of points"):
        point_field(torch.nn.Linear(1, 1), 0.01)  # type: ignore[arg-type]
