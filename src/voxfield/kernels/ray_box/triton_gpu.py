"""The slab test on a GPU: one ray a lane."""

import torch
import triton
import triton.language as tl

_BLOCK = 256


def ray_box(origins: torch.Tensor, directions: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``api.ray_box``."""
    origins, directions, box = origins.detach(), directions.detach(), box.detach().contiguous()
    rays = len(origins)
    t_near, t_far = origins.new_empty(rays), origins.new_empty(rays)
    if rays:
        strides = *origins.stride(), *directions.stride()
        _slabs[(triton.cdiv(rays, _BLOCK),)](
            origins, directions, box, t_near, t_far, rays, *strides, BLOCK=_BLOCK, enable_fp_fusion=False
        )
    return t_near, t_far


@triton.jit
def _slabs(origins, directions, box, t_near, t_far, rays, o_ray, o_axis, d_ray, d_axis, BLOCK: tl.constexpr):
    # int64: a ray's address overflows 32 bits from 2**31 / 3 rays on.
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = ray < rays
    near = tl.zeros((BLOCK,), tl.float32)
    far = tl.full((BLOCK,), float("inf"), tl.float32)
    hit = valid
    for axis in tl.static_range(3):
        origin = tl.load(origins + ray * o_ray + axis * o_axis, mask=valid, other=0.0)
        direction = tl.load(directions + ray * d_ray + axis * d_axis, mask=valid, other=1.0)
        low, high = tl.load(box + axis), tl.load(box + 3 + axis)
        parallel = direction == 0.0
        # Division, not multiplication by 1 / direction, which is infinite for a tiny direction.
        divisor = tl.where(parallel, 1.0, direction)
        # div_rn: the default division of Triton is off by up to two units in the last place.
        first, second = tl.div_rn(low - origin, divisor), tl.div_rn(high - origin, divisor)
        enter, leave = tl.minimum(first, second), tl.maximum(first, second)
        between = (low <= origin) & (origin <= high)
        # Comparisons with NaN are false, so a ray with NaN misses.
        hit = hit & tl.where(parallel, between, (enter <= far) & (leave >= near))
        near = tl.where(parallel, near, tl.maximum(near, enter))
        far = tl.where(parallel, far, tl.minimum(far, leave))
    hit = hit & (near <= far)
    tl.store(t_near + ray, tl.where(hit, near, float("inf")), mask=valid)
    tl.store(t_far + ray, tl.where(hit, far, float("-inf")), mask=valid)
