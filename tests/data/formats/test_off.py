"""OFF files: polygons with dents, headers, colours after faces, and damage."""

import io
from pathlib import Path

import numpy as np
import pytest

from voxfield.data.formats.meshes import read_mesh
from voxfield.data.formats.off import cut, read_off
from voxfield.errors import FormatError

ARROW = np.array([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]], float)
"""A polygon with one dent, counter-clockwise."""


def of(text: str) -> tuple[np.ndarray, np.ndarray]:
    return read_off(io.BytesIO(text.encode()))


def area(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Of all triangles, however they are turned."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def enclosed(outline: np.ndarray) -> float:
    """By the shoelace formula."""
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def prism(outline: np.ndarray) -> str:
    """A closed mesh over a polygon, as OFF."""
    count = len(outline)
    corners = [f"{x} {y} {z}" for z in (0, 1) for x, y in outline]
    around = [f"4 {i} {(i + 1) % count} {(i + 1) % count + count} {i + count}" for i in range(count)]
    ends = [
        " ".join(map(str, (count, *range(count - 1, -1, -1)))),
        " ".join(map(str, (count, *range(count, 2 * count)))),
    ]
    return "\n".join(["OFF", f"{2 * count} {count + 2} 0", *corners, *around, *ends])


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_polygons_with_dents_are_covered_and_nothing_else(turn: int, axes: tuple[int, ...]) -> None:
    outline = np.roll(ARROW, turn, axis=0)
    vertices = np.column_stack([outline, 0.5 * outline[:, 0]])[:, axes]
    for polygon in (np.arange(5), np.arange(5)[::-1]):
        faces = cut(polygon, vertices)
        assert faces.shape == (3, 3)
        # A plane that rises by a half is larger by the square root of 1.25.
        assert area(vertices, faces) == pytest.approx(enclosed(ARROW) * np.sqrt(1.25))
        # All triangles face where the polygon does.
        normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
        whole = np.cross(vertices[polygon], np.roll(vertices[polygon], -1, axis=0)).sum(0)
        assert (normals @ whole > 0).all()


def test_stars_of_random_spikes_are_covered() -> None:
    rng = np.random.default_rng(5)
    for count in (6, 9, 24, 60):
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = rng.uniform(0.2, 1, count)
        vertices = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)])
        faces = cut(np.arange(count), vertices)
        assert len(faces) == count - 2
        if np.diff(angle, append=angle[0] + 2 * np.pi).max() < np.pi:
            assert area(vertices, faces) == pytest.approx(enclosed(vertices[:, :2]))


def test_polygons_without_an_inside_are_cut_somehow() -> None:
    line = np.column_stack([np.arange(6.0), np.zeros(6), np.zeros(6)])
    bow = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0], [-1, 2, 0]], float)
    for vertices in (line, np.zeros((5, 3)), np.full((5, 3), np.nan), bow):
        faces = cut(np.arange(len(vertices)), vertices)
        assert faces.shape == (len(vertices) - 2, 3)
        assert set(faces.ravel()) == set(range(len(vertices)))


def test_a_prism_is_closed_and_has_its_volume() -> None:
    import trimesh

    mesh = trimesh.Trimesh(*of(prism(ARROW)), process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(enclosed(ARROW))


def test_headers_colours_and_comments() -> None:
    plain = of("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    for text in (
        "OFF3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2",
        "COFF # with colours\n3 1\n0 0 0 255 0 0 255\n1 0 0 255 0 0 255\n\n0 1 0 255 0 0 255\n3  0 1 2  0.5 0.5 0.5\n",
        "# made by hand\nSTCNOFF\r\n3 1 3\r\n0 0 0 0 0 1\r\n1 0 0 0 0 1\r\n0 1 0 0 0 1\r\n3 0 1 2 12\r\n",
        "\ufeffOFF\n3 3 0\n0 0 0\n1 0 0\n0 1 0\n2 0 1\n3 0 1 2\n1 0\n",
    ):
        read = of(text)
        np.testing.assert_array_equal(read[0], plain[0])
        np.testing.assert_array_equal(read[1], plain[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected OFF"),
        ("4OFF\n1 0 0\n0 0 0 1\n", "expected OFF"),
        ("OFF", "expected the numbers of corners and faces"),
        ("OFF BINARY\n3 1 0\n", "BINARY"),
        ("OFF\n-3 1 0\n", "expected the numbers"),
        ("OFF\n999999999999 1 0\n0 0 0\n", "states 999,999,999,999 corners and 1 faces, and is cut short"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "has faces of corners 0 to 7, and 3 corners"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n9999999999 0 1 2\n", "a face of 9,999,999,999 corners that is cut short"),
        ("OFF\n3 1 0\n0 0 zero\n1 0 0\n0 1 0\n3 0 1 2\n", "zero"),
        ("OFF\n1 0 0\n0 0 0\n", "holds no triangles"),
    ],
)
def test_damage(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text(text)
    with pytest.raises(FormatError, match=said) as caught:
        read_mesh(path)
    assert str(path) in str(caught.value)
