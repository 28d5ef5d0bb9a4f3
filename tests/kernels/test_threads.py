import threading
import time

import pytest
import torch

from voxfield.kernels import threads
from voxfield.kernels.threads import kernel_threads, kernels_own_the_cores, run_split, run_tasks


@pytest.fixture(autouse=True)
def _four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 5, 4096, 100_003])
def test_ranges_cover_everything_once(count):
    seen = torch.zeros(count, dtype=torch.int64)

    def kernel(start, stop, amount):
        seen[start:stop] += amount

    run_split(kernel, count, 2, grain=1000)
    assert bool((seen == 2).all())


def test_small_work_stays_in_one_call():
    calls = []
    run_split(lambda start, stop: calls.append((start, stop, threading.get_ident())), 2000, grain=1024)
    assert calls == [(0, 2000, threading.get_ident())]


def test_the_partition_does_not_depend_on_timing():
    def ranges():
        calls = []
        run_split(lambda start, stop: calls.append((start, stop)), 100_000, grain=100)
        return sorted(calls)

    assert ranges() == ranges()
    assert len(ranges()) == 16


def test_tasks_run_side_by_side():
    meeting = threading.Barrier(3, timeout=20)
    run_tasks([meeting.wait] * 3)


def test_every_task_runs_once_with_fewer_threads_than_tasks():
    done = []
    run_tasks([lambda number=number: done.append(number) for number in range(50)], threads=3)
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("where", [0, 1, 7])
def test_an_error_is_raised_again_once_all_have_stopped(where):
    running = []

    def task(number):
        running.append(number)
        try:
            if number == where:
                raise ZeroDivisionError(str(number))
            time.sleep(0.001)
        finally:
            running.remove(number)

    with pytest.raises(ZeroDivisionError, match=str(where)):
        run_tasks([lambda number=number: task(number) for number in range(8)])
    assert not running


def test_owning_the_cores_leaves_torch_one_thread():
    with kernels_own_the_cores():
        assert (kernel_threads(), torch.get_num_threads()) == (4, 1)
        with kernels_own_the_cores():
            assert (kernel_threads(), torch.get_num_threads()) == (4, 1)
        assert (kernel_threads(), torch.get_num_threads()) == (4, 1)
    assert (kernel_threads(), torch.get_num_threads()) == (4, 4)


def test_cores_come_back_after_an_error():
    with pytest.raises(ValueError, match="inside"), kernels_own_the_cores():
        raise ValueError("inside")
    assert (kernel_threads(), torch.get_num_threads()) == (4, 4)


def test_one_pool_serves_all():
    run_tasks([lambda: None] * 4)
    pool = threads._pool
    run_tasks([lambda: None] * 3)
    assert threads._pool is pool
