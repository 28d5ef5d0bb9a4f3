"""Nearest points of surfaces, against every triangle's distance to every voxel."""

import numpy as np
import pytest

from voxfield.kernels.triangle_box import triangle_box
from voxfield.kernels.voxel_words import unpack_voxels
from voxfield.voxels.surface_points import HALF_DIAGONAL, nearest_points


def touched(triangles, resolution):
    import torch

    grid = unpack_voxels(triangle_box(torch.from_numpy(triangles), resolution), resolution).numpy()
    return np.stack(np.nonzero(grid)[::-1], axis=1)


def distance(point, triangle):
    """By a fine net of the triangle."""
    steps = np.linspace(0, 1, 121)
    u, v = np.meshgrid(steps, steps)
    kept = u + v <= 1 + 1e-12
    u, v = u[kept], v[kept]
    net = triangle[0] + u[:, None] * (triangle[1] - triangle[0]) + v[:, None] * (triangle[2] - triangle[0])
    return np.linalg.norm(net - point, axis=1).min()


@pytest.mark.parametrize("size", [0.4, 3.0, 15.0])
def test_the_nearest_is_found(size):
    generator = np.random.default_rng(1)
    middles = generator.uniform(4, 12, (9, 1, 3))
    triangles = np.clip(middles + generator.normal(scale=size, size=(9, 3, 3)), 0, 16)
    voxels = touched(triangles, 16)
    found = nearest_points(voxels, triangles)
    assert (found.triangles >= 0).all()
    assert found.distances.max() <= HALF_DIAGONAL
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)
    assert found.weights.min() > -1e-6
    points = np.einsum("nc,nci->ni", found.weights, triangles[found.triangles])
    np.testing.assert_allclose(np.linalg.norm(points - voxels - 0.5, axis=1), found.distances, atol=1e-9)
    for row in generator.choice(len(voxels), min(40, len(voxels)), replace=False):
        every = [distance(voxels[row] + 0.5, triangle) for triangle in triangles]
        assert found.distances[row] <= min(every) + 1e-9
        assert found.distances[row] >= min(every) - 0.3 * max(1.0, size) / 10


def test_voxels_far_from_everything_have_none():
    triangles = np.array([[[0.2, 0.2, 0.5], [0.8, 0.2, 0.5], [0.2, 0.8, 0.5]]])
    found = nearest_points(np.array([[0, 0, 0], [7, 7, 7]]), triangles)
    assert found.triangles.tolist() == [0, -1]
    assert found.distances[0] == pytest.approx(0.0)
    assert np.isinf(found.distances[1])


def test_triangles_without_area_count_as_what_they_are():
    point = np.full((3, 3), 2.3)
    segment = np.array([[5.5, 5.5, 5.0], [5.5, 5.5, 7.0], [5.5, 5.5, 6.0]])
    found = nearest_points(np.array([[2, 2, 2], [5, 5, 6]]), np.stack([point, segment]))
    assert found.triangles.tolist() == [0, 1]
    assert found.distances == pytest.approx([0.2 * 3**0.5, 0.0])
    places = np.einsum("nc,nci->ni", found.weights, np.stack([point, segment]))
    np.testing.assert_allclose(places, [[2.3] * 3, [5.5, 5.5, 6.5]])


def test_nothing_in_nothing_out():
    assert nearest_points(np.empty((0, 3), np.int64), np.zeros((1, 3, 3))).triangles.shape == (0,)
    assert nearest_points(np.zeros((2, 3), np.int64), np.empty((0, 3, 3))).triangles.tolist() == [-1, -1]
