import json
import struct
import zipfile

import numpy as np
import pytest

from voxfield.data.formats import meshes
from voxfield.data.formats.meshes import find_meshes, read_mesh
from voxfield.errors import FormatError, InputError, MissingExtraError, MissingFileError

OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n"


@pytest.fixture
def folder(tmp_path):
    import trimesh

    mesh = trimesh.creation.box()
    for ending in ("ply", "stl", "off", "glb", "obj"):
        mesh.export(tmp_path / f"box.{ending}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "triangles.OBJ").write_text(OBJ)
    (tmp_path / ".hidden.obj").write_text(OBJ)
    (tmp_path / "readme.txt").write_text("no mesh")
    return tmp_path


@pytest.mark.parametrize("ending", ["ply", "stl", "off", "glb", "obj"])
def test_reads_every_kind(folder, ending):
    mesh = read_mesh(folder / f"box.{ending}")
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.shape == (12, 3)
    np.testing.assert_allclose(np.ptp(mesh.vertices, 0), 1)


def test_finds_files_folders_and_patterns(folder):
    names = [path.name for path in find_meshes([folder])]
    assert names == ["box.glb", "box.obj", "box.off", "box.ply", "box.stl", "triangles.OBJ"]
    assert [path.name for path in find_meshes([f"{folder}/*.st?", folder / "box.obj", folder / "box.stl"])] == [
        "box.stl",
        "box.obj",
    ]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing.obj", MissingFileError, "no such file or folder"),
        ("readme.txt", InputError, "is no mesh. Known endings: .ply .obj"),
        ("*.3mf", MissingFileError, "holds no meshes"),
    ],
)
def test_what_is_not_there_is_named(folder, name, error, message):
    with pytest.raises(error, match=message):
        find_meshes([folder / name])


def test_no_sources():
    with pytest.raises(InputError, match="name at least one"):
        find_meshes([])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.stl", b"This is a letter, not a mesh.\n"),
        ("empty.stl", b""),
        ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        ("cut.ply", b"ply\nformat ascii 1.0\nelement vertex 300\nproperty float x\nend_header\n1\n"),
        ("bad.off", b"OFF\nx y z\n"),
        ("bad.glb", b"glTF\2\0\0\0\xff\xff\xff\xff"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=name):
        read_mesh(path)


def test_gltf_with_its_buffers_beside_it(tmp_path):
    import trimesh

    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box())).items():
        (tmp_path / name).write_bytes(content)
    mesh = read_mesh(tmp_path / "model.gltf")
    assert mesh.faces.shape == (12, 3)
    np.testing.assert_allclose(np.ptp(mesh.vertices, 0), 1)
    assert read_mesh(tmp_path / "model.gltf", colours=True).faces.tolist() == mesh.faces.tolist()
    document = json.loads((tmp_path / "model.gltf").read_text())
    document["accessors"][0]["count"] = 10**12
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="it states 1,000,000,000,000 values and is cut short"):
        read_mesh(tmp_path / "model.gltf")
    document["buffers"][0]["uri"] = "../elsewhere.bin"
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    with pytest.raises(FormatError, match="is not in its folder"):
        read_mesh(tmp_path / "model.gltf")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"asset": {"version": "1.0"}}, "it is glTF 1.0, expected 2.0"),
        ({"asset": {}, "meshes": {"box": {}}, "buffers": {"box": {}}}, "it is glTF 1.0, expected 2.0"),
        (
            {"extensionsRequired": ["EXT_meshopt_compression"]},
            "compressed by EXT_meshopt_compression: export it without",
        ),
        (
            {"meshes": [{"primitives": [{"mode": 4}, {"mode": 6}]}]},
            "it has triangle fans, expected triangles or strips",
        ),
    ],
)
def test_gltf_of_another_kind(changes, fault, tmp_path):
    import trimesh

    written = trimesh.exchange.gltf.export_gltf(trimesh.Scene(trimesh.creation.box()))
    document = json.loads(written["model.gltf"]) | changes
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=fault):
        read_mesh(tmp_path / "model.gltf")
    content = json.dumps(document).encode()
    chunk = struct.pack("<II", len(content), 0x4E4F534A) + content
    (tmp_path / "model.glb").write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk)
    with pytest.raises(FormatError, match=fault):
        read_mesh(tmp_path / "model.glb")
    (tmp_path / "model.glb").write_bytes(struct.pack("<4sIIII", b"glTF", 1, 20, 0, 0))
    with pytest.raises(FormatError, match=r"it is glTF 1.0, expected 2.0"):
        read_mesh(tmp_path / "model.glb")


def test_draco_needs_a_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    document = {"asset": {"version": "2.0"}, "extensionsRequired": ["KHR_draco_mesh_compression"]}
    (tmp_path / "model.gltf").write_text(json.dumps(document))
    with pytest.raises(MissingExtraError, match=r"model.gltf: reading .gltf needs DracoPy.*pip install DracoPy"):
        read_mesh(tmp_path / "model.gltf")


def test_materials_are_of_the_files_own_folder(tmp_path):
    from PIL import Image

    Image.new("RGB", (2, 2), (0, 255, 0)).save(tmp_path / "green.png")
    inside = tmp_path / "inside"
    inside.mkdir()
    Image.new("RGB", (2, 2), (255, 0, 0)).save(inside / "red.png")
    triangle = "vt 0 0\nvt 1 0\nvt 0 1\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl m\nf 1/1 2/2 3/3\n"
    (inside / "a.obj").write_text(f"mtllib a.mtl\n{triangle}")
    (inside / "a.mtl").write_text("newmtl m\nmap_Kd red.png\n")
    middle = np.array([0]), np.full((1, 3), 1 / 3)
    assert read_mesh(inside / "a.obj").colours is None
    assert read_mesh(inside / "a.obj", colours=True).colours.at(*middle).tolist() == [[1, 0, 0]]
    (inside / "a.mtl").write_text("newmtl m\nmap_Kd ../green.png\n")
    found = read_mesh(inside / "a.obj", colours=True).colours
    assert found is None or found.texture is None


def test_archives(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/../mesh.obj", OBJ)
        archive.writestr("__MACOSX/mesh.obj", "rubbish")
        archive.writestr("texture.png", "no picture")
    assert read_mesh(path).faces.shape == (2, 3)
    assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]
    monkeypatch.setattr(meshes, "MAX_MESH_BYTES", 20)
    with pytest.raises(FormatError, match=r"a\.zip: has [\d,]+ bytes, more than the 20"):
        read_mesh(path)
    monkeypatch.undo()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.stl", "")
    with pytest.raises(FormatError, match="expected one mesh in the archive, found 2"):
        read_mesh(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FormatError, match="the archive cannot be read"):
        read_mesh(path)
