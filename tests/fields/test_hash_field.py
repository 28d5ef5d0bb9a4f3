import pytest
import torch

from voxfield.errors import InputError
from voxfield.fields.hash_field import HashField, HashFieldConfig

CONFIG = HashFieldConfig(
    num_levels=4, log2_table_size=10, base_resolution=4, max_resolution=32, hidden=16, geometry_features=5
)


def make(config: HashFieldConfig = CONFIG, seed: int = 0) -> HashField:
    return HashField(config, torch.Generator().manual_seed(seed))


def points(count: int) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(1))


def directions(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(2)), dim=1)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_shapes_and_ranges(count: int) -> None:
    field = make()
    density, geometry = field.geometry(field.encode(points(count)))
    colour = field.colour(geometry, directions(7), torch.arange(count, dtype=torch.int32) % 7)
    assert density.shape == (count,)
    assert geometry.shape == (count, 5)
    assert colour.shape == (count, 3)
    assert bool((density > 0).all() & (colour > 0).all() & (colour < 1).all())


def test_a_fresh_field_is_a_thin_uniform_fog() -> None:
    # The table starts near zero, so the networks say the same everywhere: no structure to unlearn.
    density = make().density(points(100))
    torch.testing.assert_close(density, torch.ones(100), rtol=0.05, atol=0.0)


def test_density_alone_is_that_of_all_that_is_asked() -> None:
    field, places = make(), points(300)
    asked = field.query(places).density
    assert torch.equal(field.density(places), asked)
    torch.testing.assert_close(field.log_density(places), asked.log())


def test_density_does_not_depend_on_the_direction_and_colour_does() -> None:
    field = make()
    with torch.no_grad():
        field.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    _, geometry = field.geometry(field.encode(points(1).expand(2, 3)))
    assert torch.equal(geometry[0], geometry[1])
    colour = field.colour(geometry, directions(2), torch.tensor([0, 1]))
    assert not torch.allclose(colour[0], colour[1])


def test_every_parameter_gets_a_gradient() -> None:
    field = make()
    density, geometry = field.geometry(field.encode(points(500)))
    colour = field.colour(geometry, directions(3), torch.arange(500) % 3)
    (density.sum() + colour.square().sum()).backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


def test_the_table_gradient_may_go_straight_into_its_buffer() -> None:
    plain, direct = make(), make()
    direct.table.grad = torch.zeros_like(direct.table)
    direct.table_grad = direct.table.grad
    for field in (plain, direct):
        field.density(points(200)).sum().backward()
    assert plain.table.grad is not None
    assert direct.table.grad is direct.table_grad
    torch.testing.assert_close(direct.table.grad, plain.table.grad)


def test_seeds_decide_parameters() -> None:
    one, same, other = make(), make(), make(seed=1)
    for (name, a), (_, b), (_, c) in zip(
        one.named_parameters(), same.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


@pytest.mark.parametrize("bad", [{"hidden": 0}, {"geometry_features": 0}, {"colour_layers": 0}, {"sh_degree": 5}])
def test_settings_are_checked(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        HashFieldConfig(**bad)


def test_the_grids_settings_are_checked_too() -> None:
    with pytest.raises(InputError):
        make(HashFieldConfig(log2_table_size=40))
