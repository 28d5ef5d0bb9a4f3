"""Sparse voxel grids on a CPU.

Forward: rays are split between threads, each is marched once, and of every sample that counts its number, opacity,
density and colour are kept (24 bytes; interpolating the coefficients again would cost twenty times as much). Backward:
`to_samples` along each ray, then `scatter` over layers of voxels.
"""

import math

import numpy as np
import torch

from voxfield.kernels import workspace
from voxfield.kernels.sh_grid.grid import GridGradients, MarchRule, ShGrid
from voxfield.kernels.sh_grid.numba_clearance import cell_clearance  # noqa: F401  (called by its name)
from voxfield.kernels.sh_grid.numba_gradients import GIVEN, raise_greatest, scatter, to_samples
from voxfield.kernels.sh_grid.numba_march import KEPT, march_rays
from voxfield.kernels.sh_grid.numba_rays import DT, START, TRACE, clamp, compiled, corner_weights
from voxfield.kernels.sh_grid.simd import blend
from voxfield.kernels.threads import kernel_threads, run_split, run_tasks


@compiled
def _sample(start, stop, points, links, density, sh, box, densities, coefficients, entry):  # type: ignore[no-untyped-def]
    """Interpolate at points [start, stop)."""
    size_z, size_y, size_x = links.shape
    size, flat_links, channels = (size_x, size_y, size_z), links.ravel(), len(entry)
    offsets, weights = np.zeros(8, np.int64), np.zeros(8, np.float32)
    position, cell = np.zeros(3), np.zeros(3, np.int64)
    for point in range(start, stop):
        for axis in range(3):
            low, high = float(box[0, axis]), float(box[1, axis])
            at = (float(points[point, axis]) - low) * (size[axis] / (high - low)) - 0.5
            at = clamp(0.0 if math.isnan(at) else at, size[axis])
            cell[axis] = min(int(at), size[axis] - 2)
            position[axis] = at - cell[axis]
        corner_weights(np.float32(position[0]), np.float32(position[1]), np.float32(position[2]), weights)
        first = (cell[2] * size_y + cell[1]) * size_x + cell[0]
        total, some = np.float32(0.0), -1
        for corner in range(8):
            row = flat_links[first + (corner & 1) + size_x * ((corner >> 1 & 1) + size_y * (corner >> 2))]
            offsets[corner], some = row, max(some, row)
            if row < 0:
                weights[corner] = 0.0
            else:
                total += weights[corner] * density[row]
        densities[point] = total
        if some < 0:
            coefficients[point * channels : (point + 1) * channels] = 0.0
            continue
        for corner in range(8):
            # Where nothing is stored any row will do: its share is 0.
            offsets[corner] = (offsets[corner] if offsets[corner] >= 0 else some) * channels
        blend(sh, offsets, weights, coefficients, point * channels, entry)


class _Marched:
    """What marching R rays leaves behind for a backward."""

    def __init__(self, rays: int, most: int) -> None:
        """Room for ``most`` samples a ray. Only pages that are written become real memory, so room costs nothing."""
        self.traces = np.zeros((rays, TRACE))
        self.numbers = workspace.empty(rays * most).view(np.int32)
        self.kept = workspace.empty(rays * most, KEPT)
        self.begins, self.counts = np.zeros(rays, np.int64), np.zeros(rays, np.int64)
        self.sums = np.empty((rays, 3), np.float32), *(np.empty(rays, np.float32) for _ in range(3))


def _march_rays(  # type: ignore[no-untyped-def]
    origins, directions, basis, grid: ShGrid, rule: MarchRule, jitter, near: float, *, colours: bool = True
) -> _Marched:
    """March all rays, over all threads."""
    most = rule.most_samples(grid.links.size)
    marched = _Marched(len(origins), most)
    channels = 3 * grid.sh.shape[2]
    run_split(
        march_rays,
        len(origins),
        _array(origins),
        _array(directions),
        _array(basis),
        grid.links.links.numpy(),
        grid.links.clearance.numpy(),
        _array(grid.density),
        _array(grid.sh).reshape(-1),
        _array(grid.box),
        (rule.step, rule.density_threshold, rule.early_stop),
        near,
        _array(jitter),
        most,
        marched.traces,
        marched.numbers,
        marched.kept,
        marched.begins,
        marched.counts,
        *marched.sums,
        (0,) * channels if colours else (),
        grain=64,
    )
    return marched


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, sh, origins, directions, basis, grid, rule, jitter, near, gradients):  # type: ignore[no-untyped-def]
        marched = _march_rays(origins, directions, basis, grid, rule, jitter, near)
        ctx.marched, ctx.basis, ctx.links, ctx.gradients = marched, _array(basis), grid.links, gradients
        ctx.shapes = density.shape, sh.shape
        samples = torch.from_numpy(marched.counts)
        ctx.mark_non_differentiable(samples)
        return *(torch.from_numpy(values) for values in marched.sums), samples

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        marched, grads = ctx.marched, grads[:4]
        into = ctx.gradients
        if into is None:
            into = GridGradients(
                density=torch.zeros(ctx.shapes[0]),
                sh=torch.zeros(ctx.shapes[1]),
                touched=torch.zeros(ctx.shapes[0], dtype=torch.uint8),
            )
        given = workspace.empty(len(marched.kept), GIVEN)
        layers = _samples_of_layers(marched, [_array(grad) for grad in grads], given, ctx.links.links.shape[0])
        arguments = (
            marched.traces, marched.numbers, given, marched.begins, marched.counts, ctx.basis, ctx.links.links.numpy(),
            into.density.numpy(), into.sh.numpy().reshape(-1), into.touched.numpy(), (0,) * (3 * ctx.shapes[1][2]),
        )  # fmt: skip
        _over_layers(scatter, layers, arguments)
        passed = (into.density, into.sh) if ctx.gradients is None else (None, None)
        return *passed, *(None,) * 8


