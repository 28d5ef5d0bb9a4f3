"""Isosurfaces: closed, oriented, where the values say, whatever the values; parts that hang together."""

from typing import get_args

import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.voxels.isosurface import SurfaceMethod, connected_parts, isosurface

METHODS = pytest.mark.parametrize("method", get_args(SurfaceMethod))


def ball(size: int, radius: float) -> np.ndarray:
    """Values that fall linearly with the distance from the middle: 0 at ``radius``."""
    at = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1) - (size - 1) / 2
    return (radius - np.linalg.norm(at, axis=-1)).astype(np.float32)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """What is enclosed, positive where faces look outwards (divergence theorem)."""
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


@METHODS
def test_a_ball(method: SurfaceMethod) -> None:
    found = isosurface(ball(24, 8.3), 0.0, method=method)
    distance = np.linalg.norm(found.vertices - 11.5, axis=1)
    assert np.abs(distance - 8.3).max() < (0.02 if method == "marching_cubes" else 0.05)
    assert volume(found.vertices, found.faces) == pytest.approx(4 / 3 * np.pi * 8.3**3, rel=0.015)
    assert ((found.vertices - 11.5) * found.normals).sum(1).min() > 0.99 * 8.3
    assert len(np.unique(connected_parts(found.faces, len(found.vertices)))) == 1


@METHODS
@pytest.mark.parametrize("seed", range(4))
def test_any_values_have_a_closed_surface(seed: int, method: SurfaceMethod) -> None:
    # All 256 cases are among so many cells of noise.
    found = isosurface(np.random.default_rng(seed).random((9, 12, 11), np.float32), 0.5, method=method)
    directed = found.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = {(int(a), int(b)) for a, b in directed}
    assert len(there) == len(directed)
    assert all((b, a) in there for a, b in there)
    assert volume(found.vertices, found.faces) > 0
    assert np.array_equal(np.unique(found.faces), np.arange(len(found.vertices)))


@METHODS
def test_surfaces_are_closed_at_the_border(method: SurfaceMethod) -> None:
    found = isosurface(np.ones((3, 4, 5), np.float32), 0.5, method=method)
    low, high = found.vertices.min(0), found.vertices.max(0)
    np.testing.assert_allclose(low, [-0.5] * 3)
    np.testing.assert_allclose(high, [4.5, 3.5, 2.5])


@pytest.mark.parametrize(("method", "faces"), [("marching_cubes", 8), ("dual_contouring", 12)])
def test_values_at_the_level_itself_are_inside(method: SurfaceMethod, faces: int) -> None:
    values = np.zeros((3, 3, 3), np.float32)
    values[1, 1, 1] = 0.5
    found = isosurface(values, 0.5, method=method)
    assert len(found.faces) == faces
    assert volume(found.vertices, found.faces) > 0


@METHODS
@pytest.mark.parametrize("shape", [(3, 3, 3), (0, 3, 3)])
def test_nothing_inside_is_no_surface(shape: tuple[int, ...], method: SurfaceMethod) -> None:
    found = isosurface(np.zeros(shape, np.float32), 0.5, method=method)
    assert (found.vertices.shape, found.normals.shape, found.faces.shape) == ((0, 3), (0, 3), (0, 3))


@METHODS
def test_parts_are_told_apart(method: SurfaceMethod) -> None:
    values = np.zeros((5, 5, 12), np.float32)
    values[1:4, 1:4, 1:4] = values[2, 2, 9] = 1
    found = isosurface(values, 0.5, method=method)
    part = connected_parts(found.faces, len(found.vertices))
    assert len(np.unique(part)) == 2
    assert len(np.unique(part[found.vertices[:, 0] > 6])) == 1


@METHODS
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((3, 3), np.float32),
        np.full((3, 3, 3), np.nan, np.float32),
        np.full((3, 3, 3), np.inf),
        # No float32 is as large.
        np.full((3, 3, 3), -1e300),
    ],
)
def test_other_values_are_refused(values: np.ndarray, method: SurfaceMethod) -> None:
    with pytest.raises(InputError, match="values: expected"):
        isosurface(values, 0.5, method=method)


@METHODS
@pytest.mark.parametrize("level", [np.nan, np.inf, 1e300])
def test_other_levels_are_refused(level: float, method: SurfaceMethod) -> None:
    with pytest.raises(InputError, match="a finite level"):
        isosurface(np.zeros((3, 3, 3), np.float32), level, method=method)


@METHODS
def test_the_largest_values_have_a_surface(method: SurfaceMethod) -> None:
    most = np.finfo(np.float32).max
    values = np.full((4, 4, 4), -most)
    values[1:3, 1:3, 1:3] = most
    for level in (0.0, -1e38):
        found = isosurface(values, level, method=method)
        assert np.isfinite(found.vertices).all()
        assert np.isfinite(found.normals).all()
        assert volume(found.vertices, found.faces) > 1


@METHODS
@pytest.mark.parametrize("level", [100.0, -100.0, 1e6])
def test_what_lies_below_a_large_level_has_no_surface(level: float, method: SurfaceMethod) -> None:
    assert len(isosurface(np.full((3, 3, 3), level - abs(level) / 2, np.float32), level, method=method).faces) == 0


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InputError, match=r"method: unknown value 'dual'.*dual_contouring"):
        isosurface(np.zeros((3, 3, 3), np.float32), 0.5, method="dual")  # type: ignore[arg-type]
