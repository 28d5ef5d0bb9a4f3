import pytest
import torch

from voxfield.data.shape_family import procedural_shape
from voxfield.errors import InputError
from voxfield.voxels.set_metrics import (
    ShapeSet,
    baselines,
    compare_sets,
    coverage,
    encode,
    frechet_distance,
    intersection_over_union,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
    nearest_of,
    occupancy_divergence,
    shape_distances,
    surface_points,
)


def shapes(first: int, last: int, **options: int) -> ShapeSet:
    return ShapeSet.of(torch.stack([procedural_shape(index, 16) for index in range(first, last)]), **options)


def test_points_lie_in_voxels_of_the_surface() -> None:
    occupied = torch.zeros((8, 10, 12), dtype=torch.bool)
    occupied[2:6, 3:8, 4:10] = True
    points = surface_points(occupied, 500, torch.Generator().manual_seed(0)) * 12
    cells = points.floor().long()
    assert bool(occupied[cells[:, 2], cells[:, 1], cells[:, 0]].all())
    inner = (cells[:, 0] > 4) & (cells[:, 0] < 9) & (cells[:, 1] > 3) & (cells[:, 1] < 7)
    inner &= (cells[:, 2] > 2) & (cells[:, 2] < 5)
    assert not bool(inner.any())
    assert bool(surface_points(~occupied & occupied, 4, torch.Generator()).isnan().all())


def test_shape_distances_are_those_of_plain_loops() -> None:
    one, other = shapes(0, 3, points=20), shapes(3, 5, points=20)
    distances = shape_distances(one, other)
    for row, first in enumerate(one.points):
        for column, second in enumerate(other.points):
            squared = (first[:, None] - second[None]).square().sum(2)
            expected = squared.min(0).values.mean() + squared.min(1).values.mean()
            assert float(distances[row, column]) == pytest.approx(float(expected), abs=1e-5)


def test_a_moved_cube_is_as_far_as_it_was_moved() -> None:
    volumes = torch.zeros((2, 4, 32, 32))
    volumes[0, 1, 8, 4] = 1.0
    volumes[1, 1, 8, 20] = 1.0
    distances = shape_distances(*(ShapeSet.of(volumes[at : at + 1], points=200) for at in (0, 1)))
    assert float(distances) == pytest.approx(2 * 0.5**2, rel=0.06)


def test_empty_volumes_are_far_from_all() -> None:
    empty = ShapeSet.of(torch.zeros((1, 16, 16, 16)))
    assert shape_distances(empty, shapes(0, 2)).tolist() == [[6.0, 6.0]]
    assert occupancy_divergence(empty, shapes(0, 2)) == 1.0
    assert float(intersection_over_union(empty, empty)) == 1.0


def test_coverage_and_matching_of_a_known_matrix() -> None:
    distances = torch.tensor([[1.0, 5.0, 9.0], [2.0, 6.0, 9.0], [9.0, 9.0, 4.0]])
    assert coverage(distances) == pytest.approx(2 / 3)
    assert minimum_matching_distance(distances) == pytest.approx((1 + 5 + 4) / 3)


def test_neighbours_tell_apart_what_is_apart_and_not_what_is_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    one, same = torch.rand((2, 100, 2), generator=generator)
    other = same + 10.0

    def accuracy(first: torch.Tensor, second: torch.Tensor) -> float:
        between = torch.cdist(first, second)
        return nearest_neighbour_accuracy(torch.cdist(first, first), between, torch.cdist(second, second))

    assert accuracy(one, other) == 1.0
    assert accuracy(one, same) == pytest.approx(0.5, abs=0.12)


def test_divergence_is_zero_of_equals_and_one_of_strangers() -> None:
    one = shapes(0, 4)
    assert occupancy_divergence(one, one) == pytest.approx(0.0, abs=1e-9)
    volumes = torch.zeros((2, 4, 4, 4))
    volumes[0, 0, 0, 0] = volumes[1, 3, 3, 3] = 1.0
    assert occupancy_divergence(ShapeSet.of(volumes[:1]), ShapeSet.of(volumes[1:])) == pytest.approx(1.0)


def test_frechet_distance_has_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn((2000, 3), generator=generator, dtype=torch.float64)
    scaled = one * 2.0 + 1.0
    mean, covariance = one.mean(0), torch.cov(one.T)
    expected = (mean + 1.0).square().sum() + covariance.trace()
    assert frechet_distance(one, scaled) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(InputError, match="two or more"):
        frechet_distance(one[:1], one)


def test_features_are_the_same_everywhere_and_tell_shapes_apart() -> None:
    volumes = shapes(0, 3).volumes
    features = encode(volumes)
    assert features.shape == (3, 64)
    assert torch.equal(features, encode(volumes))
    assert float((features[0] - features[1]).norm()) > 0.01


def test_copies_are_found() -> None:
    among = shapes(0, 8)
    which, distances = nearest_of(shapes(3, 5), among)
    assert which.tolist() == [3, 4]
    assert distances.tolist() == [0.0, 0.0]
    assert float(nearest_of(shapes(8, 9), among)[1]) > 0.02


def test_other_shapes_of_the_same_kind_beat_the_baselines() -> None:
    reference, generated = shapes(0, 16), shapes(16, 32)
    learnt = [procedural_shape(index, 16) for index in range(32, 64)]
    simple = baselines(learnt, 16, threshold=0.5, seed=0)
    good = compare_sets(generated, reference)
    for volumes in simple.values():
        poor = compare_sets(ShapeSet.of(volumes), reference)
        for name in ("coverage", "iou_nearest"):
            assert good[name] > poor[name], name
        for name in ("mmd", "one_nn_accuracy", "jsd", "frechet"):
            assert good[name] < poor[name], name
    mean = float(torch.stack([(one >= 0.5).float() for one in learnt]).mean())
    for volumes in simple.values():
        assert float(volumes.mean()) == pytest.approx(mean, abs=0.01)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="volumes: expected"):
        ShapeSet.of(torch.zeros((0, 4, 4, 4)))
    with pytest.raises(InputError, match="NaN"):
        ShapeSet.of(torch.full((1, 4, 4, 4), torch.nan))
    with pytest.raises(InputError, match="reference: expected volumes"):
        compare_sets(shapes(0, 2), ShapeSet.of(torch.ones((2, 8, 8, 8))))
