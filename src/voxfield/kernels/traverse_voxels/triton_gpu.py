"""Rays through voxels on a GPU: one ray a lane, a warp a program. A step crosses a voxel, an empty block of 16 or 4
voxels, or a full one of 4 behind the first hit.

Distances to planes are computed from the ray's origin, never added up, so a long way costs no accuracy.
"""

import torch
import triton
import triton.language as tl

from voxfield.kernels.traverse_voxels.reference import SHORTEST
from voxfield.kernels.voxel_words import axis_tables, padded_side

_BLOCK = 32
"""Rays a program: one warp, so that the loop's "any ray left?" is a vote and needs no shared memory."""


def traverse_voxels(
    origins: torch.Tensor, directions: torch.Tensor, words: torch.Tensor, resolution: int, first_hit_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.traverse_voxels``."""
    rays, words = len(origins), words.contiguous()
    origins, directions = origins.double().contiguous(), directions.double().contiguous()
    chord, distance = origins.new_empty(rays), origins.new_empty(rays)
    normal = torch.empty(rays, 3, dtype=torch.int8, device=origins.device)
    voxel = torch.empty(rays, dtype=torch.int64, device=origins.device)
    # Whether blocks of 16 voxels across hold anything; where the grid is smaller than one, it is that block.
    blocks = words.reshape(-1, min(64, len(words))).ne(0).any(1)
    word_of = torch.from_numpy(axis_tables(padded_side(resolution))[0]).to(origins.device)
    if rays:
        _follow[(triton.cdiv(rays, _BLOCK),)](
            origins, directions, words, blocks, word_of, padded_side(resolution),
            resolution, rays, SHORTEST, chord, distance, normal, voxel, FIRST_HIT_ONLY=first_hit_only, BLOCK=_BLOCK,
            num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    return chord, distance, normal, voxel


@triton.jit
def _follow(
    origins,
    directions,
    words,
    blocks,
    word_of,
    side,
    resolution,
    rays,
    shortest,
    chord,
    distance,
    normal,
    voxel,
    FIRST_HIT_ONLY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = ray < rays
    t, t_end = tl.zeros((BLOCK,), tl.float64), tl.full((BLOCK,), float("inf"), tl.float64)
    entered = tl.full((BLOCK,), -1, tl.int32)
    active, t, t_end, entered, ox, dx = _slab(valid, t, t_end, entered, ray, 0, origins, directions, resolution)
    active, t, t_end, entered, oy, dy = _slab(active, t, t_end, entered, ray, 1, origins, directions, resolution)
    active, t, t_end, entered, oz, dz = _slab(active, t, t_end, entered, ray, 2, origins, directions, resolution)
    active = active & ((dx != 0.0) | (dy != 0.0) | (dz != 0.0)) & (t < t_end)
    # Lanes without work go on with numbers, not with infinities.
    t, t_end = tl.where(active, t, 0.0), tl.where(active, t_end, 0.0)
    x = _clamp(ox + dx * t, 0, resolution, resolution)
    y = _clamp(oy + dy * t, 0, resolution, resolution)
    z = _clamp(oz + dz * t, 0, resolution, resolution)
    total = tl.zeros((BLOCK,), tl.float64)
    first = tl.full((BLOCK,), float("inf"), tl.float64)
    face, number = tl.full((BLOCK,), -1, tl.int32), tl.full((BLOCK,), -1, tl.int64)
    while tl.max(active.to(tl.int32), 0) > 0:
        at = tl.load(word_of + x, mask=active, other=0) + tl.load(word_of + side + y, mask=active, other=0)
        at += tl.load(word_of + 2 * side + z, mask=active, other=0)
        # Words of empty blocks of 16 are not looked at: each would be a cache line of its own.
        some = tl.load(blocks + (at >> 6), mask=active, other=0) != 0
        word = tl.load(words + at, mask=active & some, other=0)
        full = (word == -1) & (number >= 0)
        shift = tl.where(some, tl.where((word == 0) | full, 2, 0), 4)
        size = tl.full((BLOCK,), 1, tl.int32) << shift
        low_x, low_y, low_z = (x >> shift) << shift, (y >> shift) << shift, (z >> shift) << shift
        leave, through = t_end, tl.full((BLOCK,), -1, tl.int32)
        plane = _plane(low_x, size, ox, dx)
        through, leave = tl.where(plane < leave, 0, through), tl.minimum(plane, leave)
        plane = _plane(low_y, size, oy, dy)
        through, leave = tl.where(plane < leave, 1, through), tl.minimum(plane, leave)
        plane = _plane(low_z, size, oz, dz)
        through, leave = tl.where(plane < leave, 2, through), tl.minimum(plane, leave)
        bit = ((x & 3) + ((y & 3) << 2) + ((z & 3) << 4)).to(tl.int64)
        solid = active & (((word >> bit) & 1) != 0) & (leave - t > shortest)
        total += tl.where(solid, leave - t, 0.0)
        new = solid & (number < 0)
        first = tl.where(new, t, first)
        face = tl.where(new, entered, face)
        number = tl.where(new, x + resolution * (y.to(tl.int64) + resolution * z.to(tl.int64)), number)
        t, entered = tl.maximum(t, leave), through
        x = _next(through == 0, x, low_x, size, ox + dx * t, dx, resolution)
        y = _next(through == 1, y, low_y, size, oy + dy * t, dy, resolution)
        z = _next(through == 2, z, low_z, size, oz + dz * t, dz, resolution)
        active = active & (through >= 0) & (x >= 0) & (y >= 0) & (z >= 0)
        active = active & (x < resolution) & (y < resolution) & (z < resolution)
        if FIRST_HIT_ONLY:
            active = active & (number < 0)
    if FIRST_HIT_ONLY:
        total = tl.full((BLOCK,), float("nan"), tl.float64)
    tl.store(chord + ray, total, mask=valid)
    tl.store(distance + ray, first, mask=valid)
    tl.store(voxel + ray, number, mask=valid)
    for axis in tl.static_range(3):
        along = dx if axis == 0 else dy if axis == 1 else dz
        outward = tl.where(face == axis, tl.where(along > 0.0, -1, 1), 0)
        tl.store(normal + ray * 3 + axis, outward.to(tl.int8), mask=valid)


@triton.jit
def _slab(active, t, t_end, entered, ray, AXIS: tl.constexpr, origins, directions, resolution):
    """Narrow [t, t_end] to one axis of the grid; the axis by whose plane it is entered, origin and direction."""
    origin = tl.load(origins + ray * 3 + AXIS, mask=active, other=0.0)
    along = tl.load(directions + ray * 3 + AXIS, mask=active, other=0.0)
    # Comparisons with NaN are false, so such a ray meets nothing.
    active = active & (tl.abs(origin) < float("inf")) & (tl.abs(along) < float("inf"))
    origin, along = tl.where(active, origin, 0.0), tl.where(active, along, 0.0)
    parallel = along == 0.0
    active = active & (~parallel | ((origin >= 0.0) & (origin < resolution)))
    divisor = tl.where(parallel, 1.0, along)
    front = tl.where(along > 0.0, 0, resolution)
    near, far = (front - origin) / divisor, (resolution - front - origin) / divisor
    # At 0 too: a ray that starts on the grid's face enters through it.
    nearer = ~parallel & (near >= t)
    t, entered = tl.where(nearer, near, t), tl.where(nearer, AXIS, entered)
    return active, t, tl.where(parallel, t_end, tl.minimum(t_end, far)), entered, origin, along


@triton.jit
def _plane(low, size, start, along):
    """Distance at which a ray leaves [low, low + size) along one axis."""
    face = tl.where(along > 0.0, low + size, low).to(tl.float64)
    return tl.where(along == 0.0, float("inf"), (face - start) / tl.where(along == 0.0, 1.0, along))


@triton.jit
def _next(crossed, cell, low, size, place, along, resolution):
    """The voxel entered, along one axis: exactly the next where the ray crosses that axis's plane."""
    beyond = tl.where(along > 0.0, low + size, low - 1)
    return tl.where(crossed, beyond, tl.where(size > 1, _clamp(place, low, size, resolution), cell))


@triton.jit
def _clamp(place, low, size, resolution):
    """The voxel of a place, within [low, low + size) and the grid: rounding may put a place beside its block.

    The bounds come first: NaN then becomes ``low`` and never an address.
    """
    high = tl.minimum(low + size, resolution) - 1
    bounded = tl.where(place > low, tl.where(place < high, place, high.to(tl.float64)), low * 1.0)
    return tl.floor(bounded).to(tl.int32)
