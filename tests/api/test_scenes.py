"""Scenes of runs and volumes through the public calls and the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import voxfield
from voxfield.cli.__main__ import main
from voxfield.data.camera_path import CameraPath, View
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.voxels.sparse import SparseVolume


@pytest.fixture(scope="module")
def folder(tiny_capture: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    run = voxfield.train("grid-ngp", tiny_capture, output=folder / "spheres", steps=40, overrides=tiny, quiet=True)
    run.export_vdb(folder / "baked.vdb", resolution=24)
    ball = np.zeros((8, 8, 8), np.float32)
    ball[2:6, 2:6, 2:6] = 20.0
    place = np.diag([0.1, 0.1, 0.1, 1.0])
    volume = SparseVolume.from_dense(ball)
    write_vdb(folder / "block.vdb", [VdbGrid(name="density", volume=volume, index_to_world=place)])
    write_vdb(folder / "two.vdb", [VdbGrid(name=name, volume=volume, index_to_world=place) for name in ("a", "b")])
    return folder


SPHERES = {"name": "spheres", "path": "spheres"}
BLOCK = {"name": "block", "path": "block.vdb", "transform": {"translation": [2.0, 0, 0]}, "colour": [1.0, 0.5, 0.0]}


def write(folder: Path, *members: Any, name: str = "scene", **values: Any) -> Path:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"format": "voxfield-scene", "version": 1, "members": list(members), **values}))
    return file


def test_a_run_alone_looks_as_it_does_by_itself(folder: Path) -> None:
    scene = voxfield.open(write(folder, SPHERES, cameras="spheres"))
    run = voxfield.open(folder / "spheres")
    assert isinstance(scene, voxfield.Scene)
    cameras = run.captures.image_cameras
    own, alone = run.render(cameras, 0), scene.render(cameras, 0)
    # Rays end at 1e-4 of their light here, at 1e-3 there.
    torch.testing.assert_close(alone["rgb"], own["rgb"], atol=5e-3, rtol=0)
    torch.testing.assert_close(alone["depth"], own["depth"], atol=0.05, rtol=0)
    torch.testing.assert_close(scene.cameras("test").camera_to_world, run.split("test").cameras.camera_to_world)
    black = scene.render(cameras, 0, background="black")
    behind = (1 - alone["opacity"])[..., None]
    torch.testing.assert_close(black["rgb"] + behind, alone["rgb"], atol=1e-5, rtol=0)


def test_a_run_moved_is_seen_by_cameras_moved_alike(folder: Path) -> None:
    turned = {"translation": [3.0, -1.0, 2.0], "rotation": [0.6, 0.0, 0.8, 0.0], "scale": 4.0}
    scene = voxfield.open(write(folder, {**SPHERES, "transform": turned}, cameras="spheres"))
    still = voxfield.open(write(folder, SPHERES, cameras="spheres", name="still"))
    one, other = (each.render(each.cameras("test"), 1) for each in (scene, still))
    torch.testing.assert_close(one["rgb"], other["rgb"], atol=5e-3, rtol=0)
    torch.testing.assert_close(one["depth"], 4 * other["depth"], atol=0.2, rtol=0)


def test_a_baked_grid_and_a_crop(folder: Path) -> None:
    crop = {"minimum": [-1, -1, -1], "maximum": [1, 1, 0]}
    scene = voxfield.open(write(folder, {"name": "baked", "path": "baked.vdb", "crop": crop}))
    assert scene.bounds.maximum == (1, 1, 0)
    (film,) = scene.render_path("orbit", frames=1, height=24, format="images", quiet=True)
    assert film.parent == folder / "renders" / "scene-orbit"
    with Image.open(film) as picture:
        assert np.asarray(picture).min() < 200
    with pytest.raises(InputError, match="has colours of its own"):
        voxfield.open(write(folder, {"name": "baked", "path": "baked.vdb", "colour": [1, 1, 1]})).render(None)


def test_the_command_line_films_and_describes_scenes(folder: Path, tmp_path: Path, capsys: Any) -> None:
    scene = write(folder, SPHERES, BLOCK, cameras="spheres")
    options = ["--height", "16", "--format", "images", "--quiet"]
    assert main(["render", str(scene), "--path", "dataset", "--output", str(tmp_path / "data"), *options]) == 0
    assert sorted(file.name for file in (tmp_path / "data").glob("*.png")) == ["frame_00000.png", "frame_00001.png"]
    pose = voxfield.open(scene).cameras().camera_to_world[0]
    path = CameraPath(frames=(View.from_pose(pose, fov=40.0, aspect=1.0),), width=16, height=16)
    path.write(tmp_path / "flight.json")
    flight = ["render", str(scene), "--path", str(tmp_path / "flight.json"), "--output", str(tmp_path / "flight")]
    assert main([*flight, "--save-depth", *options]) == 0
    assert (tmp_path / "flight" / "depth_00000.npy").is_file()
    capsys.readouterr()
    assert main(["info", str(scene), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: member["kind"] for name, member in said["members"].items()} == {
        "spheres": "grid-ngp",
        "block": "volume",
    }
    # The block covers 0.15 to 0.55, moved by 2 along x.
    np.testing.assert_allclose(said["members"]["block"]["bounds"]["minimum"], [2.15, 0.15, 0.15], atol=1e-6)


def test_frames_of_an_interrupted_film_stay_until_a_member_changes(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"frames": 2, "height": 12, "output": tmp_path, "format": "images", "quiet": True}
    scene = write(folder, BLOCK)
    frame, _ = voxfield.open(scene).render_path("orbit", **options)
    made = frame.stat().st_mtime_ns
    voxfield.open(scene).render_path("orbit", **options)
    assert frame.stat().st_mtime_ns == made
    voxfield.open(write(folder, {**BLOCK, "density_factor": 0.1})).render_path("orbit", **options)
    assert frame.stat().st_mtime_ns != made


def test_linear_light_in_exr_files(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR", reason="needs OpenEXR")
    from voxfield.storage.exr import read_exr

    half = [0.2, 0.5, 0.8]
    fog = {**BLOCK, "colour": half, "colour_space": "linear", "density_factor": 0.2}
    (file,) = voxfield.open(write(folder, fog)).render_path(
        "orbit", frames=1, height=16, output=tmp_path, format="exr", quiet=True
    )
    pixels, header = read_exr(file)
    assert header.channels[-1] == "A"
    strongest = pixels.reshape(-1, 4)[pixels[..., 3].argmax()]
    assert 0.2 < strongest[3] < 0.999
    np.testing.assert_allclose(strongest[:3] / strongest[3], half, atol=0.01)


def test_a_scene_in_the_viewer(folder: Path) -> None:
    pytest.importorskip("viser", reason="needs viser")
    with voxfield.view(write(folder, SPHERES, BLOCK), port=0, quiet=True) as viewer:
        assert viewer.subject.bounds.maximum[0] == pytest.approx(2.55)
        rays = voxfield.open(folder / "spheres").captures.cameras.image_rays(0)
        seen = viewer.subject.look(rays, "colour")
        assert seen["rgb"].shape == (len(rays), 3)


def test_what_is_refused(folder: Path, capsys: Any) -> None:
    scene = write(folder, BLOCK)
    for verb in ("report", "eval"):
        assert main([verb, str(scene)]) == 2
        assert "is a scene, and only runs" in capsys.readouterr().err
    assert main(["export", "mesh", str(scene), "--output", str(folder / "a.ply")]) == 2
    assert main(["render", str(scene), "--beside", str(folder / "spheres")]) == 2
    assert "for runs, and this is a scene" in capsys.readouterr().err
    opened = voxfield.open(scene)
    with pytest.raises(InputError, match='Add "cameras"'):
        opened.render_path("dataset", quiet=True)
    with pytest.raises(InputError, match="split: unknown value"):
        voxfield.open(write(folder, SPHERES, cameras="spheres")).cameras("trial")
    with pytest.raises(InputError, match=r"two: .*which grid is its density\? Set density_grid. Grids .*: a, b"):
        voxfield.open(write(folder, {"name": "two", "path": "two.vdb"})).bounds  # noqa: B018  (loading is the point)
    with pytest.raises(InputError, match="Colour"):
        voxfield.open(write(folder, BLOCK, background="mauve"))
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises((FormatError, MissingFileError), match="is not a run directory"):
        voxfield.open(write(folder, {"name": "empty", "path": "empty"}))
    (folder / "broken.vdb").write_bytes(b"no volume")
    with pytest.raises(FormatError, match="broken"):
        voxfield.open(write(folder, {"name": "broken", "path": "broken.vdb"})).bounds  # noqa: B018


def test_a_named_grid_is_the_density(folder: Path) -> None:
    scene = voxfield.open(write(folder, {"name": "two", "path": "two.vdb", "density_grid": "b"}))
    np.testing.assert_allclose(scene.bounds.minimum, [0.15] * 3, atol=1e-6)
