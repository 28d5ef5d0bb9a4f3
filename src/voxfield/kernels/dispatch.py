"""Which implementation of an operation runs, decided in one place and never silently.

Without a request the device decides: Numba on the CPU, Triton on CUDA, ROCm (which torch also calls ``cuda``) and XPU,
the torch reference on every other device and for float64, which the fast kernels do not compute. An explicit request
that cannot be met raises. Numba and Triton are imported on first use, here, so that importing the package stays quick.
"""

import importlib
import importlib.util
import os
from types import ModuleType
from typing import Final, Literal

import torch

from voxfield.checks import check_choice
from voxfield.errors import UnavailableError

Implementation = Literal["reference", "numba", "triton"]
"""Names of the implementations, as callers write them."""

_MODULES: Final = {"reference": "reference", "numba": "numba_cpu", "triton": "triton_gpu"}
_TRITON_DEVICES: Final = ("cuda", "xpu")


def resolve(
    implementation: Implementation | None, device: torch.device, op: str, *, dtype: torch.dtype = torch.float32
) -> Implementation:
    """Return the name of the implementation of ``op`` that runs for tensors on ``device``.

    Args:
        implementation: what the caller asked for; None lets device and dtype decide.
        device: where the tensors live.
        op: the operation's folder name, for the message.
        dtype: the tensors' floating type. Only the reference computes in float64.

    Raises:
        InputError: ``implementation`` is no known name.
        UnavailableError: the request cannot run here: wrong device, float64, or the package behind it is missing.
    """
    if implementation is None:
        if dtype != torch.float32:
            return "reference"
        if device.type == "cpu":
            return "numba"
        return "triton" if device.type in _TRITON_DEVICES else "reference"
    check_choice("implementation", implementation, _MODULES)
    if implementation == "reference":
        return implementation
    if dtype != torch.float32:
        raise UnavailableError(
            f"{op}: implementation {implementation!r} computes in float32 only, got {dtype}. "
            "Convert with .float() or use implementation='reference'."
        )
    if implementation == "numba" and device.type != "cpu":
        raise UnavailableError(
            f"{op}: implementation 'numba' runs on cpu tensors, got {device}. Use implementation=None."
        )
    if implementation == "triton" and not _triton_runs_on(device):
        raise UnavailableError(
            f"{op}: implementation 'triton' runs on cuda or xpu tensors, got {device}. Use implementation=None "
            "(to test without a GPU, set TRITON_INTERPRET=1 before the program starts)."
        )
    return implementation


def load_backend(op: str, implementation: Implementation) -> ModuleType:
    """Import ``voxfield.kernels.<op>``'s module for ``implementation`` (already resolved).

    Raises:
        UnavailableError: Numba or Triton is not installed. A fault inside our own module is not hidden by this.
    """
    if implementation != "reference" and importlib.util.find_spec(implementation) is None:
        raise UnavailableError(
            f"{op}: implementation {implementation!r} needs the package {implementation}, which is not installed. "
            f"Run: pip install {implementation}"
        )
    return importlib.import_module(f"voxfield.kernels.{op}.{_MODULES[implementation]}")


def _triton_runs_on(device: torch.device) -> bool:
    """Triton compiles for GPUs; its interpreter, chosen before it is imported, runs the same kernels on the CPU."""
    return device.type in _TRITON_DEVICES or os.environ.get("TRITON_INTERPRET") == "1"
