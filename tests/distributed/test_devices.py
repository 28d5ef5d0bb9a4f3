import pytest
import torch

from voxfield.distributed import devices
from voxfield.distributed.devices import place, synchronise
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
    assert "Use --device cpu" in said
    assert len(said.splitlines()) == 1


def test_precisions() -> None:
    with pytest.raises(InputError, match="precision"):
        place("cpu", "float8")
    with pytest.raises(UnavailableError, match="75 times slower"):
        place("cpu", "float16")


def test_waiting_for_the_cpu_is_nothing() -> None:
    synchronise(torch.device("cpu"))
