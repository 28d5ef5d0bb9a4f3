"""Runs and scenes exported for Blender."""

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import InputError, MissingFileError
from voxfield.storage.vdb import VdbFile, VdbGrid, write_vdb
from voxfield.voxels.sparse import SparseVolume


@pytest.fixture(scope="module")
def folder(tiny_capture: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blender")
    voxfield.train("grid-ngp", tiny_capture, output=folder / "spheres", steps=60, overrides=tiny, quiet=True)
    block = SparseVolume.from_dense(np.full((8, 8, 8), 5.0, np.float32))
    write_vdb(folder / "block.vdb", [VdbGrid(name="heat", volume=block)])
    return folder


def content(script: Path) -> dict[str, Any]:
    found = re.search(r"^SCENE = (.*?)^CONSTANT_HARMONIC", script.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return dict(ast.literal_eval(found[1].strip()))


def test_a_run_as_a_volume(folder: Path, tmp_path: Path, capsys: Any) -> None:
    script = tmp_path / "lego.py"
    options = ["--resolution", "16", "--frames", "5", "--width", "20", "--quiet"]
    assert main(["export", "blender", str(folder / "spheres"), "--output", str(script), *options]) == 0
    said = capsys.readouterr().out
    assert "10 cameras, 5 frames" in said
    assert "how colours change with the view" in said
    held = content(script)
    (member,) = held["members"]
    assert (member["kind"], member["colour_grid"], member["harmonics"]) == ("volume", "sh_coeff_0", True)
    grids = [header.name for header in VdbFile(script.parent / member["file"]).grids]
    assert {"density", "sh_coeff_0"} <= set(grids)
    poses = voxfield.open(folder / "spheres").captures.cameras.camera_to_world
    np.testing.assert_allclose([camera["matrix"][:3] for camera in held["cameras"]], poses, atol=1e-6)
    assert held["render"]["size"] == [20, 20]


@pytest.mark.parametrize("form", ["volume", "mesh"])
def test_too_little_memory_is_refused_before_anything_is_written(folder: Path, tmp_path: Path, form: Any) -> None:
    with pytest.raises(InputError, match=r"--memory allows 1\.00 GB\. Take a lower --resolution"):
        voxfield.export_blender(
            folder / "spheres", tmp_path / "a.py", form=form, resolution=512, path=None, memory="1GB", quiet=True
        )
    assert not list(tmp_path.iterdir())


def test_a_run_as_a_mesh(folder: Path, tmp_path: Path) -> None:
    run = voxfield.open(folder / "spheres")
    # Trained for seconds: what there is of a surface lies at low opacity, and 16 voxels find some of it.
    done = voxfield.export_blender(run, tmp_path / "a.py", form="mesh", resolution=16, path=None, quiet=True)
    (file,) = done.files
    assert (done.frames, file.suffix, done.blend) == (0, ".ply", None)
    assert len(trimesh.load_mesh(file, process=False).faces)
    assert content(done.script)["path"] is None


def test_a_scene_with_a_crop_and_a_camera_path(folder: Path, tmp_path: Path) -> None:
    crop = {"minimum": [0, 0, 0], "maximum": [7, 7, 3]}
    members = [
        {"name": "the block", "path": "block.vdb", "crop": crop, "colour": [1, 0, 0], "density_factor": 0.5},
        {"name": "the_block", "path": "block.vdb", "transform": {"scale": 0.25}, "colour_space": "linear"},
    ]
    scene = folder / "scene.json"
    scene.write_text(json.dumps({"format": "voxfield-scene", "version": 1, "members": members}))
    done = voxfield.export_blender(scene, tmp_path / "b.py", frames=2, quiet=True)
    assert len(set(done.files)) == 2
    first, second = content(done.script)["members"]
    assert (first["density_grid"], first["colour"], first["density_factor"]) == ("heat", [1, 0, 0], 0.5)
    assert second["matrix"][0][0] == 0.25
    bounds = VdbFile(done.files[0]).read("heat").volume.active_bounds
    assert bounds is not None
    assert bounds[1].tolist() == [8, 8, 4]
    back = {"camera_path": [{"camera_to_world": np.eye(4).ravel().tolist(), "fov": 50.0}], "camera_type": "fisheye"}
    (tmp_path / "flight.json").write_text(json.dumps({**back, "render_width": 64, "render_height": 32}))
    flown = voxfield.export_blender(scene, tmp_path / "c.py", path=tmp_path / "flight.json", quiet=True)
    held = content(flown.script)
    assert held["render"]["size"] == [64, 32]
    assert held["path"]["fovs"] == pytest.approx([50.0])


def test_lenses_that_blender_has_not_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = voxfield.open(folder / "spheres")
    fisheye = dataclasses.replace(run.captures.cameras, model="fisheye")
    captures = dataclasses.replace(run.captures, cameras=fisheye)
    monkeypatch.setattr(run, "split", lambda _split: captures)
    done = voxfield.export_blender(run, tmp_path / "a.py", resolution=16, frames=1, quiet=True)
    assert done.cameras == 0
    assert "The cameras, whose lenses are fisheye." in done.left_out
    with pytest.raises(InputError, match="fisheye lenses"):
        voxfield.export_blender(run, tmp_path / "b.py", path="dataset", quiet=True)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    run = folder / "spheres"
    for options, message in (
        ({"form": "cloud"}, "form: unknown value"),
        ({"cameras": "all"}, "cameras: unknown value"),
        ({"path": "orbital"}, "path: unknown value"),
        ({"frames": 0}, "frames"),
    ):
        with pytest.raises(InputError, match=message):
            voxfield.export_blender(run, tmp_path / "a.py", quiet=True, **options)
    with pytest.raises(MissingFileError, match="no such program"):
        voxfield.export_blender(run, tmp_path / "a.py", blender=tmp_path / "absent", quiet=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"ends in \.py"):
        voxfield.export_blender(run, tmp_path / "a.blend", quiet=True)
    member = {"name": "a", "path": "spheres", "crop": {"minimum": [0, 0, 0], "maximum": [1, 1, 1]}}
    scene = folder / "cropped.json"
    scene.write_text(json.dumps({"format": "voxfield-scene", "version": 1, "members": [member]}))
    with pytest.raises(InputError, match="meshes have neither crop"):
        voxfield.export_blender(scene, tmp_path / "a.py", form="mesh", quiet=True)
