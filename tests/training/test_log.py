import json
import sys

import pytest
import torch

from voxfield.errors import FormatError, InputError, MissingExtraError
from voxfield.storage.run_log import read_log
from voxfield.training.log import RunLog


def record(run_dir, first=1, last=4, **options):
    with RunLog(run_dir, tensorboard=False, **options) as log:
        log.start(recipe="grid-ngp", data="scene", seed=42, device="cpu", machine="2 cores")
        for step in range(first, last + 1):
            log.train(step, step * 0.5, loss=1.0 / step, psnr=20.0 + step, rays_per_second=1000.0)
            if step % 2 == 0:
                log.evaluation(step, step * 0.5, "test", psnr=19.0 + step, ssim=0.5)


def steps(run_dir, kind):
    return [entry["step"] for entry in read_log(run_dir) if entry["kind"] == kind]


def test_lines_are_what_was_recorded(tmp_path):
    record(tmp_path / "run")
    lines = read_log(tmp_path / "run")
    assert [line["kind"] for line in lines] == ["start", "train", "train", "eval", "train", "train", "eval"]
    assert lines[0]["machine"] == "2 cores"
    assert lines[1] == {
        "kind": "train", "step": 1, "train_seconds": 0.5, "loss": 1.0, "psnr": 21.0, "rays_per_second": 1000.0,
    }  # fmt: skip
    assert lines[3] == {"kind": "eval", "step": 2, "train_seconds": 1.0, "split": "test", "psnr": 21.0, "ssim": 0.5}


def test_each_line_is_on_disk_when_the_call_returns(tmp_path):
    log = RunLog(tmp_path, tensorboard=False)
    log.event("first")
    assert read_log(tmp_path) == [{"kind": "event", "message": "first"}]
    log.end("finished", steps=3)
    assert read_log(tmp_path)[-1] == {"kind": "end", "reason": "finished", "steps": 3}
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.event("late")


def test_values_json_does_not_have(tmp_path):
    with RunLog(tmp_path, tensorboard=False) as log:
        log.train(1, 0.5, loss=float("nan"), psnr=torch.tensor(3.5), lr=float("inf"))
        log.event("a\nb \udcff é", path=tmp_path)
    text = (tmp_path / "log.jsonl").read_text()
    assert len(text.splitlines()) == 2
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert (first["loss"], first["psnr"], first["lr"]) == (None, 3.5, None)
    assert (second["message"], second["path"]) == ("a\nb \udcff é", str(tmp_path))


def test_a_new_run_does_not_write_over_another(tmp_path):
    record(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"log\.jsonl: a run is recorded here already\. Resume it, or choose another"):
        RunLog(tmp_path, tensorboard=False)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_resume_drops_the_steps_that_are_done_again(tmp_path):
    record(tmp_path, last=6)
    with RunLog(tmp_path, tensorboard=False, resume_step=6) as log:
        log.event("kept")
        log.end("interrupted")
    record(tmp_path, first=4, last=5, resume_step=3)
    assert steps(tmp_path, "train") == [1, 2, 3, 4, 5]
    assert steps(tmp_path, "eval") == [2, 4]
    kinds = [line["kind"] for line in read_log(tmp_path)]
    assert kinds.count("start") == 2
    assert kinds.count("event") == 1
    assert "end" not in kinds


def test_resume_after_a_kill_in_the_middle_of_a_line(tmp_path):
    record(tmp_path, last=3)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"kind":"train","step":4,"lo')
    record(tmp_path, first=4, last=4, resume_step=3)
    assert steps(tmp_path, "train") == [1, 2, 3, 4]
    assert all(json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())


def test_resume_equals_an_uninterrupted_run(tmp_path):
    record(tmp_path / "whole", last=6)
    record(tmp_path / "parts", last=5)
    record(tmp_path / "parts", first=3, last=6, resume_step=2)

    def curve(name):
        return [line for line in read_log(tmp_path / name) if line["kind"] != "start"]

    assert curve("parts") == curve("whole")


def test_resume_of_a_run_without_a_log(tmp_path):
    record(tmp_path / "new", first=5, last=5, resume_step=4)
    assert steps(tmp_path / "new", "train") == [5]


def test_resume_of_a_foreign_file(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\x00\x01 something else")
    with pytest.raises(FormatError, match="no line can be read"):
        RunLog(tmp_path, tensorboard=False, resume_step=4)
    assert (tmp_path / "log.jsonl").read_bytes() == b"\x00\x01 something else"


def test_tensorboard_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "voxfield\[tensorboard\]"'):
        RunLog(tmp_path, tensorboard=True)
    with RunLog(tmp_path) as log:
        log.train(1, 0.1, loss=1.0)
        log.image("test", torch.zeros(4, 4, 3), 1)
    assert not (tmp_path / "tensorboard").exists()
    assert steps(tmp_path, "train") == [1]


def test_tensorboard_curves_and_images(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, tensorboard=True) as log:
        for step in (1, 2, 3):
            log.train(step, step * 0.5, loss=1.0 / step, psnr=None, lr=float("nan"))
        log.evaluation(3, 1.5, "test", psnr=21.0)
        log.image("eval/test", torch.rand(5, 7, 3), 3)
    with RunLog(tmp_path, tensorboard=True, resume_step=2) as log:
        log.train(3, 1.5, loss=0.25)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "eval/test/psnr"}
    assert events.Tags()["images"] == ["eval/test"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_importing_the_module_does_not_load_tensorboard():
    import subprocess

    code = "import sys, voxfield.training.log; print('tensorboard' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
