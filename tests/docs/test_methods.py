"""What a method's page says of its settings is what the recipe does."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from voxfield.recipes import load_recipe

ROW = re.compile(r"^\| `([\w.]+)` \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
BUDGETS = (1.0, 5.0, 20.0, None)


@pytest.mark.parametrize("recipe", ["grid-ngp", "nerfacto", "pynerf", "plenoxels", "raynet", "diffusion"])
def test_the_settings_of_a_page_have_their_defaults(recipe: str, repository: Path) -> None:
    page = (repository / "docs" / "methods" / f"{recipe}.md").read_text(encoding="utf-8")
    rows = ROW.findall(page)
    assert rows
    experiments = [load_recipe(recipe, minutes) for minutes in BUDGETS]
    wrong = []
    for path, shown in rows:
        values = {str(functools.reduce(getattr, path.split("."), experiment)) for experiment in experiments}
        actual = values.pop() if len(values) == 1 else "by time"
        if actual != shown:
            wrong.append(f"{path}: the page says {shown}, the recipe {actual}")
    assert not wrong, f"Correct docs/methods/{recipe}.md: " + "; ".join(wrong)


def test_every_recipe_is_on_a_page(repository: Path) -> None:
    from voxfield.recipes import RECIPES

    pages = "".join(page.read_text(encoding="utf-8") for page in (repository / "docs" / "methods").glob("*.md"))
    assert [name for name in RECIPES if f"voxfield train {name} " not in pages] == []


def test_the_presets_of_nerfacto_are_what_its_page_says(repository: Path) -> None:
    page = (repository / "docs" / "methods" / "nerfacto.md").read_text(encoding="utf-8")
    names = ("nerfacto", "nerfacto-big", "nerfacto-huge")
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert len(rows) >= 12
    for path, *shown in rows:
        values = [functools.reduce(getattr, path.split("."), load_recipe(name)) for name in names]
        assert [str(value) for value in values] == shown, path


def test_equations_are_numbered_in_order(repository: Path) -> None:
    for page in sorted((repository / "docs" / "methods").glob("*.md")):
        numbers = [int(number) for number in re.findall(r" \((\d+)\)$", page.read_text(encoding="utf-8"), re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1)), page.name


def test_the_voxel_grid_of_the_page_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repository / "docs" / "methods" / "plenoxels.md").read_text(encoding="utf-8")
    first, *_ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "voxfield.VoxelGrid(" in first
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(first, "docs/methods/plenoxels.md", "exec"), names)
    assert names["kept"].num_voxels == names["blocks"] == 48**3
    assert names["values"].sh.shape == (1, 3, 9)
