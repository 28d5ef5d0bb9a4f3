import numpy as np
import pytest

from voxfield.errors import InputError
from voxfield.voxels.voxelise import voxelise

CUBE = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
FACES = np.array(
    [face for a, b, c, d in [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
     for face in ((a, b, c), (a, c, d))]
)  # fmt: skip


@pytest.mark.parametrize("resolution", [1, 4, 7, 32])
@pytest.mark.parametrize("coverage", ["solid", "conservative"])
def test_a_cube_fills_its_grid(resolution, coverage):
    grid = voxelise(CUBE * 3 - 7, FACES, resolution, coverage=coverage)
    assert grid.occupied == resolution**3
    assert grid.pitch == pytest.approx(3 / resolution)
    assert grid.origin == pytest.approx((-7, -7, -7))


def test_the_surface_is_a_shell_of_one_layer():
    shell = voxelise(CUBE, FACES, 8, coverage="surface").dense()
    assert int(shell.sum()) == 8**3 - 6**3
    assert not bool(shell[1:-1, 1:-1, 1:-1].any())


def test_the_longest_side_fills_the_grid_and_the_others_are_centred():
    slab = voxelise(CUBE * [8, 4, 2], FACES, 8, coverage="solid").dense()
    z, y, x = slab.nonzero().unbind(1)
    assert (x.min(), x.max()) == (0, 7)
    assert (y.min(), y.max()) == (2, 5)
    assert (z.min(), z.max()) == (3, 4)
    assert int(slab.sum()) == 8 * 4 * 2


def test_place_and_scale_do_not_matter():
    generator = np.random.default_rng(0)
    vertices, faces = generator.random((30, 3)), generator.integers(0, 30, (40, 3))
    before = voxelise(vertices, faces, 16)
    # Powers of two and integers: the placed corners are the same numbers.
    after = voxelise(vertices * 2.0**40, faces, 16)
    assert before.words.tolist() == after.words.tolist()


def test_conservative_is_surface_and_solid():
    generator = np.random.default_rng(1)
    vertices, faces = generator.random((20, 3)), generator.integers(0, 20, (30, 3))
    parts = [voxelise(vertices, faces, 16, coverage=one).words for one in ("surface", "solid", "conservative")]
    assert (parts[0] | parts[1]).tolist() == parts[2].tolist()


def test_degenerate_and_duplicate_faces_change_nothing():
    more = np.concatenate([FACES, [[0, 0, 0], [1, 1, 2]], FACES[:2], FACES[:2]])
    for coverage in ("surface", "solid"):
        same = voxelise(CUBE, more, 8, coverage=coverage)
        assert same.words.tolist() == voxelise(CUBE, FACES, 8, coverage=coverage).words.tolist()


def test_faces_with_broken_vertices_are_counted():
    vertices = np.concatenate([CUBE, [[np.nan, 0, 0], [np.inf, 0, 0]]])
    grid = voxelise(vertices, np.concatenate([FACES, [[0, 1, 8], [0, 1, 9]]]), 4)
    assert grid.faces_left_out == 2
    assert grid.occupied == 64


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (CUBE, np.zeros((0, 3), int), "mesh: has no faces"),
        (CUBE, FACES + 1, "faces: expected indices of 8 vertices, got 1 to 8"),
        (CUBE, -FACES, "faces: expected indices of 8 vertices"),
        (CUBE * np.nan, FACES, "no face has three finite vertices"),
        (CUBE * 0, FACES, "all faces lie in one point"),
        (CUBE + 1e15, FACES, "too large to tell voxels"),
        (CUBE * 1e-300 + 1e300, FACES, "all faces lie in one point"),
        (CUBE[:, :2], FACES, r"vertices: expected numbers of shape \(V, 3\)"),
        (CUBE, FACES.astype(float), "faces: expected indices"),
    ],
)
def test_errors_teach(vertices, faces, message):
    with pytest.raises(InputError, match=message):
        voxelise(vertices, faces, 8)


@pytest.mark.parametrize("change", [{"resolution": 0}, {"resolution": 1025}, {"coverage": "hollow"}, {"inside": "in"}])
def test_settings_are_checked(change):
    with pytest.raises(InputError, match=next(iter(change))):
        voxelise(CUBE, FACES, **{"resolution": 8, **change})
