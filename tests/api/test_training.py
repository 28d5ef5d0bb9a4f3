"""Recipes on other data than photographs: a line fitted to numbers stands for them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import voxfield
from voxfield import recipes
from voxfield.api import kinds
from voxfield.api.books import Aftermath, TrainingTask, default_run_dir, train_model
from voxfield.api.trained_run import TrainedRun
from voxfield.cli.__main__ import main
from voxfield.errors import InputError
from voxfield.models.base import MeasuredStep, ParameterGroup, RowsMoved
from voxfield.storage.run_log import read_log
from voxfield.storage.skipped import Skipped
from voxfield.training.experiment import Experiment
from voxfield.training.schedules import LearningRate
from voxfield.training.trainer import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class NumbersOptions:
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    examples: int = 8


@dataclass(frozen=True, kw_only=True)
class NumbersExperiment(Experiment):
    data: NumbersOptions = field(default_factory=NumbersOptions)


class Line(torch.nn.Module):
    def __init__(self, config: LineConfig) -> None:
        super().__init__()
        self.config, self.slope = config, torch.nn.Parameter(torch.zeros(1))

    def batch_size(self) -> int:
        return self.config.examples

    def before_step(self, step: int, progress: float, generator: torch.Generator) -> RowsMoved | None:
        return None

    def training_step(self, batch: torch.Tensor, step: int, generator: torch.Generator) -> MeasuredStep:
        error = (self.slope * batch - 3.0 * batch).square().mean()
        measures = {"slope": float(self.slope.detach())}
        return MeasuredStep(loss=error, num_examples=len(batch), counted_in="numbers", measures=measures)

    def accumulate_gradients_in_place(self) -> None: ...

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(name="line", parameters=[self.slope])]


class Numbers:
    def __init__(self, path: Path) -> None:
        self.values = torch.tensor([float(line) for line in path.read_text().split()])

    def sample(self, count: int, step: int) -> torch.Tensor:
        return self.values[torch.randint(len(self.values), (count,), generator=torch.Generator().manual_seed(step))]


class LineRun(TrainedRun):
    def _build_model(self) -> torch.nn.Module:
        return Line(self.record.experiment.model)

    def evaluate(self, *, split: str = "test", data: Any = None, quiet: bool = False) -> dict[str, Any]:
        return {"slope": float(self._loaded[0].slope.detach())}  # type: ignore[arg-type]


def data_of(experiment: NumbersExperiment) -> str | None:
    return experiment.data.path


def train_on(task: TrainingTask) -> LineRun:
    outcome, left_out = train_model(
        task,
        task.experiment,
        Line(task.experiment.model),
        Numbers(task.data),
        data_hash="numbers",
        notes=task.notes,
        evaluation=lambda model: {"split": "val", "distance": abs(3.0 - float(model.slope.detach()))},
        aftermath=lambda: Aftermath(
            left_out=[Skipped(path="seven", reason="is no number")], remarks=["One was left out."]
        ),
    )
    return LineRun(task.run_dir, outcome=outcome, left_out=left_out)


def open_run(path: Path, *, outcome: str | None = None, left_out: Sequence[Skipped] = ()) -> LineRun:
    return LineRun(path, outcome=outcome, left_out=left_out)


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of numbers, and a recipe ``line`` that learns from such."""
    module = ModuleType("voxfield.recipes.line")
    module.__dict__["TRAINS_ON"] = "numbers"
    module.__dict__["experiment"] = lambda minutes: NumbersExperiment(
        recipe="line",
        model=LineConfig(),
        trainer=TrainerConfig(
            steps=60,
            log_every=20,
            learning_rate=LearningRate(initial=0.1, final_factor=1.0, warm_up_steps=0),
            tensorboard=False,
        ),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(recipes.RECIPES, "line", "line")
    monkeypatch.setitem(kinds._MODULES, "numbers", "numbers")
    monkeypatch.setitem(sys.modules, "voxfield.api.numbers", sys.modules[__name__])
    path = tmp_path / "numbers.txt"
    path.write_text("1.0 2.0 -1.5 0.5")
    return path


def test_a_recipe_on_other_data_is_trained_logged_and_opened(numbers: Path, tmp_path: Path) -> None:
    run = voxfield.train("line", numbers, output=tmp_path / "run", device="cpu", quiet=True)
    assert run.outcome == "finished"
    assert [item.path for item in run.left_out] == ["seven"]
    log = read_log(run.path / "log.jsonl")
    last = next(entry for entry in reversed(log) if entry["kind"] == "train")
    assert {"slope", "num_numbers", "numbers_per_second"} <= set(last)
    assert "psnr" not in last
    assert next(entry for entry in log if entry["kind"] == "eval")["distance"] < 1.0
    assert {entry["message"] for entry in log if entry["kind"] == "event"} == {"One was left out."}
    opened = voxfield.open(run.path)
    assert isinstance(opened, LineRun)
    assert opened.evaluate()["slope"] == pytest.approx(3.0, abs=0.5)
    information = opened.info()
    assert information["train_slope"] == last["slope"]
    assert information["numbers_per_second"] > 0
    assert "numbers" in (run.path / "report.html").read_text(encoding="utf-8")


def test_it_resumes_without_naming_the_data(numbers: Path, tmp_path: Path) -> None:
    voxfield.train("line", numbers, output=tmp_path / "halves", device="cpu", steps=30, quiet=True)
    resumed = voxfield.train("line", output=tmp_path / "halves", device="cpu", steps=60, resume=True, quiet=True)
    whole = voxfield.train("line", numbers, output=tmp_path / "whole", device="cpu", quiet=True)
    assert resumed.evaluate() == whole.evaluate()
    with pytest.raises(InputError, match="Name it with --output"):
        voxfield.train("line", resume=True, device="cpu", quiet=True)


def test_settings_may_name_the_data(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "line.yaml"
    config.write_text(f"data:\n  path: {numbers.as_posix()}\n")
    monkeypatch.chdir(tmp_path)
    run = voxfield.train("line", config=config, device="cpu", quiet=True)
    assert run.path == Path("runs/numbers.txt-line")
    with pytest.raises(InputError, match="missing DATA: what shall line learn from"):
        voxfield.train("line", device="cpu", quiet=True)


def test_options_of_photographs_are_refused(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="image_cache: is for photographs, and line trains on numbers"):
        voxfield.train("line", numbers, output=tmp_path / "run", image_cache="1GB", device="cpu", quiet=True)
    run = str(voxfield.train("line", numbers, output=tmp_path / "run", device="cpu", quiet=True).path)
    assert main(["eval", run, "--align-poses"]) == 2
    assert "--align-poses: for runs on photographs" in capsys.readouterr().err
    assert main(["export", "nerfstudio", run, str(tmp_path / "out")]) == 2
    assert "only runs on photographs export cameras" in capsys.readouterr().err
    assert main(["eval", run]) == 0
    assert "slope" in capsys.readouterr().out


def test_runs_are_named_as_their_data_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "v2").mkdir(parents=True)
    (tmp_path / "lego").symlink_to(tmp_path / "disk" / "v2", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "disk" / "v2")
    named = {
        tmp_path / "lego": "lego",
        f"{tmp_path}/lego/": "lego",
        tmp_path / "lego" / "transforms.json": "lego",
        ".": "v2",
        "..": "disk",
        "../v2": "v2",
        "/": "capture",
    }
    assert {data: default_run_dir("nerfacto", data).as_posix() for data in named} == {
        data: f"runs/{name}-nerfacto" for data, name in named.items()
    }
