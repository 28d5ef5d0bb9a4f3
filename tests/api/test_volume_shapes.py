"""Meshes to volumes and back, and volumes compared: through the public calls and the command line."""

import json
import re

import numpy as np
import pytest
import torch
import trimesh

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.vdb import VdbGrid
from voxfield.storage.voxel_vdb import write_voxel_vdb
from voxfield.voxels.sparse import SparseVolume


@pytest.fixture
def ball(tmp_path):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    mesh.apply_translation((5.0, -1.0, 3.0))
    mesh.export(tmp_path / "ball.ply")
    return tmp_path / "ball.ply"


@pytest.fixture
def field(tmp_path):
    """A voxel grid with a red block in the middle that is opaque."""
    grid = voxfield.VoxelGrid(16, (-1, -1, -1, 1, 1, 1), 1, density=0.0)
    with torch.no_grad():
        stored = torch.zeros(16, 16, 16, dtype=torch.bool)
        stored[4:12, 4:12, 4:12] = True
        rows = grid.links[stored].long()
        grid.density[rows] = 50.0
        grid.sh[rows, 0, 0] = 0.5 / 0.28209479177387814
    return grid


def test_a_mesh_becomes_voxels_and_a_mesh_again(ball, tmp_path):
    grid = voxfield.voxelise_mesh(ball, tmp_path / "ball.vdb", resolution=48, coverage="solid")
    read = voxfield.read_volume(tmp_path / "ball.vdb")
    assert (read.name, read.grid_class, read.volume.active_count) == ("density", "fog volume", grid.volume.active_count)
    pitch = 4.0 / 48
    assert grid.volume.active_count * pitch**3 == pytest.approx(4 / 3 * np.pi * 8, rel=0.03)
    coordinates, values = read.volume.active_voxels()
    assert (values == 1.0).all()
    centre = (coordinates @ read.index_to_world[:3, :3].T + read.index_to_world[:3, 3]).mean(axis=0)
    np.testing.assert_allclose(centre, (5.0, -1.0, 3.0), atol=pitch / 10)
    done = voxfield.mesh_volume(tmp_path / "ball.vdb", tmp_path / "again.ply")
    again = trimesh.load_mesh(done.file)
    assert again.is_watertight
    assert again.volume == pytest.approx(4 / 3 * np.pi * 8, rel=0.05)
    np.testing.assert_allclose(again.bounds, trimesh.load_mesh(ball).bounds, atol=pitch)
    voxfield.voxelise_mesh(done.file, tmp_path / "third.vdb", resolution=48, coverage="solid")
    assert voxfield.compare_volumes(tmp_path / "ball.vdb", tmp_path / "third.vdb").iou > 0.9


@pytest.mark.parametrize("layout", ["grids", "compact"])
def test_fields_have_their_surface_where_half_of_the_light_stops(field, tmp_path, layout):
    file = write_voxel_vdb(tmp_path / "field.vdb", field, layout=layout)
    done = voxfield.mesh_volume(file, tmp_path / "field.ply")
    mesh = trimesh.load_mesh(done.file)
    assert mesh.volume == pytest.approx(1.0, rel=0.3)
    np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3].mean(axis=0), [255, 127.5, 127.5], atol=1)
    (coarse,) = (path for path in voxfield.make_levels(file, tmp_path / "lod", levels=2) if path.stem == "lod_1")
    assert voxfield.compare_volumes(file, coarse).iou > 0.5
    assert voxfield.compare_volumes(file, file).iou == 1.0


def test_compressed_volumes_are_compared_as_they_decode(field, tmp_path):
    file = write_voxel_vdb(tmp_path / "field.vdb", field.prune(min_density=1.0))
    voxfield.compress_volume(file, tmp_path / "field.vxv", voxfield.CompressionConfig(max_error=0.1))
    found = voxfield.compare_volumes(file, tmp_path / "field.vxv")
    assert found.largest_error <= 0.1
    assert found.iou == 1.0
    vectors = voxfield.compare_volumes(file, tmp_path / "field.vxv", name="sh_coeff_0")
    assert vectors.iou is None
    assert voxfield.mesh_volume(tmp_path / "field.vxv", tmp_path / "field.obj").faces > 100


def test_comparing_says_and_bounds_its_memory(ball, tmp_path, capsys):
    volume = str(tmp_path / "b.vdb")
    voxfield.voxelise_mesh(ball, volume, resolution=16)
    with pytest.raises(InputError, match=r"--memory allows 1\.00 MB|--memory allows 1 MB.*Crop them first"):
        voxfield.compare_volumes(volume, volume, memory="1MB")
    assert main(["vdb", "compare", volume, volume, "--memory", "8GB"]) == 0
    assert re.search(r"Needs about .* voxels compared together 300 MB", " ".join(capsys.readouterr().err.split()))
    assert main(["vdb", "compare", volume, volume, "--memory", "8GB", "--quiet"]) == 0
    assert "Needs about" not in capsys.readouterr().err


