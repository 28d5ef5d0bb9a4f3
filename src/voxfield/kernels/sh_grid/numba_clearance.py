"""How far empty cells of a voxel grid are from others, on a CPU: two sweeps, each from a row's neighbours swept before.

Source: Rosenfeld and Pfaltz 1968, Distance functions on digital pictures: exact where diagonals count as one.
"""

import numpy as np
import torch

from voxfield.kernels.sh_grid.numba_rays import compiled
from voxfield.kernels.threads import run_split


@compiled
def _mark_voxels(first, stop, links, dense, full):  # type: ignore[no-untyped-def]
    """Slices [first, stop) of ``full``: 1 where a voxel is stored, and, if that is given, dense."""
    for z in range(first, stop):
        for y in range(links.shape[1]):
            for x in range(links.shape[2]):
                row = links[z, y, x]
                full[z, y, x] = row >= 0 and (dense.size == 0 or dense[row])


@compiled
def _mark_cells(first, stop, full, most, clearance):  # type: ignore[no-untyped-def]
    """Slices [first, stop) of ``clearance``: 0 where one of a cell's eight voxels is full, else ``most``."""
    depth, height, width = full.shape
    far = np.uint8(most)
    for z in range(first, stop):
        for y in range(height):
            if z + 1 == depth or y + 1 == height:
                clearance[z, y, :] = far
                continue
            a, b, c, d = full[z, y], full[z, y + 1], full[z + 1, y], full[z + 1, y + 1]
            row = clearance[z, y]
            for x in range(width - 1):
                any_full = a[x] | b[x] | c[x] | d[x] | a[x + 1] | b[x + 1] | c[x + 1] | d[x + 1]
                row[x] = np.uint8(0) if any_full else far
            row[width - 1] = far


@compiled
def _sweep(clearance, most, step):  # type: ignore[no-untyped-def]
    """Lower every entry to one more than the least of those before it: ``step`` 1 from the first entry on, -1 from the
    last.
    """
    depth, height, width = clearance.shape
    first = 0 if step > 0 else width - 1
    above, beside = np.empty(width, np.uint8), np.empty(width, np.uint8)
    for z_number in range(depth):
        z = z_number if step > 0 else depth - 1 - z_number
        for y_number in range(height):
            y = y_number if step > 0 else height - 1 - y_number
            above[:] = np.uint8(most)
            for dz, dy in ((-step, -1), (-step, 0), (-step, 1), (0, -step)):
                if 0 <= z + dz < depth and 0 <= y + dy < height:
                    other = clearance[z + dz, y + dy]
                    for x in range(width):
                        above[x] = min(above[x], other[x])
            for x in range(1, width - 1):
                beside[x] = min(above[x - 1], above[x], above[x + 1])
            beside[0], beside[width - 1] = min(above[0], above[1]), min(above[width - 2], above[width - 1])
            row = clearance[z, y]
            last = most
            for x_number in range(width):
                x = first + step * x_number
                last = min(int(row[x]), 1 + min(last, int(beside[x])))
                row[x] = last


def cell_clearance(links: torch.Tensor, dense: torch.Tensor | None, most: int) -> torch.Tensor:
    """(D, H, W) uint8: see `voxfield.kernels.sh_grid.grid.cell_clearance`."""
    numbers = links.contiguous().numpy()
    counted = np.zeros(0, np.bool_) if dense is None else dense.contiguous().numpy()
    full, clearance = np.empty(numbers.shape, np.uint8), np.empty(numbers.shape, np.uint8)
    run_split(_mark_voxels, len(numbers), numbers, counted, full, grain=1)
    run_split(_mark_cells, len(numbers), full, most, clearance, grain=1)
    _sweep(clearance, most, 1)
    _sweep(clearance, most, -1)
    return torch.from_numpy(clearance)
