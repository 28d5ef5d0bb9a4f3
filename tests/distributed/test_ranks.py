"""Who a process is among several: what a launcher says, what is refused, and what each is given of a batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist

from voxfield.distributed import ranks as ranks_module
from voxfield.distributed.devices import place
from voxfield.distributed.ranks import ALONE, Ranks, joined, launched
from voxfield.errors import InputError, LostRankError, UnavailableError, VoxfieldError

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "3",
    "TORCHELASTIC_RUN_ID": "lego",
}


def test_without_a_launcher_a_process_is_alone() -> None:
    assert launched({}) == ALONE
    assert launched({"WORLD_SIZE": "8"}) == ALONE
    assert ALONE.leads


def test_a_launcher_says_who_a_process_is() -> None:
    assert launched(TORCHRUN) == Ranks(rank=1, size=4, local_rank=1, local_size=2, restarts=3, job="lego")
    assert not launched(TORCHRUN).leads


def test_jobs_without_a_name_are_those_of_their_launcher() -> None:
    job = launched({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}).job
    assert job == f"{socket.gethostname()}:{os.getppid()}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MASTER_ADDR": None}, "not MASTER_ADDR"),
        ({"LOCAL_RANK": None, "MASTER_PORT": None}, "not LOCAL_RANK, MASTER_PORT"),
        ({"RANK": "4"}, "contradict each other"),
        ({"LOCAL_WORLD_SIZE": "8"}, "contradict each other"),
        ({"LOCAL_RANK": "2"}, "contradict each other"),
        ({"RANK": "-1"}, "RANK: expected a whole number from 0, got '-1'"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE: expected a whole number"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, str | None], said: str) -> None:
    environment = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(InputError, match=said):
        launched(environment)


def test_alone_nothing_is_exchanged() -> None:
    tensor = torch.arange(3.0)
    assert ALONE.sum_(tensor) is tensor
    assert ALONE.greatest_(tensor) is tensor
    assert ALONE.of_lead_(tensor) is tensor
    assert ALONE.mean(tensor) is tensor
    assert torch.equal(ALONE.gathered(tensor), tensor[None])
    assert ALONE.texts("a") == ["a"]
    ALONE.wait()
    ALONE.check_same(settings="a")
    with pytest.raises(VoxfieldError, match="own"), ALONE.all_or_none():
        raise VoxfieldError("own")
    with ALONE.one_first(), joined(ALONE, torch.device("cpu")):
        assert not dist.is_initialized()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_up_the_batch(size: int) -> None:
    def draw(count: int) -> torch.Tensor:
        return torch.rand(count, 2, generator=torch.Generator().manual_seed(0))

    ranks = [Ranks(rank=rank, size=size) for rank in range(size)]
    assert torch.equal(torch.cat([one.drawn(draw, 5) for one in ranks]), draw(5 * size))
    numbers = list(range(6 * size))
    assert [number for one in ranks for number in numbers[one.share(len(numbers))]] == numbers


def meet(store: dist.Store, rank: int, size: int) -> None:
    ranks_module._meet(store, Ranks(rank=rank, size=size))


def test_ranks_that_mean_another_number_of_ranks_are_refused() -> None:
    store = dist.HashStore()
    store.set("size of 0", "2")
    meet(store, 1, 2)
    with pytest.raises(InputError, match="Rank 0 was started as one of 2, rank 2 as one of 3"):
        meet(store, 2, 3)
    store.set("size of 1", "3")
    with pytest.raises(InputError, match="Rank 1 was started as one of 3, rank 0 as one of 2"):
        meet(store, 0, 2)


def test_a_rank_that_never_comes_is_named() -> None:
    store = dist.HashStore()
    store.set_timeout(ranks_module.timedelta(seconds=1))
    with pytest.raises(LostRankError, match="Rank 1 of 2 did not come"):
        meet(store, 0, 2)


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    assert [ranks_module._threads_of_rank(Ranks(size=16, local_size=count), 1) for count in (2, 3, 16)] == [4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert ranks_module._threads_of_rank(Ranks(size=2, local_size=2), 5) == 5


def test_every_rank_takes_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(rank=3, size=4, local_rank=1, local_size=2)
    assert place("cpu", ranks=ranks).device == torch.device("cpu")
    monkeypatch.setattr("voxfield.distributed.devices.check_device", torch.device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert place("cuda", "float32", ranks).device == torch.device("cuda:1")
    with pytest.raises(InputError, match="cuda:0 is one device, and there are 4 ranks"):
        place("cuda:0", "float32", ranks)
    with pytest.raises(UnavailableError, match="8 ranks on a machine with 2 cuda devices"):
        place("cuda", "float32", Ranks(rank=3, size=8, local_rank=1, local_size=8))


def test_devices_that_cannot_work_together_are_refused() -> None:
    with (
        pytest.raises(InputError, match="cannot exchange gradients on mps"),
        joined(Ranks(size=2), torch.device("mps")),
    ):
        pass
