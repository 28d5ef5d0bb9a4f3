"""Surfaces of volumes: where they lie, which way they look, what they refuse."""

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.export.volume_surfaces import HALF_OPAQUE, inside_level, surface_of_volume
from voxfield.storage.vdb import VdbGrid
from voxfield.voxels.isosurface import isosurface
from voxfield.voxels.sparse import SparseVolume

RADIUS, SIDE = 6.0, 20


def ball(kind="level set", matrix=None, name="density"):
    """A ball about the middle of a cube: distances of a level set, or a fog that is 1 at its surface."""
    x = np.arange(SIDE) - (SIDE - 1) / 2
    distance = np.sqrt(x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2) - RADIUS
    values = distance if kind == "level set" else (1.0 - distance).clip(min=0.0)
    background = float(values.max()) if kind == "level set" else 0.0
    volume = SparseVolume.from_dense(values.astype(np.float32), background=background)
    return VdbGrid(name=name, volume=volume, index_to_world=np.eye(4) if matrix is None else matrix, grid_class=kind)


def enclosed(surface) -> float:
    a, b, c = (surface.vertices[surface.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("nj,nj->n", a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("kind", ["level set", "fog volume"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_a_ball_is_a_ball_wherever_it_stands(kind, mirrored, method):
    matrix = np.diag([-0.5 if mirrored else 0.5, 0.5, 0.25, 1.0])
    matrix[:3, 3] = (3.0, -2.0, 7.0)
    surface = surface_of_volume(ball(kind, matrix), 0.0 if kind == "level set" else 1.0, method=method)
    # Outwards, whichever way the grid is turned.
    assert enclosed(surface) == pytest.approx(4 / 3 * np.pi * RADIUS**3 * 0.5 * 0.5 * 0.25, rel=0.02)
    centre = matrix[:3, :3] @ np.full(3, (SIDE - 1) / 2) + matrix[:3, 3]
    back = (surface.vertices - centre) @ np.linalg.inv(matrix[:3, :3]).T
    assert np.abs(np.linalg.norm(back, axis=1) - RADIUS).max() < 0.1
    outwards = back @ np.linalg.inv(matrix[:3, :3])
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    assert (surface.normals * outwards).sum(1).min() > 0.95
    np.testing.assert_allclose(surface.colours, 0.8)


@pytest.mark.parametrize("kind", ["level set", "fog volume"])
def test_dual_contouring_reaches_the_corners_of_cubes_of_unequal_voxels(kind):
    at = np.stack(np.meshgrid(*[np.arange(SIDE) - (SIDE - 1) / 2] * 3, indexing="ij"), -1)
    beyond = np.abs(at) - RADIUS - 0.2
    distance = np.linalg.norm(beyond.clip(min=0), axis=-1) + beyond.max(-1).clip(max=0)
    values, level = (distance, 0.0) if kind == "level set" else ((3.0 - distance).clip(min=0), 3.0)
    volume = SparseVolume.from_dense(values.astype(np.float32), background=float(values[0, 0, 0]))
    steps = np.array([0.5, 0.25, 2.0])
    grid = VdbGrid(name="cube", volume=volume, index_to_world=np.diag([*steps, 1.0]), grid_class=kind)
    corners = (SIDE - 1) / 2 + (RADIUS + 0.2) * (2 * np.array(list(np.ndindex(2, 2, 2))) - 1)
    away = {}
    for method in ("marching_cubes", "dual_contouring"):
        found = surface_of_volume(grid, level, method=method).vertices / steps
        away[method] = np.linalg.norm(corners[:, None] - found, axis=2).min(1)
    assert away["dual_contouring"].max() < 0.01
    assert away["marching_cubes"].min() > 0.5


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_sparse_volumes_have_the_surface_of_dense_ones(method):
    values = np.random.default_rng(0).random((20, 17, 9)).astype(np.float32)
    values[2:11, 3:, 1:] = 0.0  # Blocks of which nothing is stored.
    sparse = surface_of_volume(VdbGrid(name="n", volume=SparseVolume.from_dense(values)), 0.5, method=method)
    dense = isosurface(np.pad(values, 1), 0.5, method=method)
    np.testing.assert_allclose(sparse.vertices, dense.vertices - 1, atol=1e-5)
    np.testing.assert_array_equal(sparse.faces, dense.faces)


def test_surfaces_that_reach_the_border_are_closed():
    full = VdbGrid(name="density", volume=SparseVolume.from_dense(np.ones((4, 4, 4), np.float32)))
    assert enclosed(surface_of_volume(full, 0.5)) == pytest.approx(4**3, rel=0.1)


def test_colours_are_those_of_the_voxels_nearby():
    red = np.zeros((3, SIDE, SIDE, SIDE), np.float32)
    red[0] = 1.0
    colours = VdbGrid(name="Cd", volume=SparseVolume.from_dense(red))
    surface = surface_of_volume(ball(), 0.0, colours)
    np.testing.assert_allclose(surface.colours, np.broadcast_to([1.0, 0.0, 0.0], surface.colours.shape), atol=1e-6)
    harmonics = VdbGrid(name="sh_coeff_0", volume=colours.volume)
    np.testing.assert_allclose(surface_of_volume(ball(), 0.0, harmonics).colours[0], [0.782095, 0.5, 0.5], atol=1e-5)
    elsewhere = VdbGrid(name="Cd", volume=colours.volume, index_to_world=np.diag([1e-3, 1e-3, 1e-3, 1.0]))
    np.testing.assert_allclose(surface_of_volume(ball(), 0.0, elsewhere).colours, 0.8)


def test_the_level_follows_from_what_the_values_mean():
    fog = VdbGrid(name="density", volume=SparseVolume.from_dense(np.full((2, 2, 2), 3.0, np.float32)))
    assert inside_level(ball(), is_density=False) == 0.0
    assert inside_level(fog, is_density=False) == 1.5
    assert inside_level(fog, is_density=True) == pytest.approx(HALF_OPAQUE)
    nothing = VdbGrid(name="density", volume=SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32)))
    assert inside_level(nothing, is_density=False) == 0.5


def test_what_has_no_surface_is_refused():
    vectors = VdbGrid(name="v", volume=SparseVolume.from_dense(np.ones((3, 2, 2, 2), np.float32)))
    nothing = VdbGrid(name="density", volume=SparseVolume.from_dense(np.zeros((2, 2, 2), np.float32)))
    apart = np.array([[0, 0, 0], [4000, 4000, 4000]], np.int32)
    wide = VdbGrid(name="density", volume=SparseVolume.from_voxels(apart, np.ones(2, np.float32)))
    for grid, level, said in (
        (vectors, 0.5, "vectors"),
        (nothing, 0.5, "nothing that is active"),
        (wide, 0.5, "vdb lod"),
        (ball("fog volume"), 100.0, "nothing in it is inside"),
    ):
        with pytest.raises(InputError, match=said):
            surface_of_volume(grid, level)
