import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import voxfield
from voxfield.distributed import executors
from voxfield.distributed.executors import Executor, ExecutorSettings, open_executor
from voxfield.errors import FormatError, InputError, MissingFileError, UnavailableError
from voxfield.storage.shape_dataset import open_shapes

TWO = ExecutorSettings(workers=2)


# Tasks: functions of a module, as workers import them.


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def slow_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return number


def dies_once(folder: Path, number: int) -> int:
    """Kills its process the first time that it is called with 3."""
    mark = folder / f"{number}.begun"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails(number: int) -> int:
    if number == 2:
        raise FormatError("number 2 is damaged.")
    return number


class TestLocal:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_item_is_done_once(self, workers):
        with open_executor(ExecutorSettings(workers=workers), tasks=20) as executor:
            done = dict(executor.run(square, range(20)))
            again = list(executor.run(square, range(3), ordered=True))
        assert {number: result for number, (result, _) in done.items()} == {n: n * n for n in range(20)}
        assert [number for number, _ in again] == [0, 1, 2]
        assert (os.getpid() in {process for _, process in done.values()}) == (workers == 1)

    def test_order_is_kept_where_it_is_asked_for(self):
        with open_executor(TWO, tasks=5) as executor:
            assert [result for _, result in executor.run(slow_first, range(5), ordered=True)] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("ordered", [False, True])
    def test_a_killed_process_costs_nothing(self, tmp_path, ordered):
        with open_executor(TWO, tasks=9) as executor:
            results = [
                result for _, result in executor.run(functools.partial(dies_once, tmp_path), range(9), ordered=ordered)
            ]
        assert (tmp_path / "3.begun").exists()
        assert sorted(results) == list(range(9))

    def test_a_task_that_kills_every_process_is_given_up(self):
        with open_executor(TWO, tasks=2) as executor, pytest.raises(UnavailableError, match="was killed 3 times"):
            list(executor.run(dies, range(2)))

    def test_faults_of_a_task_are_its_own(self):
        with open_executor(TWO, tasks=4) as executor, pytest.raises(FormatError, match="number 2 is damaged"):
            list(executor.run(fails, range(4)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"executor": "slurm"}, "executor: unknown value 'slurm'"),
            ({"executor": "dask"}, "dask needs its scheduler's address"),
            ({"scheduler": "tcp://here:1"}, "Add executor=dask"),
            ({"executor": "dask", "scheduler": "tcp://here:1", "workers": 2}, "Leave it out"),
            ({"workers": 0}, "workers: expected a value at least 1"),
        ],
    )
    def test_settings_are_checked(self, settings, message):
        with pytest.raises(InputError, match=message):
            ExecutorSettings(**settings)


