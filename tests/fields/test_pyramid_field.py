from dataclasses import replace
from typing import Any

import pytest
import torch

from voxfield.errors import FormatError, InputError
from voxfield.fields.hash_field import HashFieldConfig
from voxfield.fields.pyramid_field import PyramidConfig, PyramidField
from voxfield.kernels.hash_encode import hash_encode
from voxfield.kernels.spherical_harmonics import spherical_harmonics

SIZES = HashFieldConfig(
    num_levels=4, features=2, log2_table_size=10, base_resolution=4, max_resolution=64, hidden=16, sh_degree=2
)
VARIANTS: dict[str, dict[str, Any]] = {
    "embedding": {},
    "color": {"interpolate": "color"},
    "none": {"blending": "none"},
    "none-color": {"blending": "none", "interpolate": "color"},
    "laplacian": {"blending": "laplacian"},
    "separate": {"share_feature_grid": False},
    "separate-color": {"share_feature_grid": False, "interpolate": "color"},
    "separate-laplacian": {"share_feature_grid": False, "blending": "laplacian"},
}


def make(sizes: HashFieldConfig = SIZES, *, linear: bool = False, **settings: Any) -> PyramidField:
    config = PyramidConfig(**{"num_levels": 5, "trained_resolution": 8, **settings})
    generator = torch.Generator().manual_seed(0)
    field = PyramidField(sizes, config, generator, extent=2.0, linear=linear)
    with torch.no_grad():
        for table in field.tables:
            table.uniform_(-1, 1, generator=generator)
    return field


