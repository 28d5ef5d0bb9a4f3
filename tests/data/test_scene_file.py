"""Scene files are read strictly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from voxfield.data.scene_file import read_scene
from voxfield.errors import FormatError, MissingFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "lego").mkdir(parents=True)
    (tmp_path / "smoke.vdb").write_bytes(b"")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "mesh.ply").write_text("ply")
    return tmp_path


LEGO = {"name": "lego", "path": "runs/lego"}
SMOKE = {"name": "smoke", "path": "smoke.vdb"}


def write(folder: Path, *members: Any, **values: Any) -> Path:
    content = {"format": "voxfield-scene", "version": 1, "members": list(members), **values}
    file = folder / "scene.json"
    file.write_text(json.dumps(content))
    return file


def test_a_whole_scene(folder: Path) -> None:
    half = 0.5**0.5
    smoke = {
        **SMOKE,
        "transform": {"translation": [1, 2, 3], "rotation": [half, 0, 0, half], "scale": 2},
        "crop": {"minimum": [-1, -1, -1], "maximum": [1, 1, 0.5]},
        "density_factor": 0.5,
        "colour_grid": "Cd",
        "colour_space": "linear",
    }
    scene = read_scene(write(folder, LEGO, smoke, background="black", cameras="lego"))
    assert (scene.background, scene.cameras) == ("black", "lego")
    lego, fog = scene.members
    assert (lego.path, lego.is_volume, lego.crop, lego.look) == (folder / "runs" / "lego", False, None, None)
    moved = fog.transform.apply_points(torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 4.0, 3.0]]))
    assert fog.crop is not None
    assert fog.crop.maximum == (1, 1, 0.5)
    assert fog.look is not None
    assert (fog.look.colour_grid, fog.look.density_grid, fog.look.colour_space) == ("Cd", None, "linear")
    assert fog.density_factor == 0.5
    rows = [[0, -2, 0, 1], [2, 0, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1]]
    again = read_scene(write(folder, {**SMOKE, "transform": {"matrix": rows}})).members[0]
    torch.testing.assert_close(again.transform.matrix, fog.transform.matrix, atol=1e-12, rtol=0)


def test_the_examples_of_the_documents(folder: Path, repository: Path) -> None:
    page = (repository / "docs" / "scenes.md").read_text(encoding="utf-8")
    (folder / "runs" / "workbench").mkdir()
    for example, names, scale in zip(
        page.split("```json\n")[1:], (["lego", "smoke"], ["workbench", "another"]), (0.5, 0.7), strict=True
    ):
        (folder / "scene.json").write_text(example.split("```")[0])
        scene = read_scene(folder / "scene.json")
        assert [member.name for member in scene.members] == names
        assert scene.members[1].transform.scale == pytest.approx(scale)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"pth": "runs/lego"}, "unknown key 'pth'. Did you mean path"),
    ({"path": 3}, "path: expected some text"),
    ({"name": " "}, "name: expected some text"),
    ({"path": "../lego"}, "leads out of the scene's folder"),
    ({"path": "/tmp"}, "leads out of the scene's folder"),
    ({"path": "runs/../../lego"}, "leads out"),
    ({"path": "other.json"}, "is a scene itself"),
    ({"path": "mesh.ply"}, "expected a run's directory or a .vdb file"),
    ({"path": "a\0b"}, "expected some text"),
    ({"path": "x" * 5000}, "is no path"),
    ({"colour": [1, 1, 1]}, "only .vdb files"),
    ({"density_factor": -1}, "density_factor: expected a number from 0"),
    ({"density_factor": True}, "density_factor: expected a number"),
    ({"transform": [1]}, "transform: expected an object"),
    ({"transform": {"scale": 0}}, "scale: expected a number from 1e-09"),
    ({"transform": {"scale": [1, 2, 1]}}, "scale: expected a number"),
    ({"transform": {"rotation": [2, 0, 0, 0]}}, "unit quaternion w, x, y, z, got one 2 long"),
    ({"transform": {"translation": [1, 2]}}, "translation: expected a list of 3"),
    ({"transform": {"matrix": [[1, 0, 0, 0]] * 3}}, "four rows"),
    ({"transform": {"matrix": [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}}, "expected a similarity"),
    ({"transform": {"matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]}}, "expected a similarity"),
    ({"transform": {"matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]}}, "expected a similarity"),
    ({"transform": {"matrix": [[1, 0, 0, 0]] * 4, "scale": 1}}, "a matrix says all"),
    ({"crop": {"minimum": [0, 0, 0]}}, "'minimum' and 'maximum'"),
    ({"crop": {"minimum": [0, 0, 0], "maximum": [1, 0, 1]}}, "minimum below maximum"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_what_is_wrong_with_a_member_is_said(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match="members") as caught:
        read_scene(write(folder, {**LEGO, **change}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": [1, 1]}, "colour: expected a list of 3"),
        ({"colour": [1, -1, 0]}, "at least 0"),
        ({"colour": [1, 1, 1], "colour_grid": "Cd"}, "one of them"),
        ({"colour_grid": 1}, "colour_grid: expected some text"),
        ({"colour_space": "aces"}, "srgb or linear"),
    ],
)
def test_what_is_wrong_with_a_volume_is_said(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_scene(write(folder, {**SMOKE, **change}))


@pytest.mark.parametrize(
    ("members", "values", "message"),
    [
        ([LEGO], {"format": "nerf"}, "expected a scene"),
        ([LEGO], {"version": 2}, "newer than this"),
        ([LEGO], {"version": "1"}, "version: expected 1"),
        ([LEGO], {"backdrop": "white"}, "unknown key 'backdrop'"),
        ([LEGO], {"background": 1}, "background: expected some text"),
        ([LEGO, LEGO], {}, "two are called 'lego'"),
        ([], {}, "1 to 256"),
        ([LEGO] * 257, {}, "1 to 256"),
        ([3], {}, "expected an object"),
        ([{"name": "lego"}], {}, "'path' is missing"),
        ([LEGO], {"cameras": "leg"}, "Did you mean lego"),
        ([SMOKE], {"cameras": "smoke"}, "There is none"),
        ([LEGO], {"members": "lego"}, "expected a list"),
    ],
)
def test_what_is_wrong_with_a_scene_is_said(folder: Path, members: Any, values: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_scene(write(folder, *members, **values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected a scene"),
        ('{"format": "voxfield-scene", "format": "x"}', "'format' is there twice"),
        ('{"version": NaN}', "got NaN"),
        ('{"version": -Infinity}', "finite"),
        ('{"format": "voxfield-scene", "version": 1e999}', "version"),
    ],
)
def test_what_is_no_scene_is_said(folder: Path, text: str, message: str) -> None:
    (folder / "scene.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_scene(folder / "scene.json")


def test_files_that_are_not_there(folder: Path) -> None:
    with pytest.raises(MissingFileError, match="no such scene"):
        read_scene(folder / "absent.json")
    with pytest.raises(FormatError, match="cannot be read"):
        read_scene(folder)
    with pytest.raises(MissingFileError, match=r"scene\.json: members\[1\] \(ship\): path: .*runs/ship is not there"):
        read_scene(write(folder, LEGO, {"name": "ship", "path": "runs/ship"}))


def test_links_that_lead_out_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "elsewhere").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    (folder / "round").symlink_to(folder / "round")
    with pytest.raises(FormatError, match="leads out"):
        read_scene(write(folder, {**LEGO, "path": "elsewhere"}))
    with pytest.raises((FormatError, MissingFileError)):
        read_scene(write(folder, {**LEGO, "path": "round"}))
