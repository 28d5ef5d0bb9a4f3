"""Jobs killed by kill -9 at random moments: nothing is lost, and what is called again ends as if undisturbed.

The quick tests kill each job a few times; the slow one 200 times in all, or ``VOXFIELD_KILLS`` times.
"""

import os
import signal
import threading
import time

import pytest


@pytest.fixture(scope="module")
def riverview(captures, web_servers):
    """A web server of a capture of the Eyeful Tower."""
    with web_servers() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def job(request, jobs, riverview, captures, tmp_path_factory):
    """A job by its name, with its material. Of those with processes one has them here: starting them takes seconds."""
    options = {"workers": 1} if request.param in {"trace", "prerender"} else {}
    return made(request.param, jobs, riverview, captures, tmp_path_factory, **options)


def made(name, jobs, riverview, captures, tmp_path_factory, **options):
    material = tmp_path_factory.mktemp("material")
    if name != "download":
        return jobs.LOCAL[name](material, **options)
    captures.write_eyefultower(material, captures.some_cameras(9))
    riverview.files = {
        f"riverview/{path.relative_to(material).as_posix()}": path.read_bytes()
        for path in material.rglob("*")
        if path.is_file()
    }
    return jobs.download(material, riverview.url)


NAMES = ("build", "trace", "prerender", "vdb", "train", "download")


@pytest.mark.parametrize("job", NAMES, indirect=True)
def test_killed_now_and_then(job, nursery, harness, tmp_path):
    record = harness.Record()
    harness.torment(nursery, job, tmp_path, kills=1, seed=1, record=record)
    assert record.kills[job.name] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_two_hundred_times(jobs, riverview, captures, tmp_path_factory, nursery, harness, capsys):
    record = harness.Record()
    for number, name in enumerate(NAMES):
        job = made(name, jobs, riverview, captures, tmp_path_factory)
        share = jobs.KILLS // len(NAMES) + (number < jobs.KILLS % len(NAMES))
        harness.torment(nursery, job, tmp_path_factory.mktemp(name), kills=share, seed=2, record=record)
        with capsys.disabled():
            print(f"\n{record.table()}", flush=True)
    assert sum(record.kills.values()) == jobs.KILLS


def test_workers_do_not_outlive_a_killed_job(jobs, nursery, harness, tmp_path):
    material = tmp_path / "material"
    material.mkdir()
    call = nursery.call(*jobs.build(material).arguments(tmp_path / "out"))
    # The job, the server that forks its workers, the tracker of what they share, and at least one worker.
    limit = time.monotonic() + harness.MOST_SECONDS
    while len(harness.group(call.process)) < 4 and not call.is_done() and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(call.process, signal.SIGKILL)
    call.wait()
    while left := harness.group(call.process):
        assert time.monotonic() < limit, f"left behind: {left}"
        time.sleep(0.02)
