"""Surfaces laid out flat, and what is painted on them."""

import sys

import numpy as np
import pytest
import trimesh

from voxfield.errors import InputError, MissingExtraError
from voxfield.export.textures import (
    PADDING,
    Layout,
    Texels,
    check_texture_size,
    fitting_triangles,
    laid_out,
    painted,
    texels_of,
)


def test_a_laid_out_box_keeps_its_triangles_and_does_not_overlap() -> None:
    pytest.importorskip("xatlas")
    box = trimesh.creation.box()
    layout = laid_out(np.asarray(box.vertices, np.float32), np.asarray(box.faces), 64)
    assert np.array_equal(layout.source[layout.faces], box.faces)
    assert layout.coordinates.min() >= 0
    assert layout.coordinates.max() <= 1
    texels = texels_of(layout, 64)
    # Every side of the box has as large a part, and together they have what the triangles cover.
    counts = np.bincount(texels.face, minlength=12).reshape(-1)
    assert counts.min() > 0.8 * counts.max()
    flat = layout.coordinates[layout.faces] * 64
    one, two = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    assert len(texels.rows) == pytest.approx(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum() / 2, rel=0.1)


def test_many_triangles_lie_alone_and_filters_see_them_alone(monkeypatch) -> None:
    monkeypatch.setattr("voxfield.export.textures.CHARTED_TRIANGLES", 1000)
    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices, faces, size = np.asarray(ball.vertices, np.float32), np.asarray(ball.faces), 256
    layout = laid_out(vertices, faces, size)
    assert np.array_equal(layout.source[layout.faces], faces)
    flat = layout.coordinates[layout.faces]
    one, two = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    np.testing.assert_allclose(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0], ((256 // 26 - 2.5) / 256) ** 2, rtol=1e-3)
    texels = texels_of(layout, size)
    assert np.bincount(texels.face, minlength=len(faces)).min() >= 28
    # A colour that is linear in each triangle, and jumps from one to the next.
    shades = np.random.default_rng(0).random((len(faces), 3, 3)).astype(np.float32)
    picture = painted(texels, (shades[texels.face] * texels.weights[:, :, None]).sum(1), size) / 255
    weights = np.random.default_rng(1).dirichlet(np.ones(3), len(faces))
    at = (flat * weights[:, :, None]).sum(1) * size
    column, row = at[:, 0] - 0.5, size - at[:, 1] - 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    right, down = (column - left)[:, None], (row - top)[:, None]
    found = sum(
        picture[top + j, left + i] * np.abs(1 - i - right) * np.abs(1 - j - down) for i in (0, 1) for j in (0, 1)
    )
    error = np.abs(found - (shades * weights[:, :, None]).sum(1))
    # Inside they are exact; at the longest side a filter meets what was spread over it.
    assert np.median(error) < 0.005
    assert np.quantile(error, 0.99) < 0.1
    assert error.max() < 0.25


def test_neighbours_lie_near_each_other(monkeypatch) -> None:
    monkeypatch.setattr("voxfield.export.textures.CHARTED_TRIANGLES", 10)
    ball = trimesh.creation.icosphere(subdivisions=4)
    layout = laid_out(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces), 512)
    middle = layout.coordinates[layout.faces].mean(1)
    apart = np.linalg.norm(middle[ball.face_adjacency[:, 0]] - middle[ball.face_adjacency[:, 1]], axis=1)
    anyhow = np.linalg.norm(middle[ball.face_adjacency[:, 0]] - middle[ball.face_adjacency[::-1, 1]], axis=1)
    assert np.median(apart) < 0.3 * np.median(anyhow)


def test_more_triangles_than_fit(monkeypatch) -> None:
    monkeypatch.setattr("voxfield.export.textures.CHARTED_TRIANGLES", 10)
    ball = trimesh.creation.icosphere(subdivisions=3)
    assert len(ball.faces) > fitting_triangles(64)
    with pytest.raises(InputError, match="1,280 triangles do not fit on 64 x 64 texels"):
        laid_out(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces), 64)


def square() -> Layout:
    """The lower left quarter of the picture, as two triangles."""
    return Layout(
        source=np.arange(4),
        faces=np.array([[0, 1, 2], [0, 2, 3]]),
        coordinates=np.array([[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]], np.float32),
    )


def test_texels_are_those_whose_centres_are_covered() -> None:
    texels = texels_of(square(), 64)
    assert sorted(set(texels.rows.tolist())) == list(range(32, 64))
    assert sorted(set(texels.columns.tolist())) == list(range(32))
    assert len(texels.rows) == 32 * 32
    corners = square().coordinates[square().faces[texels.face]]
    at = (corners * texels.weights[:, :, None]).sum(1) * 64
    np.testing.assert_allclose(at[:, 0], texels.columns + 0.5, atol=1e-4)
    np.testing.assert_allclose(64 - at[:, 1], texels.rows + 0.5, atol=1e-4)


def test_triangles_without_area_have_no_texels() -> None:
    flat = Layout(source=np.arange(3), faces=np.array([[0, 1, 2]]), coordinates=np.full((3, 2), 0.5, np.float32))
    assert len(texels_of(flat, 64).rows) == 0


def test_charts_spread_over_their_borders() -> None:
    at = np.array([10])
    texel = Texels(rows=at, columns=at, face=np.array([0]), weights=np.ones((1, 3), np.float32))
    picture = painted(texel, np.array([[1.0, 0.5, 0.0]]), 64)
    assert picture.dtype == np.uint8
    assert (picture[10 - PADDING : 11 + PADDING, 10 - PADDING : 11 + PADDING] == [255, 128, 0]).all()
    none = Texels(rows=at[:0], columns=at[:0], face=at[:0], weights=np.ones((0, 3), np.float32))
    assert not painted(none, np.zeros((0, 3)), 64).any()


def test_sizes_out_of_range_and_no_xatlas(monkeypatch) -> None:
    for size in (0, 63, 8193):
        with pytest.raises(InputError, match="texture: expected a value"):
            check_texture_size(size)
    box = trimesh.creation.box()
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(MissingExtraError, match=r"voxfield\[mesh\]"):
        laid_out(np.asarray(box.vertices, np.float32), np.asarray(box.faces), 64)
