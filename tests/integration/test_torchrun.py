"""``torchrun -m voxfield train`` with two ranks, one of which is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from voxfield.storage.checkpoint import list_checkpoints, load_latest
from voxfield.storage.run_log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def torchrun(*arguments: str, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "--max-restarts", str(restarts), "-m", "voxfield", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def settings(tiny: tuple[str, ...], **more: object) -> list[str]:
    pairs = [*tiny, *(f"trainer.{name}={value}" for name, value in more.items())]
    return [word for pair in pairs for word in ("--set", pair)]


def rank_one(launcher: "subprocess.Popen[str]") -> psutil.Process:
    ranks = psutil.Process(launcher.pid).children()
    return next(process for process in ranks if process.environ().get("RANK") == "1")


def wait_for_checkpoint(run_dir: Path, launcher: "subprocess.Popen[str]") -> None:
    while not list_checkpoints(run_dir):
        assert launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.1)


def test_a_killed_rank_is_started_again_and_training_goes_on(
    tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = ["grid-ngp", str(tiny_capture), "--output", str(run_dir), "--steps", "400", "--device", "cpu"]
    launcher = torchrun(*words, *settings(tiny, checkpoint_every=0.5, log_every=10), restarts=1)
    wait_for_checkpoint(run_dir, launcher)
    rank_one(launcher).send_signal(signal.SIGKILL)
    said = launcher.communicate(timeout=600)[0]
    assert launcher.returncode == 0, said
    assert said.count("Run:") == 1
    assert load_latest(run_dir)[1]["step"] == 400
    log = read_log(run_dir)
    assert [line["kind"] for line in log].count("start") == 2
    assert [line["step"] for line in log if line["kind"] == "train"] == list(range(10, 401, 10))
    assert log[-1]["reason"] == "finished"
    assert (run_dir / "report.html").is_file()


def test_without_restarts_a_killed_rank_ends_the_job_and_one_process_continues(
    tiny_capture: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = ["nerfacto", str(tiny_capture), "--output", str(run_dir), "--steps", "300", "--device", "cpu"]
    words += ["--set", "model.rays_per_batch=64", "--set", "trainer.checkpoint_every=0.5"]
    launcher = torchrun(*words)
    wait_for_checkpoint(run_dir, launcher)
    rank_one(launcher).send_signal(signal.SIGKILL)
    said = launcher.communicate(timeout=600)[0]
    assert launcher.returncode != 0, said
    reached = load_latest(run_dir)[1]["step"]
    alone = [sys.executable, "-m", "voxfield", "train", "nerfacto", str(tiny_capture), "--output", str(run_dir)]
    subprocess.run([*alone, "--steps", str(reached + 3), "--resume", "--quiet"], check=True, timeout=600)
    assert load_latest(run_dir)[1]["step"] == reached + 3
