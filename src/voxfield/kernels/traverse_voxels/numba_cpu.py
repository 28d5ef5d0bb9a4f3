"""Rays through voxels on a CPU: blocks of 64, 16 and 4 voxels that are empty, and full ones behind the first hit, are
crossed in one step.

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
    # What blocks of 16 and 64 voxels across hold; where the grid is smaller than one, it is that block.
    blocks, large = np.empty(-(-len(bits) // 64), np.int8), np.empty(-(-len(bits) // 4096), np.int8)
    run_split(_look, len(blocks), bits, blocks, grain=1024)
    _look_again(blocks, large)
    run_split(
        _follow,
        rays,
        origins.contiguous().numpy(),
        directions.contiguous().numpy(),
        bits,
        blocks,
        large,
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
def _look(first, stop, words, kinds):
    """What blocks of 64 words hold: 0 nothing, 2 no empty voxel, 1 otherwise."""
    for block in range(first, stop):
        anything, everything = np.int64(0), np.int64(-1)
        for at in range(64 * block, min(64 * block + 64, len(words))):
            anything |= words[at]
            everything &= words[at]
        kinds[block] = 0 if anything == 0 else 2 if everything == -1 else 1


@_jit
def _look_again(kinds, larger):
    """As `_look`, of blocks of 64 of those blocks."""
    for block in range(len(larger)):
        larger[block] = kinds[64 * block]
        for at in range(64 * block, min(64 * block + 64, len(kinds))):
            if kinds[at] != larger[block]:
                larger[block] = 1


@_jit
def _plane(low, size, start, along, inverse):
    """Distance at which a ray leaves [low, low + size) along one axis."""
    if along == 0.0:
        return np.inf
    return ((low + size if along > 0.0 else low) - start) * inverse


@_jit
def _clamp(place, low, size, resolution):
    """The voxel of a place, within [low, low + size) and the grid: rounding may put a place beside its block."""
    return min(max(math.floor(place), low), min(low + size, resolution) - 1)


@_jit
def _follow(
    first, stop, origins, directions, words, blocks, large, word_of, resolution, chord, distance, normal, voxel
):
    o, d, inverse = np.empty(3), np.empty(3), np.empty(3)
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
        # Scalars, not arrays, in the loops: the compiler keeps them in registers.
        ox, oy, oz, dx, dy, dz = o[0], o[1], o[2], d[0], d[1], d[2]
        ix, iy, iz = inverse[0], inverse[1], inverse[2]
        bx = _clamp(ox + dx * t, 0, resolution, resolution) >> 2
        by = _clamp(oy + dy * t, 0, resolution, resolution) >> 2
        bz = _clamp(oz + dz * t, 0, resolution, resolution) >> 2
        total, found = 0.0, False
        while True:
            at = word_of[0, bx << 2] + word_of[1, by << 2] + word_of[2, bz << 2]
            # Words of empty and of full blocks are not looked at: each would be a cache line of its own.
            shift, kind = 6, large[at >> 12]
            if kind == 1 or (kind == 2 and not found):
                shift, kind = 4, blocks[at >> 6]
            if kind == 1 or (kind == 2 and not found):
                shift, word = 2, words[at]
            else:
                word = np.int64(-1) if kind == 2 else np.int64(0)
            size = 1 << shift
            lx, ly, lz = (bx >> (shift - 2)) << shift, (by >> (shift - 2)) << shift, (bz >> (shift - 2)) << shift
            leave, through = t_end, -1
            plane = _plane(lx, size, ox, dx, ix)
            if plane < leave:
                leave, through = plane, 0
            plane = _plane(ly, size, oy, dy, iy)
            if plane < leave:
                leave, through = plane, 1
            plane = _plane(lz, size, oz, dz, iz)
            if plane < leave:
                leave, through = plane, 2
            if word == -1 and found:
                if leave - t > SHORTEST:
                    total += leave - t
            elif word != 0:
                cx = _clamp(ox + dx * t, lx, size, resolution)
                cy = _clamp(oy + dy * t, ly, size, resolution)
                cz = _clamp(oz + dz * t, lz, size, resolution)
                nx, ny, nz = _plane(cx, 1, ox, dx, ix), _plane(cy, 1, oy, dy, iy), _plane(cz, 1, oz, dz, iz)
                begin, face = t, entered
                while True:
                    end, step = leave, -1
                    if nx < end:
                        end, step = nx, 0
                    if ny < end:
                        end, step = ny, 1
                    if nz < end:
                        end, step = nz, 2
                    bit = (cx & 3) + ((cy & 3) << 2) + ((cz & 3) << 4)
                    if (word >> bit) & 1 and end - begin > SHORTEST:
                        total += end - begin
                        if not found:
                            found = True
                            distance[ray] = begin
                            voxel[ray] = cx + resolution * (cy + resolution * cz)
                            if face >= 0:
                                normal[ray, face] = -1 if d[face] > 0 else 1
                    if step == 0:
                        cx += 1 if dx > 0 else -1
                        if cx < lx or cx >= lx + size:
                            break
                        nx = _plane(cx, 1, ox, dx, ix)
                    elif step == 1:
                        cy += 1 if dy > 0 else -1
                        if cy < ly or cy >= ly + size:
                            break
                        ny = _plane(cy, 1, oy, dy, iy)
                    elif step == 2:
                        cz += 1 if dz > 0 else -1
                        if cz < lz or cz >= lz + size:
                            break
                        nz = _plane(cz, 1, oz, dz, iz)
                    else:
                        break
                    begin, face = max(begin, end), step
            if through < 0:
                break
            t, entered = max(t, leave), through
            if through == 0:
                bx = (lx + size) >> 2 if dx > 0 else (lx >> 2) - 1
            elif shift > 2:
                bx = _clamp(ox + dx * t, lx, size, resolution) >> 2
            if through == 1:
                by = (ly + size) >> 2 if dy > 0 else (ly >> 2) - 1
            elif shift > 2:
                by = _clamp(oy + dy * t, ly, size, resolution) >> 2
            if through == 2:
                bz = (lz + size) >> 2 if dz > 0 else (lz >> 2) - 1
            elif shift > 2:
                bz = _clamp(oz + dz * t, lz, size, resolution) >> 2
            if min(bx, by, bz) < 0 or max(bx, by, bz) << 2 >= resolution:
                break
        chord[ray] = total
