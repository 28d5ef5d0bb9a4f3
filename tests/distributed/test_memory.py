"""Needs, bounds, and as many workers as fit."""

import pytest
import torch

from voxfield.distributed import memory
from voxfield.distributed.devices import DeviceMemory
from voxfield.distributed.executors import ExecutorSettings
from voxfield.distributed.memory import (
    MemoryBound,
    MemoryNeed,
    MemoryPart,
    check_short_job,
    memory_bound,
    need_of,
    process_part,
    workers_within,
)
from voxfield.errors import InputError

GB = 10**9


@pytest.fixture(autouse=True)
def _small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 4 GB to spare and a process that holds 0.1 GB."""
    known = DeviceMemory(total=8 * GB, free=4 * GB, allocated=GB // 10, peak=GB // 10)
    monkeypatch.setattr(memory, "device_memory", lambda _: known)


def test_a_need_reads_as_a_sentence_and_adds_up() -> None:
    need = need_of(
        MemoryPart(what="batches", size=250 * 10**6),
        MemoryPart(what="pictures", size=1_900 * 10**6),
        MemoryPart(what="crumbs", size=1000),
    )
    assert need.total == 2_150_001_000 + memory.PROCESS_BYTES
    assert str(need) == (
        "Needs about 2.65 GB of memory: pictures 1.90 GB, Python, PyTorch and compiled kernels 500 MB, batches 250 MB."
    )


def test_a_need_names_the_largest_part_first_whoever_adds_it_up() -> None:
    nobody_knows = MemoryBound(size=None, allowed=False)
    _, need = workers_within(nobody_knows, ExecutorSettings(workers=1), tasks=3, each=5 * GB, what="grids")
    assert str(need) == "Needs about 5.50 GB of memory: grids 5.00 GB, Python, PyTorch and compiled kernels 500 MB."


def test_a_process_counts_what_it_holds() -> None:
    assert process_part().size == memory.PROCESS_BYTES
    assert process_part(kernels=False).size < memory.PROCESS_BYTES
    assert process_part(torch.device("cuda")).size > process_part().size


def test_a_process_that_holds_much(monkeypatch: pytest.MonkeyPatch) -> None:
    known = DeviceMemory(total=8 * GB, free=4 * GB, allocated=3 * GB, peak=None)
    monkeypatch.setattr(memory, "device_memory", lambda _: known)
    assert process_part().size == 3 * GB
    assert memory_bound(None).size == 7 * GB


def test_bounds() -> None:
    assert memory_bound("2GB") == MemoryBound(size=2 * GB, allowed=True)
    assert memory_bound(None) == MemoryBound(size=4 * GB + GB // 10, allowed=False)
    part = MemoryPart(what="pictures", size=3 * GB)
    assert memory_bound("2GB").left(part) == 0
    assert memory_bound("4GB").left(part, part) == 0
    assert memory_bound("4GB").left(part) == GB
    assert MemoryBound(size=None, allowed=False).left(part) is None


@pytest.mark.parametrize("wrong", ["8", "many", 0, -1, True, "8XB", 1.5])
def test_amounts_that_are_none(wrong: object) -> None:
    with pytest.raises(InputError, match="memory"):
        memory_bound(wrong)  # type: ignore[arg-type]


def test_too_much_is_refused_with_what_to_lower() -> None:
    need = need_of(MemoryPart(what="grids", size=9 * GB))
    with pytest.raises(
        InputError,
        match=r"memory: needs about 9\.50 GB of memory: grids 9\.00 GB, .*; --memory allows 2\.00 GB\. "
        r"Take a smaller --voxel-size, or allow more\.",
    ):
        memory_bound("2GB").check(need, "Take a smaller --voxel-size")
    # What the machine has is no promise, and needs are upper estimates.
    memory_bound(None).check(need, "Take less")
    more = need_of(MemoryPart(what="grids", size=10 * GB))
    with pytest.raises(InputError, match=r"4\.10 GB are to be had here\. .* allow more with --memory if you know"):
        memory_bound(None).check(more, "Take less")
    memory_bound("9.5GB").check(need, "")
    MemoryBound(size=None, allowed=False).check(need, "")


def test_fewer_workers_where_more_do_not_fit() -> None:
    wanted = ExecutorSettings(workers=8)

    def within(bound: int, tasks: int = 100) -> tuple[int | None, MemoryNeed]:
        allowed = MemoryBound(size=bound, allowed=True)
        settings, need = workers_within(allowed, wanted, tasks=tasks, each=GB, waiting=0, what="grids")
        return settings.workers, need

    counts = [within(bound * GB)[0] for bound in (1, 2, 4, 8, 100)]
    assert counts[0] == 1
    assert counts[-1] == 8
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    for bound in (2, 4, 8, 100):
        assert within(bound * GB)[1].total <= bound * GB
    # One alone is more than allowed: for the caller to refuse.
    assert within(GB)[1].total > GB
    assert within(100 * GB, tasks=3)[0] == 3


def test_nobody_knows_the_memory_of_a_cluster() -> None:
    dask = ExecutorSettings(executor="dask", scheduler="tcp://somewhere:8786")
    settings, need = workers_within(
        MemoryBound(size=GB, allowed=True), dask, tasks=10, each=50 * GB, waiting=1000, what="grids"
    )
    assert settings == dask
    assert need.total < GB


def test_short_jobs_speak_only_of_much(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    small, large = need_of(MemoryPart(what="grids", size=1)), need_of(MemoryPart(what="grids", size=GB))
    check_short_job(None, small, "Take less", said.append)
    assert said == []
    check_short_job(None, large, "Take less", said.append)
    check_short_job("8GB", small, "Take less", said.append)
    assert [line.split(" of memory")[0] for line in said] == ["Needs about 1.50 GB", "Needs about 500 MB"]
    assert capsys.readouterr().out == ""
