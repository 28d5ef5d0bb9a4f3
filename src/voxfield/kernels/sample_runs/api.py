"""The contracts of ``take_runs`` and ``follow_runs``."""

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.march_grid import PackedSamples


def take_runs(
    samples: PackedSamples,
    begin: torch.Tensor,
    counts: torch.Tensor,
    *,
    implementation: Implementation | None = None,
) -> PackedSamples:
    """Stretches of packed samples, one after the other.

    Args:
        samples: S packed samples, float32 (float64: reference only).
        begin: (K,) int64, the first sample of each run.
        counts: (K,) int64, at least 0, how many follow it; begin + counts is at most S.
        implementation: ``"reference"``, ``"numba"`` or None to choose: Numba for float32 on a CPU, else the reference,
            whose gathers are what a GPU wants.

    Returns:
        The samples of the runs. ``ray_offsets`` (K + 1,) are those of the runs; ``ray_index`` and ``pixel_area`` are of
        the rays of ``samples``, as before. ``positions`` are a transposed (3, N) tensor.

    Raises:
        InputError: wrong shape, dtype or device, or a run that leaves the samples.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("begin", begin, ("K",))
    check_dtype("begin", begin, (torch.int64,))
    check_shape("counts", counts, (len(begin),))
    check_dtype("counts", counts, (torch.int64,))
    device = check_same_device(t_start=samples.t_start, begin=begin, counts=counts)
    chosen = _chosen(implementation, device, samples.t_start.dtype)
    # On a GPU this would wait for it; there an index out of bounds is an error of the device.
    if (
        device.type == "cpu"
        and len(begin)
        and (int(torch.min(begin.min(), counts.min())) < 0 or int((begin + counts).max()) > len(samples))
    ):
        raise InputError(f"begin: runs leave the {len(samples)} samples.")
    runs: PackedSamples = load_backend("sample_runs", chosen).take_runs(samples, begin, counts)
    return runs


def follow_runs(
    thickness: torch.Tensor,
    run_offsets: torch.Tensor,
    passed: torch.Tensor,
    limit: float,
    *,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """How many of each run's first samples have at most the optical depth ``limit`` before them.

    Args:
        thickness: (N,) optical depth of each sample, density times length, at least 0, of any floating dtype.
        run_offsets: (K + 1,) int64: samples of run k are run_offsets[k] to run_offsets[k + 1].
        passed: (K,) float64, at least 0, optical depth before each run. The run's is added to it, in place; beyond
            ``limit`` it need only be beyond ``limit``.
        limit: above 0.
        implementation: as in `take_runs`.

    Returns:
        (K,) int64.

    Raises:
        InputError: wrong shape, dtype or device.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("thickness", thickness, ("N",))
    check_shape("passed", passed, ("K",))
    check_dtype("passed", passed, (torch.float64,))
    check_shape("run_offsets", run_offsets, (len(passed) + 1,))
    check_dtype("run_offsets", run_offsets, (torch.int64,))
    check_range("limit", limit, above=0.0)
    device = check_same_device(thickness=thickness, run_offsets=run_offsets, passed=passed)
    chosen = _chosen(implementation, device, thickness.dtype)
    counts: torch.Tensor = load_backend("sample_runs", chosen).follow_runs(
        thickness.detach(), run_offsets, passed, limit
    )
    return counts


def _chosen(implementation: Implementation | None, device: torch.device, dtype: torch.dtype) -> Implementation:
    if implementation is None and device.type != "cpu":
        implementation = "reference"
    return resolve(implementation, device, "sample_runs", dtype=dtype)