def test_on_the_command_line(ball, tmp_path, capsys):
    volume, mesh = str(tmp_path / "b.vdb"), str(tmp_path / "b.glb")
    assert main(["voxelise", str(ball), volume, "--resolution", "16"]) == 0
    assert main(["vdb", "mesh", volume, mesh, "--level", "0.5"]) == 0
    assert "triangles" in capsys.readouterr().out
    sharp = str(tmp_path / "sharp.ply")
    assert main(["vdb", "mesh", volume, sharp, "--method", "dual_contouring"]) == 0
    assert trimesh.load_mesh(sharp).is_watertight
    assert main(["vdb", "mesh", volume, sharp, "--method", "cubes"]) == 2
    capsys.readouterr()
    assert main(["vdb", "compare", volume, volume]) == 0
    said = capsys.readouterr().out
    assert "iou" in said
    assert main(["vdb", "compare", volume, volume, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rmse"] == 0.0


def test_what_does_not_fit_is_said(ball, tmp_path, capsys):
    output = tmp_path / "x.vdb"
    for call, error, said in (
        (lambda: voxfield.voxelise_mesh(ball, tmp_path / "x.ply"), InputError, r"ends in \.vdb"),
        (lambda: voxfield.voxelise_mesh(ball, output, resolution=4096), InputError, "resolution"),
        (lambda: voxfield.voxelise_mesh(tmp_path / "none.ply", output), MissingFileError, r"none\.ply"),
        (lambda: voxfield.mesh_volume(tmp_path / "none.vdb", tmp_path / "x.ply"), MissingFileError, r"none\.vdb"),
        (lambda: voxfield.mesh_volume(ball, tmp_path / "x.ply"), FormatError, r"ball\.ply"),
        (lambda: voxfield.mesh_volume(ball, tmp_path / "x.stl"), InputError, r"\.glb"),
    ):
        with pytest.raises(error, match=said):
            call()
    assert not output.exists()
    (tmp_path / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match=r"point\.obj: mesh"):
        voxfield.voxelise_mesh(tmp_path / "point.obj", output)
    volume = SparseVolume.from_dense(np.ones((2, 2, 2), np.float32))
    voxfield.write_volume(tmp_path / "two.vdb", [VdbGrid(name=name, volume=volume) for name in ("a", "b")])
    with pytest.raises(InputError, match="a, b"):
        voxfield.mesh_volume(tmp_path / "two.vdb", tmp_path / "x.ply")
    with pytest.raises(InputError, match="level"):
        voxfield.mesh_volume(tmp_path / "two.vdb", tmp_path / "x.ply", name="a", level=float("nan"))
    assert main(["vdb", "compare", str(tmp_path / "two.vdb"), str(ball)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_normals_of_the_surface_are_kept(ball, tmp_path):
    assert main(["voxelise", str(ball), str(tmp_path / "b.vdb"), "--resolution", "24", "--normals"]) == 0
    density, normal = (voxfield.read_volume(tmp_path / "b.vdb", name) for name in ("density", "normal"))
    assert normal.volume.channels == (3,)
    assert np.array_equal(normal.index_to_world, density.index_to_world)
    coordinates, values = normal.volume.active_voxels()
    places = coordinates @ normal.index_to_world[:3, :3].T + normal.index_to_world[:3, 3]
    outwards = places - (5.0, -1.0, 3.0)
    radius = np.linalg.norm(outwards, axis=1)
    assert np.abs(radius - 2.0).max() < 4 / 24
    assert (np.einsum("ni,ni->n", values, outwards / radius[:, None]) > 0.97).all()
    assert density.volume.values_at(coordinates)[1].all()
    surface = voxfield.voxelise_mesh(ball, tmp_path / "s.vdb", resolution=24, coverage="surface")
    assert normal.volume.active_count == surface.volume.active_count
    voxfield.voxelise_mesh(ball, tmp_path / "t.vdb", resolution=24, coverage="solid", normals=True)
    assert 0 < voxfield.read_volume(tmp_path / "t.vdb", "normal").volume.active_count < normal.volume.active_count


def painted(kind):
    """A cube whose upper half (+z) is red, lower half blue."""
    from PIL import Image

    box = trimesh.creation.box()
    box = box.subdivide() if kind != "texture" else box
    upper = box.triangles_center[:, 2] > 0 if kind == "face" else box.vertices[:, 2] > 1e-9
    colours = np.where(upper[:, None], (255, 0, 0, 255), (0, 0, 255, 255)).astype(np.uint8)
    if kind == "face":
        box.visual.face_colors = colours
    elif kind == "vertex":
        box.visual.vertex_colors = colours
    else:
        image = Image.fromarray(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8))
        uv = np.stack([np.full(len(box.vertices), 0.5), np.clip(box.vertices[:, 2] + 0.5, 0.001, 0.999)], axis=1)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return box


@pytest.mark.parametrize(
    ("kind", "ending"), [("vertex", "ply"), ("face", "ply"), ("vertex", "obj"), ("vertex", "glb"), ("texture", "glb")]
)
def test_colours_of_the_surface_are_kept(tmp_path, kind, ending):
    painted(kind).export(tmp_path / f"box.{ending}")
    output = tmp_path / "box.vdb"
    assert main(["voxelise", str(tmp_path / f"box.{ending}"), str(output), "--resolution", "16", "--colours"]) == 0
    coordinates, values = voxfield.read_volume(output, "colour").volume.active_voxels()
    # Between the rows of vertices colours of vertices blend.
    height = coordinates[:, 2] + 0.5 - 8
    for side, colour in ((height > 4, (1, 0, 0)), (height < -4, (0, 0, 1))):
        assert side.sum() > 200
        share = np.abs(values[side] - colour).max(axis=1)
        assert np.median(share) < (0.6 if kind == "vertex" else 1e-3)
        assert ((values[side] * colour).sum(axis=1) > (values[side] * colour[::-1]).sum(axis=1)).all()


def test_a_mesh_without_colours_says_so(ball, tmp_path):
    with pytest.raises(InputError, match=r"ball\.ply: has no colours"):
        voxfield.voxelise_mesh(ball, tmp_path / "x.vdb", resolution=8, colours=True)
    assert not (tmp_path / "x.vdb").exists()
