"""Rays through voxels on a CPU: empty blocks of 16 and 4 voxels, and full ones of 4, are crossed in one step.

Distances to planes are computed from the ray's origin, never added up, so a long way costs no accuracy.
"""

import math

import numpy as np
import torch
from numba import njit

from voxfield.kernels.threads import run_split
from voxfield.kernels.traverse_voxels.reference import SHORTEST
from voxfield.kernels.voxel_words import axis_tables, padded_side

_jit = njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")


def traverse_voxels(
    origins: torch.Tensor, directions: torch.Tensor, words: torch.Tensor, resolution: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.traverse_voxels``."""
    rays = len(origins)
    chord, distance = torch.zeros(rays, dtype=torch.float64), torch.full((rays,), torch.inf, dtype=torch.float64)
    normal, voxel = torch.zeros(rays, 3, dtype=torch.int8), torch.full((rays,), -1)
    bits = words.contiguous().numpy()
    # Whether blocks of 16 voxels across hold anything; where the grid is smaller than one, it is that block.
    blocks = bits.reshape(-1, min(64, len(bits))).any(1)
    run_split(
        _follow,
        rays,
        origins.contiguous().numpy(),
        directions.contiguous().numpy(),
        bits,
        blocks,
        axis_tables(padded_side(resolution))[0],
        resolution,
        chord.numpy(),
        distance.numpy(),
        normal.numpy(),
        voxel.numpy(),
        grain=256,
    )
    return chord, distance, normal, voxel


@_jit
def _follow(first, stop, origins, directions, words, blocks, word_of, resolution, chord, distance, normal, voxel):
    o, d, inverse = np.empty(3), np.empty(3), np.empty(3)
    block, cell, low, high = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64)
    for ray in range(first, stop):
        t, t_end, entered, usable = 0.0, np.inf, -1, False
        valid = True
        for axis in range(3):
            o[axis], d[axis] = origins[ray, axis], directions[ray, axis]
            valid &= abs(o[axis]) < np.inf and abs(d[axis]) < np.inf
            if d[axis] == 0.0:
                inverse[axis] = 0.0
                valid &= 0.0 <= o[axis] < resolution
            else:
                usable = True
                inverse[axis] = 1.0 / d[axis]
                near = ((0.0 if d[axis] > 0 else float(resolution)) - o[axis]) / d[axis]
                far = ((float(resolution) if d[axis] > 0 else 0.0) - o[axis]) / d[axis]
                # At 0 too: a ray that starts on the grid's face enters through it.
                if near >= t:
                    t, entered = near, axis
                t_end = min(t_end, far)
        if not (valid and usable and t < t_end):
            continue
        total = 0.0
        for axis in range(3):
            block[axis] = min(max(math.floor(o[axis] + d[axis] * t), 0), resolution - 1) >> 2
        while True:
            at = word_of[0, block[0] << 2] + word_of[1, block[1] << 2] + word_of[2, block[2] << 2]
            shift = 2 if blocks[at >> 6] else 4
            word = words[at]
            leave, through = t_end, -1
            for axis in range(3):
                low[axis] = (block[axis] >> (shift - 2)) << shift
                high[axis] = low[axis] + (1 << shift)
                if d[axis] != 0.0:
                    plane = ((high[axis] if d[axis] > 0 else low[axis]) - o[axis]) * inverse[axis]
                    if plane < leave:
                        leave, through = plane, axis
            if word == -1:
                if leave - t > SHORTEST:
                    total += leave - t
                    if voxel[ray] < 0:
                        for axis in range(3):
                            place = math.floor(o[axis] + d[axis] * t)
                            cell[axis] = min(max(place, low[axis]), min(high[axis], resolution) - 1)
                        if entered >= 0:
                            # The face is on the block's boundary, where rounding might choose the voxel before it.
                            cell[entered] = low[entered] if d[entered] > 0 else high[entered] - 1
                            normal[ray, entered] = -1 if d[entered] > 0 else 1
                        distance[ray] = t
                        voxel[ray] = cell[0] + resolution * (cell[1] + resolution * cell[2])
            elif word != 0:
                for axis in range(3):
                    place = math.floor(o[axis] + d[axis] * t)
                    cell[axis] = min(max(place, low[axis]), min(high[axis], resolution) - 1)
                begin, face = t, entered
                while True:
                    end, step = leave, -1
                    for axis in range(3):
                        if d[axis] != 0.0:
                            plane = (cell[axis] + (1 if d[axis] > 0 else 0) - o[axis]) * inverse[axis]
                            if plane < end:
                                end, step = plane, axis
                    bit = (cell[0] & 3) + ((cell[1] & 3) << 2) + ((cell[2] & 3) << 4)
                    if (word >> bit) & 1 and end - begin > SHORTEST:
                        total += end - begin
                        if voxel[ray] < 0:
                            distance[ray] = begin
                            voxel[ray] = cell[0] + resolution * (cell[1] + resolution * cell[2])
                            if face >= 0:
                                normal[ray, face] = -1 if d[face] > 0 else 1
                    if step < 0:
                        break
                    cell[step] += 1 if d[step] > 0 else -1
                    if cell[step] < low[step] or cell[step] >= min(high[step], resolution):
                        break
                    begin, face = max(begin, end), step
            if through < 0:
                break
            t, entered = max(t, leave), through
            for axis in range(3):
                if axis == through:
                    block[axis] = high[axis] >> 2 if d[axis] > 0 else (low[axis] >> 2) - 1
                elif shift > 2:
                    place = math.floor(o[axis] + d[axis] * t)
                    block[axis] = min(max(place, low[axis]), min(high[axis], resolution) - 1) >> 2
            if block[through] < 0 or block[through] << 2 >= resolution:
                break
        chord[ray] = total
