"""Memory of batches is used again, and never while somebody looks at what is in it."""

import copy
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from voxfield.data import recycled_batches
from voxfield.data.recycled_batches import MOST_SEGMENTS, RecycledBatch, allocate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch's own shared memory is used")

SHAPES = {"a": ((5, 3), torch.float32), "b": ((7,), torch.int64), "none": ((0, 3), torch.float32)}


@pytest.fixture(autouse=True)
def _no_segments() -> Iterator[None]:
    recycled_batches._segments.clear()
    recycled_batches._received.clear()
    yield
    recycled_batches._segments.clear()
    recycled_batches._received.clear()


def filled(value: int) -> RecycledBatch:
    batch = allocate(SHAPES)
    for name in SHAPES:
        batch[name].fill_(value)
    return batch


def sent(batch: RecycledBatch) -> dict[str, torch.Tensor]:
    return pickle.loads(ForkingPickler.dumps(batch))


def segments() -> int:
    return len(recycled_batches._segments)


def test_arrives_whole_as_a_plain_dictionary() -> None:
    received = sent(filled(3))
    assert type(received) is dict
    assert list(received) == list(SHAPES)
    for name, (shape, dtype) in SHAPES.items():
        assert received[name].shape == shape
        assert received[name].dtype == dtype
        assert (received[name] == 3).all()


def test_memory_is_used_again_once_everybody_has_let_go() -> None:
    for value in range(50):
        received = sent(filled(value))
        assert (received["b"] == value).all()
        del received
    assert segments() == 1


def test_not_while_a_view_of_it_is_left() -> None:
    part = sent(filled(1))["a"][2:, :1].numpy()
    for value in range(2, 6):
        sent(filled(value))
    assert (part == 1).all()
    assert segments() == 2
    del part
    sent(filled(6))
    assert segments() == 2


def test_not_while_the_worker_holds_it() -> None:
    kept = filled(1)
    sent(kept)
    sent(filled(2))
    assert (kept["a"] == 1).all()


def test_whoever_keeps_every_batch_gets_fresh_memory() -> None:
    held = [sent(filled(value)) for value in range(MOST_SEGMENTS + 4)]
    assert segments() == MOST_SEGMENTS
    assert [int(batch["b"][0]) for batch in held] == list(range(MOST_SEGMENTS + 4))
    assert all(tensor.is_shared() for tensor in filled(0).values()), "torch's shared memory"


def test_what_was_added_or_replaced_travels_too() -> None:
    batch = filled(2)
    batch["a"] = torch.arange(4)
    batch["b"] = batch["b"][::2]
    batch["names"] = ["x", "y"]
    received = sent(batch)
    assert received["a"].tolist() == [0, 1, 2, 3]
    assert received["b"].tolist() == [2, 2, 2, 2]
    assert received["names"] == ["x", "y"]
    assert (received["none"].shape, list(received)) == ((0, 3), ["a", "b", "none", "names"])


def test_copies() -> None:
    batch = filled(2)
    deep = copy.deepcopy(batch)
    received = sent(copy.copy(batch))
    assert recycled_batches._received, "a copy is sent as the batch is"
    batch["a"].fill_(5)
    assert (received["a"] == 5).all()
    assert (deep["a"] == 2).all()


def test_larger_batches_get_larger_memory() -> None:
    for size in (10, 100_000, 20, 200_000):
        batch = allocate({"a": ((size,), torch.float32)})
        batch["a"].fill_(size)
        assert float(sent(batch)["a"].sum()) == size * size
        del batch
    assert segments() == 1


def test_a_process_forked_from_the_receiver_gives_nothing_back() -> None:
    received = sent(filled(1))
    child = multiprocessing.get_context("fork").Process(target=received.clear)
    child.start()
    child.join()
    sent(filled(2))
    assert (received["a"] == 1).all()


class Numbers(Dataset[RecycledBatch]):
    def __getitem__(self, index: int) -> RecycledBatch:
        return filled(index)

    def __len__(self) -> int:
        return 60


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_through_a_loader(context: str) -> None:
    loader = DataLoader(Numbers(), batch_size=None, num_workers=2, multiprocessing_context=context)
    held = []
    for index, batch in enumerate(loader):
        assert (batch["a"] == index).all()
        if index % 5 == 0:
            held.append(batch)
    assert [int(batch["b"][0]) for batch in held] == list(range(0, 60, 5))
    assert len(recycled_batches._received) <= 2 * MOST_SEGMENTS
    assert all(address.process != os.getpid() for address in recycled_batches._received)
    del held, batch
    for _ in loader:  # workers of its own: memory of the former ones is forgotten
        pass
    assert len({address.process for address in recycled_batches._received}) == 2
