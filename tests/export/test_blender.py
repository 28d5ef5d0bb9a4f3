"""Scripts for Blender, and Blender as a program of its own. What Blender makes of them: test_blender_render."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from voxfield.data.synthetic import cameras_around
from voxfield.errors import InputError, MissingFileError, UnavailableError
from voxfield.export.blender import BlenderMember, BlenderPath, make_blend, write_blender_script
from voxfield.geometry.pose import SceneTransform

NAMES = ['plain"""', "with 'quotes' and \\n", "@NAME@ @SCENE@", "日本"]


def members() -> list[BlenderMember]:
    place = SceneTransform.from_parts(torch.eye(3), 2.0, torch.tensor([1.0, 2.0, 3.0]))
    return [BlenderMember(name=name, file="a/b.vdb", kind="volume", transform=place) for name in NAMES]


def content(script: Path) -> dict[str, Any]:
    """What the script holds of its own."""
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SCENE":
            return dict(ast.literal_eval(node.value))
    raise AssertionError("no SCENE")


def test_what_a_script_holds_is_data_whatever_things_are_called(tmp_path: Path) -> None:
    cameras = cameras_around(2, resolution=32)
    film = BlenderPath(name="film", cameras=cameras_around(3, resolution=20), fps=12.5)
    script = write_blender_script(
        tmp_path / "a scene.py",
        members(),
        name='x"""',
        cameras=cameras,
        camera_names=NAMES[:2],
        film=film,
        background=(1.0, 0.5, 0.0),
        size=4.0,
    )
    held = content(script)
    assert [member["name"] for member in held["members"]] == NAMES
    assert held["members"][0]["matrix"] == [[2, 0, 0, 1], [0, 2, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1]]
    assert (held["name"], held["render"]["size"]) == ('x"""', [20, 20])
    assert held["path"]["fps"] == 12.5
    assert len(held["path"]["matrices"]) == len(held["path"]["fovs"]) == 3
    assert held["path"]["fovs"][0] == pytest.approx(40.107, abs=1e-3)
    assert [camera["name"] for camera in held["cameras"]] == NAMES[:2]
    torch.testing.assert_close(torch.tensor(held["cameras"][1]["matrix"])[:3], cameras.camera_to_world[1])
    # The world's colour is linear light.
    assert held["render"]["background"] == pytest.approx([1.0, 0.2140, 0.0], abs=1e-3)
    # Python compiles it, and nothing of this package is in it.
    text = script.read_text(encoding="utf-8")
    compile(text, "script", "exec")
    assert "import voxfield" not in text


def test_what_blender_has_no_camera_for_is_refused(tmp_path: Path) -> None:
    import dataclasses

    with pytest.raises(InputError, match=r"ends in \.py"):
        write_blender_script(tmp_path / "a.txt", members(), name="x")
    fisheye = dataclasses.replace(cameras_around(1), model="fisheye")
    with pytest.raises(InputError, match="perspective ones, these fisheye"):
        write_blender_script(tmp_path / "a.py", members(), name="x", cameras=fisheye, camera_names=["a"])
    assert not list(tmp_path.iterdir())


def program(folder: Path, text: str) -> Path:
    """A program that says and does what ``text`` does, in Python."""
    file = folder / "blender"
    file.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
    file.chmod(0o755)
    return file


SAYS_VERSION = "if sys.argv[1] == '--version': print('Blender 4.2.1 LTS'); sys.exit()\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows runs no scripts by their first line")
def test_blender_is_run_as_a_program(tmp_path: Path) -> None:
    script, blend = tmp_path / "scene.py", tmp_path / "scene.blend"
    script.write_text("")
    saves = f"{SAYS_VERSION}open(sys.argv[sys.argv.index('--save') + 1], 'w').write(' '.join(sys.argv[1:]))"
    blend.write_text("of before")
    with pytest.raises(UnavailableError, match="made no scene"):
        make_blend(program(tmp_path, SAYS_VERSION), script, blend)
    assert blend.read_text() == "of before"
    assert make_blend(program(tmp_path, saves), script, blend) == blend
    said = blend.read_text()
    assert said.startswith("--background --factory-startup --python-exit-code 1 --python")
    assert f"{script} -- --save {tmp_path}" in said
    # A Python with bpy: it knows no Blender options.
    python = (
        "if sys.argv[1] == '--version': print('Python 3.11'); sys.exit()\n"
        "if sys.argv[1] == '-c': print('noise\\nBlender 4.5.0'); sys.exit()\n"
        "open(sys.argv[-1], 'w').write(sys.argv[1])"
    )
    make_blend(program(tmp_path, python), script, blend)
    assert blend.read_text() == str(script)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["blender", "scene.blend", "scene.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows runs no scripts by their first line")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('Blender 4.1.9')", "is Blender 4.1, and scripts need 4.2"),
        ("print('GIMP 3'); sys.exit(sys.argv[1] != '--version')", "neither Blender nor a Python that has bpy"),
        (
            f"{SAYS_VERSION}print('Error: no such grid'); sys.exit(1)",
            "failed with code 1. It said: Error: no such grid",
        ),
        (SAYS_VERSION, "made no scene.blend. It said: nothing"),
    ],
)
def test_programs_that_do_not_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        make_blend(program(tmp_path, text), tmp_path / "scene.py", tmp_path / "scene.blend")


def test_programs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such program"):
        make_blend(tmp_path / "absent", tmp_path / "scene.py", tmp_path / "scene.blend")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UnavailableError, match="cannot be run"):
        make_blend(tmp_path / "text", tmp_path / "scene.py", tmp_path / "scene.blend")
