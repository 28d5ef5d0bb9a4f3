import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import voxfield
from voxfield.cli.__main__ import main
from voxfield.distributed.devices import DeviceMemory, Placement
from voxfield.errors import InputError, UnavailableError
from voxfield.jobs import doctor, kernel_speed
from voxfield.jobs.doctor import examine
from voxfield.jobs.kernel_speed import KernelSpeed, matrix_speed, measure_kernels

CPU = torch.device("cpu")


@pytest.fixture
def few_kernels(monkeypatch: pytest.MonkeyPatch) -> list[KernelSpeed]:
    """Stands for the measuring: what the test puts in the list is what was measured."""
    measured = [KernelSpeed(op="ray_box", implementation="numba", unit="rays", count=8, forward=1e6)]

    def fake(*_: object, **__: object) -> Iterator[KernelSpeed]:
        return iter(measured)

    monkeypatch.setattr(doctor, "measure_kernels", fake)
    monkeypatch.setattr(doctor, "matrix_speed", lambda *_, **__: {"float32": 100.0})
    return measured


def test_every_kernel_runs_and_is_measured() -> None:
    measured = {kernel.op: kernel for kernel in measure_kernels(CPU, scale=10, seconds=0.0)}
    folders = {path.parent.name for path in (Path(voxfield.__file__).parent / "kernels").glob("*/api.py")}
    assert list(measured) == list(dict.fromkeys(case.op for case in kernel_speed._cases(10)))
    assert len(measured) > 15
    assert set(measured) <= folders
    for kernel in measured.values():
        assert kernel.error is None, kernel.error
        assert kernel.forward > 0
        assert kernel.implementation == "numba"
        assert kernel.both is None or kernel.both > 0


def test_matrix_speed_leaves_the_precision_as_it_was() -> None:
    held = torch.get_float32_matmul_precision()
    assert matrix_speed(CPU, rows=64, seconds=0.0)["float32"] > 0
    assert torch.get_float32_matmul_precision() == held


def test_a_healthy_machine_gets_no_alarm_about_kernels(few_kernels: list[KernelSpeed]) -> None:
    seen: list[str] = []
    found = examine("cpu", on_kernel=lambda kernel: seen.append(kernel.op))
    assert found.healthy
    assert (found.device, found.precision) == ("cpu", "float32")
    assert found.lanes in {8, 16}
    assert seen == ["ray_box"]
    assert found.versions["torch"] is not None
    assert not any("kernel" in sentence or "fails" in sentence for sentence in found.advice)
    json.dumps(asdict(found))


def test_a_broken_kernel_is_said_and_makes_exit_1(
    few_kernels: list[KernelSpeed], capsys: pytest.CaptureFixture[str]
) -> None:
    few_kernels.append(KernelSpeed(op="composite", implementation="numba", unit="samples", count=8, error="no LLVM"))
    assert main(["doctor", "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "! composite fails here: no LLVM" in said
    assert "FAILS" in said


def test_an_accelerator_is_named_with_its_memory(
    few_kernels: list[KernelSpeed], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = torch.device("xpu:1")
    memory = DeviceMemory(total=16 * 2**30, free=12 * 2**30, allocated=2**20, peak=2**29)
    own = doctor.device_memory
    monkeypatch.setattr(doctor, "place", lambda name: Placement(device=card, dtype=torch.bfloat16))
    monkeypatch.setattr(doctor, "device_name", lambda device: "Arc B580")
    monkeypatch.setattr(doctor, "device_memory", lambda device: memory if device == card else own(device))
    found = examine()
    assert (found.device, found.device_name, found.precision) == ("xpu:1", "Arc B580", "bfloat16")
    assert asdict(found)["device_memory"]["peak"] == 2**29
    assert found.memory_bytes == own(CPU).total
    assert found.lanes is None
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Device     xpu:1: Arc B580" in said
    assert "Memory     16.0 GiB, 12.0 GiB free, this command took up to 0.5 GiB" in said
    memory = DeviceMemory(total=None, free=None, allocated=None, peak=None)
    assert main(["doctor"]) == 0
    assert "Memory     not known: torch does not say on this device" in capsys.readouterr().out


def test_plain_torch_is_never_silent(few_kernels: list[KernelSpeed]) -> None:
    few_kernels.append(KernelSpeed(op="composite", implementation="reference", unit="samples", count=8, forward=1.0))
    assert any("composite run in plain torch" in sentence for sentence in examine("cpu").advice)


def test_missing_extras_name_the_command(
    few_kernels: list[KernelSpeed], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for name, (_, purpose) in doctor.EXTRAS.items():
        assert re.search(
            rf'^{name} +missing: pip install "voxfield\[{name}\]" +{re.escape(purpose)}$', said, re.MULTILINE
        )


def test_extras_are_those_that_can_be_installed(repository: Path) -> None:
    table = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {name: needs for name, needs in table.items() if name not in {"all", "docs", "dev"}}
    assert list(doctor.EXTRAS) == list(extras)
    # Modules that are not called as their package is.
    modules = {"laspy[lazrs]": {"laspy", "lazrs"}, "dask[distributed]": {"dask", "distributed"}}
    for name, needs in extras.items():
        packages = [re.split(r"[><=;]", need)[0].strip() for need in needs]
        brought = set[str]().union(*(modules.get(package, {package}) for package in packages))
        assert set(doctor.EXTRAS[name][0]) == brought, name


def test_one_missing_module_of_several_makes_an_extra_missing(
    few_kernels: list[KernelSpeed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "einops" else object())
    assert list(examine("cpu").missing_extras) == ["diffusion"]


def test_fewer_threads_than_cores_are_said(few_kernels: list[KernelSpeed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_usable_cores", lambda: 64)
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 2)
    assert any("torch uses 2 of 64 cores" in sentence for sentence in examine("cpu").advice)


def test_a_cache_that_cannot_be_written_is_said(
    few_kernels: list[KernelSpeed], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert not any("NUMBA_CACHE_DIR" in sentence for sentence in examine("cpu").advice)
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert any("NUMBA_CACHE_DIR" in sentence for sentence in examine("cpu").advice)


def test_wrong_devices() -> None:
    with pytest.raises(InputError, match="expected auto, cpu, cuda"):
        examine("gpu")
    if not torch.accelerator.is_available():
        with pytest.raises(UnavailableError, match="cannot be used here"):
            examine("cuda")


def test_bench_writes_what_it_prints(
    few_kernels: list[KernelSpeed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--device", "cpu", "--output", str(tmp_path / "bench.json")]) == 0
    assert "1 M/s" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["kernels"][0]["forward"] == 1e6
