"""3MF by hand: what the specification's examples say, and what strangers' files may do."""

import io
import zipfile

import numpy as np
import pytest

from voxfield.data.formats import threemf
from voxfield.data.formats.meshes import read_mesh
from voxfield.errors import FormatError

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
RELATIONSHIPS = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Target="/3D/main.model" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    "</Relationships>"
)
CORNERS = ((0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3))
FACES = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))


def tetrahedron(number, kind="model"):
    vertices = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in CORNERS)
    triangles = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}" pid="9" p1="0"/>' for a, b, c in FACES)
    mesh = f"<mesh><vertices>{vertices}</vertices><triangles>{triangles}</triangles></mesh>"
    return f'<object id="{number}" type="{kind}">{mesh}</object>'


def model(resources, build, prolog=""):
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{prolog}<model unit="millimeter" xmlns="{CORE}" xmlns:p="{PRODUCTION}" '
        f'xmlns:s="urn:slices"><resources>{resources}</resources><build>{build}</build></model>'
    )


def write(path, document, **parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("_rels/.rels", RELATIONSHIPS)
        archive.writestr("3D/main.model", document)
        for name, content in parts.items():
            archive.writestr(f"3D/{name}.model", content)
    return path


def test_a_mesh_is_read_as_it_is(tmp_path):
    mesh = read_mesh(write(tmp_path / "a.3mf", model(tetrahedron(1), '<item objectid="1"/>')))
    assert mesh.vertices.dtype == np.float64
    assert mesh.vertices.tolist() == [list(map(float, corner)) for corner in CORNERS]
    assert mesh.faces.tolist() == [list(face) for face in FACES]


def test_trimesh_agrees(tmp_path):
    pytest.importorskip("lxml", reason="trimesh writes 3MF with lxml")
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    pytest.importorskip("networkx")
    box.export(tmp_path / "a.3mf")
    mesh = read_mesh(tmp_path / "a.3mf")
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).volume == pytest.approx(box.volume)


def test_components_are_placed_by_rows_times_matrix(tmp_path):
    """A point is a row vector: first the component's matrix, then the item's."""
    component = '<component objectid="1" transform="0 1 0 -1 0 0 0 0 1 10 0 0"/>'
    inner = f'<object id="2"><components>{component}</components></object>'
    build = '<item objectid="2" transform="2 0 0 0 2 0 0 0 2 0 100 0"/><item objectid="1"/>'
    mesh = read_mesh(write(tmp_path / "a.3mf", model(tetrahedron(1) + inner, build)))
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    expected = 2 * (np.array(CORNERS) @ turn + (10, 0, 0)) + (0, 100, 0)
    np.testing.assert_allclose(mesh.vertices[:4], expected)
    np.testing.assert_allclose(mesh.vertices[4:], CORNERS)
    assert mesh.faces[4:].tolist() == (np.array(FACES) + 4).tolist()


def test_mirrored_faces_go_on_facing_outwards(tmp_path):
    mesh = read_mesh(
        write(tmp_path / "a.3mf", model(tetrahedron(1), '<item objectid="1" transform="-1 0 0 0 1 0 0 0 1 0 0 0"/>'))
    )
    corners = mesh.vertices[mesh.faces]
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume == pytest.approx(1.0)


def test_objects_of_other_parts_and_supports(tmp_path):
    resources = '<object id="5"><components><component p:path="/3D/other.model" objectid="1"/></components></object>'
    resources += tetrahedron(6, "support") + "<s:slice><s:vertices><s:vertex x='1' y='1'/></s:vertices></s:slice>"
    build = '<item objectid="5"/><item objectid="6"/>'
    mesh = read_mesh(write(tmp_path / "a.3mf", model(resources, build), other=model(tetrahedron(1), "")))
    assert len(mesh.faces) == 4


def test_archives_of_them_are_read(tmp_path):
    write(tmp_path / "a.3mf", model(tetrahedron(1), ""))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.3mf", "a.3mf")
    assert len(read_mesh(tmp_path / "a.zip").faces) == 4


def bomb():
    """Components that double thirty times."""
    component = '<component objectid="{}"/>'
    nested = "".join(
        f'<object id="{level + 1}"><components>{component.format(level) * 2}</components></object>'
        for level in range(1, 31)
    )
    return model(tetrahedron(1) + nested, '<item objectid="31"/>')


CIRCLE = '<object id="1"><components><component objectid="1"/></components></object>'
ENTITIES = '<!DOCTYPE model [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (model(tetrahedron(1), '<item objectid="1"/>', ENTITIES), "it declares a document type"),
        (bomb(), "nested or repeated without end"),
        (model(CIRCLE, '<item objectid="1"/>'), "nested or repeated without end"),
        (model(tetrahedron(1), '<item objectid="7"/>'), "its object '7' is missing"),
        (model(tetrahedron(1), '<item objectid="1" transform="1 0 0"/>'), "a transform of 3 numbers"),
        (model(tetrahedron(1).replace('v1="1"', 'v1="4"'), ""), "names a corner that is not there"),
        (model(tetrahedron(1).replace('v1="1"', 'v1="-1"'), ""), "names a corner that is not there"),
        (model(tetrahedron(1).replace('v1="1"', f'v1="{2**70}"'), ""), "no readable .3mf file"),
        (model(tetrahedron(1).replace('x="1"', 'x="wide"'), ""), "could not convert string to float"),
        (model(tetrahedron(1).replace('x="1"', ""), ""), "no readable .3mf file"),
        (model("", ""), "holds no triangles"),
        (model(tetrahedron(1), "")[:-30], "no readable .3mf file"),
    ],
)
def test_what_is_damaged_or_made_to_harm_is_refused(tmp_path, document, message):
    with pytest.raises(FormatError, match=message):
        read_mesh(write(tmp_path / "a.3mf", document))


def test_parts_are_read_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(threemf, "MOST_XML_BYTES", 500)
    with pytest.raises(FormatError, match="more than the 500 bytes"):
        read_mesh(write(tmp_path / "a.3mf", model(tetrahedron(1), "")))
    monkeypatch.undo()
    monkeypatch.setattr(threemf, "MOST_TRIANGLES", 3)
    with pytest.raises(FormatError, match="more than the 3 triangles"):
        read_mesh(write(tmp_path / "a.3mf", model(tetrahedron(1), "")))


def test_other_archives_are_none(tmp_path):
    path = tmp_path / "a.3mf"
    path.write_text("a letter")
    with pytest.raises(FormatError, match=r"no readable \.3mf file"):
        read_mesh(path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("letter.txt", "a letter")
    path.write_bytes(content.getvalue())
    with pytest.raises(FormatError, match="the archive holds no 3D model"):
        read_mesh(path)
