import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from voxfield.distributed import devices
from voxfield.distributed.devices import (
    DeviceMemory,
    check_device,
    cpu_name,
    device_memory,
    device_name,
    place,
    release_cached_memory,
    reset_peak_memory,
    synchronise,
)
from voxfield.errors import InputError, UnavailableError


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.accelerator, "is_available", lambda: False)


def test_auto_is_the_cpu_in_float32_where_there_is_nothing_else(no_accelerator: None) -> None:
    placed = place()
    assert (placed.device, placed.dtype) == (torch.device("cpu"), torch.float32)
    assert str(placed) == "cpu in float32"


def test_auto_takes_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    assert str(place()) == "xpu in bfloat16"


@pytest.mark.parametrize(("native", "precision"), [(True, torch.bfloat16), (False, torch.float16)])
def test_older_nvidia_cards_get_float16(monkeypatch: pytest.MonkeyPatch, native: bool, precision: torch.dtype) -> None:
    monkeypatch.setattr(devices.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(devices.torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert place().dtype == precision


def test_a_named_device_and_precision() -> None:
    placed = place("cpu", "bfloat16")
    assert (placed.device.type, placed.dtype) == ("cpu", torch.bfloat16)
    with placed.autocast():
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.bfloat16
    assert placed.gradient_scaler() is None
    with place("cpu").autocast():
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == torch.float32


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", ""])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(InputError, match="expected auto, cpu, cuda"):
        place(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:63", "xpu", "mps"])
def test_devices_that_are_not_here(name: str) -> None:
    if name != "cuda:63" and torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    with pytest.raises(UnavailableError, match="cannot be used here") as caught:
        place(name)
    said = str(caught.value)
    assert "There is: cpu" in said
    assert "Use --device cpu" in said
    assert len(said.splitlines()) == 1


def test_the_error_names_every_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(devices.torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(UnavailableError, match="There is: cpu, xpu:0, xpu:1"):
        check_device(torch.device("cuda:63"))


def test_precisions() -> None:
    with pytest.raises(InputError, match="precision"):
        place("cpu", "float8")
    with pytest.raises(UnavailableError, match="75 times slower"):
        place("cpu", "float16")


CPU, CARD = torch.device("cpu"), torch.device("xpu:1")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Stands for a graphics card: what it was asked, in order."""
    calls: list[tuple[str, Any]] = []

    def stand_in(name: str, answer: object) -> None:
        def call(*device: torch.device) -> object:
            calls.append((name, *device))
            return answer

        monkeypatch.setattr(devices.torch.accelerator, name, call, raising=False)

    stand_in("synchronize", None)
    stand_in("empty_cache", None)
    stand_in("reset_peak_memory_stats", None)
    stand_in("get_memory_info", (6 * 2**30, 8 * 2**30))
    stand_in("memory_allocated", 2**30)
    stand_in("max_memory_allocated", 3 * 2**30)
    return calls


def test_accelerators_are_asked_through_torch_accelerator(asked: list[tuple[str, Any]]) -> None:
    synchronise(CARD)
    release_cached_memory(CARD)
    reset_peak_memory(CARD)
    assert asked == [("synchronize", CARD), ("empty_cache",), ("reset_peak_memory_stats", CARD)]
    assert device_memory(CARD) == DeviceMemory(total=8 * 2**30, free=6 * 2**30, allocated=2**30, peak=3 * 2**30)


def test_a_cpu_has_nothing_to_wait_for_or_to_release(asked: list[tuple[str, Any]]) -> None:
    synchronise(CPU)
    release_cached_memory(CPU)
    reset_peak_memory(CPU)
    device_memory(CPU)
    assert not asked


def test_what_a_device_does_not_say_is_unknown(asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("the allocator of this device keeps no statistics")

    for name in ("get_memory_info", "max_memory_allocated", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(devices.torch.accelerator, name, refuse)
    reset_peak_memory(CARD)
    release_cached_memory(CARD)
    assert device_memory(CARD) == DeviceMemory(total=None, free=None, allocated=2**30, peak=None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems say less")
def test_memory_of_this_process() -> None:
    memory = device_memory(CPU)
    assert None not in (memory.total, memory.free, memory.allocated, memory.peak)
    assert 2**20 < memory.allocated <= memory.total
    # The kernel's own counters lag behind each other by some pages a thread.
    assert memory.peak > 0.9 * memory.allocated
    held = torch.ones(16, 2**20)
    assert device_memory(CPU).allocated > memory.allocated + held.nbytes // 2


def test_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_lines_of", lambda _: [])
    memory = device_memory(CPU)
    assert memory.allocated is None
    assert memory.peak is None or memory.peak > 2**20
    monkeypatch.delattr(devices.os, "sysconf")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert device_memory(CPU) == DeviceMemory(total=None, free=None, allocated=None, peak=None)
    assert cpu_name()


def test_odd_lines_of_proc_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["", "VmHWM:", "VmRSS:\tmany kB", "VmHWM:\t  2048 kB", "Threads:\t4", "MemAvailable: 12 MB"]
    monkeypatch.setattr(devices, "_lines_of", lambda _: lines)
    memory = device_memory(CPU)
    assert (memory.allocated, memory.peak) == (None, 2 * 2**20)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_name(CPU) == cpu_name() != ""
    named = SimpleNamespace(get_device_name=lambda device: f"Card {device.index}")
    monkeypatch.setattr(devices.torch, "get_device_module", lambda _: named)
    assert device_name(CARD) == "Card 1"
    monkeypatch.setattr(devices.torch, "get_device_module", lambda _: SimpleNamespace())
    assert device_name(torch.device("mps")) == platform.platform()
