"""Where tensors live, in which precision networks run and how much memory there is: decided here, named nowhere else.

Whatever torch calls an accelerator (CUDA, ROCm, which torch also calls ``cuda``, XPU, MPS) is asked through
``torch.accelerator`` and ``torch.amp``. Of all the package only this module, what carries tensors between ranks
(``distributed.ranks``), and the list of devices that Triton kernels run on (``kernels.dispatch``), know their names.
"""

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from voxfield.checks import check_choice
from voxfield.distributed.control_groups import memory_left
from voxfield.distributed.ranks import ALONE, Ranks
from voxfield.errors import InputError, UnavailableError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps")
"""Where training can run; torch has further types, such as ``meta``, that cannot."""

_Answer = TypeVar("_Answer")


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


def place(device: str = "auto", precision: str = "auto", ranks: Ranks = ALONE) -> Placement:
    """Settle device and precision.

    Args:
        device: ``auto`` takes the accelerator torch reports (CUDA, ROCm, XPU, MPS), else the CPU; or a torch device
            name.
        precision: ``float32``, ``bfloat16``, ``float16``; ``auto`` is float32 on a CPU and on MPS, bfloat16 elsewhere
            (float16 on NVIDIA cards that only imitate bfloat16). On a CPU the fused float32 networks are faster than
            torch's bfloat16 ones, on processors with bfloat16 units too (docs/decisions/0004).
        ranks: who trains together: each of a machine's takes the accelerator of its number.

    Raises:
        InputError: the name is no device or precision.
        UnavailableError: torch cannot use the device here, or the precision on it.
    """
    check_choice("precision", precision, PRECISIONS)
    chosen = check_device(device)
    if ranks.size > 1 and chosen.type != "cpu":
        chosen = _device_of_rank(chosen, ranks)
    if precision == "auto":
        precision = _fastest_precision(chosen)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if chosen.type == "cpu" and dtype == torch.float16:
        raise UnavailableError("precision float16 is 75 times slower than bfloat16 on a CPU. Use float32 or bfloat16.")
    return Placement(device=chosen, dtype=dtype)


def check_device(device: torch.device | str) -> torch.device:
    """The device of that name, once torch could put something there; ``auto`` as for `place`.

    Raises:
        InputError: the name is no device that work can run on.
        UnavailableError: torch cannot use it here.
    """
    if device == "auto":
        best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return best or torch.device("cpu")
    name = str(device)
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
        raise UnavailableError(
            f"device {name!r} cannot be used here: {reason}. There is: {', '.join(_devices_here())}. "
            "Use --device cpu, in Python device='cpu'."
        ) from None
    return chosen


def _devices_here() -> list[str]:
    """The CPU, and every accelerator by its number."""
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if best is not None else 0
    return ["cpu", *(f"{best.type}:{number}" for number in range(count) if best is not None)]


def _device_of_rank(device: torch.device, ranks: Ranks) -> torch.device:
    """The accelerator of this rank, of the kind of ``device``."""
    there = torch.accelerator.device_count()
    if ":" in str(device):
        raise InputError(f"device: {device} is one device, and there are {ranks.size} ranks. Name only {device.type}.")
    if ranks.local_size > there:
        raise UnavailableError(
            f"{ranks.local_size} ranks on a machine with {there} {device.type} devices. Start one for each."
        )
    return torch.device(device.type, ranks.local_rank)


def _fastest_precision(device: torch.device) -> str:
    """What ``auto`` means: half the bits where the device computes with them itself."""
    if device.type == "cuda":
        # Older cards only imitate bfloat16, slowly; all have float16.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device.type == "xpu" else "float32"


def has_float64(device: torch.device) -> bool:
    """Whether ``device`` computes in float64: Apple's GPUs do not."""
    return device.type != "mps"


def synchronise(device: torch.device) -> None:
    """Wait until ``device`` has done all it was given, so that a clock read next is honest. Nothing on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def device_name(device: torch.device) -> str:
    """The name of the processor or of the graphics card, as its maker gives it; of the machine where torch has none."""
    if device.type == "cpu":
        return cpu_name()
    # torch.accelerator has no names; the devices' own modules do, all but that of MPS.
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return platform.platform() if name is None else str(name(device))


def cpu_name() -> str:
    """The processor's name, or at least its architecture."""
    for line in _lines_of("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Memory in bytes; None where the system or torch does not say."""

    total: int | None
    """What the device has; of the CPU: what the machine has."""
    free: int | None
    """What this and other programs could still take; of the CPU: as far as control groups let this one."""
    allocated: int | None
    """What this process holds: tensors on an accelerator, everything on the CPU."""
    peak: int | None
    """The most this process ever held at once; on an accelerator since `reset_peak_memory`."""


def device_memory(device: torch.device) -> DeviceMemory:
    """How much memory ``device`` has, and how much of it this process holds."""
    if device.type == "cpu":
        held = _sizes_in("/proc/self/status")
        return DeviceMemory(
            total=_system_pages("SC_PHYS_PAGES"),
            free=_least(
                _sizes_in("/proc/meminfo").get("MemAvailable", _system_pages("SC_AVPHYS_PAGES")), memory_left()
            ),
            allocated=held.get("VmRSS"),
            # Not getrusage on Linux: its figure starts at what the parent held when it started this process.
            peak=held.get("VmHWM", _peak_by_rusage()),
        )
    free, total = _asked(lambda: torch.accelerator.get_memory_info(device)) or (None, None)
    return DeviceMemory(
        total=total,
        free=free,
        allocated=_asked(lambda: torch.accelerator.memory_allocated(device)),
        peak=_asked(lambda: torch.accelerator.max_memory_allocated(device)),
    )


def _least(*sizes: int | None) -> int | None:
    """The least of those that are known."""
    return min((size for size in sizes if size is not None), default=None)


def reset_peak_memory(device: torch.device) -> None:
    """Let ``device_memory(device).peak`` count from here. Nothing on a CPU, whose process keeps its own."""
    if device.type != "cpu":
        _asked(lambda: torch.accelerator.reset_peak_memory_stats(device))


def release_cached_memory(device: torch.device) -> None:
    """Give back what torch's allocator holds on ``device`` beyond the tensors there. Nothing on a CPU, nor where torch
    cannot.

    Worth its wait where work of other sizes follows, as rendering follows training: the blocks kept for the one are
    seldom those that the other needs, and together they may not fit.
    """
    if device.type != "cpu":
        _asked(torch.accelerator.empty_cache)


def _asked(question: Callable[[], _Answer]) -> _Answer | None:
    """The answer, or None on devices and torch builds that do not have it."""
    try:
        return question()
    except (AttributeError, RuntimeError, NotImplementedError, ValueError):
        return None


def _system_pages(name: str) -> int | None:
    """Bytes of as many pages as the system says under ``name``."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(name)
    except (AttributeError, ValueError, OSError):
        return None


def _sizes_in(path: str) -> dict[str, int]:
    """Linux's ``Name:   123 kB`` lines as bytes by name; empty elsewhere."""
    fields = (line.split() for line in _lines_of(path))
    return {
        one[0].removesuffix(":"): int(one[1]) * 1024
        for one in fields
        if len(one) == 3 and one[2] == "kB" and one[1].isdigit()
    }


def _peak_by_rusage() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _lines_of(path: str) -> list[str]:
    """Lines of a file that only Linux has; none elsewhere."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
