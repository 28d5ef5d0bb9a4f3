"""Total variation on a CPU: channels are split between threads, so that no two add to one entry."""

import math

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.sh_grid.grid import GridLinks
from voxfield.kernels.simd import LANES
from voxfield.kernels.threads import kernel_threads, run_tasks
from voxfield.kernels.total_variation.api import REFERENCE_SIZE, SMOOTHING, CellRange
from voxfield.kernels.total_variation.simd import add_variation_gradient, variation

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")


@_jit
def _vary(first, values, links, sizes, start, count, scale, gradient, touched, adding, channels, entry):  # type: ignore[no-untyped-def]
    """``len(entry)`` channels from ``first``: the sum of all roots, or (``adding``) ``scale`` times its gradient."""
    depth, height, width = links.shape
    flat = links.ravel()
    rows, total = np.zeros(4, np.int64), 0.0
    index = start % flat.size - 1
    x, y, z = index % width, index // width % height, index // (width * height)
    for _ in range(count):
        # Counted along: dividing for each cell takes longer than looking at it.
        index, x = index + 1, x + 1
        if x == width:
            x, y = 0, y + 1
            if y == height:
                y, z = 0, z + 1
                if z == depth:
                    index, z = 0, 0
        # A neighbour beyond the border is the voxel itself: no difference.
        rows[0] = flat[index]
        rows[1] = flat[index + 1] if x + 1 < width else rows[0]
        rows[2] = flat[index + width] if y + 1 < height else rows[0]
        rows[3] = flat[index + width * height] if z + 1 < depth else rows[0]
        if max(rows[0], rows[1], rows[2], rows[3]) < 0:
            total += len(entry) * math.sqrt(SMOOTHING)
        elif adding:
            if first == 0:
                for i in range(4):
                    if rows[i] >= 0:
                        touched[rows[i]] = 1
            add_variation_gradient(values, rows, sizes, channels, first, scale, gradient, entry)
        else:
            total += variation(values, rows, sizes, channels, first, entry)
    return total


def _over_channels(values: torch.Tensor, links: GridLinks, cells: CellRange, scale: float, into=None) -> float:  # type: ignore[no-untyped-def]
    """Call `_vary` for ranges of channels, over all threads; returns the sum of what they return."""
    channels = math.prod(values.shape[1:])
    flat, numbers = values.detach().contiguous().numpy().reshape(-1), links.links.numpy()
    sizes = np.array([size / REFERENCE_SIZE for size in reversed(numbers.shape)], np.float32)
    gradient, touched = (flat, np.zeros(0, np.uint8)) if into is None else into
    # Whole vectors a thread: the rest of a row is taken in several short ones.
    share = -(-channels // (LANES * kernel_threads())) * LANES
    sums = {}

    def work(first: int) -> None:
        sums[first] = _vary(
            first, flat, numbers, sizes, cells.start, cells.count, np.float32(scale), gradient, touched,
            into is not None, channels, (0,) * min(share, channels - first),
        )  # fmt: skip

    run_tasks([lambda first=first: work(first) for first in range(0, channels, share)])  # type: ignore[misc]
    return sum(sums.values())


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
        into = gradient.numpy().reshape(-1), touched.numpy()
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