def samples(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, levels from far below to far above the pyramid's and whole ones, directions, rays."""
    generator = torch.Generator().manual_seed(3)
    positions = torch.rand(count, 3, generator=generator)
    level = 8 * torch.rand(count, generator=generator) - 2
    level[::7] = level[::7].round()
    directions = torch.nn.functional.normalize(torch.randn(9, 3, generator=generator), dim=1)
    return positions, level, directions, torch.arange(count, dtype=torch.int32) % 9


def network(inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
    for weight in weights[:-1]:
        inputs = torch.relu(inputs @ weight.T)
    return inputs @ weights[-1].T


def every_level(
    field: PyramidField, positions: torch.Tensor, level: torch.Tensor, directions: torch.Tensor, ray: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Density and colour with plain torch, every level asked for every sample and weighted by the formula."""
    config = field.pyramid
    inside, steps = level.clamp(0, config.num_levels - 1)[:, None], torch.arange(config.num_levels).to(level)
    weights = {
        "linear": (1 - (inside - steps).abs()).clamp(min=0),
        "none": (inside.ceil() == steps).to(level),
        "laplacian": torch.where(steps == 0, 1.0, (inside - steps + 1).clamp(0, 1)),
    }[config.blending]
    outputs = []
    for at in range(config.num_levels):
        grid = 0 if config.share_feature_grid else at
        features = hash_encode(positions, field.tables[grid], field.grids[grid], implementation="reference")
        outputs.append(network(features, list(field.density_nets[at].parameters())))
    shared = spherical_harmonics(directions, field.config.sh_degree)[ray.long()]
    if config.interpolate == "embedding":
        embedding = sum(weights[:, at, None] * output for at, output in enumerate(outputs))
        assert isinstance(embedding, torch.Tensor)
        raw = network(torch.cat([embedding, shared], 1), list(field.colour_nets[0].parameters()))
        return embedding[:, 0].exp(), torch.sigmoid(raw)
    density = sum(weights[:, at] * output[:, 0].exp() for at, output in enumerate(outputs))
    colours = [
        torch.sigmoid(network(torch.cat([output, shared], 1), list(field.colour_nets[at].parameters())))
        for at, output in enumerate(outputs)
    ]
    colour = sum(weights[:, at, None] * one for at, one in enumerate(colours))
    assert isinstance(density, torch.Tensor)
    assert isinstance(colour, torch.Tensor)
    return density, colour


def gradients(field: PyramidField, positions: torch.Tensor, density: torch.Tensor, colour: torch.Tensor) -> Any:
    generator = torch.Generator().manual_seed(7)
    one, three = torch.randn(len(density), generator=generator), torch.randn(len(density), 3, generator=generator)
    loss = (density * one.to(density)).sum() + (colour * three.to(colour)).sum()
    names = ["positions", *(name for name, _ in field.named_parameters())]
    found = torch.autograd.grad(loss, [positions, *field.parameters()], allow_unused=True)
    return {name: value for name, value in zip(names, found, strict=True) if value is not None and bool(value.any())}


@pytest.mark.parametrize("count", [1, 333])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_are_those_of_asking_every_level(variant: str, count: int) -> None:
    field = make(**VARIANTS[variant])
    exact = make(**VARIANTS[variant]).double()
    positions, level, directions, ray = samples(count)
    own, other = positions.clone().requires_grad_(), positions.double().requires_grad_()
    asked = field.query(own, level)
    colour = field.colour(asked.geometry, directions, ray)
    expected = every_level(exact, other, level.double(), directions.double(), ray)
    # Products of some 16 terms, three networks deep, in float32.
    for found, wanted in ((asked.density, expected[0]), (colour, expected[1])):
        torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=2e-5)
    found, wanted = gradients(field, own, asked.density, colour), gradients(exact, other, *expected)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-3, atol=1e-4 * size, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(field.density(positions, level), asked.density)
        torch.testing.assert_close(field.log_density(positions, level), asked.density.log(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_samples(variant: str) -> None:
    field = make(**VARIANTS[variant])
    asked = field.query(torch.zeros(0, 3), torch.zeros(0))
    assert asked.density.shape == (0,)
    assert field.colour(asked.geometry, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int32)).shape == (0, 3)


def test_without_a_level_it_is_the_finest() -> None:
    field = make()
    positions, *_ = samples(50)
    torch.testing.assert_close(field.density(positions), field.density(positions, torch.full((50,), 4.0)))


def test_only_the_networks_of_the_levels_asked_for_learn() -> None:
    field = make()
    positions, _, directions, ray = samples(64)
    asked = field.query(positions, torch.full((64,), 2.5))
    (asked.density.sum() + field.colour(asked.geometry, directions, ray).sum()).backward()  # type: ignore[no-untyped-call]
    learnt = [any(weight.grad is not None for weight in net.parameters()) for net in field.density_nets]
    assert learnt == [False, False, True, True, False]


def test_gradients_of_tables_may_be_added_in_place() -> None:
    plain, adding = make(share_feature_grid=False), make(share_feature_grid=False)
    positions, level, *_ = samples(200)
    for table in adding.tables:
        table.grad = torch.zeros_like(table)
    adding.accumulate_in_place()
    for field in (plain, adding):
        field.query(positions, level).density.sum().backward()  # type: ignore[no-untyped-call]
    for one, other in zip(plain.tables, adding.tables, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_slopes_of_the_logarithm_leave_the_parameters_alone() -> None:
    field = make()
    positions, level, *_ = samples(20)
    for table in field.tables:
        table.grad = torch.zeros_like(table)
    field.accumulate_in_place()
    own = positions.clone().requires_grad_()
    field.log_density(own, level).sum().backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    assert bool(own.grad.any())
    assert all(parameter.grad is None or not bool(parameter.grad.any()) for parameter in field.parameters())


def test_linear_fields_have_no_upper_bound() -> None:
    field = make(linear=True)
    positions, level, directions, ray = samples(30)
    with torch.no_grad():
        for weight in field.colour_nets.parameters():
            weight.mul_(4)
    colour = field.colour(field.query(positions, level).geometry, directions, ray)
    assert float(colour.detach().max()) > 1
    assert float(colour.detach().min()) >= 0


def test_the_penalties_are_those_asked_for() -> None:
    positions, level, *_ = samples(100)
    assert make().penalty(make().query(positions, level).discord) is None
    field = make(consistency_weight=0.1)
    asked = field.query(positions, level)
    inside = level.clamp(0, 4)
    between = inside != inside.floor()
    ends = []
    for way in (inside.floor(), inside.ceil()):
        ends.append(field.query(positions[between], way[between]).geometry)
    apart = (ends[1] - ends[0]).square().mean()
    penalty = field.penalty(asked.discord)
    assert penalty is not None
    torch.testing.assert_close(penalty, 0.1 * apart, rtol=1e-4, atol=1e-6)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert all(bool(weight.grad.any()) for net in field.density_nets for weight in net.parameters())
    whole = field.query(positions, torch.full((100,), 2.0))
    assert whole.discord is None, "one level cannot contradict itself"
    heavy = make(l2_weight=0.5)
    total = sum(float(weight.detach().square().sum()) for weight in heavy.parameters_of_levels())
    total += sum(float(weight.detach().square().sum()) for weight in heavy.parameters_of_networks())
    l2 = heavy.penalty(None)
    assert l2 is not None
    assert float(l2.detach()) == pytest.approx(0.5 * total, rel=1e-5)


def test_every_parameter_is_in_one_group() -> None:
    for settings in VARIANTS.values():
        field = make(**settings)
        grouped = [
            *field.parameters_of_tables(), *field.parameters_of_networks(), *field.parameters_of_levels(),
        ]  # fmt: skip
        assert sorted(map(id, grouped)) == sorted(map(id, field.parameters()))


def test_grids_of_their_own_end_at_their_levels_resolution() -> None:
    field = make(share_feature_grid=False)
    assert [grid.resolutions[-1] for grid in field.grids] == [4, 8, 16, 32, 64]
    assert {grid.resolutions[0] for grid in field.grids} == {4}
    with pytest.raises(InputError, match="at most 5 levels"):
        make(share_feature_grid=False, num_levels=6)
    assert len(make(num_levels=6).grids) == 1, "a grid that all share has no such limit"
    with pytest.raises(InputError, match="at most 7 levels"):
        make(num_levels=8)


def test_the_published_size_is_small_enough() -> None:
    # 16 levels of 4 numbers in tables of 2**20, 8 pyramid levels: at most 230 MB saved.
    sizes = HashFieldConfig(features=4, log2_table_size=20)
    published = PyramidField(sizes, PyramidConfig(), torch.Generator().manual_seed(0), extent=4.0)
    saved = sum(
        value.numel() * value.element_size() for value in published.state_dict().values() if torch.is_tensor(value)
    )
    assert 150e6 < saved <= 230e6


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("scale_factor", 1.5), ("blending", "none"), ("interpolate", "color"), ("num_levels", 4),
        ("share_feature_grid", False), ("trained_resolution", 16),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_pyramid_is_refused(setting: str, other: Any) -> None:
    with pytest.raises(FormatError, match=f"another pyramid: .*{setting} is .* there, .* here"):
        make().load_state_dict(make(**{setting: other}).state_dict())


def test_a_checkpoint_of_another_resolution_is_refused() -> None:
    # Hashed levels have as many entries whatever their resolution.
    with pytest.raises(FormatError, match="max_resolution is 128 there, 64 here"):
        make().load_state_dict(make(replace(SIZES, max_resolution=128)).state_dict())
    other = make()
    other.load_state_dict(make().state_dict())


@pytest.mark.parametrize(
    "bad",
    [
        {"blending": "cubic"}, {"interpolate": "density"}, {"num_levels": 0}, {"scale_factor": 0.5},
        {"trained_resolution": -1}, {"consistency_weight": -1.0}, {"l2_weight": -1.0},
        {"consistency_weight": 0.1, "blending": "none"}, {"interpolate": "color", "blending": "laplacian"},
    ],
)  # fmt: skip
def test_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        PyramidConfig(**bad)
