"""What every kernel test shares: where an implementation runs, and memory that shows what was never written.

Triton compiles for GPUs. Without one its interpreter runs the same kernels on the CPU, but only in a process that set
TRITON_INTERPRET before anything imported triton (torch's optimisers do). So on such a machine the tests of the "triton"
implementation are left out here and run by ``test_triton_interpreter.py`` in processes of their own.
"""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from voxfield.kernels import workspace


def _triton_runs_here() -> bool:
    return torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _triton_runs_here():
        return
    elsewhere = [item for item in items if _implementation_of(item) == "triton"]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]


def _implementation_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("implementation") if callspec else None


@pytest.fixture
def device(implementation: str) -> torch.device:
    """Where the tensors of a parity test live."""
    return torch.device("cuda" if implementation == "triton" and torch.cuda.is_available() else "cpu")


_WIDE = {
    "sh_grid": ("_RAYS", 64),
    "scan_fill": ("_ROWS", 256),
    "traverse_voxels": ("_BLOCK", 512),
    "triangle_box": ("_ROWS", 256),
}
"""Sizes of programs for the interpreter, which takes its time for every operation, on however many lanes."""


@pytest.fixture(autouse=True)
def _wide_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    op = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    if os.environ.get("TRITON_INTERPRET") == "1" and op in _WIDE:
        name, size = _WIDE[op]
        monkeypatch.setattr(f"voxfield.kernels.{op}.triton_gpu.{name}", size)


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory comes filled with NaN (integers: their maximum), so that an output never written fails its test.

    torch does that for torch.empty and its kin in deterministic mode; the CPU kernels' recycled memory is done here.
    """
    empty = workspace.empty

    def filled(*shape: int) -> np.ndarray:
        array = empty(*shape)
        array.fill(np.nan)
        return array

    monkeypatch.setattr(workspace, "empty", filled)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
