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
        # A look falls somewhere in its cell: cells that the surface cuts may go either way.
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


def observe_everywhere(occupancy: Occupancy, density: Any, per_cell: int = 4) -> None:
    """Samples in every cell of cascade 0."""
    generator = torch.Generator().manual_seed(1)
    unit = torch.rand(per_cell * occupancy.config.resolution**3, 3, generator=generator)
    world = (unit - 0.5) * torch.tensor([2.0, 4.0, 3.0]) + torch.tensor([0.0, 0.0, 1.5])
    outermost = (unit - 0.5) / 2 ** (occupancy.cascades - 1) + 0.5
    occupancy.observe(outermost, torch.full((len(unit),), 0.01), density(world))


def test_matter_that_moves_is_forgotten_where_samples_meet_nothing_and_found_where_it_went() -> None:
    def moved(positions: torch.Tensor) -> torch.Tensor:
        return ball(positions - torch.tensor([0.0, 1.4, 0.0]))

    occupancy = run(make(), 4)
    for _ in range(20):
        observe_everywhere(occupancy, moved)
        run(occupancy, 1, moved)
    here, there = ((centres(occupancy) - torch.tensor([0.0, y, 1.5])).norm(dim=-1) < 0.3 for y in (0.0, 1.4))
    assert not bool(occupancy.occupied[0][here].any())
    assert bool(occupancy.occupied[0][there].all())


def test_a_cell_no_sample_falls_into_keeps_its_estimate() -> None:
    occupancy = run(make(), 4)
    before = occupancy.density.clone()
    run(occupancy, 20, lambda positions: torch.zeros(len(positions)))
    assert torch.equal(occupancy.density, before)


def test_matter_grows_into_neighbouring_cells_without_a_sample() -> None:
    def grown(positions: torch.Tensor) -> torch.Tensor:
        return 100.0 * ((positions - torch.tensor([0.0, 0.0, 1.5])).norm(dim=1) < 0.9)

    occupancy = run(run(make(cells_per_update=0.2), 4), 40, grown)
    distance = (centres(occupancy) - torch.tensor([0.0, 0.0, 1.5])).norm(dim=-1)
    assert bool(occupancy.occupied[0][distance < 0.7].all())


@pytest.mark.parametrize("cascades", [1, 3])
def test_samples_count_in_the_cell_and_cascade_that_marching_looks_at(cascades: int) -> None:
    occupancy = make(cascades)
    reach = 2.0 ** (cascades - 1)
    generator = torch.Generator().manual_seed(2)
    unit = torch.rand(2000, 3, generator=generator)
    lengths = torch.full((2000,), 0.01)
    lengths[::5] = 1.5  # longer than two of the smallest cells: a coarser cascade's turn
    occupancy.observe(unit, lengths, torch.arange(2000.0))
    local = (unit - 0.5) * 2 * reach
    for n in range(1000, 2000, 7):
        cascade = 0
        while cascade < cascades - 1 and (
            float(local[n].abs().max()) > 2**cascade or 4.0 / 16 * 2**cascade < 0.5 * float(lengths[n])
        ):
            cascade += 1
        x, y, z = ((local[n] / 2**cascade + 1) * 8).floor().int().clamp(0, 15).tolist()
        assert float(occupancy.seen[cascade, z, y, x]) >= n
    assert float(occupancy.seen.max()) == 1999.0
    assert int((occupancy.seen >= 0).sum()) <= 2000


def test_the_largest_density_met_is_a_lower_limit() -> None:
    occupancy = run(make(decay=0.0), 4)
    position = torch.full((3, 3), 0.03)
    occupancy.observe(position, torch.full((3,), 0.01), torch.tensor([5.0, 70.0, 6.0]))
    run(occupancy, 1, lambda positions: torch.zeros(len(positions)))
    assert float(occupancy.density[0, 0, 0, 0]) == 70.0
    assert bool((occupancy.seen == -1.0).all())


def test_a_reopened_cell_stays_until_samples_meet_nothing_in_it() -> None:
    occupancy = run(make(), 8)
    far = torch.tensor([[0.03, 0.03, 0.03]])  # a corner of the unit cube, far from the ball and its neighbours
    length = torch.tensor([0.01])
    assert not bool(occupancy.occupied[0, 0, 0, 0])
    assert bool(occupancy.all_bits.bits.bool().any())
    occupancy.reopen(far, length)
    run(occupancy, 1)
    assert bool(occupancy.occupied[0, 0, 0, 0])
    run(occupancy, 3)  # no sample came by
    assert bool(occupancy.occupied[0, 0, 0, 0])
    occupancy.observe(far, length, torch.zeros(1))
    run(occupancy, 1)
    assert not bool(occupancy.occupied[0, 0, 0, 0])


def test_the_bits_follow_the_cells() -> None:
    occupancy = make()
    before = occupancy.bits
    assert occupancy.bits is before
    run(occupancy, 4)
    assert occupancy.bits is not before
    assert not torch.equal(occupancy.bits.bits, before.bits)


def test_state_goes_there_and_back() -> None:
    one, other = run(make(2), 3), make(2)
    _ = other.bits
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.bits.bits, one.bits.bits)
    for occupancy in (one, other):
        run(occupancy, 5)
        observe_everywhere(occupancy, ball)
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
