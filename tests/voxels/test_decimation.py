"""Fewer triangles: how near the surface stays, what it keeps, and what cannot be done."""

import numpy as np
import pytest
import trimesh

from voxfield.errors import InputError
from voxfield.voxels.decimation import decimated


def closed(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False)


@pytest.mark.parametrize(("triangles", "lost"), [(1000, 0.01), (200, 0.04), (20, 0.3)])
def test_a_ball_stays_closed_and_nearly_as_large(triangles: int, lost: float) -> None:
    ball = trimesh.creation.icosphere(4)
    vertices, faces = decimated(np.asarray(ball.vertices), np.asarray(ball.faces), triangles)
    assert triangles - 2 < len(faces) <= triangles
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int64)
    found = closed(vertices, faces)
    assert found.is_watertight
    assert found.euler_number == 2
    assert 1 - lost < found.volume / ball.volume <= 1.01
    # No triangle is turned over: all look away from the middle.
    assert (found.face_normals * found.triangles_center).sum(1).min() > 0


def test_flat_sides_need_no_triangles() -> None:
    box = trimesh.creation.box()
    for _ in range(3):
        box = box.subdivide()
    vertices, faces = decimated(np.asarray(box.vertices), np.asarray(box.faces), 12)
    found = closed(vertices, faces)
    assert len(faces) == 12
    assert found.volume == pytest.approx(1.0, abs=0.005)


def test_holes_and_open_borders_stay() -> None:
    ring = trimesh.creation.torus(1.0, 0.3)
    assert closed(*decimated(np.asarray(ring.vertices), np.asarray(ring.faces), 100)).euler_number == 0
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    sheet = np.stack([x.ravel(), y.ravel(), np.zeros(81)], 1)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 10], 1), np.stack([corner, corner + 10, corner + 9], 1)]
    )
    vertices, fewer = decimated(sheet, faces, 8)
    assert len(fewer) <= 8
    assert closed(vertices, fewer).area == pytest.approx(64.0, rel=1e-3)


def test_few_enough_triangles_are_left_alone() -> None:
    box = trimesh.creation.box()
    vertices, faces = decimated(np.asarray(box.vertices), np.asarray(box.faces), 12)
    assert np.array_equal(faces, box.faces)
    np.testing.assert_allclose(vertices, box.vertices)


def test_what_cannot_be_done_is_said() -> None:
    ball = trimesh.creation.icosphere(1)
    many = trimesh.util.concatenate([ball.copy().apply_translation([4 * i, 0, 0]) for i in range(3)])
    with pytest.raises(InputError, match=r"cannot do with less than 12 of them, got 10\."):
        decimated(np.asarray(many.vertices), np.asarray(many.faces), 10)
    with pytest.raises(InputError, match="triangles: expected a value at least 4"):
        decimated(np.asarray(ball.vertices), np.asarray(ball.faces), 3)