class Cluster:
    """A scheduler on loopback and its workers, as a person starts them."""

    def __init__(self, folder: Path, paths: list[str]) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
        self.processes: list[subprocess.Popen] = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 300
        while not self.file.exists() and time.monotonic() < deadline:
            assert self.processes[0].poll() is None
            time.sleep(0.05)

    def start(self, role: str, *options: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", "--no-dashboard", *options]
        self.processes.append(
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def add_worker(self) -> None:
        self.start("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny")

    def close(self) -> None:
        for process in self.processes[::-1]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(repository, tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    started = Cluster(tmp_path_factory.mktemp("cluster"), [str(repository), *filter(None, sys.path)])
    try:
        started.add_worker()
        started.add_worker()
        with distributed.Client(scheduler_file=str(started.file), timeout=300) as client:
            client.wait_for_workers(2, timeout=300)
        yield started
    finally:
        started.close()


@pytest.fixture
def dask(cluster) -> ExecutorSettings:
    return ExecutorSettings(executor="dask", scheduler=str(cluster.file))


@pytest.mark.filterwarnings("ignore")
class TestDask:
    def test_every_item_is_done_once(self, dask, tmp_path):
        with open_executor(dask, tasks=20, folders=[tmp_path]) as executor:
            done = dict(executor.run(square, range(20)))
            ordered = [number for number, _ in executor.run(square, range(9), ordered=True)]
        assert {number: result for number, (result, _) in done.items()} == {n: n * n for n in range(20)}
        assert ordered == list(range(9))
        processes = {process for _, process in done.values()}
        assert len(processes) == 2
        assert os.getpid() not in processes

    def test_a_killed_worker_costs_nothing(self, cluster, dask, tmp_path):
        # One more, as nobody starts the killed one again.
        cluster.add_worker()
        with open_executor(dask, tasks=9) as executor:
            done = dict(executor.run(functools.partial(dies_once, tmp_path), range(9)))
        assert (tmp_path / "3.begun").exists()
        assert done == {number: number for number in range(9)}

    def test_faults_of_a_task_are_its_own(self, dask):
        with open_executor(dask, tasks=4) as executor, pytest.raises(FormatError, match="number 2 is damaged"):
            list(executor.run(fails, range(4)))

    def test_workers_of_other_versions_are_refused(self, dask, monkeypatch):
        monkeypatch.setattr(executors, "_versions", lambda: (("Python", "3.2"), ("voxfield", "0.0")))
        with open_executor(dask, tasks=2) as executor, pytest.raises(UnavailableError, match=r"this process 3\.2"):
            list(executor.run(square, range(2)))

    def test_workers_without_our_files_are_refused(self, dask, tmp_path):
        folders = [tmp_path / "elsewhere"]
        with open_executor(dask, tasks=2, folders=folders) as executor:
            with pytest.raises(UnavailableError, match=r"does not see .*elsewhere"):
                list(executor.run(square, range(2)))

    def test_a_dataset_has_the_same_bytes(self, dask, shape_meshes, tmp_path):
        options = {"resolution": 16, "quiet": True}
        on = {"executor": "dask", "scheduler": dask.scheduler}
        clouds = [np.random.default_rng(seed).random((50, 3)).astype(np.float32) for seed in range(3)]
        np.savez(tmp_path / "clouds.npz", pointclouds=np.stack(clouds))
        for name, where in (("here", {"workers": 1}), ("there", on)):
            folder = tmp_path / name
            voxfield.build_shapes(shape_meshes, folder / "d", **options, **where)
            voxfield.trace_shapes(
                folder / "d", folder / "r", sphere_divisions=1, samples_per_view=9, quiet=True, **where
            )
            voxfield.prerender(tmp_path / "clouds.npz", folder / "p", voxel_size=8, quiet=True, **where)
        assert len(open_shapes(tmp_path / "there" / "d")) > 1
        for part in ("d", "r", "p"):
            ours, theirs = (
                {
                    path.relative_to(tmp_path / name): path.read_bytes()
                    for path in (tmp_path / name / part).rglob("*")
                    if path.is_file() and path.name != "processing_summary.json"
                }
                for name in ("here", "there")
            )
            assert ours == theirs

    @pytest.fixture
    def run(self, tiny_capture, tiny, tmp_path):
        return voxfield.train("grid-ngp", tiny_capture, output=tmp_path / "run", steps=20, overrides=tiny, quiet=True)

    def test_a_film_has_the_same_bytes(self, dask, run, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        options = {"frames": 3, "width": 16, "save_depth": True, "quiet": True}
        here = run.render_path("orbit", output="here", **options)
        there = run.render_path("orbit", output="there", executor="dask", scheduler=dask.scheduler, **options)
        assert [path.name for path in there] == [path.name for path in here]
        assert [path.read_bytes() for path in there] == [path.read_bytes() for path in here]
        assert not list(tmp_path.glob("**/.*-frames"))

    def test_a_film_that_was_begun_is_finished(self, dask, run, tmp_path):
        options = {"width": 16, "format": "images", "output": tmp_path / "film", "quiet": True}
        frames = run.render_path("orbit", frames=3, **options)
        frames[2].unlink()
        run.render_path("orbit", frames=3, executor="dask", scheduler=dask.scheduler, **options)
        assert frames[2].is_file()

    def test_metrics_are_the_same(self, dask, run, shared_metrics):
        here = run.evaluate(quiet=True)
        panels = {path.name: path.read_bytes() for path in (run.path / "eval/test").glob("*.png")}
        there = run.evaluate(executor="dask", scheduler=dask.scheduler, quiet=True)
        assert shared_metrics(there) == shared_metrics(here)
        assert there["protocol"]["executor"] == "dask"
        assert {path.name: path.read_bytes() for path in (run.path / "eval/test").glob("*.png")} == panels

    def test_workers_that_read_other_weights_are_refused(self, dask, run, tmp_path, monkeypatch):
        run.weights["step"] += 1
        with pytest.raises(UnavailableError, match="reads other weights"):
            run.evaluate(executor="dask", scheduler=dask.scheduler, quiet=True)
        with pytest.raises(UnavailableError, match="another state"):
            run.render_path(
                "orbit", frames=1, width=8, output=tmp_path / "f", executor="dask", scheduler=dask.scheduler, quiet=True
            )


@pytest.fixture
def shared_metrics():
    """Of metrics what does not depend on the clock."""

    def chosen(metrics):
        named = ("psnr", "ssim", "num_images", "verdicts", "skipped", "notes")
        images = [{key: image[key] for key in ("name", "psnr", "ssim", "focus")} for image in metrics["per_image"]]
        return {name: metrics[name] for name in named} | {"images": images}

    return chosen


@pytest.mark.filterwarnings("ignore")
class TestNoCluster:
    def test_a_scheduler_that_is_not_there(self, monkeypatch):
        pytest.importorskip("distributed")
        monkeypatch.setattr(executors, "_CONNECT_SECONDS", 0.5)
        settings = ExecutorSettings(executor="dask", scheduler="tcp://127.0.0.1:9")
        with pytest.raises(UnavailableError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
            with open_executor(settings, tasks=1):
                pass

    def test_a_scheduler_file_that_is_not_there(self, tmp_path):
        pytest.importorskip("distributed")
        settings = ExecutorSettings(executor="dask", scheduler=str(tmp_path / "scheduler.json"))
        with pytest.raises(MissingFileError, match="there is no such scheduler file"):
            with open_executor(settings, tasks=1):
                pass

    def test_a_scheduler_without_workers(self, monkeypatch, tmp_path):
        pytest.importorskip("distributed")
        monkeypatch.setattr(executors, "_WORKER_SECONDS", 0.5)
        alone = Cluster(tmp_path, sys.path)
        try:
            settings = ExecutorSettings(executor="dask", scheduler=str(alone.file))
            with pytest.raises(UnavailableError, match=r"has no workers\. Start some: dask worker"):
                with open_executor(settings, tasks=1):
                    pass
        finally:
            alone.close()


def test_an_executor_here_needs_no_pool():
    assert [result for _, result in Executor(None, 1).run(slow_first, [1, 2])] == [1, 2]
