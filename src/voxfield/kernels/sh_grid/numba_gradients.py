"""From the gradients of rays to those of voxels.

One pass along each ray turns what was kept of its samples into gradients to their densities and colours. Then *layers*
of voxels are split between threads, and each thread walks along all rays and adds to the voxels of its own layers: no
two threads write one row, and a voxel's gradient is summed in the same order whatever their number. What a ray's
samples give to a voxel is gathered, four numbers, while the ray stays beside it, and is spread over the row's
coefficients once, when it leaves.
"""

import numpy as np

from voxfield.kernels.sh_grid.numba_rays import (
    ALONG,
    DELTA,
    DT,
    ODD_X,
    ODD_Y,
    ODD_Z,
    ORIGIN,
    START,
    clamp,
    compiled,
    corner_weights,
    lower_voxel,
    slot_coordinate,
    slots_kept,
)
from voxfield.kernels.sh_grid.simd import add_outer, clear_corner, prefetch_row, spread_corners
from voxfield.kernels.simd import lowest_bit

GIVEN = 4
"""Gradients to a sample: three colours, density."""
_AHEAD, _FAR_AHEAD = 4, 10
"""Samples ahead of one whose rows, and whose links, are asked for."""


@compiled
def to_samples(  # type: ignore[no-untyped-def]
    first, stop, traces, numbers, kept, begins, counts, grad_rgb, grad_opacity, grad_depth, grad_sparsity, given, layers
):
    """Gradients to the samples of rays [first, stop), and how many samples lie in each layer of cells.

    With v_k = dL/dw_k, the gradient of the optical depth is T_{k+1} v_k - sum over j > k of w_j v_j.
    """
    deepest = len(layers) - 2
    for ray in range(first, stop):
        begin, end = begins[ray], begins[ray] + counts[ray]
        trace = traces[ray]
        g_opacity, g_depth, g_sparsity = grad_opacity[ray], grad_depth[ray], grad_sparsity[ray]
        transparent, behind = 1.0, 0.0
        for i in range(begin, end):
            value = g_opacity + g_depth * (trace[START] + numbers[i] * trace[DT])
            for channel in range(3):
                value += grad_rgb[ray, channel] * max(kept[i, 2 + channel], np.float32(0.0))
            given[i, 3] = value
            behind += transparent * kept[i, 0] * value
            transparent *= 1.0 - kept[i, 0]
        transparent = 1.0
        for i in range(begin, end):
            weight = transparent * kept[i, 0]
            transparent *= 1.0 - kept[i, 0]
            behind -= weight * given[i, 3]
            sigma = float(kept[i, 1])
            penalty = g_sparsity * 4.0 * sigma / (1.0 + 2.0 * sigma * sigma)
            given[i, 3] = trace[DELTA] * (transparent * given[i, 3] - behind) + penalty
            for channel in range(3):
                given[i, channel] = weight * grad_rgb[ray, channel] if kept[i, 2 + channel] > 0.0 else 0.0
            z = trace[ORIGIN + 2] + trace[ALONG + 2] * (trace[START] + numbers[i] * trace[DT])
            layers[min(int(max(z, 0.0)), deepest)] += 1


