"""Surfaces in files, read back by another program: places, colours, normals; what is refused."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import trimesh

from voxfield.errors import InputError
from voxfield.storage.surface_files import ColouredSurface, Texture, write_surface

TETRAHEDRON = ColouredSurface(
    vertices=np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32),
    normals=np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32),
    colours=np.array([[0, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, 0, 1]], np.float32),
    faces=np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
)


@pytest.mark.parametrize("ending", [".ply", ".obj", ".PLY"])
def test_ply_and_obj_keep_everything(tmp_path, ending) -> None:
    (file,) = write_surface(tmp_path / f"a{ending}", TETRAHEDRON)
    back = trimesh.load_mesh(file, process=False, maintain_order=True)
    np.testing.assert_allclose(back.vertices, TETRAHEDRON.vertices)
    assert np.array_equal(back.faces, TETRAHEDRON.faces)
    assert np.array_equal(back.visual.vertex_colors[:, :3], [[0, 0, 0], [255, 0, 0], [0, 128, 0], [0, 0, 255]])
    assert back.volume == pytest.approx(1)


def test_a_glb_is_turned_and_its_colours_are_linear(tmp_path) -> None:
    (file,) = write_surface(tmp_path / "a.glb", TETRAHEDRON)
    back = trimesh.load_mesh(file, process=False)
    x, y, z = TETRAHEDRON.vertices.T
    np.testing.assert_allclose(back.vertices, np.stack([x, z, -y], 1))
    assert back.volume == pytest.approx(1)
    content = file.read_bytes()
    magic, version, length, size = struct.unpack_from("<4sIII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    described = json.loads(content[20 : 20 + size])
    assert all(view["byteOffset"] % 4 == 0 for view in described["bufferViews"])
    blob = content[20 + size + 8 :]
    normals = np.frombuffer(blob, "<f4", 12, described["bufferViews"][1]["byteOffset"]).reshape(4, 3)
    # The one that is no direction points up.
    np.testing.assert_array_equal(normals, [[0, 1, 0], [1, 0, 0], [0, 0, -1], [0, 1, 0]])
    colours = np.frombuffer(blob, "<u2", 16, described["bufferViews"][2]["byteOffset"]).reshape(4, 4)
    assert colours[2, 1] / 65535 == pytest.approx(((0.5 + 0.055) / 1.055) ** 2.4, abs=1e-4)
    assert (colours[:, 3] == 65535).all()


def painted_tetrahedron() -> ColouredSurface:
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    corners = np.array([[0, 0], [1, 0], [0, 1], [0.5, 0.25]], np.float32)
    return dataclasses.replace(TETRAHEDRON, texture=Texture(coordinates=corners, picture=picture))


@pytest.mark.parametrize(("ending", "beside"), [(".glb", []), (".ply", [".png"]), (".obj", [".mtl", ".png"])])
def test_textures_come_back(tmp_path, ending, beside) -> None:
    painted = painted_tetrahedron()
    files = write_surface(tmp_path / f"a b{ending}", painted)
    assert [file.name for file in files] == [f"a b{ending}", *(f"a_b{one}" for one in beside)]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    back = trimesh.load(files[0], process=False, force="mesh")
    material = back.visual.material
    picture = material.baseColorTexture if ending == ".glb" else material.image
    assert np.array_equal(np.asarray(picture.convert("RGB")), painted.texture.picture)
    # Readers may order vertices as they like: what counts is what lies at the triangles' corners.
    turned = painted.vertices @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]) if ending == ".glb" else painted.vertices
    np.testing.assert_allclose(back.vertices[back.faces], turned[painted.faces], atol=1e-6)
    np.testing.assert_allclose(back.visual.uv[back.faces], painted.texture.coordinates[painted.faces], atol=1e-6)


@pytest.mark.parametrize(
    "fault",
    [
        {"coordinates": np.zeros((4, 3), np.float32)},
        {"coordinates": np.full((4, 2), np.inf, np.float32)},
        {"coordinates": np.zeros((3, 2), np.float32)},
        {"picture": np.zeros((4, 4, 3), np.float32)},
        {"picture": np.zeros((0, 4, 3), np.uint8)},
    ],
)
def test_textures_that_are_none(fault) -> None:
    parts = {"coordinates": np.zeros((4, 2), np.float32), "picture": np.zeros((2, 2, 3), np.uint8), **fault}
    with pytest.raises(InputError):
        dataclasses.replace(TETRAHEDRON, texture=Texture(**parts))


def test_points_are_a_ply_without_faces(tmp_path) -> None:
    points = ColouredSurface(
        vertices=TETRAHEDRON.vertices,
        normals=TETRAHEDRON.normals,
        colours=TETRAHEDRON.colours,
        faces=np.zeros((0, 3), np.int64),
    )
    back = trimesh.load(write_surface(tmp_path / "a.ply", points)[0], process=False)
    np.testing.assert_allclose(back.vertices, TETRAHEDRON.vertices)
    assert np.array_equal(back.colors[1, :3], [255, 0, 0])
    with pytest.raises(InputError, match="ending of a file of points"):
        write_surface(tmp_path / "a.glb", points)


def test_other_endings_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"ends in \.glb or \.ply or \.obj"):
        write_surface(tmp_path / "a.stl", TETRAHEDRON)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fault",
    [
        {"vertices": np.full((4, 3), np.nan, np.float32)},
        {"normals": np.zeros((3, 3), np.float32)},
        {"faces": np.array([[0, 1, 4]])},
        {"faces": np.array([[-1, 1, 2]])},
        {"faces": np.array([0, 1, 2])},
    ],
)
def test_surfaces_that_are_none(fault) -> None:
    parts = {name: getattr(TETRAHEDRON, name) for name in ("vertices", "normals", "colours", "faces")}
    with pytest.raises(InputError):
        ColouredSurface(**{**parts, **fault})
