"""Benchmarks that lay out what was measured elsewhere, and their verbs."""

import json
from pathlib import Path

import pytest


def test_rows_are_written_as_a_table_named_after_the_runs_data(
    benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = benchmark("run")
    row = benchmark("measuring").measured_row("what", 0.5, "s", bar=1.0)
    monkeypatch.setattr(run.viewing, "measure", lambda options: [{**row, "what": f"{options.seconds:g}"}])
    (tmp_path / "experiment.json").write_text(json.dumps({"data_path": "/somewhere/lego"}), encoding="utf-8")
    output = tmp_path / "viewer.json"
    words = ["viewer", "--run", str(tmp_path), "--seconds", "3", "--output", str(output)]
    assert run.main(words) == 0
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["kind"], written["name"], written["rows"][0]["bar"]) == ("viewer", "lego", 1.0)
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "## The viewer: lego" in table
    assert "| 3 | 500 ms | – | 1 s |" in table


def test_a_run_that_is_not_there_is_said(benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark("run").main(["raynet", "--run", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_a_network_of_rays_is_laid_out_with_what_is_aimed_at(benchmark) -> None:
    networks = benchmark("ray_networks")
    measures = {**dict.fromkeys(networks.FIGURES, 0.5), "num_blocks": 1200, "num_rays": 9}
    rows = networks.rows({"seen": {**measures, "depth_mae": None}, "unseen": measures})
    assert len(rows) == 2 * len(networks.FIGURES)
    assert rows[0]["what"] == "held-out rays of 1,200 blocks trained on: hit F1"
    assert [row["bar"] for row in rows if row["bar"] is not None] == [0.95, 0.02]
    assert [row["value"] for row in rows].count(None) == 1
    assert networks.rows({"seen": measures, "unseen": None}) == networks.rows({"seen": measures, "unseen": None})[:6]


def test_samples_stand_beside_baselines_and_real_volumes(benchmark, tmp_path: Path) -> None:
    import argparse

    volumes = benchmark("generated_volumes")
    measures = {name: float(index) for index, name in enumerate(volumes.MEASURES)}
    found = {
        "generated": measures,
        "baselines": {"mean_shape": measures, "noise": {**measures, "coverage": 0.25}},
        "training": measures,
        "reference": {"occupancy": 0.125},
        "nearest_training": {"generated": {"mean": 0.2, "copies": 1}, "reference": {"mean": 0.1, "copies": 4}},
        "protocol": {"generated": 100, "reference": 200},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    parser = argparse.ArgumentParser()
    volumes.add_options(parser)
    rows = volumes.measure(parser.parse_args(["--run", "x", "--samples", str(tmp_path)]))
    assert [row["what"] for row in rows] == [
        "generated, 100",
        "as many that were trained on",
        "mean shape",
        "noise",
        "the real ones, 200",
    ]
    assert (rows[0]["nearest"], rows[0]["copies"], rows[4]["nearest"], rows[4]["copies"]) == (0.2, 1, 0.1, 4)
    assert (rows[3]["coverage"], rows[4]["coverage"], rows[4]["occupancy"]) == (0.25, None, 0.125)
    with pytest.raises(SystemExit, match="--reference"):
        volumes.measure(parser.parse_args(["--run", "x", "--samples", str(tmp_path / "none")]))


def test_steps_are_compared_at_equally_many_samples(benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    steps = benchmark("equal_samples")
    trained: list[tuple[str, list[str]]] = []

    def train(data: Path, *, recipe: str, overrides: list[str], **_: object) -> dict:
        trained.append((recipe, overrides))
        slower = 1.5 if recipe == "b" else 1.0
        # Other rays, as each has more samples: what counts is samples a second.
        return {"rays_per_second": 1000.0, "samples_per_ray": 10.0 / slower}

    monkeypatch.setattr(steps.trainings, "train_and_measure", train)
    parser = argparse.ArgumentParser()
    steps.add_options(parser)
    rows = steps.measure(parser.parse_args(["--data", "x", "--recipes", "a,b", "--rounds", "2", "--samples", "5000"]))
    assert [row["value"] for row in rows] == [pytest.approx(0.5), pytest.approx(0.75), pytest.approx(1.5)]
    assert rows[2]["bar"] == 1.6
    assert [recipe for recipe, _ in trained] == ["a", "b", "a", "b"]
    assert {"model.samples_per_batch=5000", "model.final_samples_per_batch=5000"} < set(trained[0][1])
    with pytest.raises(SystemExit, match="--steps"):
        steps.seconds_of_sample({"rays_per_second": None, "samples_per_ray": None})
    with pytest.raises(SystemExit, match="two recipes"):
        steps.measure(parser.parse_args(["--data", "x", "--recipes", "a"]))


def test_two_workers_are_compared_by_further_inputs(benchmark) -> None:
    scaling = benchmark("job_scaling")

    class Worker:
        def ask(self, question: str, count: int) -> float:
            assert question == "trace"
            return 5.0 + 0.25 * count

    assert scaling.further(Worker(), "trace", 16, 64) == 0.25
    rows = scaling.compared("trace", [[0.4, 0.2], [0.6, 0.2], [0.4, 0.25]])
    assert [row["value"] for row in rows] == [0.4, 0.2, 2.0]
    assert [row["best"] for row in rows] == [0.4, 0.2, pytest.approx(3.0)]
    assert [row["bar"] for row in rows] == [None, None, scaling.BAR]


@pytest.mark.slow
def test_jobs_are_done_by_one_worker_and_by_two(benchmark) -> None:
    scaling = benchmark("job_scaling")
    rows = scaling.measure({"build": (1, 3)}, rounds=1, kinds=[False])
    assert [row["what"].split(": ")[1] for row in rows] == [
        "a further input, 1 worker",
        "a further input, 2 workers",
        "2 workers against 1",
    ]


def test_each_recipe_is_compiled_into_an_empty_cache(benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = benchmark("startup")
    caches: list[str] = []

    def say(command: list[str], **environment: str) -> str:
        code = command[-1]
        if "compile_kernels(" not in code:
            return "0.5"
        cache = environment["NUMBA_CACHE_DIR"]
        caches.append(cache)
        (Path(cache) / "kernel.nbc").touch()
        return "9.0" if caches.count(cache) == 1 else "1.0"

    monkeypatch.setattr(startup, "_said", say)
    found = startup.measure(["grid-ngp", "nerfacto"], repeats=1)
    assert found["recipes"] == {"grid-ngp": 9.0, "nerfacto": 9.0}
    assert (found["compile_seconds"], found["load_seconds"], found["compiled_functions"]) == (9.0, 1.0, 1)
    assert len(set(caches)) == 2


def test_recipes_that_are_compiled_exist(benchmark) -> None:
    from voxfield.recipes import RECIPES

    assert set(benchmark("startup").RECIPES) <= set(RECIPES)
