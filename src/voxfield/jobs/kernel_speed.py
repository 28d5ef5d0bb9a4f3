"""How fast each kernel runs on this machine, at sizes like those of training.

The measured calls are the public ones, validation and autograd included: what a training step pays, not the best a
kernel could do alone.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from voxfield.distributed.devices import has_float64, synchronise
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.kernels.composite import composite
from voxfield.kernels.dense_composite import dense_composite
from voxfield.kernels.dispatch import resolve
from voxfield.kernels.distortion import distortion_loss
from voxfield.kernels.fused_mlp import fused_mlp
from voxfield.kernels.hash_encode import HashGrid, hash_encode
from voxfield.kernels.interlevel import interlevel_loss
from voxfield.kernels.interval_points import interval_points
from voxfield.kernels.march_grid import StepRule, march_grid, pack_occupancy
from voxfield.kernels.pdf_resample import pdf_resample
from voxfield.kernels.ray_box import ray_box
from voxfield.kernels.row_update import RowRule, row_update
from voxfield.kernels.scan_fill import scan_fill
from voxfield.kernels.sh_grid import MarchRule, ShGrid, link_grid, render_sh_grid
from voxfield.kernels.spherical_harmonics import spherical_harmonics
from voxfield.kernels.total_variation import CellRange, total_variation
from voxfield.kernels.traverse_voxels import traverse_voxels
from voxfield.kernels.triangle_box import triangle_box
from voxfield.kernels.voxel_words import pack_voxels

OCCUPANCY_RESOLUTION: Final = 64
SHAPE_RESOLUTION: Final = 128
SAMPLES_PER_RAY: Final = 32
COEFFICIENTS: Final = 9
"""Of each colour of a voxel: spherical harmonics up to degree 2."""
FLOAT64_OPS: Final = ("triangle_box", "scan_fill", "traverse_voxels")
"""Kernels that compute in float64, which MPS lacks: they are not measured there."""


@dataclass(frozen=True, kw_only=True)
class KernelSpeed:
    """One kernel, measured.

    Attributes:
        op: the kernel's name.
        implementation: what ran: "numba", "triton" or "reference".
        unit: what is counted: points, rays, samples, rows, cells, triangles.
        count: how many of them in a call.
        forward: of them a second, values only.
        both: of them a second, values and gradients; None when the kernel has none.
        first_call: seconds the first call took, compilation or its cache included.
        error: why it could not run, in a sentence; the rates are then 0.
    """

    op: str
    implementation: str
    unit: str
    count: int
    forward: float = 0.0
    both: float | None = None
    first_call: float = 0.0
    error: str | None = None


class _Built(NamedTuple):
    """A call to measure, and what it is differentiated by (nothing for a kernel without gradients)."""

    call: Callable[[], torch.Tensor]
    inputs: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Case:
    op: str
    unit: str
    count: int
    build: "Callable[[int, torch.device, Any], _Built]"


def measure_kernels(device: torch.device, *, scale: int = 18, seconds: float = 0.5) -> Iterable[KernelSpeed]:
    """Measure every kernel that ``device`` can run, one after another, yielding each as it is done.

    Args:
        device: where the tensors live; decides which implementation runs.
        scale: log2 of the number of points (samples, rows); there are fewer rays. At least 10.
        seconds: how long each rate is measured for, at least three calls.
    """
    for case in _cases(scale):
        if case.op in FLOAT64_OPS and not has_float64(device):
            continue
        chosen = _chosen(case.op, device)
        try:
            yield _measure(case, device, chosen, seconds)
        except Exception as error:  # noqa: BLE001  (a broken backend is a finding to report, not a reason to stop)
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            yield KernelSpeed(op=case.op, implementation=chosen, unit=case.unit, count=case.count, error=said)


def matrix_speed(
    device: torch.device, *, rows: int = 1 << 14, width: int = 64, seconds: float = 0.1
) -> dict[str, float]:
    """GFLOP/s of the (rows, width) by (width, width) products that small networks are made of, by precision.

    Returns:
        "float32", "float32 medium" (reduced-precision products of float32 operands) and "bfloat16"; a precision that
        the device lacks is left out.
    """
    work = 2.0 * rows * width * width / 1e9
    held = torch.get_float32_matmul_precision()
    rates: dict[str, float] = {}
    try:
        for name, dtype, mode in (
            ("float32", torch.float32, "highest"),
            ("float32 medium", torch.float32, "medium"),
            ("bfloat16", torch.bfloat16, "highest"),
        ):
            torch.set_float32_matmul_precision(mode)
            left = torch.rand(rows, width, device=device).to(dtype)
            right = torch.rand(width, width, device=device).to(dtype)
            try:
                rates[name] = work / _time(lambda left=left, right=right: left @ right, device, seconds)  # type: ignore[misc]
            except RuntimeError:
                continue
    finally:
        torch.set_float32_matmul_precision(held)
    return rates


def _chosen(op: str, device: torch.device) -> str:
    if op in {"fused_mlp", "interval_points", "adam"}:  # on GPUs torch's own operators are the kernel
        return "numba" if device.type == "cpu" else "reference"
    return resolve(None, device, op)


def _measure(case: _Case, device: torch.device, implementation: str, seconds: float) -> KernelSpeed:
    call, inputs = case.build(case.count, device, implementation)

    def both_ways() -> None:
        result = call()
        # Not backward(): adding to .grad would time a pass over the table that training does not make.
        torch.autograd.grad(result, inputs, torch.ones_like(result))

    start = time.perf_counter()
    (both_ways if inputs else call)()
    synchronise(device)
    first_call = time.perf_counter() - start
    with torch.no_grad():
        forward = _time(call, device, seconds)
    both = case.count / _time(both_ways, device, seconds) if inputs else None
    return KernelSpeed(
        op=case.op,
        implementation=implementation,
        unit=case.unit,
        count=case.count,
        forward=case.count / forward,
        both=both,
        first_call=first_call,
    )


def _time(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Median seconds of a call."""
    call()
    synchronise(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _cases(scale: int) -> list[_Case]:
    points = 1 << scale
    return [
        _Case(op="hash_encode", unit="points", count=points, build=_hash_encode),
        _Case(op="spherical_harmonics", unit="points", count=points, build=_spherical_harmonics),
        _Case(op="fused_mlp", unit="rows", count=points, build=_fused_mlp),
        _Case(op="composite", unit="samples", count=points, build=_composite),
        _Case(op="dense_composite", unit="samples", count=points, build=_dense_composite),
        _Case(op="distortion", unit="samples", count=points, build=_distortion),
        _Case(op="interlevel", unit="samples", count=points, build=_interlevel),
        _Case(op="pdf_resample", unit="samples", count=points, build=_pdf_resample),
        _Case(op="march_grid", unit="rays", count=points // SAMPLES_PER_RAY, build=_march_grid),
        _Case(op="ray_box", unit="rays", count=points, build=_ray_box),
        _Case(op="interval_points", unit="points", count=points, build=_interval_points),
        _Case(op="adam", unit="parameters", count=points, build=_adam),
        _Case(op="sh_grid", unit="rays", count=points // SAMPLES_PER_RAY, build=_sh_grid),
        _Case(op="total_variation", unit="cells", count=points // 8, build=_total_variation),
        _Case(op="row_update", unit="parameters", count=points, build=_row_update),
        _Case(op="triangle_box", unit="triangles", count=points // 8, build=_triangle_box),
        _Case(op="scan_fill", unit="triangles", count=points // 8, build=_scan_fill),
        _Case(op="traverse_voxels", unit="rays", count=points // 8, build=_traverse_voxels),
    ]


def _random(*shape: int, device: torch.device) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def _directions(count: int, device: torch.device) -> torch.Tensor:
    return torch.nn.functional.normalize(_random(count, 3, device=device) - 0.5, dim=-1)


def _hash_encode(count: int, device: torch.device, implementation: Any) -> _Built:
    # Training's table at training's number of points; smaller ones keep a quick look quick.
    grid = HashGrid(log2_table_size=min(19, count.bit_length()))
    positions = _random(count, 3, device=device)
    table = _random(grid.num_entries, grid.features, device=device).requires_grad_()
    return _Built(lambda: hash_encode(positions, table, grid, implementation=implementation), (table,))


def _spherical_harmonics(count: int, device: torch.device, implementation: Any) -> _Built:
    directions = _directions(count, device).requires_grad_()
    return _Built(lambda: spherical_harmonics(directions, 4, implementation=implementation), (directions,))


def _fused_mlp(count: int, device: torch.device, implementation: Any) -> _Built:
    inputs = _random(32, count, device=device).T.detach().requires_grad_()
    shapes = ((64, 32), (64, 64), (16, 64))
    weights = [(_random(*shape, device=device) - 0.5).requires_grad_() for shape in shapes]
    return _Built(lambda: fused_mlp(inputs, weights, implementation=implementation), (inputs, *weights))


def _composite(count: int, device: torch.device, implementation: Any) -> _Built:
    density = _random(count, device=device).requires_grad_()
    colour = _random(count, 3, device=device).requires_grad_()
    rays = count // SAMPLES_PER_RAY
    offsets = torch.arange(rays + 1, device=device) * SAMPLES_PER_RAY
    start = (torch.arange(count, device=device) % SAMPLES_PER_RAY) * 0.05
    end = start + 0.05
    return _Built(
        lambda: composite(density, colour, start, end, offsets, implementation=implementation).rgb, (density, colour)
    )


def _histogram(count: int, samples: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges and weights of count // samples rays with one narrow peak each, as a trained scene has."""
    rays = count // samples
    edges = torch.linspace(0.0, 1.0, samples + 1, device=device).expand(rays, -1).contiguous()
    peak = _random(rays, 1, device=device)
    return edges, torch.softmax(-40.0 * (edges[:, 1:] - peak).abs(), dim=1)


def _dense_composite(count: int, device: torch.device, implementation: Any) -> _Built:
    edges, weights = _histogram(count, SAMPLES_PER_RAY, device)
    density = (20 * weights).requires_grad_()
    colour = _random(3, *weights.shape, device=device).permute(1, 2, 0).requires_grad_()
    return _Built(lambda: dense_composite(density, colour, edges, implementation=implementation).rgb, (density, colour))


def _distortion(count: int, device: torch.device, implementation: Any) -> _Built:
    edges, weights = _histogram(count, SAMPLES_PER_RAY, device)
    weights.requires_grad_()
    return _Built(lambda: distortion_loss(edges, weights, implementation=implementation), (weights,))


def _interlevel(count: int, device: torch.device, implementation: Any) -> _Built:
    edges, weights = _histogram(count, SAMPLES_PER_RAY, device)
    proposal_edges, offered = _histogram(2 * count, 2 * SAMPLES_PER_RAY, device)
    offered = (0.9 * offered).requires_grad_()
    return _Built(
        lambda: interlevel_loss(edges, weights, proposal_edges, offered, implementation=implementation), (offered,)
    )


def _pdf_resample(count: int, device: torch.device, implementation: Any) -> _Built:
    edges, weights = _histogram(2 * count, 2 * SAMPLES_PER_RAY, device)
    jitter = _random(len(edges), 1, device=device)
    return _Built(lambda: pdf_resample(edges, weights, SAMPLES_PER_RAY, jitter=jitter, implementation=implementation))


def _radii(resolution: int) -> torch.Tensor:
    """(R, R, R): distance of voxels from the middle of a box from -1 to 1."""
    axis = torch.linspace(-1.0, 1.0, resolution)
    return (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).sqrt()


def _rays_around(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays from around that box, three times as far out, that pass near its middle."""
    directions = _directions(count, device)
    return -3.0 * directions + 0.3 * _random(count, 3, device=device), directions


def _march_grid(count: int, device: torch.device, implementation: Any) -> _Built:
    # A solid ball in an empty box: most of a ray is skipped, as in a trained scene.
    occupancy = pack_occupancy((_radii(OCCUPANCY_RESOLUTION) < 0.5)[None].to(device))
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], device=device)
    origins, directions = _rays_around(count, device)
    step = StepRule(min_step=1 / 64, max_step=1 / 64)
    return _Built(
        lambda: march_grid(origins, directions, occupancy, box, step=step, implementation=implementation).t_start
    )


def _ray_box(count: int, device: torch.device, implementation: Any) -> _Built:
    directions = _directions(count, device)
    origins = -3.0 * directions
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], device=device)
    return _Built(lambda: ray_box(origins, directions, box, implementation=implementation)[0])


def _interval_points(count: int, device: torch.device, implementation: Any) -> _Built:
    directions = _directions(count // SAMPLES_PER_RAY, device)
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], device=device)
    edges = torch.linspace(0.05, 100.0, SAMPLES_PER_RAY + 1, device=device).expand(len(directions), -1)
    return _Built(
        lambda: interval_points(
            -3.0 * directions, directions, edges, box, contracted=True, implementation=implementation
        )
    )


def _adam(count: int, device: torch.device, implementation: Any) -> _Built:
    parameter, first, second = (torch.zeros(count, device=device) for _ in range(3))
    gradient, rule = _random(count, device=device), AdamRule()

    def call() -> torch.Tensor:
        # The first update clears the gradient; the work is the same, as no entry is skipped.
        adam_step(parameter, gradient, first, second, step=1, rule=rule, implementation=implementation)
        return parameter

    return _Built(call)


def _sh_grid(count: int, device: torch.device, implementation: Any) -> _Built:
    # A thin shell, as pruning leaves of a scene: some thirty samples a ray.
    stored = (_radii(SHAPE_RESOLUTION) - 0.5).abs() < 0.06
    rows = int(stored.sum())
    links = torch.full(stored.shape, -1, dtype=torch.int32)
    links[stored] = torch.arange(rows, dtype=torch.int32)
    grid = ShGrid(
        links=link_grid(links, rows).to(device),
        density=(4.0 * _random(rows, device=device)).requires_grad_(),
        sh=_random(rows, 3, COEFFICIENTS, device=device).requires_grad_(),
        box=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], device=device),
    )
    origins, directions = _rays_around(count, device)
    rule = MarchRule()
    return _Built(
        lambda: render_sh_grid(origins, directions, grid, rule=rule, implementation=implementation).rgb,
        (grid.density, grid.sh),
    )


def _total_variation(count: int, device: torch.device, implementation: Any) -> _Built:
    side = max(2, math.ceil(count ** (1 / 3)))
    links = link_grid(torch.arange(side**3, dtype=torch.int32).reshape(side, side, side), side**3).to(device)
    values = _random(side**3, 3, COEFFICIENTS, device=device).requires_grad_()
    cells = CellRange(start=0, count=count)
    return _Built(lambda: total_variation(values, links, cells, implementation=implementation), (values,))


def _row_update(count: int, device: torch.device, implementation: Any) -> _Built:
    rows = count // SAMPLES_PER_RAY
    parameter, second = (torch.zeros(rows, SAMPLES_PER_RAY, device=device) for _ in range(2))
    gradient, rule = _random(rows, SAMPLES_PER_RAY, device=device), RowRule()
    touched = torch.ones(rows, dtype=torch.uint8, device=device)

    def call() -> torch.Tensor:
        # As `_adam`: the first update clears the gradient, the work is the same.
        row_update(parameter, gradient, (second,), touched, step=1, rule=rule, implementation=implementation)
        return parameter

    return _Built(call)


def _sphere(count: int, device: torch.device) -> torch.Tensor:
    """(count, 3, 3) float64 triangles of a closed sphere in a grid of `SHAPE_RESOLUTION`; count is a power of two."""
    digits = (count // 2).bit_length() - 1
    rings, sectors = 1 << digits // 2, 1 << digits - digits // 2
    polar = torch.linspace(0.0, math.pi, rings + 1, dtype=torch.float64)[:, None]
    # The last meridian is the first one again, to the last bit: the surface has no seam.
    around = (torch.arange(sectors + 1, dtype=torch.float64) % sectors * (2 * math.pi / sectors))[None]
    height = polar.cos().expand(-1, sectors + 1)
    width = polar.sin()
    width[0], width[-1] = 0.0, 0.0
    points = (torch.stack([width * around.cos(), width * around.sin(), height], 2) * 0.45 + 0.5) * SHAPE_RESOLUTION
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    faces = torch.cat([torch.stack([a, b, c], 2).flatten(0, 1), torch.stack([a, c, d], 2).flatten(0, 1)])
    return faces.to(device)


def _triangle_box(count: int, device: torch.device, implementation: Any) -> _Built:
    triangles = _sphere(count, device)
    return _Built(lambda: triangle_box(triangles, SHAPE_RESOLUTION, implementation=implementation))


def _scan_fill(count: int, device: torch.device, implementation: Any) -> _Built:
    triangles = _sphere(count, device)
    return _Built(lambda: scan_fill(triangles, SHAPE_RESOLUTION, implementation=implementation))


def _traverse_voxels(count: int, device: torch.device, implementation: Any) -> _Built:
    words = pack_voxels(_radii(SHAPE_RESOLUTION) < 0.5).to(device)
    origins, directions = _rays_around(count, device)
    origins = (origins + 1.0) * (SHAPE_RESOLUTION / 2)
    return _Built(
        lambda: traverse_voxels(origins, directions, words, SHAPE_RESOLUTION, implementation=implementation).chord
    )
