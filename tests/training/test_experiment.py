import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import voxfield
from voxfield.data.capture import CaptureOptions
from voxfield.errors import FormatError, InputError, MissingFileError
from voxfield.training import experiment as module
from voxfield.training.evaluate import EvaluateConfig
from voxfield.training.experiment import (
    Experiment,
    PhotographExperiment,
    apply_overrides,
    from_dict,
    read_experiment,
    resolve,
    to_dict,
    write_experiment,
)
from voxfield.training.trainer import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    features: int = 2
    widths: tuple[int, ...] = (64, 64)


def recipe_named(name: str) -> Experiment:
    if name not in {"tiny", "other"}:
        raise InputError(f"unknown recipe {name!r}.")
    return PhotographExperiment(
        recipe=name,
        model=TinyModel(),
        capture=CaptureOptions(),
        trainer=TrainerConfig(),
        evaluation=EvaluateConfig(),
    )


@pytest.fixture
def tiny() -> Experiment:
    return recipe_named("tiny")


@pytest.fixture
def run(tmp_path: Path, tiny: Experiment) -> Path:
    write_experiment(tmp_path / "run", tiny, seed=7, data_path="data/lego", data_hash="abc", extra={"device": "cpu"})
    return tmp_path / "run"


def rewrite(run: Path, **changes: object) -> None:
    path = run / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_dictionary_round_trip_through_json(tiny: Experiment) -> None:
    changed = replace(tiny, model=TinyModel(features=8, widths=(1,)))
    assert from_dict(tiny, json.loads(json.dumps(to_dict(changed), allow_nan=False))) == changed


def test_settings_that_a_file_leaves_out_keep_the_recipes_value(tiny: Experiment) -> None:
    assert from_dict(tiny, {"recipe": "tiny", "model": {"features": 4}}).model == TinyModel(features=4)


def test_dictionary_of_another_recipe_is_refused(tiny: Experiment) -> None:
    with pytest.raises(InputError, match="'other' do not fit recipe 'tiny'"):
        from_dict(tiny, to_dict(recipe_named("other")))


def test_overrides(tiny: Experiment) -> None:
    assert apply_overrides(tiny, ["model.features=4"]).model.features == 4
    with pytest.raises(InputError, match=r"Did you mean model\.features"):
        apply_overrides(tiny, ["model.feature=4"])
    with pytest.raises(InputError, match=r"first argument of train"):
        apply_overrides(tiny, ["recipe=other"])


def test_flag_beats_set_beats_file_beats_recipe(tiny: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: {features: 3, widths: [3]}\ntrainer: {}\n")
    assert resolve(tiny).model.features == 2
    assert resolve(tiny, config=file).model == TinyModel(features=3, widths=(3,))
    both = resolve(tiny, config=file, overrides=["model.features=4"])
    assert both.model == TinyModel(features=4, widths=(3,))
    flags = {"model.features": 5, "model.widths": None}  # None: the flag was not given
    assert resolve(tiny, config=file, overrides=["model.features=4"], explicit=flags).model.features == 5
    assert resolve(tiny, config=file, overrides=["model.features=4"], explicit=flags).model.widths == (3,)


def test_messages_name_the_source(tiny: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: {feature: 3}\n")
    with pytest.raises(InputError, match=r"settings\.yaml: unknown setting 'model\.feature'"):
        resolve(tiny, config=file)


def test_record_round_trip(run: Path, tiny: Experiment) -> None:
    record = read_experiment(run, recipe_named, recipes=("other", "tiny"))
    assert record.experiment == tiny
    assert (record.seed, record.data_path, record.data_hash) == (7, "data/lego", "abc")
    assert record.extra == {"device": "cpu"}
    assert record.versions["voxfield"] == voxfield.__version__
    assert {"python", "torch", "numpy"} <= set(record.versions)


def test_record_is_written_whole_or_not_at_all(run: Path, tiny: Experiment) -> None:
    before = (run / "experiment.json").read_text()
    with pytest.raises(InputError):
        write_experiment(run, tiny, seed=1, data_path="x", extra={"bad": object()})
    assert (run / "experiment.json").read_text() == before
    assert [path.name for path in run.iterdir()] == ["experiment.json"]


def test_a_record_of_an_older_release_without_a_setting_reads(run: Path, tiny: Experiment) -> None:
    values = json.loads((run / "experiment.json").read_text())["values"]
    del values["model"]["widths"]
    rewrite(run, values=values)
    assert read_experiment(run, recipe_named).experiment == tiny


def test_missing_runs(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no such run directory"):
        read_experiment(tmp_path / "absent", recipe_named)
    with pytest.raises(MissingFileError, match="is not a run directory"):
        read_experiment(tmp_path, recipe_named)


def test_run_of_another_recipe(run: Path) -> None:
    with pytest.raises(InputError, match="is a run of recipe 'tiny', not 'other'"):
        read_experiment(run, recipe_named, recipes=("other",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "written by a newer Voxfield"),
        ({"schema_version": None}, "expected a schema_version"),
        ({"schema_version": "1"}, "expected a schema_version"),
        ({"values": 3}, "expected 'values' to be an object"),
        ({"seed": "x"}, "expected 'seed' to be a whole number"),
        ({"seed": 10**30}, "seed: expected a whole number from 0 to 9223372036854775807"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"recipe": None}, "expected 'recipe' to be text"),
        ({"values": {"model": {"unknown": 3}}}, "unknown setting 'model.unknown'"),
        ({"values": {"model": {"features": "many"}}}, "model.features takes a whole number"),
    ],
)
def test_damaged_records(run: Path, changes: dict[str, object], message: str) -> None:
    rewrite(run, **changes)
    with pytest.raises(FormatError) as caught:
        read_experiment(run, recipe_named)
    assert message in str(caught.value)
    assert "experiment.json" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "\x00"])
def test_records_that_are_not_json_objects(run: Path, content: str) -> None:
    (run / "experiment.json").write_text(content)
    with pytest.raises(FormatError, match=r"experiment\.json.*(Restore it|train again)"):
        read_experiment(run, recipe_named)


def test_git_state_is_none_for_an_installed_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "site-packages" / "voxfield" / "__init__.py"
    copy.parent.mkdir(parents=True)
    copy.touch()
    monkeypatch.setattr(voxfield, "__file__", str(copy))
    assert module.git_state() is None


def test_git_state_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert module.git_state() is None
