"""The pages on captures are true: their commands are run on captures of the layouts they speak of."""

import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from voxfield.cli.__main__ import main
from voxfield.data.capture import FORMATS, CaptureOptions
from voxfield.data.capture_reading import read_capture
from voxfield.export.nerfstudio import convert_capture
from voxfield.jobs.fetch_eyefultower import CAPTURES, RESOLUTIONS
from voxfield.recipes import RECIPES

FOLDER = "docs/captures"
NAMES = [name for name in FORMATS if name != "auto"]


@pytest.fixture
def commands(repository: Path) -> dict[str, list[list[str]]]:
    """The commands of every page, and of the index's table and text, by the format whose capture they name."""
    index = (repository / FOLDER / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[?`(\w+)`.*\| `(voxfield [^`]+)` \|$", index, re.MULTILINE)
    found = {name: [shlex.split(command)] for name, command in rows}
    for name in NAMES:
        page = (repository / FOLDER / f"{name}.md").read_text(encoding="utf-8")
        found[name] += [shlex.split(line[2:]) for line in page.splitlines() if line.startswith("$ ")]
    found["polycam"] += [shlex.split(line[2:]) for line in index.splitlines() if line.startswith("$ ")]
    return found


def test_the_table_has_every_format_in_the_order_they_are_tried(commands: dict[str, list[list[str]]]) -> None:
    assert list(commands) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_commands_find_their_capture(
    commands: dict[str, list[list[str]]],
    captures: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands[name]:
        if command[1:3] == ["capture", "download"]:
            # What it does is tested with servers on this machine; here, that the names it is given exist.
            named = command[command.index("--capture-name") + 1 : command.index("--resolution-name")]
            assert set(named) <= set(CAPTURES)
            assert command[command.index("--resolution-name") + 1] in RESOLUTIONS
            continue
        data = Path(command[3])
        # The first two parts are the capture's folder; what follows names a file or folder in it.
        folder = Path(*data.parts[:2])
        folder.mkdir(parents=True, exist_ok=True)
        captures.WRITERS[name](folder, captures.some_cameras())
        if data.name == "images-jpeg-1k":
            shutil.copytree(folder / "images-jpeg-2k", data, dirs_exist_ok=True)
        if data.name == "transforms_300.json":
            options = CaptureOptions(format="eyefultower")
            convert_capture(data.parent, data.parent, subsets=("300",), options=options)
        if command[1] == "capture":
            assert main(command[1:]) == 0
            data = Path(command[4])
        else:
            assert command[1] == "train"
            assert command[2] in RECIPES
        assert len(read_capture(data)) >= 6


def test_every_page_is_linked(repository: Path) -> None:
    index = (repository / FOLDER / "index.md").read_text(encoding="utf-8")
    menu = (repository / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (repository / FOLDER).glob("*.md"):
        assert f"captures/{page.name}" in menu
        assert page.name == "index.md" or f"({page.name})" in index
