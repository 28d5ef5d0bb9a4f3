"""Marching rays through a voxel grid, each once, and what is kept of their samples for a backward.

A ray meets a voxel in several cells and samples. So a voxel's colour is worked out once a ray, when a sample that
counts first needs it, and kept while the ray stays beside it: of the eight corners of a cell four are those of the
one before, mostly. Transmittance and opacities are float64: a thin sample's opacity, 1 - exp(-x), would lose half its
digits in float32.
"""

import math

import numpy as np

from voxfield.kernels.sh_grid.numba_rays import (
    ALONG,
    DELTA,
    DT,
    END,
    ODD_X,
    ODD_Y,
    ODD_Z,
    ORIGIN,
    START,
    clamp,
    compiled,
    leave_cells,
    lower_voxel,
    set_out,
    slot_coordinate,
    slots_kept,
)
from voxfield.kernels.sh_grid.simd import clear_corner, lerp_corners, prefetch_row, project_row
from voxfield.kernels.simd import lowest_bit

KEPT = 5
"""Values kept of a sample: opacity, density, three colours before they are clamped."""
_AHEAD, _FAR_AHEAD = 1.5, 5.0
"""Voxels ahead of a sample whose rows, and whose links, are asked for: a dense grid's come from main memory."""
_LARGE = 1e200
"""Where a product of (1 + 2 density^2), whose logarithm is the sparsity penalty, is turned into its logarithm."""


