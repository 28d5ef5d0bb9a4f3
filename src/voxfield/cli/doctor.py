"""``voxfield doctor``."""

import sys
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if TYPE_CHECKING:
    from voxfield.distributed.devices import DeviceMemory

EXAMPLE = "voxfield doctor"


def command(*, device: Annotated[str, arg(metavar="NAME")] = "auto") -> int:
    """Say what will run on this machine, how fast, and what is missing.

    Measures every kernel for a moment; the first time ever they are compiled before that, which takes up to half a
    minute. The exit code is 1 when a kernel cannot run.

    Args:
        device: auto, cpu, cuda, cuda:1, xpu or mps.
    """
    from voxfield.cli.tables import format_kernel_speeds, format_table
    from voxfield.jobs.doctor import EXTRAS, examine

    def progress(kernel: object) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[Kmeasured {getattr(kernel, 'op', '')} ...", end="", file=sys.stderr, flush=True)

    found = examine(device, on_kernel=progress)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)

    beside = "" if found.memory_bytes is None or found.device == "cpu" else f", {_gibibytes(found.memory_bytes)} memory"
    lanes = "" if found.lanes is None else f", kernels {found.lanes} numbers at a time"
    print(f"Device     {found.device}: {found.device_name}")
    print(f"Memory     {_memory(found.device_memory)}")
    print(f"Precision  {found.precision} (what --precision auto takes here)")
    print(f"Processor  {found.cores} cores, {found.threads} threads in use, {found.instructions}{lanes}{beside}")
    print("Packages   " + ", ".join(f"{name} {version or 'absent'}" for name, version in found.versions.items()))
    products = ", ".join(f"{name} {rate:,.0f}" for name, rate in found.matrix_gflops.items())
    print(f"Matrices   {products} GFLOP/s")
    print()
    print(format_kernel_speeds(found.kernels))
    print()
    rows = [
        (name, f'missing: pip install "voxfield[{name}]"' if name in found.missing_extras else "installed", purpose)
        for name, (_, purpose) in EXTRAS.items()
    ]
    print(format_table(("extra", "state", "for"), rows))
    print()
    if not found.advice:
        print("No slow path: everything runs as intended.")
    for sentence in found.advice:
        print(f"! {sentence}")
    return 0 if found.healthy else 1


def _memory(memory: "DeviceMemory") -> str:
    """What a device has and what this command took of it."""
    parts = [] if memory.total is None else [_gibibytes(memory.total)]
    if memory.free is not None:
        parts.append(f"{_gibibytes(memory.free)} free")
    if memory.peak is not None:
        parts.append(f"this command took up to {_gibibytes(memory.peak)}")
    return ", ".join(parts) or "not known: torch does not say on this device"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
