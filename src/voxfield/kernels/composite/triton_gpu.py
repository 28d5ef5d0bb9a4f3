"""Compositing on a GPU: one ray a program, its samples in chunks joined by a prefix sum.

A program is one warp: rays differ in length, and with one ray a lane the longest of 32 would hold up the others, while
loads of neighbouring lanes would be far apart.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_CHUNK = 32
"""Samples a step: one a lane."""


def composite(
    density: torch.Tensor,
    colour: torch.Tensor,
    t_start: torch.Tensor,
    t_end: torch.Tensor,
    ray_offsets: torch.Tensor,
    early_stop: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.composite``. Returns rgb (R, C), opacity (R,), depth (R,), weights (S,)."""
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] = _Composite.apply(
        density, colour, t_start, t_end, ray_offsets, early_stop
    )
    return outputs


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        density: torch.Tensor,
        colour: torch.Tensor,
        t_start: torch.Tensor,
        t_end: torch.Tensor,
        ray_offsets: torch.Tensor,
        early_stop: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        density, t_start, t_end = density.contiguous(), t_start.contiguous(), t_end.contiguous()
        rays, channels = len(ray_offsets) - 1, colour.shape[1]
        rgb = density.new_empty(rays, channels)
        opacity, depth = density.new_empty(rays), density.new_empty(rays)
        weights = torch.empty_like(density)
        ray_offsets = ray_offsets.contiguous()
        if rays:
            _forward[(rays,)](
                density,
                colour,
                t_start,
                t_end,
                ray_offsets,
                rgb,
                opacity,
                depth,
                weights,
                *colour.stride(),
                early_stop,
                channels,
                PADDED_CHANNELS=triton.next_power_of_2(channels),
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        ctx.save_for_backward(density, colour, t_start, t_end, ray_offsets, weights)
        ctx.early_stop = early_stop
        return rgb, opacity, depth, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        density, colour, t_start, t_end, ray_offsets, weights = ctx.saved_tensors
        rays, channels = len(ray_offsets) - 1, colour.shape[1]
        grad_density = torch.empty_like(density)
        grad_colour = density.new_empty(len(density), channels)
        if rays:
            _backward[(rays,)](
                density,
                colour,
                t_start,
                t_end,
                ray_offsets,
                weights,
                *(grad.contiguous() for grad in grads),
                grad_density,
                grad_colour,
                *colour.stride(),
                ctx.early_stop,
                channels,
                PADDED_CHANNELS=triton.next_power_of_2(channels),
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        return grad_density, grad_colour, None, None, None, None


@triton.jit
def _forward(
    density,
    colour,
    t_start,
    t_end,
    ray_offsets,
    rgb,
    opacity,
    depth,
    weights,
    c_row,
    c_column,
    early_stop,
    channels,
    PADDED_CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(ray_offsets + ray), tl.load(ray_offsets + ray + 1)
    channel = tl.arange(0, PADDED_CHANNELS)
    in_colour = channel < channels
    optical_before = 0.0  # -log of the transmittance so far
    rgb_sum = tl.zeros((PADDED_CHANNELS,), tl.float32)
    opacity_sum, depth_sum = 0.0, 0.0
    for first in range(start, stop, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        valid = sample < stop
        t0 = tl.load(t_start + sample, mask=valid, other=0.0)
        t1 = tl.load(t_end + sample, mask=valid, other=0.0)
        optical = _optical_depth(tl.load(density + sample, mask=valid, other=0.0), t1 - t0)
        transmittance = tl.exp(-(optical_before + tl.cumsum(optical, 0) - optical))
        # Not >=: a NaN density has to reach the sums, where training finds it.
        alive = valid & ~(transmittance < early_stop)
        weight = tl.where(alive, (1.0 - tl.exp(-optical)) * transmittance, 0.0)
        tl.store(weights + sample, weight, mask=valid)
        seen = tl.load(
            colour + sample[:, None] * c_row + channel[None, :] * c_column,
            mask=alive[:, None] & in_colour[None, :],
            other=0.0,
        )
        rgb_sum += tl.sum(weight[:, None] * seen, 0)
        opacity_sum += tl.sum(weight, 0)
        depth_sum += tl.sum(weight * 0.5 * (t0 + t1), 0)
        optical_before += tl.sum(optical, 0)
    tl.store(rgb + ray * channels + channel, rgb_sum, mask=in_colour)
    tl.store(opacity + ray, opacity_sum)
    tl.store(depth + ray, depth_sum)


@triton.jit
def _backward(
    density,
    colour,
    t_start,
    t_end,
    ray_offsets,
    weights,
    grad_rgb,
    grad_opacity,
    grad_depth,
    grad_weights,
    grad_density,
    grad_colour,
    c_row,
    c_column,
    early_stop,
    channels,
    PADDED_CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # With g_i the gradient that reaches w_i: dL/d(density_i) = delta_i * (T_{i+1} g_i - sum over j > i of w_j g_j).
    # The sum over j > i is the ray's whole sum, from a first pass, less the prefix up to and with i.
    ray = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(ray_offsets + ray), tl.load(ray_offsets + ray + 1)
    channel = tl.arange(0, PADDED_CHANNELS)
    in_colour = channel < channels
    g_rgb = tl.load(grad_rgb + ray * channels + channel, mask=in_colour, other=0.0)
    g_opacity, g_depth = tl.load(grad_opacity + ray), tl.load(grad_depth + ray)
    whole = 0.0
    for first in range(start, stop, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        valid = sample < stop
        weight = tl.load(weights + sample, mask=valid, other=0.0)
        whole += tl.sum(
            weight
            * _weight_gradient(
                sample, valid, channel, in_colour, colour, t_start, t_end, grad_weights, c_row, c_column,
                g_rgb, g_opacity, g_depth,
            ),
            0,
        )  # fmt: skip
    optical_before, prefix = 0.0, 0.0
    for first in range(start, stop, CHUNK):
        sample = first + tl.arange(0, CHUNK)
        valid = sample < stop
        weight = tl.load(weights + sample, mask=valid, other=0.0)
        delta = tl.load(t_end + sample, mask=valid, other=0.0) - tl.load(t_start + sample, mask=valid, other=0.0)
        optical = _optical_depth(tl.load(density + sample, mask=valid, other=0.0), delta)
        behind = optical_before + tl.cumsum(optical, 0)  # -log T_{i+1}
        alive = valid & ~(tl.exp(-(behind - optical)) < early_stop)
        g_weight = _weight_gradient(
            sample, valid, channel, in_colour, colour, t_start, t_end, grad_weights, c_row, c_column,
            g_rgb, g_opacity, g_depth,
        )  # fmt: skip
        contribution = weight * g_weight
        later = whole - prefix - tl.cumsum(contribution, 0)
        g_density = tl.where(alive, delta * (tl.exp(-behind) * g_weight - later), 0.0)
        tl.store(grad_density + sample, g_density, mask=valid)
        tl.store(
            grad_colour + sample[:, None] * channels + channel[None, :],
            weight[:, None] * g_rgb[None, :],
            mask=valid[:, None] & in_colour[None, :],
        )
        optical_before += tl.sum(optical, 0)
        prefix += tl.sum(contribution, 0)


@triton.jit
def _optical_depth(density, delta):
    """The product, at most 30: 1 - exp(-30) is 1 in float32, and what lies before a sample is its prefix sum less
    its own share, which would be lost in the rounding of a larger one.
    """
    optical = density * delta
    return tl.where(optical > 30.0, 30.0, optical)  # keeps NaN, as minimum() does not


@triton.jit
def _weight_gradient(
    sample, valid, channel, in_colour, colour, t_start, t_end, grad_weights, c_row, c_column, g_rgb, g_opacity, g_depth
):
    """dL/dw_i of a chunk of samples: what rgb, opacity, depth and the weight itself pass on."""
    seen = tl.load(
        colour + sample[:, None] * c_row + channel[None, :] * c_column,
        mask=valid[:, None] & in_colour[None, :],
        other=0.0,
    )
    t0 = tl.load(t_start + sample, mask=valid, other=0.0)
    t1 = tl.load(t_end + sample, mask=valid, other=0.0)
    own = tl.load(grad_weights + sample, mask=valid, other=0.0)
    return tl.sum(seen * g_rgb[None, :], 1) + g_opacity + g_depth * 0.5 * (t0 + t1) + own
