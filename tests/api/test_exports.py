"""A run's mesh, points, cameras and page through the public calls and the command line."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

import voxfield
from voxfield.api.field_page import export_html
from voxfield.cli.__main__ import main
from voxfield.errors import InputError
from voxfield.models.plenoxels import Plenoxels
from voxfield.recipes import smallest_model


@pytest.fixture(scope="module")
def run(tiny_capture, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "spheres"
    return voxfield.train("grid-ngp", tiny_capture, output=folder, steps=60, overrides=list(tiny), quiet=True)


def test_a_mesh(run, tmp_path, capsys) -> None:
    file = tmp_path / "a.ply"
    options = ["--resolution", "24", "--opacity", "0.2"]
    assert main(["export", "mesh", str(run.path), "--output", str(file), *options]) == 0
    assert "triangles" in capsys.readouterr().out
    mesh = trimesh.load_mesh(file, process=False)
    assert mesh.is_watertight
    low, high = run.captures.bounds.tensor().numpy()
    step = (high - low).max() / 24
    assert ((mesh.vertices >= low - step) & (mesh.vertices <= high + step)).all()
    sharp = tmp_path / "sharp.ply"
    assert main(["export", "mesh", str(run.path), "--output", str(sharp), *options, "--method", "dual_contouring"]) == 0
    other = trimesh.load_mesh(sharp, process=False)
    assert other.is_watertight
    assert other.volume == pytest.approx(mesh.volume, rel=0.05)
    assert len(other.faces) != len(mesh.faces)
    done = run.export_mesh(tmp_path / "b.ply", resolution=24, opacity=0.2, space="capture", quiet=True)
    assert done.faces == len(mesh.faces)
    back = trimesh.load_mesh(done.file, process=False)
    world = run.captures.transform.apply_points(torch.tensor(np.array(back.vertices)))
    np.testing.assert_allclose(world, mesh.vertices, atol=1e-4)


def test_a_textured_mesh_of_few_triangles(run, tmp_path, capsys) -> None:
    pytest.importorskip("xatlas")
    options = ["--resolution", "24", "--opacity", "0.2", "--triangles", "100", "--texture", "128"]
    assert main(["export", "mesh", str(run.path), "--output", str(tmp_path / "a.obj"), *options]) == 0
    assert "a.mtl" in capsys.readouterr().out
    mesh = trimesh.load(tmp_path / "a.obj", process=False, force="mesh")
    assert len(mesh.faces) <= 100
    assert mesh.visual.material.image.size == (128, 128)


def test_a_mesh_from_depth(run, tmp_path) -> None:
    done = run.export_mesh(tmp_path / "a.ply", resolution=16, source="depth", quiet=True)
    assert done.faces > 0
    assert done.beside == ()


def test_points(run, tmp_path) -> None:
    file = tmp_path / "a.ply"
    assert main(["export", "pointcloud", str(run.path), "--output", str(file), "--points", "300"]) == 0
    cloud = trimesh.load(file, process=False)
    assert len(cloud.vertices) == 300
    assert bool(run.captures.bounds.contains(torch.tensor(np.array(cloud.vertices))).all())
    assert run.export_pointcloud(tmp_path / "b.ply", points=300, quiet=True).bytes == file.stat().st_size
    assert (tmp_path / "b.ply").read_bytes() == file.read_bytes()


def test_points_say_and_bound_their_memory(run, tmp_path, capsys) -> None:
    file = tmp_path / "cloud.ply"
    with pytest.raises(InputError, match=r"points 20\.00 GB.*--memory allows 2\.00 GB\. Take fewer --points"):
        run.export_pointcloud(file, points=50_000_000, memory="2GB")
    assert not list(tmp_path.iterdir())
    options = ["--output", str(file), "--points", "50", "--memory", "8GB"]
    assert main(["export", "pointcloud", str(run.path), *options]) == 0
    assert "rays looked at together" in capsys.readouterr().err


@pytest.mark.parametrize("space", ["world", "capture"])
def test_cameras(run, tmp_path, space) -> None:
    file = tmp_path / "cameras.json"
    assert main(["export", "cameras", str(run.path), "--output", str(file), "--space", space]) == 0
    said = json.loads(file.read_text())
    assert [len(said[f"{split}_filenames"]) for split in ("train", "val", "test")] == [10, 2, 2]
    assert len(said["frames"]) == 14
    assert (said["w"], said["camera_model"]) == (32, "OPENCV")
    poses = torch.tensor([frame["transform_matrix"] for frame in said["frames"]])[:10, :3]
    if space == "capture":
        assert said["applied_scale"] == 1
        poses = run.captures.transform.apply_poses(poses)
    torch.testing.assert_close(poses, run.captures.cameras.camera_to_world, rtol=1e-5, atol=1e-5)
    assert run.export_cameras(tmp_path / "test.json", split="test").cameras == {"test": 2}


def scene_of(file) -> dict:
    """What a page says of its scene."""
    text = file.read_text(encoding="utf-8").split('id="scene">', 1)[1]
    return json.loads(text.split("</script>", 1)[0])


def test_a_page(run, tmp_path, capsys) -> None:
    file = tmp_path / "a.html"
    options = ["--resolution", "24", "--sh-degree", "1", "--min-opacity", "0.001", "--camera", "-1", "--title", "<b>"]
    assert main(["export", "html", str(run.path), "--output", str(file), *options]) == 0
    assert "harmonics to 1" in capsys.readouterr().out
    scene = scene_of(file)
    assert (max(scene["size"]), scene["degree"], scene["background"]) == (24, 1, "#ffffff")
    torch.testing.assert_close(
        torch.tensor(scene["camera"]), run.captures.cameras.camera_to_world[-1].flatten(), rtol=0, atol=1e-5
    )
    assert "<title>&lt;b&gt;</title>" in file.read_text(encoding="utf-8")
    done = run.export_html(tmp_path / "b.html", resolution=24, min_opacity=0.001, background="transparent")
    assert (done.sh_degree, done.bytes, done.left_out) == (2, done.file.stat().st_size, None)
    assert scene_of(done.file)["background"] == "transparent"
    assert "<title>spheres</title>" in done.file.read_text(encoding="utf-8")


@pytest.mark.parametrize("layers", [0, 2])
def test_a_page_of_a_voxel_grid_is_the_grid_as_it_is(run, tmp_path, layers) -> None:
    config = smallest_model("plenoxels")
    config = replace(config, spheres=replace(config.spheres, layers=layers), march=replace(config.march, step=0.7))
    model = Plenoxels(config, run.captures.bounds, run.captures.cameras, near=0.1, has_alpha=True)
    paged = SimpleNamespace(
        model=model,
        captures=run.captures,
        placement=run.placement,
        experiment=run.experiment,
        path=run.path,
    )
    done = export_html(paged, tmp_path / "a.html")
    assert done.resolution == model.grid.resolution
    assert done.left_out == ("the background spheres" if layers else None)
    assert scene_of(done.file)["step"] == 0.7


def test_pages_of_normalised_device_coordinates_are_refused(run, tmp_path) -> None:
    paged = SimpleNamespace(captures=SimpleNamespace(ndc=object()), placement=run.placement)
    with pytest.raises(InputError, match="normalised device coordinates"):
        export_html(paged, tmp_path / "a.html")


def test_what_is_refused(run, tmp_path, capsys) -> None:
    for verb, name in (("mesh", "a.stl"), ("pointcloud", "a.glb"), ("cameras", "a.txt"), ("html", "a.pdf")):
        assert main(["export", verb, str(run.path), "--output", str(tmp_path / name)]) == 2
        assert "expected a file that ends in" in capsys.readouterr().err
    assert main(["export", "mesh", str(run.path), "--output", str(tmp_path / "a.ply"), "--resolution", "3"]) == 2
    for options in (["--triangles", "2"], ["--texture", "9"], ["--from", "guess"]):
        assert main(["export", "mesh", str(run.path), "--output", str(tmp_path / "a.ply"), *options]) == 2
    with pytest.raises(InputError, match="space: unknown value"):
        run.export_mesh(tmp_path / "a.ply", space="moon")
    with pytest.raises(InputError, match="split: unknown value"):
        run.export_cameras(tmp_path / "a.json", split="trial")
    with pytest.raises(InputError, match="no surface"):
        run.export_mesh(tmp_path / "a.ply", resolution=8, opacity=0.9999, quiet=True)
    with pytest.raises(InputError, match="camera"):
        run.export_html(tmp_path / "a.html", resolution=8, camera=10)
    with pytest.raises(InputError, match=r"max_bytes: .* voxels take"):
        run.export_html(tmp_path / "a.html", resolution=16, min_opacity=0.0, max_bytes=1000)
    assert not list(tmp_path.iterdir())
