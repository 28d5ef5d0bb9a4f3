"""Verbs that need a field say so of runs that learnt from other data, whatever they learnt from."""

from pathlib import Path

import pytest

import voxfield
from voxfield.cli.__main__ import main
from voxfield.errors import InputError
from voxfield.recipes import PHOTOGRAPHS, RECIPES, data_kind, load_recipe
from voxfield.training.experiment import write_experiment

WITHOUT_A_FIELD = [name for name in RECIPES if data_kind(name) != PHOTOGRAPHS]


@pytest.fixture(params=WITHOUT_A_FIELD)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory of a run that has begun."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_experiment(folder, load_recipe(request.param), seed=0, data_path="procedural")
    return folder


def test_there_are_such_kinds() -> None:
    assert {data_kind(name) for name in WITHOUT_A_FIELD} == {"shape rays", "volumes"}


def test_bake_and_view_say_which_runs_they_take(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = voxfield.open(run).record.experiment.recipe  # type: ignore[union-attr]
    sentence = f"{run}: is a run of {recipe}, and only runs on photographs have a field"
    assert main(["bake", str(run), "--output", str(tmp_path / "baked"), "--quiet"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "baked").exists()
    with pytest.raises(InputError, match="only runs on photographs"):
        voxfield.bake(voxfield.open(run), tmp_path / "baked", quiet=True)  # type: ignore[arg-type]
    pytest.importorskip("viser", reason="viewing needs viser")
    assert main(["view", str(run), "--port", "0", "--quiet"]) == 2
    assert sentence in capsys.readouterr().err
