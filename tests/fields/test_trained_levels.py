import pytest
import torch

from voxfield.fields.trained_levels import TrainedLevels


def at(*points: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(points)


@pytest.mark.parametrize("num_levels", [1, 2, 8, 16])
def test_levels_stay_between_those_that_were_learnt(num_levels: int) -> None:
    trained, last = TrainedLevels(num_levels, 8), float(num_levels - 1)
    here = at((0.1, 0.2, 0.3))
    for level in (0.3 * last, 0.6 * last, 0.5 * last):
        trained.observe(here, torch.tensor([level]))
    asked = torch.tensor([-5.0, 0.45 * last, 40.0])
    found = trained.clamp(here.expand(3, 3), asked)
    # Levels are kept to a 254th of the pyramid, rounded away from each other.
    torch.testing.assert_close(found, torch.tensor([0.3, 0.45, 0.6]) * last, rtol=0, atol=last / 200)
    assert found[0] <= 0.3 * last + 1e-6
    assert found[2] >= 0.6 * last - 1e-6


def test_what_was_learnt_is_asked_for_as_it_was() -> None:
    trained = TrainedLevels(8, 16)
    generator = torch.Generator().manual_seed(0)
    positions, level = torch.rand(500, 3, generator=generator), 9 * torch.rand(500, generator=generator) - 1
    trained.observe(positions, level)
    torch.testing.assert_close(trained.clamp(positions, level), level.clamp(0, 7), rtol=0, atol=0)


def test_cells_are_apart_and_unseen_ones_take_any_level() -> None:
    trained = TrainedLevels(8, 4)
    trained.observe(at((0.1, 0.6, 0.9)), torch.tensor([3.0]))
    assert float(trained.clamp(at((0.1, 0.6, 0.9)), torch.tensor([7.0]))) == 3.0
    for other in ((0.6, 0.1, 0.9), (0.9, 0.6, 0.1), (0.1, 0.9, 0.9)):
        assert float(trained.clamp(at(other), torch.tensor([6.5]))) == 6.5


def test_points_outside_the_cube_are_those_of_its_faces() -> None:
    trained = TrainedLevels(8, 4)
    trained.observe(at((1.0, 0.5, -0.2)), torch.tensor([2.0]))
    assert float(trained.clamp(at((0.99, 0.5, 0.01)), torch.tensor([5.0]))) == 2.0


def test_they_take_little_memory_and_are_kept() -> None:
    trained = TrainedLevels(8, 128)
    state = trained.state_dict()
    assert sum(value.numel() * value.element_size() for value in state.values()) <= 2 * 128**3
    trained.observe(at((0.5, 0.5, 0.5)), torch.tensor([4.0]))
    other = TrainedLevels(8, 128)
    other.load_state_dict(trained.state_dict())
    assert float(other.clamp(at((0.5, 0.5, 0.5)), torch.tensor([7.0]))) == 4.0


def test_no_samples() -> None:
    trained = TrainedLevels(8, 4)
    trained.observe(torch.zeros(0, 3), torch.zeros(0))
    assert trained.clamp(torch.zeros(0, 3), torch.zeros(0)).shape == (0,)
