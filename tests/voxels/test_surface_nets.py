import numpy as np
import pytest
import trimesh

from voxfield.data.shape_family import procedural_shape
from voxfield.errors import InputError
from voxfield.voxels.surface_nets import points_of, surface_of


@pytest.mark.parametrize("index", range(8))
def test_surfaces_are_closed_and_hold_the_volume(index: int) -> None:
    volume = procedural_shape(index, 24).numpy()
    mesh = trimesh.Trimesh(*surface_of(volume), process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(float(volume.sum()), rel=0.3)  # thin legs lose most


def test_a_sphere_lies_where_it_should() -> None:
    centres = np.arange(20) + 0.5
    z, y, x = np.meshgrid(centres, centres, centres, indexing="ij")
    distance = np.sqrt((x - 8) ** 2 + (y - 10) ** 2 + (z - 12) ** 2)
    vertices, _ = surface_of(np.clip(0.5 - (distance - 5.0), 0, 1))
    radii = np.linalg.norm(vertices - [8, 10, 12], axis=1)
    np.testing.assert_allclose(radii, 5.0, atol=0.25)
    assert radii.mean() == pytest.approx(5.0, abs=0.08)


def test_what_touches_the_border_is_closed_there_and_nothing_has_no_surface() -> None:
    mesh = trimesh.Trimesh(*surface_of(np.ones((3, 4, 5))), process=False)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [5, 4, 3]], atol=0.51)
    vertices, faces = surface_of(np.zeros((4, 4, 4)))
    assert vertices.shape == faces.shape == (0, 3)


def test_points_fill_voxels_by_their_values() -> None:
    volume = np.zeros((4, 6, 8), np.float32)
    volume[1, 2, 3], volume[3, 5, 7] = 1.0, 0.25
    points = points_of(volume, 5000, threshold=0.1)
    cells, counts = np.unique(np.floor(points).astype(int), axis=0, return_counts=True)
    assert cells.tolist() == [[3, 2, 1], [7, 5, 3]]
    assert counts[0] / counts[1] == pytest.approx(4.0, rel=0.15)
    alike = np.floor(points_of(volume, 5000, threshold=0.1, weighted=False))
    assert (alike[:, 0] == 3).mean() == pytest.approx(0.5, abs=0.05)
    assert len(points_of(volume, 10, threshold=2.0)) == 0


def test_bad_volumes_are_refused() -> None:
    for volume in (np.zeros((4, 4)), np.full((2, 2, 2), np.nan), np.zeros((0, 2, 2))):
        with pytest.raises(InputError):
            surface_of(volume)
    with pytest.raises(InputError, match="threshold"):
        surface_of(np.zeros((2, 2, 2)), 0.0)
    with pytest.raises(InputError, match="at least 0"):
        points_of(np.full((2, 2, 2), -1.0), 5)
    with pytest.raises(InputError, match="count"):
        points_of(np.ones((2, 2, 2)), 0)