@compiled
def scatter(  # type: ignore[no-untyped-def]
    low, high, traces, numbers, given, begins, counts, basis, links, density_grad, sh_grad, touched, entry
):
    """Add all samples' gradients to the voxels of layers [low, high), and mark their rows."""
    size_z, size_y, size_x = links.shape
    flat_links = links.ravel()
    channels = len(entry)
    harmonics = channels // 3
    rows = np.full(8, -1, np.int64)
    gathered, tiled = np.zeros(32, np.float32), np.zeros(channels, np.float32)
    flat_given = given.ravel()
    one_value = (0,)
    for ray in range(len(counts)):
        begin, end = begins[ray], begins[ray] + counts[ray]
        if begin == end:
            continue
        for channel in range(channels):
            tiled[channel] = basis[ray, channel % harmonics]
        trace = traces[ray]
        start, dt = trace[START], trace[DT]
        ox, oy, oz = trace[ORIGIN], trace[ORIGIN + 1], trace[ORIGIN + 2]
        dx, dy, dz = trace[ALONG], trace[ALONG + 1], trace[ALONG + 2]
        held, held_x, held_y, held_z = -1, -9, -9, -9
        asked_x, asked_y, asked_z = -9, -9, -9
        odd_x, odd_y, odd_z = False, False, False
        # Along a ray z only grows or only falls: the first of its samples beside these layers is searched for.
        after = end
        while begin < after:
            middle = (begin + after) >> 1
            z = lower_voxel(oz + dz * (start + numbers[middle] * dt), size_z)
            if (z + 1 >= low) if dz >= 0.0 else (z < high):
                after = middle
            else:
                begin = middle + 1
        for i in range(begin, end):
            t = start + numbers[i] * dt
            pz = clamp(oz + dz * t, size_z)
            z = min(int(pz), size_z - 2)
            if z + 1 < low or z >= high:
                break
            px, py = clamp(ox + dx * t, size_x), clamp(oy + dy * t, size_y)
            x, y = min(int(px), size_x - 2), min(int(py), size_y - 2)
            cell = (z * size_y + y) * size_x + x
            if cell != held:
                missing = 255 ^ (
                    slots_kept(x, held_x, ODD_X) & slots_kept(y, held_y, ODD_Y) & slots_kept(z, held_z, ODD_Z)
                )
                while missing != 0:
                    slot = lowest_bit(missing)
                    missing &= missing - 1
                    row = rows[slot]
                    if row >= 0:
                        touched[row] = 1
                        density_grad[row] += gathered[4 * slot + 3]
                        add_outer(sh_grad, row * channels, gathered, slot, tiled, entry)
                    clear_corner(gathered, slot)
                    layer, row = slot_coordinate(z, slot >> 2), -1
                    if low <= layer < high:
                        place = layer * size_y + slot_coordinate(y, slot >> 1)
                        row = flat_links[place * size_x + slot_coordinate(x, slot)]
                    rows[slot] = row
                odd_x, odd_y, odd_z = (x & 1) != 0, (y & 1) != 0, (z & 1) != 0
                held, held_x, held_y, held_z = cell, x, y, z
                if channels > 0 and i + _AHEAD < end:
                    far = start + numbers[min(i + _FAR_AHEAD, end - 1)] * dt
                    fx, fy = lower_voxel(ox + dx * far, size_x), lower_voxel(oy + dy * far, size_y)
                    place = (lower_voxel(oz + dz * far, size_z) * size_y + fy) * size_x + fx
                    for line in range(4):
                        prefetch_row(flat_links, place + size_x * ((line & 1) + size_y * (line >> 1)), one_value)
                    far = start + numbers[i + _AHEAD] * dt
                    fx, fy = lower_voxel(ox + dx * far, size_x), lower_voxel(oy + dy * far, size_y)
                    fz = lower_voxel(oz + dz * far, size_z)
                    missing = 255 ^ (
                        slots_kept(fx, asked_x, ODD_X) & slots_kept(fy, asked_y, ODD_Y) & slots_kept(fz, asked_z, ODD_Z)
                    )
                    asked_x, asked_y, asked_z = fx, fy, fz
                    while missing != 0:
                        slot = lowest_bit(missing)
                        missing &= missing - 1
                        layer = slot_coordinate(fz, slot >> 2)
                        if low <= layer < high:
                            place = layer * size_y + slot_coordinate(fy, slot >> 1)
                            row = flat_links[place * size_x + slot_coordinate(fx, slot)]
                            if row >= 0:
                                prefetch_row(density_grad, row, one_value)
                                prefetch_row(touched, row, one_value)
                                prefetch_row(sh_grad, row * channels, entry)
            sx = np.float32(x + 1 - px if odd_x else px - x)
            sy = np.float32(y + 1 - py if odd_y else py - y)
            sz = np.float32(z + 1 - pz if odd_z else pz - z)
            spread_corners(gathered, sx, sy, sz, flat_given, i)
        for slot in range(8):
            row = rows[slot]
            if row >= 0:
                touched[row] = 1
                density_grad[row] += gathered[4 * slot + 3]
                add_outer(sh_grad, row * channels, gathered, slot, tiled, entry)
            rows[slot] = -1
            clear_corner(gathered, slot)


@compiled
def raise_greatest(low, high, traces, numbers, kept, begins, counts, links, greatest):  # type: ignore[no-untyped-def]
    """Raise the voxels of layers [low, high) to the largest weight of a sample they have a share in."""
    size_z, size_y, size_x = links.shape
    flat_links = links.ravel()
    weights = np.zeros(8, np.float32)
    for ray in range(len(counts)):
        trace, transparent = traces[ray], 1.0
        for i in range(begins[ray], begins[ray] + counts[ray]):
            weight = np.float32(transparent * kept[i, 0])
            transparent *= 1.0 - kept[i, 0]
            t = trace[START] + numbers[i] * trace[DT]
            px = clamp(trace[ORIGIN] + trace[ALONG] * t, size_x)
            py = clamp(trace[ORIGIN + 1] + trace[ALONG + 1] * t, size_y)
            pz = clamp(trace[ORIGIN + 2] + trace[ALONG + 2] * t, size_z)
            x, y, z = min(int(px), size_x - 2), min(int(py), size_y - 2), min(int(pz), size_z - 2)
            if z + 1 < low or z >= high:
                continue
            corner_weights(np.float32(px - x), np.float32(py - y), np.float32(pz - z), weights)
            for corner in range(8):
                layer = z + (corner >> 2)
                if low <= layer < high and weights[corner] > 0.0:
                    place = (layer * size_y + y + (corner >> 1 & 1)) * size_x + x + (corner & 1)
                    row = flat_links[place]
                    if row >= 0:
                        greatest[row] = max(greatest[row], weight)
