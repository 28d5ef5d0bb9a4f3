import threading

import numpy as np
import pytest
import torch

from voxfield.kernels import workspace
from voxfield.kernels.workspace import empty_feature_major, feature_major, huge_zeros

LARGE = 1 << 16


@pytest.fixture(autouse=True)
def _own_buffers(monkeypatch):
    monkeypatch.setattr(workspace, "_buffers", [])


def test_memory_comes_back_when_nobody_holds_it():
    first = workspace.empty(LARGE)
    address = first.ctypes.data
    second = workspace.empty(LARGE)
    assert second.ctypes.data != address
    del first
    assert workspace.empty(LARGE).ctypes.data == address


@pytest.mark.parametrize("view", ["slice", "tensor", "transposed", "row"])
def test_views_keep_their_memory(view):
    make = {
        "slice": lambda array: array[:, 5:],
        "tensor": torch.from_numpy,
        "transposed": lambda array: torch.from_numpy(array)[:, :7].T,
        "row": lambda array: array[2],
    }
    array = workspace.empty(4, LARGE)
    held = make[view](array)
    address = array.ctypes.data
    del array
    assert workspace.empty(4, LARGE).ctypes.data != address
    del held
    assert workspace.empty(4, LARGE).ctypes.data == address


def test_small_arrays_are_numpys_own():
    workspace.empty(10)
    assert workspace._buffers == []


def test_much_larger_buffers_are_not_wasted_on_small_needs():
    workspace.empty(100 * LARGE)
    assert workspace.empty(LARGE).base.size < 4 * LARGE


def test_a_limit_on_what_is_kept(monkeypatch):
    monkeypatch.setattr(workspace, "_limit", 20 * LARGE)
    for factor in (1, 2, 3):
        workspace.empty(factor * LARGE)
    kept = sum(buffer.nbytes for buffer in workspace._buffers)
    assert kept <= 20 * LARGE
    held = [workspace.empty(4 * LARGE) for _ in range(3)]
    assert len({array.ctypes.data for array in held}) == 3


def test_what_is_kept_may_be_bounded_and_is_let_go(monkeypatch):
    monkeypatch.setattr(workspace, "_LEAST_BYTES", 0)
    monkeypatch.setattr(workspace, "_limit", workspace.MOST_BYTES)
    for factor in (5, 10, 20):
        workspace.empty(factor * LARGE)
    workspace.keep_at_most(15 * 4 * LARGE)
    assert sum(buffer.nbytes for buffer in workspace._buffers) <= 15 * 4 * LARGE
    workspace.keep_at_most(2 * workspace.MOST_BYTES)
    assert workspace._limit == workspace.MOST_BYTES


def test_threads_never_share_memory():
    wrong = []

    def work(number):
        for _ in range(50):
            array = workspace.empty(LARGE)
            array.fill(number)
            if not bool((array == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.parametrize("points", [0, 1, 15, 16, 1000])
def test_feature_major_there_and_back(points):
    tensor = empty_feature_major(points, 3)
    assert tensor.shape == (points, 3)
    assert tensor.dtype == torch.float32
    tensor.copy_(torch.arange(points * 3.0).view(points, 3))
    turned = feature_major(tensor)
    assert turned.shape == (3, points)
    if points > 1:
        assert turned.strides[1] == 4
    assert np.array_equal(turned, np.arange(points * 3.0).reshape(points, 3).T)


def test_feature_major_copies_only_what_is_not():
    rows = torch.rand(100, 3)
    assert not np.shares_memory(feature_major(rows), rows.numpy())
    columns = rows.T.contiguous().T
    assert np.shares_memory(feature_major(columns), columns.numpy())


def test_huge_zeros():
    zeros = huge_zeros(torch.Size((100, 2)))
    assert zeros.shape == (100, 2)
    assert zeros.dtype == torch.float32
    assert not bool(zeros.any())
    zeros += 1
    assert bool((zeros == 1).all())
