"""The examples of voxel datasets run, each as a person would start it."""

import runpy
import sys
from pathlib import Path

import pytest


@pytest.fixture
def start(repository: Path, shape_dataset, shape_rays, tmp_path, monkeypatch, capsys):
    def run(name: str, *arguments: str) -> str:
        folders = ("--dataset-dir", str(shape_dataset), "--ray-dataset-dir", str(shape_rays["packed"]))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(repository / "examples"))
        monkeypatch.setattr(sys, "argv", [name, *folders, *arguments])
        runpy.run_path(str(repository / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_quick_timing_test_has_seven_sections(start):
    said = start("quick_timing_test.py")
    assert [f"\n{number}. " in said for number in range(1, 8)] == [True] * 7
    assert "Dataset size: " in said


def test_usage(start):
    said = start("dataset_usage_example.py")
    assert "hit_distances" in said
    assert "edges" in said


def test_the_benchmark_measures_what_is_asked_for(start):
    pytest.importorskip("psutil")
    said = start("benchmark_dataset.py", "--benchmarks", "single", "cache", "transform", "memory", "--samples", "4")
    assert all(f"\n{name}\n" in said for name in ("single", "cache", "transform", "memory"))
    assert "\nworkers" not in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_benchmark_has_eight_sections(start):
    pytest.importorskip("psutil")
    said = start("benchmark_dataset.py", "--samples", "2", "--batches", "1")
    sections = [line for line in said.splitlines() if line.isidentifier()]
    assert sections == ["single", "loader", "batch", "rays", "cache", "transform", "memory", "workers"]
    measured = [line for line in said.splitlines() if line.startswith("  ")]
    assert len(measured) == 1 + 1 + 4 + 2 + 4 + 7 + 3 + 4
    assert not any("nan" in line or "inf" in line for line in measured)


def test_training(start, tmp_path):
    settings = (
        "model.features=8",
        "model.width=16",
        "model.intervals=8",
        "model.layers=0",
        "trainer.tensorboard=false",
    )
    options = [part for setting in settings for part in ("--set", setting)]
    said = start("train_neural_rendering.py", "--epochs", "1", "--level", "2", *options)
    assert "seen    F1" in said
    assert list((tmp_path / "runs/raynet/renders/shapes").glob("*.png"))
