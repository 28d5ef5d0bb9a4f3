"""Dual contouring: edges and corners are kept, meshes are manifolds, vertices are what least squares says."""

import itertools

import numpy as np
import pytest

from voxfield.voxels.cut_cells import face_walks, loops
from voxfield.voxels.dual_contouring import _PRODUCTS, TRUNCATED, _tables, shifts
from voxfield.voxels.isosurface import Isosurface, connected_parts, isosurface

SIDE = 32


def places(side: int = SIDE) -> np.ndarray:
    """(D, H, W, 3): x, y, z of nodes from the middle of a cube."""
    at = np.arange(side) - (side - 1) / 2
    z, y, x = np.meshgrid(at, at, at, indexing="ij")
    return np.stack([x, y, z], -1)


def contoured(values: np.ndarray, level: float = 0.0) -> Isosurface:
    return isosurface(values.astype(np.float32), level, method="dual_contouring")


def centred(found: Isosurface, side: int = SIDE) -> np.ndarray:
    return found.vertices.astype(np.float64) - (side - 1) / 2


def corners_of(vertices: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    return [vertices[faces[:, corner]] for corner in range(3)]


def enclosed(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = corners_of(vertices, faces)
    return float((np.cross(a, b) * c).sum() / 6)


def area(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = corners_of(vertices, faces)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def euler(found: Isosurface) -> int:
    # Of a closed mesh three edges for every two triangles.
    return len(found.vertices) - len(found.faces) // 2


def assert_manifold(found: Isosurface) -> None:
    """Each edge is of two triangles that run along it in opposite directions; those at a vertex are one ring."""
    directed = found.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forth, back = ({(int(a), int(b)) for a, b in pairs} for pairs in (directed, directed[:, ::-1]))
    assert len(forth) == len(directed)
    assert forth == back
    after: dict[int, dict[int, int]] = {}
    for triangle in found.faces.tolist():
        for turn in range(3):
            a, b, c = triangle[turn:] + triangle[:turn]
            after.setdefault(a, {})[b] = c
    assert len(after) == len(found.vertices)
    for ring in after.values():
        at = next(iter(ring))
        while at in ring:
            at = ring.pop(at)
        assert not ring


def cube_distance(points: np.ndarray, half: float, turn: np.ndarray) -> np.ndarray:
    """Signed distance to a cube whose sides are the columns of ``turn``."""
    beyond = np.abs(points @ turn) - half
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    return outside + np.minimum(beyond.max(-1), 0)


def cube_corners(half: float, turn: np.ndarray) -> np.ndarray:
    return half * np.array(list(itertools.product((-1, 1), repeat=3))) @ turn.T


def turned(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def to_nearest(points: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - vertices, axis=2).min(1)


def test_a_ball() -> None:
    radius = 11.3
    found = contoured(radius - np.linalg.norm(places(), axis=-1))
    assert_manifold(found)
    assert euler(found) == 2
    vertices = centred(found)
    assert enclosed(vertices, found.faces) == pytest.approx(4 / 3 * np.pi * radius**3, rel=2e-3)
    assert area(vertices, found.faces) == pytest.approx(4 * np.pi * radius**2, rel=2e-3)
    a, b, c = corners_of(vertices, found.faces)
    assert (np.cross(b - a, c - a) * (a + b + c)).sum(1).min() > 0
    outwards = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert (found.normals * outwards).sum(1).min() > 0.999
    # Between vertices triangles are nearer than those of marching cubes, whose vertices alone lie on the ball.
    coarse = isosurface((radius - np.linalg.norm(places(), axis=-1)).astype(np.float32), 0.0)
    away, further = (np.linalg.norm(centred(one)[one.faces].mean(1), axis=1) - radius for one in (found, coarse))
    assert np.square(away).mean() < np.square(further).mean() / 10


def test_a_cube_has_its_corners_and_edges() -> None:
    half, turn = 9.3, np.eye(3)
    values = -cube_distance(places(), half, turn)
    sharp, bevelled = contoured(values), isosurface(values.astype(np.float32), 0.0)
    assert_manifold(sharp)
    assert euler(sharp) == 2
    corners = cube_corners(half, turn)
    assert to_nearest(corners, centred(sharp)).max() < 1e-3
    assert to_nearest(corners, centred(bevelled)).min() > 1.0
    # And there is nothing else than the cube: no triangle cuts an edge.
    for found, most in ((sharp, 1e-3), (bevelled, np.inf)):
        middles = centred(found)[found.faces].mean(1)
        assert np.abs(cube_distance(middles, half, turn)).max() < most
    assert enclosed(centred(sharp), sharp.faces) == pytest.approx((2 * half) ** 3, rel=1e-4)
    assert enclosed(centred(bevelled), bevelled.faces) < (2 * half) ** 3 * 0.995


def test_turned_cubes_keep_more_of_their_corners_and_edges() -> None:
    half, at_corners, at_surface = 9.3, [], []
    for seed in range(6):
        turn = turned(seed)
        values = -cube_distance(places(), half, turn)
        for found in (contoured(values), isosurface(values.astype(np.float32), 0.0)):
            at_corners.append(to_nearest(cube_corners(half, turn), centred(found)).mean())
            middles = centred(found)[found.faces].mean(1)
            at_surface.append(np.sqrt(np.square(cube_distance(middles, half, turn)).mean()))
            assert len(found.faces) == 2 * (len(found.vertices) - 2)
    sharp, bevelled = np.mean(np.reshape(at_corners, (-1, 2)), axis=0)
    assert sharp < 0.4
    assert bevelled > 0.5
    sharp, bevelled = np.mean(np.reshape(at_surface, (-1, 2)), axis=0)
    assert sharp < bevelled / 2


def test_a_torus() -> None:
    x, y, z = np.moveaxis(places(), -1, 0)
    found = contoured(3.4 - np.hypot(np.hypot(x, y) - 9.2, z))
    assert_manifold(found)
    assert euler(found) == 0
    assert enclosed(centred(found), found.faces) == pytest.approx(2 * np.pi**2 * 9.2 * 3.4**2, rel=0.01)
    assert len(np.unique(connected_parts(found.faces, len(found.vertices)))) == 1


@pytest.mark.parametrize("level", np.linspace(0.15, 0.6, 7))
def test_balls_that_come_to_touch(level: float) -> None:
    at = places(20)
    apart = [np.exp(-((np.linalg.norm(at - centre, axis=-1) / 4) ** 2)) for centre in ([-3.6, -3, 0.2], [3.1, 3, 0.1])]
    found = contoured(sum(apart), level)
    assert_manifold(found)
    assert euler(found) == 2 * len(np.unique(connected_parts(found.faces, len(found.vertices))))


@pytest.mark.parametrize("second", [(2, 2, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2)])
def test_voxels_that_touch_at_an_edge_or_a_corner_are_two_parts(second: tuple[int, int, int]) -> None:
    values = np.zeros((4, 4, 4))
    values[1, 1, 1] = values[second] = 1.0
    # Holes in a full cube, which has a surface of its own, do not even join over an edge, as in marching cubes.
    for filled, parts in ((values, 2), (1.0 - values, 3)):
        found = contoured(filled, 0.5)
        assert_manifold(found)
        assert len(np.unique(connected_parts(found.faces, len(found.vertices)))) == parts


@pytest.mark.parametrize("seed", range(3))
def test_noise_has_a_manifold_surface(seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_manifold(contoured(random.random((13, 10, 12)), 0.5))
    # Values of nodes that are the level itself, and edges along which nothing changes but the side.
    assert_manifold(contoured(random.integers(0, 3, (13, 10, 12)) / 2, 0.5))
    assert_manifold(contoured(random.random((13, 10, 12)) < 0.4, 0.5))


def test_cells_that_would_share_two_edges_do_not() -> None:
    joinable = _tables().joinable
    upper, lower = np.flatnonzero(joinable == 1), np.flatnonzero(joinable == 0)
    met = 0
    for left, right in itertools.product(upper.tolist(), lower.tolist()):
        nodes = np.zeros((2, 2, 3))
        for corner in range(8):
            x, y, z = corner & 1, corner >> 1 & 1, corner >> 2
            nodes[z, y, x] = left >> corner & 1
        if any(nodes[c >> 2, c >> 1 & 1, 1] != right >> c & 1 for c in (0, 2, 4, 6)):
            continue
        for corner in (1, 3, 5, 7):
            nodes[corner >> 2, corner >> 1 & 1, 2] = right >> corner & 1
        assert_manifold(contoured(nodes, 0.5))
        met += 1
    assert met > 10


def test_joining_a_face_makes_one_polygon_more() -> None:
    tables = _tables()
    for case in range(256):
        face = int(tables.joinable[case])
        before, after = loops(case), loops(case, face if face >= 0 else None)
        assert sorted(itertools.chain(*before)) == sorted(itertools.chain(*after))
        assert len(after) == len(before) + (face >= 0)
        if face >= 0:
            edges = {edge for _, edge in face_walks()[face]}
            assert sum(bool(edges & set(loop)) for loop in after) == 2


def test_shifts_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    matrices, wanted, sides = [], [], []
    for number in range(2000):
        normals = random.normal(size=(int(random.integers(3, 10)), 3))
        if number % 4 == 1:
            normals = normals[:1] + 0.02 * normals
        elif number % 4 == 2:
            normals[:, 2] *= random.uniform(0, 0.3)
        elif number % 4 == 3:
            normals = np.eye(3)[random.integers(0, 3, len(normals))]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        found = np.linalg.svd(normals, compute_uv=False)
        if np.abs(found / found[0] - TRUNCATED).min() < 1e-4:
            continue  # Whether it counts is a matter of rounding.
        distances = random.normal(size=len(normals))
        wanted.append(np.linalg.lstsq(normals, distances, rcond=TRUNCATED)[0])
        matrices.append([(normals.T @ normals)[i, j] for i, j in _PRODUCTS])
        sides.append(normals.T @ distances)
    np.testing.assert_allclose(shifts(np.array(matrices).T, np.array(sides).T).T, wanted, rtol=1e-9, atol=1e-9)


def test_shifts_without_normals_and_beside_the_bound_are_finite() -> None:
    assert not shifts(np.zeros((6, 2)), np.zeros((3, 2))).any()
    least = TRUNCATED**2
    for second, third in ((least, least), (least * (1 + 1e-15), least), (least, 0.0), (1.0, 1.0), (1.0, least)):
        found = shifts(np.array([[1.0, second, third, 0, 0, 0]]).T, np.array([[1.0, second, third]]).T)
        assert np.abs(found).max() < 1.01


def test_vertices_stay_in_their_cells() -> None:
    random = np.random.default_rng(1).random((12, 12, 12))
    found = contoured(random, 0.5)
    cells = np.floor(found.vertices)
    assert ((found.vertices - cells > 5e-4) & (found.vertices - cells < 1 - 5e-4)).all()
    z, y, x = (cells[:, axis].astype(int) + 1 for axis in (2, 1, 0))
    inside = np.pad(random >= 0.5, 1)
    corners = np.stack([inside[z + dz, y + dy, x + dx] for dz, dy, dx in itertools.product((0, 1), repeat=3)])
    assert (corners.any(0) & ~corners.all(0)).all()


def test_a_surface_along_the_grid_is_flat() -> None:
    # Level along y and z: normals say nothing of where on the plane a vertex lies, so it stays amid its crossings.
    values = np.broadcast_to(2.3 - np.arange(8.0), (6, 6, 8))
    found = contoured(values)
    inner = np.abs(found.normals[:, 0]) > 0.999
    inner &= (found.vertices[:, 1:] > 0.6).all(1) & (found.vertices[:, 1:] < 4.4).all(1) & (found.vertices[:, 0] > 1)
    assert inner.sum() == 9
    np.testing.assert_allclose(found.vertices[inner, 0], 2.3, atol=1e-5)
    np.testing.assert_allclose(found.vertices[inner, 1:] % 1, 0.5, atol=1e-5)