def _samples_of_layers(marched: _Marched, grads: list[np.ndarray], given: np.ndarray, depth: int) -> np.ndarray:
    """Fill ``given`` with the gradients to samples; returns how many samples lie in each layer of cells."""
    rays, tasks = len(marched.counts), kernel_threads() * 4
    layers = np.zeros((tasks, depth), np.int64)
    held = marched.traces, marched.numbers, marched.kept, marched.begins, marched.counts
    bounds = [rays * index // tasks for index in range(tasks + 1)]
    run_tasks(
        [
            lambda i=i: to_samples(bounds[i], bounds[i + 1], *held, *grads, given, layers[i])  # type: ignore[misc]
            for i in range(tasks)
        ]
    )
    return layers.sum(0)


def _over_layers(kernel, layers: np.ndarray, arguments) -> None:  # type: ignore[no-untyped-def]
    """Call ``kernel(low, high, ...)`` for ranges of voxel layers with about as many samples each, over all threads."""
    threads = kernel_threads()
    tasks = 1 if threads == 1 else 2 * threads
    running = np.cumsum(layers)
    borders = np.searchsorted(running, running[-1] * np.arange(1, tasks) / tasks) + 1
    bounds = [0, *(int(border) for border in np.unique(borders) if border < len(layers)), len(layers)]
    run_tasks(
        [
            lambda low=low, high=high: kernel(low, high, *arguments)  # type: ignore[misc]
            for low, high in zip(bounds[:-1], bounds[1:], strict=True)
        ]
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def render(
    origins: torch.Tensor,
    directions: torch.Tensor,
    basis: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    gradients: GridGradients | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.render_sh_grid``. Returns rgb (R, 3), opacity (R,), depth (R,), sparsity (R,), samples (R,)."""
    return _Render.apply(  # type: ignore[no-any-return, no-untyped-call]
        grid.density, grid.sh, origins, directions, basis, grid, rule, jitter, near, gradients
    )


def march(
    origins: torch.Tensor, directions: torch.Tensor, grid: ShGrid, rule: MarchRule, jitter: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.march_sh_grid``. Returns t (S,), ray_offsets (R + 1,)."""
    none = torch.zeros(len(origins), 1)
    marched = _march_rays(origins, directions, none, grid, rule, jitter, near, colours=False)
    offsets = np.concatenate([[0], marched.counts.cumsum()])
    ray = np.repeat(np.arange(len(origins)), marched.counts)
    place = np.arange(offsets[-1]) - offsets[ray] + marched.begins[ray]
    t = marched.traces[ray, START] + marched.numbers[place] * marched.traces[ray, DT]
    return torch.from_numpy(t.astype(np.float32)), torch.from_numpy(offsets)


def sample(points: torch.Tensor, grid: ShGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.sample_sh_grid``. Returns density (N,), sh (N, 3, B)."""
    harmonics = grid.sh.shape[2]
    density, sh = torch.empty(len(points)), torch.empty(len(points), 3, harmonics)
    run_split(
        _sample,
        len(points),
        _array(points),
        grid.links.links.numpy(),
        _array(grid.density),
        _array(grid.sh).reshape(-1),
        _array(grid.box),
        density.numpy(),
        sh.numpy().reshape(-1),
        (0,) * (3 * harmonics),
    )
    return density, sh


def greatest_weights(
    origins: torch.Tensor,
    directions: torch.Tensor,
    grid: ShGrid,
    rule: MarchRule,
    jitter: torch.Tensor,
    near: float,
    greatest: torch.Tensor,
) -> None:
    """See ``api.greatest_weights``."""
    none = torch.zeros(len(origins), 1)
    marched = _march_rays(origins, directions, none, grid, rule, jitter, near, colours=False)
    links = grid.links.links.numpy()
    arguments = (
        marched.traces, marched.numbers, marched.kept, marched.begins, marched.counts, links, greatest.numpy(),
    )  # fmt: skip
    _over_layers(raise_greatest, np.ones(links.shape[0], np.int64), arguments)
