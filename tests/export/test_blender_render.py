"""Blender shows a scene of two fields where Voxfield does, with an object of its own among them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import voxfield
from voxfield.data.synthetic import SyntheticScene
from voxfield.storage.vdb import VdbGrid, write_vdb
from voxfield.storage.voxel_vdb import write_voxel_vdb
from voxfield.voxels.sparse import SparseVolume
from voxfield.voxels.voxel_grid import VoxelGrid

SIDE = 48
WIDTH = 48


@pytest.fixture(scope="module")
def scene(grid_of: Callable[..., VoxelGrid], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured solids, and a green fog that reaches into them."""
    folder = tmp_path_factory.mktemp("scene")
    write_voxel_vdb(folder / "solids.vdb", grid_of(SyntheticScene.example(), SIDE))
    fog = SparseVolume.from_dense(np.full((10, 10, 10), 3.0, np.float32))
    write_vdb(folder / "fog.vdb", [VdbGrid(name="density", volume=fog, index_to_world=np.diag([0.1, 0.1, 0.1, 1]))])
    turn = {"translation": [0.9, -0.4, -0.4], "scale": 0.8, "rotation": [0.924, 0, 0, 0.383]}
    members = [
        {"name": "solids", "path": "solids.vdb"},
        {"name": "fog", "path": "fog.vdb", "colour": [0.2, 0.9, 0.4], "transform": turn},
    ]
    file = folder / "scene.json"
    file.write_text(json.dumps({"format": "voxfield-scene", "version": 1, "members": members}))
    return file


def run(python: str, *arguments: object) -> None:
    done = subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]


def picture(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), dtype=float) / 255


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_blender_and_voxfield_see_the_same_and_cameras_come_back(blender: str, scene: Path, tmp_path: Path) -> None:
    done = voxfield.export_blender(scene, tmp_path / "fields.py", frames=4, width=WIDTH, blender=blender, quiet=True)
    assert done.blend is not None
    own = voxfield.open(scene).render_path(
        "orbit", frames=4, width=WIDTH, output=tmp_path / "own", format="images", quiet=True
    )
    run(blender, done.script, "--", "--render", tmp_path / "theirs.png", "--frame", 2, "--samples", 8)
    ours, theirs = picture(own[1]), picture(tmp_path / "theirs.png")
    assert ours.min() < 0.3
    # Cycles filters over a pixel and a half, and adds light where sRGB values are mixed here.
    assert np.abs(ours - theirs).mean() < 0.03
    # From the .blend, which names its files as they lie beside it.
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for thing in (done.blend, tmp_path / "fields_files"):
        thing.rename(moved / thing.name)
    back = tmp_path / "back.json"
    run(blender, done.script, "--", "--open", moved / done.blend.name, "--camera-path", back)
    again = voxfield.open(scene).render_path(back, output=tmp_path / "again", format="images", quiet=True)
    assert len(again) == 4
    assert np.abs(picture(again[3]) - picture(own[3])).max() < 0.02


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_example_puts_an_object_among_fields(blender: str, scene: Path, tmp_path: Path, repository: Path) -> None:
    done = voxfield.export_blender(scene, tmp_path / "fields.py", frames=4, width=WIDTH, quiet=True)
    example = repository / "examples" / "blender_composite.py"
    sizes = ["--width", WIDTH, "--samples", 8]
    run(blender, example, "--", done.script, tmp_path / "with.png", *sizes)
    run(blender, example, "--", done.script, tmp_path / "without.png", *sizes, "--share", 1e-6)
    changed = np.abs(picture(tmp_path / "with.png") - picture(tmp_path / "without.png")).max(-1) > 0.1
    # The torus is there, and not before everything: parts of it lie behind or within the fields.
    assert 0.02 < changed.mean() < 0.5
