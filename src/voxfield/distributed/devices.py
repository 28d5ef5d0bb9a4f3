"""Where tensors live and in which precision networks run: decided here, named nowhere else."""

import contextlib
from dataclasses import dataclass

import torch

from voxfield.checks import check_choice
from voxfield.errors import InputError, UnavailableError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps")
"""Where training can run; torch has further types, such as ``meta``, that cannot."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A device and the precision of matrix products on it."""

    device: torch.device
    """Where parameters and rays live."""
    dtype: torch.dtype
    """float32, or the type that networks are autocast to."""

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Run networks in `dtype` inside; does nothing for float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def gradient_scaler(self) -> "torch.amp.GradScaler | None":
        """A scaler where small gradients would vanish: float16 only."""
        return torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None

    def __str__(self) -> str:
        return f"{self.device} in {str(self.dtype).removeprefix('torch.')}"


def place(device: str = "auto", precision: str = "auto") -> Placement:
    """Settle device and precision.

    Args:
        device: ``auto`` takes the accelerator torch reports (CUDA, ROCm, XPU, MPS), else the CPU; or a torch device
        name.
        precision: ``float32``, ``bfloat16``, ``float16``; ``auto`` is float32 on a CPU and on MPS, bfloat16 elsewhere
            (float16 on NVIDIA cards that only imitate bfloat16). On a CPU the fused
            float32 networks are faster than torch's bfloat16 ones on processors without bfloat16 units; whether
            that holds on those with them has not been measured (docs/decisions/0004).

    Raises:
        InputError: the name is no device or precision.
        UnavailableError: torch cannot use the device here, or the precision on it.
    """
    check_choice("precision", precision, PRECISIONS)
    chosen = _device(device)
    if precision == "auto":
        precision = _fastest_precision(chosen)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if chosen.type == "cpu" and dtype == torch.float16:
        raise UnavailableError("precision float16 is 75 times slower than bfloat16 on a CPU. Use float32 or bfloat16.")
    return Placement(device=chosen, dtype=dtype)


def _device(name: str) -> torch.device:
    if name == "auto":
        best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return best or torch.device("cpu")
    expected = f"device: expected auto, cpu, cuda, cuda:1, xpu or mps, got {name!r}."
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise InputError(expected) from None
    if chosen.type not in DEVICE_TYPES:
        raise InputError(expected)
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UnavailableError(f"device {name!r} cannot be used here: {reason}. Use --device cpu.") from None
    return chosen


def _fastest_precision(device: torch.device) -> str:
    """What ``auto`` means: half the bits where the device computes with them itself."""
    if device.type == "cuda":
        # Older cards only imitate bfloat16, slowly; all have float16.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "xpu" else "float32"


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has done all it was given, so that a clock read next is honest."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
