import importlib.util
import sys

import pytest
import torch

from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.dispatch import load_backend, resolve
from voxfield.kernels.hash_encode import HashGrid, hash_encode

CPU, META = torch.device("cpu"), torch.device("meta")
CUDA, XPU = torch.device("cuda", 1), torch.device("xpu")


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        (CPU, torch.float32, "numba"),
        (CPU, torch.float64, "reference"),
        (CUDA, torch.float32, "triton"),
        (CUDA, torch.float64, "reference"),
        (XPU, torch.float32, "triton"),
        (META, torch.float32, "reference"),
    ],
)
def test_the_device_decides(device, dtype, expected):
    assert resolve(None, device, "op", dtype=dtype) == expected


@pytest.mark.parametrize(
    ("requested", "device"),
    [("reference", CPU), ("reference", CUDA), ("numba", CPU), ("triton", CUDA), ("triton", XPU)],
)
def test_a_request_that_can_be_met_is(requested, device):
    assert resolve(requested, device, "op") == requested


@pytest.mark.parametrize(
    ("requested", "device", "dtype", "message"),
    [
        ("numba", CUDA, torch.float32, "op: implementation 'numba' runs on cpu tensors, got cuda:1"),
        ("numba", CPU, torch.float64, "op: implementation 'numba' computes in float32 only, got torch.float64"),
        ("triton", CUDA, torch.float64, "op: implementation 'triton' computes in float32 only"),
        ("triton", CPU, torch.float32, "op: implementation 'triton' runs on cuda or xpu tensors, got cpu"),
    ],
)
def test_a_request_that_cannot_be_met_raises(requested, device, dtype, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UnavailableError, match=message):
        resolve(requested, device, "op", dtype=dtype)


def test_the_interpreter_runs_triton_on_the_cpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("triton", CPU, "op") == "triton"


def test_an_unknown_name_is_an_error():
    with pytest.raises(InputError, match=r"implementation: unknown value 'nunba'\. Did you mean numba"):
        resolve("nunba", CPU, "op")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs the package triton, which is not installed"):
        load_backend("hash_encode", "triton")


def test_nothing_falls_back_silently(monkeypatch):
    """An implementation that fails to import is an error of the call, whoever chose it."""
    monkeypatch.setitem(sys.modules, "voxfield.kernels.hash_encode.numba_cpu", None)
    grid = HashGrid(num_levels=1)
    with pytest.raises(ImportError):
        hash_encode(torch.zeros(2, 3), torch.zeros(grid.num_entries, 2), grid)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("composite", "composite"),
        ("dense_composite", "dense_composite"),
        ("dense_composite", "dense_weights"),
        ("distortion", "distortion_loss"),
        ("hash_encode", "hash_encode"),
        ("interlevel", "interlevel_loss"),
        ("march_grid", "march_grid"),
        ("pdf_resample", "pdf_resample"),
        ("ray_box", "ray_box"),
        ("spherical_harmonics", "spherical_harmonics"),
    ],
)
@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_every_backend_has_its_function(op, function, implementation):
    assert callable(getattr(load_backend(op, implementation), function))
