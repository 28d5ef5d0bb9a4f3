"""What will run on this machine: device, packages, kernels and their measured speed, missing extras, slow paths.

Nothing here changes anything. Every slow path that would otherwise go unnoticed becomes a sentence in ``advice``.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

import voxfield
from voxfield.distributed.devices import DeviceMemory, device_memory, device_name, place
from voxfield.jobs.kernel_speed import KernelSpeed, matrix_speed, measure_kernels

EXTRAS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "video": (("av",), "fly-throughs as MP4; captures from videos"),
    "tensorboard": (("tensorboard",), "curves in TensorBoard while training"),
    "images": (("OpenEXR",), "EXR pictures, read and written"),
    "viewer": (("viser",), "view, and train --view, in a browser"),
    "photos": (("pycolmap",), "poses for plain photographs and videos"),
    "mesh": (("embreex", "manifold3d", "xatlas"), "textures of exported meshes; trimesh's rays and booleans, faster"),
    "points": (("laspy", "lazrs"), "LAS and LAZ point clouds"),
    "neural-rendering": (("psutil", "thingi10k"), "Thingi10K's meshes; the data set benchmark among the examples"),
    "diffusion": (("monai", "einops"), "train and sample diffusion, voxel autoencoders"),
    "cluster": (("dask", "distributed"), "jobs on several machines, by Dask"),
    "remote": (("fsspec", "s3fs"), "s3:// and other URLs; capture download"),
    "hdf5-fast": (("hdf5plugin",), "blosc and zstd in HDF5 files"),
    "zarr": (("zarr",), "Zarr volumes"),
    "nifti": (("nibabel",), "NIfTI volumes"),
}
"""Optional parts, as pyproject.toml lists them: extra's name to the modules it brings and what they are for."""

_PLAIN_ON_GPUS: Final = ("fused_mlp", "adam")
"""Kernels for which torch's own operators are what a GPU wants."""

_CPU: Final = torch.device("cpu")

PACKAGES: Final = ("torch", "numpy", "numba", "triton", "pillow")


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What :func:`examine` found.

    Attributes:
        device: the device training will use by default, as torch names it.
        device_name: what that is in words.
        device_memory: what the device has and what this process held of it while it was measured.
        cores: cores this process may use.
        threads: threads torch and the kernels use on the CPU.
        precision: what ``--precision auto`` means on the device, such as "float32".
        instructions: vector instructions torch uses, such as "AVX512".
        lanes: float32 numbers in a vector of the CPU kernels, or None when training runs elsewhere.
        memory_bytes: memory of the machine, or None when the system does not say.
        versions: of Python, Voxfield and the packages; None for one that is not installed.
        kernels: every kernel, measured, in the implementation that would run.
        matrix_gflops: speed of small matrix products by precision.
        missing_extras: extra's name to what it would add.
        advice: slow paths and faults, a sentence each with what to do; empty when all is well.
    """

    device: str
    device_name: str
    device_memory: DeviceMemory
    cores: int
    threads: int
    precision: str
    instructions: str
    lanes: int | None
    memory_bytes: int | None
    versions: dict[str, str | None]
    kernels: list[KernelSpeed] = field(default_factory=list)
    matrix_gflops: dict[str, float] = field(default_factory=dict)
    missing_extras: dict[str, str] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every kernel ran."""
        return all(kernel.error is None for kernel in self.kernels)


def examine(
    device: str = "auto",
    *,
    scale: int = 15,
    seconds: float = 0.15,
    on_kernel: Callable[[KernelSpeed], None] | None = None,
) -> Examination:
    """Look at the machine and measure every kernel briefly (about 5 seconds, more when kernels must be compiled).

    Args:
        device: "auto", or a torch device such as "cpu" or "cuda:1".
        scale: log2 of the number of points the kernels are measured with.
        seconds: how long each rate is measured for.
        on_kernel: called after each kernel, to show progress.

    Raises:
        InputError: for a device that torch does not know.
        UnavailableError: for a device that this machine lacks.
    """
    placement = place(device)
    chosen = placement.device
    kernels = []
    for kernel in measure_kernels(chosen, scale=scale, seconds=seconds):
        kernels.append(kernel)
        if on_kernel is not None:
            on_kernel(kernel)
    matrix = matrix_speed(chosen)
    cores = _usable_cores()
    found = Examination(
        device=str(chosen),
        device_name=device_name(chosen),
        device_memory=device_memory(chosen),
        cores=cores,
        threads=torch.get_num_threads(),
        precision=str(placement.dtype).removeprefix("torch."),
        instructions=torch.backends.cpu.get_cpu_capability(),
        lanes=_lanes() if chosen.type == "cpu" else None,
        memory_bytes=device_memory(_CPU).total,
        versions=_versions(),
        kernels=kernels,
        matrix_gflops=matrix,
        missing_extras={
            name: purpose
            for name, (modules, purpose) in EXTRAS.items()
            if any(importlib.util.find_spec(module) is None for module in modules)
        },
    )
    found.advice.extend(_advice(found))
    return found


def _lanes() -> int | None:
    try:
        from voxfield.kernels.simd import LANES
    except ImportError:  # without numba every kernel's line says that it fails
        return None
    return LANES


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version(), "voxfield": voxfield.__version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _advice(found: Examination) -> list[str]:
    advice = []
    advice += [f"{kernel.op} fails here: {kernel.error}" for kernel in found.kernels if kernel.error is not None]
    slow = [
        kernel.op
        for kernel in found.kernels
        if kernel.implementation == "reference" and kernel.op not in _PLAIN_ON_GPUS
    ]
    if slow:
        advice.append(
            f"{', '.join(slow)} run in plain torch on {found.device}: right, but slow. --device cpu may be quicker."
        )
    if found.device == "cpu" and shutil.which("nvidia-smi") is not None:
        advice.append("An NVIDIA driver is installed but this torch is built without CUDA: install torch's CUDA build.")
    if found.threads < found.cores:
        advice.append(
            f"torch uses {found.threads} of {found.cores} cores: OMP_NUM_THREADS or a container limit says so. "
            "Unset it for full speed."
        )
    if found.device == "cpu" and found.instructions in {"DEFAULT", "NO AVX"}:
        advice.append("torch finds no vector instructions on this processor: expect a small part of the usual speed.")
    if (folder := _unwritable_cache()) is not None:
        advice.append(
            f"Compiled kernels cannot be kept in {folder}, so every start compiles anew (about 20 seconds). "
            "Set NUMBA_CACHE_DIR to a folder you may write to."
        )
    if found.memory_bytes is not None and found.memory_bytes < 3 * 2**30:
        gibibytes = found.memory_bytes / 2**30
        advice.append(f"Only {gibibytes:.1f} GiB of memory: training on 100 photographs takes up to 2.5.")
    return advice


def _unwritable_cache() -> str | None:
    """The folder for compiled kernels when it cannot be written to. numba then falls back to the user's own cache."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    folders = [Path(named)] if named else [Path(voxfield.__file__).parent / "kernels", Path.home()]
    if any(os.access(_existing(folder), os.W_OK) for folder in folders):
        return None
    return str(folders[0])


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
