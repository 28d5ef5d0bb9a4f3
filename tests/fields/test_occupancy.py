from typing import Any

import pytest
import torch

from voxfield.errors import InputError
from voxfield.fields.occupancy import Occupancy, OccupancyConfig
from voxfield.geometry.bounds import Bounds

BOUNDS = Bounds(minimum=(-1.0, -2.0, 0.0), maximum=(1.0, 2.0, 3.0))


def make(cascades: int = 1, **settings: Any) -> Occupancy:
    config = OccupancyConfig(**{"resolution": 16, "warm_up_updates": 4, "cells_per_update": 0.25, **settings})
    return Occupancy(BOUNDS, cascades, 0.01, config)


def ball(positions: torch.Tensor) -> torch.Tensor:
    """Density 100 within half a unit of (0, 0, 1.5)."""
    return 100.0 * ((positions - torch.tensor([0.0, 0.0, 1.5])).norm(dim=1) < 0.5)


def run(occupancy: Occupancy, updates: int, density: Any = ball) -> Occupancy:
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        occupancy.update(density, generator)
    return occupancy


def centres(occupancy: Occupancy, cascade: int = 0) -> torch.Tensor:
    """(R, R, R, 3) world positions of cell centres, axes z, y, x."""
    r = occupancy.config.resolution
    unit = (torch.arange(r) + 0.5) / r - 0.5
    z, y, x = torch.meshgrid(unit, unit, unit, indexing="ij")
    minimum, maximum = torch.tensor(BOUNDS.minimum), torch.tensor(BOUNDS.maximum)
    return (minimum + maximum) / 2 + torch.stack([x, y, z], dim=-1) * (maximum - minimum) * 2**cascade


def test_everything_counts_as_occupied_at_first() -> None:
    occupancy = make()
    assert occupancy.fraction() == 1.0
    assert occupancy.warming_up


@pytest.mark.parametrize("cascades", [1, 3])
def test_after_the_warm_up_it_knows_where_matter_is(cascades: int) -> None:
    occupancy = run(make(cascades), 4)
    assert not occupancy.warming_up
    for cascade in range(cascades):
        distance = (centres(occupancy, cascade) - torch.tensor([0.0, 0.0, 1.5])).norm(dim=-1)
        # A look falls somewhere in its cell: cells that the surface cuts may go either way. Neighbours count too.
        cell = (torch.tensor([2.0, 4.0, 3.0]) * 2**cascade / 16).norm()
        occupied = occupancy.occupied[cascade]
        assert bool(occupied[distance < 0.5 - 0.5 * cell].all())
        assert not bool(occupied[distance > 0.5 + 1.5 * cell].any())


def test_a_sweep_looks_at_every_cell_once() -> None:
    looked = []

    def note(positions: torch.Tensor) -> torch.Tensor:
        looked.append(positions)
        return torch.ones(len(positions))

    run(make(), 4, note)
    positions = torch.cat(looked)
    cells = ((positions - torch.tensor(BOUNDS.minimum)) / torch.tensor([2.0, 4.0, 3.0]) * 16).floor()
    assert len(torch.unique(cells, dim=0)) == len(cells) == 16**3
    assert float(cells.min()) == 0.0
    assert float(cells.max()) == 15.0


def test_matter_that_moves_is_forgotten_here_and_found_there() -> None:
    def moved(positions: torch.Tensor) -> torch.Tensor:
        return ball(positions - torch.tensor([0.0, 1.4, 0.0]))

    occupancy = run(run(make(decay=0.5), 4), 60, moved)
    here, there = ((centres(occupancy) - torch.tensor([0.0, y, 1.5])).norm(dim=-1) < 0.3 for y in (0.0, 1.4))
    assert not bool(occupancy.occupied[0][here].any())
    assert bool(occupancy.occupied[0][there].all())


def test_the_bits_follow_the_cells() -> None:
    occupancy = make()
    before = occupancy.bits
    assert occupancy.bits is before
    run(occupancy, 4)
    assert occupancy.bits is not before
    assert not torch.equal(occupancy.bits.bits, before.bits)


def test_cells_outside_the_visible_region_stay_empty() -> None:
    occupancy = make()
    visible = torch.zeros_like(occupancy.visible)
    visible[:, :8] = True
    occupancy.restrict(visible)
    run(occupancy, 10, lambda positions: torch.full((len(positions),), 50.0))
    assert bool(occupancy.occupied[:, :8].all())
    assert not bool(occupancy.occupied[:, 8:].any())


def test_nothing_visible_is_nothing_occupied() -> None:
    occupancy = make()
    occupancy.restrict(torch.zeros_like(occupancy.visible))
    run(occupancy, 6)
    assert occupancy.fraction() == 0.0


def test_state_goes_there_and_back() -> None:
    one, other = run(make(2), 3), make(2)
    _ = other.bits
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.bits.bits, one.bits.bits)
    for occupancy in (one, other):
        run(occupancy, 5)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    "bad",
    [
        {"resolution": 100},
        {"update_every": 0},
        {"decay": 1.5},
        {"cells_per_update": 0.0},
        {"minimum_thickness": -1.0},
        {"warm_up_updates": -1},
    ],
)
def test_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        OccupancyConfig(**bad)
