"""Rates beside committed ones: the machine's share is taken out, and what got slower is named."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROBE = {"matrix": 100.0, "copy": 10.0, "gather": 50.0}


@pytest.fixture
def regression(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    before = set(sys.modules)
    yield __import__("regression")
    for name in set(sys.modules) - before:
        if str(repository / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def result(probe: dict[str, float], **rates: float) -> dict:
    return {"probe": probe, "rows": [{"name": name, "unit": "rays", "rate": rate} for name, rate in rates.items()]}


def test_the_same_code_on_a_machine_twice_as_fast_got_no_slower(regression):
    twice = {name: 2 * value for name, value in PROBE.items()}
    rows, slower = regression.compare(result(twice, a=20.0, b=2.0), result(PROBE, a=10.0, b=1.0))
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 1.0])
    assert slower == []


def test_what_got_slower_is_named_and_comes_first(regression):
    now, then = result(PROBE, a=10.0, b=0.7, c=3.0), result(PROBE, a=10.0, b=1.0, gone=5.0)
    rows, slower = regression.compare(now, then)
    assert slower == ["b"]
    assert [(row["name"], row["ratio"]) for row in rows] == [("b", pytest.approx(0.7)), ("a", 1.0), ("c", None)]
    said = regression.report(now, then)
    assert "SLOWER: b" in said
    assert "No longer measured: gone" in said
    assert "Nothing got slower" not in said
    assert "Nothing got slower." in regression.report(now, result(PROBE, a=10.0))


def test_the_probes_count_alike(regression):
    assert regression.machine_factor(PROBE | {"copy": 80.0}, PROBE) == pytest.approx(2.0)


def test_kernels_and_jobs_are_measured(regression, monkeypatch, capsys):
    some = [case for case in regression.registry.cases() if case.op == "ray_box"]
    monkeypatch.setattr(regression.registry, "cases", lambda: some)
    job = regression.Job(name="a job", unit="files", rate=lambda folder: float(folder.is_dir()))
    rows = regression.measure(seconds=0.0, chosen=[job])
    assert rows[-1] == {"name": "a job", "unit": "files", "rate": 1.0}
    assert rows[0]["name"].startswith("ray_box: ")
    assert all(row["rate"] > 0 for row in rows)
    assert "a job" in capsys.readouterr().out


def test_every_job_has_its_committed_rate(regression, repository):
    held = json.loads((repository / "benchmarks" / "results" / "regression.json").read_text(encoding="utf-8"))
    names = {row["name"] for row in held["rows"]}
    assert {job.name for job in regression.jobs()} <= names
    ours = {f"{case.op}: {case.case}" for case in regression.registry.cases() if case.variant == "voxfield"}
    assert ours <= names
    assert set(held["probe"]) == {"matrix", "copy", "gather"}
    assert all(value > 0 for value in held["probe"].values())


def test_the_command_line_compares(regression, monkeypatch, capsys, tmp_path):
    import run

    monkeypatch.setattr(regression, "probe", lambda: PROBE)
    monkeypatch.setattr(
        regression, "measure", lambda seconds: [{"name": "a", "unit": "rays", "rate": 5.0 * (1 + seconds)}]
    )
    file = tmp_path / "rates.json"
    assert run.main(["regression", "--write", "--seconds", "1", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["rows"] == [{"name": "a", "unit": "rays", "rate": 10.0}]
    capsys.readouterr()
    assert run.main(["regression", "--seconds", "0", "--output", str(file)]) == 0
    assert "SLOWER: a" in capsys.readouterr().out
