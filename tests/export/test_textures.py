"""Surfaces laid out flat, and what is painted on them."""

import sys

import numpy as np
import pytest
import trimesh

from voxfield.errors import InputError, MissingExtraError
from voxfield.export.textures import PADDING, Layout, Texels, check_texture_size, laid_out, painted, texels_of


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