@compiled
def march_rays(  # type: ignore[no-untyped-def]
    first,
    stop,
    origins,
    directions,
    basis,
    links,
    clearance,
    density,
    sh,
    box,
    rule,
    near,
    jitter,
    most,
    traces,
    numbers,
    kept,
    begins,
    counts,
    rgb,
    opacity,
    depth,
    sparsity,
    entry,
):
    """Rays [first, stop): their sums, and what is kept of their samples, from element ``begins[ray]`` on.

    There is room for ``most`` samples a ray; rays [first, stop) fill theirs without gaps. Without an ``entry`` colours
    are left out.
    """
    size_z, size_y, size_x = links.shape
    size = (size_x, size_y, size_z)
    flat_links, flat_clearance, flat_basis = links.ravel(), clearance.ravel(), basis.ravel()
    step, threshold, early_stop = rule
    channels = len(entry)
    harmonics = channels // 3
    rows, densities = np.zeros(8, np.int64), np.zeros(8, np.float32)
    colours, colour = np.zeros(32, np.float32), np.zeros(4, np.float32)
    half, nothing, ahead, far_ahead = np.float32(0.5), np.float32(0.0), _AHEAD / step, _FAR_AHEAD / step
    one_value = (0,)
    at = first * most
    for ray in range(first, stop):
        begins[ray], counts[ray] = at, 0
        red, green, blue, seen, distance, penalty, grown = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0
        trace = traces[ray]
        if set_out(origins[ray], directions[ray], box, size, step, jitter[ray], near, trace):
            start, dt, delta, end = trace[START], trace[DT], trace[DELTA], trace[END]
            ox, oy, oz = trace[ORIGIN], trace[ORIGIN + 1], trace[ORIGIN + 2]
            dx, dy, dz = trace[ALONG], trace[ALONG + 1], trace[ALONG + 2]
            transparent, k, count = 1.0, 0, 0
            held, held_x, held_y, held_z, coloured = -1, -9, -9, -9, 0
            asked_x, asked_y, asked_z = -9, -9, -9
            odd_x, odd_y, odd_z, lit = False, False, False, False
            while True:
                t = start + k * dt
                if not (t < end and count < most):
                    break
                px, py, pz = clamp(ox + dx * t, size_x), clamp(oy + dy * t, size_y), clamp(oz + dz * t, size_z)
                x, y, z = min(int(px), size_x - 2), min(int(py), size_y - 2), min(int(pz), size_z - 2)
                cell = (z * size_y + y) * size_x + x
                if cell != held:
                    clear = int(flat_clearance[cell])
                    if clear > 0:
                        leave = min(end, leave_cells(ox, dx, x - clear + 1, x + clear, size_x))
                        leave = min(leave, leave_cells(oy, dy, y - clear + 1, y + clear, size_y))
                        leave = min(leave, leave_cells(oz, dz, z - clear + 1, z + clear, size_z))
                        # The sample jumped to may still lie in the empty cells: it is tested like any other.
                        k = max(k + 1, int((leave - start) / dt))
                        continue
                    still = slots_kept(x, held_x, ODD_X) & slots_kept(y, held_y, ODD_Y)
                    still &= slots_kept(z, held_z, ODD_Z)
                    missing = still ^ 255
                    while missing != 0:
                        slot = lowest_bit(missing)
                        missing &= missing - 1
                        place = slot_coordinate(z, slot >> 2) * size_y + slot_coordinate(y, slot >> 1)
                        row = flat_links[place * size_x + slot_coordinate(x, slot)]
                        rows[slot] = row
                        densities[slot] = density[row] if row >= 0 else nothing
                    held, held_x, held_y, held_z = cell, x, y, z
                    coloured &= still
                    if channels > 0:
                        far = t + far_ahead * dt
                        fx, fy = lower_voxel(ox + dx * far, size_x), lower_voxel(oy + dy * far, size_y)
                        place = (lower_voxel(oz + dz * far, size_z) * size_y + fy) * size_x + fx
                        prefetch_row(flat_clearance, place, one_value)
                        for line in range(4):
                            prefetch_row(flat_links, place + size_x * ((line & 1) + size_y * (line >> 1)), one_value)
                        far = t + ahead * dt
                        fx, fy = lower_voxel(ox + dx * far, size_x), lower_voxel(oy + dy * far, size_y)
                        fz = lower_voxel(oz + dz * far, size_z)
                        missing = 255 ^ (
                            slots_kept(fx, asked_x, ODD_X)
                            & slots_kept(fy, asked_y, ODD_Y)
                            & slots_kept(fz, asked_z, ODD_Z)
                        )
                        asked_x, asked_y, asked_z = fx, fy, fz
                        while missing != 0:
                            slot = lowest_bit(missing)
                            missing &= missing - 1
                            place = slot_coordinate(fz, slot >> 2) * size_y + slot_coordinate(fy, slot >> 1)
                            row = flat_links[place * size_x + slot_coordinate(fx, slot)]
                            if row >= 0:
                                prefetch_row(density, row, one_value)
                                if lit:
                                    prefetch_row(sh, row * channels, entry)
                    odd_x, odd_y, odd_z = (x & 1) != 0, (y & 1) != 0, (z & 1) != 0
                sx = np.float32(x + 1 - px if odd_x else px - x)
                sy = np.float32(y + 1 - py if odd_y else py - y)
                sz = np.float32(z + 1 - pz if odd_z else pz - z)
                a = densities[0] + sx * (densities[1] - densities[0])
                b = densities[2] + sx * (densities[3] - densities[2])
                c = densities[4] + sx * (densities[5] - densities[4])
                d = densities[6] + sx * (densities[7] - densities[6])
                a += sy * (b - a)
                c += sy * (d - c)
                sigma = a + sz * (c - a)
                lit = not sigma <= threshold
                if lit:  # a NaN goes on to the sums, where training finds it
                    alpha = 1.0 - math.exp(-delta * sigma)
                    weight = transparent * alpha
                    transparent *= 1.0 - alpha
                    numbers[at + count] = k
                    kept[at + count, 0], kept[at + count, 1] = alpha, sigma
                    if channels > 0:
                        missing = coloured ^ 255
                        while missing != 0:
                            slot = lowest_bit(missing)
                            missing &= missing - 1
                            if rows[slot] >= 0:
                                project_row(
                                    sh, rows[slot] * channels, flat_basis, ray * harmonics, colours, slot, entry
                                )
                            else:
                                clear_corner(colours, slot)
                        coloured = 255
                        lerp_corners(colours, sx, sy, sz, colour)
                        for channel in range(3):
                            kept[at + count, 2 + channel] = half + colour[channel]
                        red += weight * max(kept[at + count, 2], nothing)
                        green += weight * max(kept[at + count, 3], nothing)
                        blue += weight * max(kept[at + count, 4], nothing)
                    seen += weight
                    distance += weight * t
                    grown *= 1.0 + 2.0 * float(sigma) * float(sigma)
                    if grown > _LARGE:
                        penalty += math.log(grown)
                        grown = 1.0
                    count += 1
                    if transparent < early_stop:
                        break
                k += 1
            counts[ray] = count
            at += count
        rgb[ray, 0], rgb[ray, 1], rgb[ray, 2] = red, green, blue
        opacity[ray], depth[ray], sparsity[ray] = seen, distance, penalty + math.log(grown)
