import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.geometry.voxel_views import sample_views, sphere_positions


def views(start="near", divisions=4, samples=3000, seed=1, resolution=8):
    return sample_views(
        resolution, divisions=divisions, samples=samples, start=start, seed=np.random.SeedSequence(seed)
    )


def test_cameras_stand_on_a_sphere():
    positions = sphere_positions(4, 16.0)
    assert positions.shape == (16, 3)
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), 16, rtol=1e-12)
    np.testing.assert_allclose(positions[0], [16 * np.sin(0.1 * np.pi), 0, 16 * np.cos(0.1 * np.pi)], atol=1e-12)


def test_known_numbers_of_rays():
    assert len(views("far").origins) == 44_000
    assert len(views("near").origins) == 32_000
    assert len(views("faces").origins) == 6_000


@pytest.mark.parametrize("start", ["near", "far", "faces"])
def test_rays_start_on_their_faces_and_look_inwards(start):
    rays = views(start, divisions=3, samples=60)
    axis, outward = rays.face_ids // 2, np.where(rays.face_ids % 2, 1, -1)
    at = np.arange(len(axis))
    assert np.array_equal(rays.origins[at, axis], 4 * outward)
    assert np.abs(rays.origins).max() <= 4
    # Inwards, or along the face where it is seen edge-on.
    assert (rays.directions[at, axis] * outward).max() <= 1e-6
    np.testing.assert_allclose(np.linalg.norm(rays.directions, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("start", "sign"), [("near", 1), ("far", -1)])
def test_rays_lie_on_lines_through_their_camera(start, sign):
    rays = views(start, divisions=3, samples=30)
    to_origin = rays.origins - rays.view_positions[rays.view_ids]
    to_origin /= np.linalg.norm(to_origin, axis=1, keepdims=True)
    np.testing.assert_allclose(to_origin, sign * rays.directions, atol=1e-5)


def test_the_seed_decides():
    assert np.array_equal(views(seed=3).origins, views(seed=3).origins)
    assert not np.array_equal(views(seed=3).origins, views(seed=4).origins)


def test_errors_teach():
    with pytest.raises(InputError, match="samples_per_view: expected a value at least 3"):
        views(samples=2)
    with pytest.raises(InputError, match="sphere_divisions"):
        views(divisions=0)
