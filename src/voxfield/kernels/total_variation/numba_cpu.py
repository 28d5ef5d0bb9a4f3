"""Total variation on a CPU: channels are split between threads, so that no two add to one entry."""

import math

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.sh_grid.grid import GridLinks
from voxfield.kernels.threads import kernel_threads, run_tasks
from voxfield.kernels.total_variation.api import REFERENCE_SIZE, SMOOTHING, CellRange

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")


@_jit
def _vary(low, high, values, links, start, count, scale, gradient, touched, adding):  # type: ignore[no-untyped-def]
    """Channels [low, high): the sum of all roots, or (``adding``) ``scale`` times its gradient into ``gradient``."""
    depth, height, width = links.shape
    flat = links.ravel()
    size_x, size_y, size_z = width / REFERENCE_SIZE, height / REFERENCE_SIZE, depth / REFERENCE_SIZE
    rows, total = np.zeros(4, np.int64), 0.0
    for cell in range(start, start + count):
        index = cell % flat.size
        x, y, z = index % width, index // width % height, index // (width * height)
        # A neighbour beyond the border is the voxel itself: no difference.
        rows[0] = flat[index]
        rows[1] = flat[index + 1] if x + 1 < width else rows[0]
        rows[2] = flat[index + width] if y + 1 < height else rows[0]
        rows[3] = flat[index + width * height] if z + 1 < depth else rows[0]
        if max(rows[0], rows[1], rows[2], rows[3]) < 0:
            total += (high - low) * math.sqrt(SMOOTHING)
            continue
        if adding and low == 0:
            for i in range(4):
                if rows[i] >= 0:
                    touched[rows[i]] = 1
        for channel in range(low, high):
            here = float(values[rows[0], channel]) if rows[0] >= 0 else 0.0
            dx = ((values[rows[1], channel] if rows[1] >= 0 else 0.0) - here) * size_x
            dy = ((values[rows[2], channel] if rows[2] >= 0 else 0.0) - here) * size_y
            dz = ((values[rows[3], channel] if rows[3] >= 0 else 0.0) - here) * size_z
            root = math.sqrt(SMOOTHING + dx * dx + dy * dy + dz * dz)
            total += root
            if adding:
                slope = scale / root
                dx, dy, dz = dx * slope * size_x, dy * slope * size_y, dz * slope * size_z
                if rows[0] >= 0:
                    gradient[rows[0], channel] -= dx + dy + dz
                if rows[1] >= 0:
                    gradient[rows[1], channel] += dx
                if rows[2] >= 0:
                    gradient[rows[2], channel] += dy
                if rows[3] >= 0:
                    gradient[rows[3], channel] += dz
    return total


def _over_channels(values: torch.Tensor, links: GridLinks, cells: CellRange, scale: float, into=None) -> float:  # type: ignore[no-untyped-def]
    """Call `_vary` for ranges of channels, over all threads; returns the sum of what they return."""
    channels = math.prod(values.shape[1:])
    flat = values.detach().numpy().reshape(len(values), channels)
    tasks = min(kernel_threads(), channels)
    gradient, touched = (flat, np.zeros(0, np.uint8)) if into is None else into
    sums = [0.0] * tasks

    def work(task: int) -> None:
        low, high = channels * task // tasks, channels * (task + 1) // tasks
        sums[task] = _vary(
            low, high, flat, links.links.numpy(), cells.start, cells.count, scale, gradient, touched, into is not None
        )

    run_tasks([lambda task=task: work(task) for task in range(tasks)])  # type: ignore[misc]
    return sum(sums)


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, links, cells, gradient, touched):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(values)
        ctx.links, ctx.cells, ctx.buffers = links, cells, (gradient, touched)
        return torch.tensor(_over_channels(values, links, cells, 0.0) / cells.count)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (values,) = ctx.saved_tensors
        gradient, touched = ctx.buffers
        into_buffers = gradient is not None
        if not into_buffers:
            gradient, touched = torch.zeros_like(values), torch.zeros(len(values), dtype=torch.uint8)
        into = gradient.numpy().reshape(len(values), math.prod(values.shape[1:])), touched.numpy()
        _over_channels(values, ctx.links, ctx.cells, float(grad) / ctx.cells.count, into)
        return None if into_buffers else gradient, None, None, None, None


def total_variation(
    values: torch.Tensor,
    links: GridLinks,
    cells: CellRange,
    gradient: torch.Tensor | None,
    touched: torch.Tensor | None,
) -> torch.Tensor:
    """See ``api.total_variation``."""
    return _TotalVariation.apply(values, links, cells, gradient, touched)  # type: ignore[no-any-return, no-untyped-call]
