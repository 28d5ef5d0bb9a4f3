"""Dense compositing on a GPU: one ray a program, its samples in chunks joined by a prefix sum.

A program is one warp, so that neighbouring lanes load neighbouring samples. The same two kernels serve both calls:
without ``SUMS`` they neither read colours nor write sums.
"""

from typing import Any

import torch
import triton
import triton.language as tl

_CHUNK = 32
"""Samples a step: one a lane."""


def dense_composite(
    density: torch.Tensor, colour: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.dense_composite``. Returns rgb (R, C), opacity (R,), depth (R,), weights (R, S)."""
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] = _DenseComposite.apply(
        density, colour, edges
    )
    return outputs


def dense_weights(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """See ``api.dense_weights``. Returns (R, S)."""
    weights: torch.Tensor = _DenseWeights.apply(density, edges)
    return weights


class _DenseComposite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: torch.Tensor, colour: torch.Tensor, edges: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        density, edges = density.contiguous(), edges.contiguous()
        rays, samples, channels = colour.shape
        rgb = density.new_empty(rays, channels)
        opacity, depth = density.new_empty(rays), density.new_empty(rays)
        weights = torch.empty_like(density)
        if rays:
            _forward[(rays,)](
                density,
                colour,
                edges,
                weights,
                rgb,
                opacity,
                depth,
                *colour.stride(),
                samples,
                channels,
                PADDED_CHANNELS=triton.next_power_of_2(channels),
                SUMS=True,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        ctx.save_for_backward(density, colour, edges, weights)
        return rgb, opacity, depth, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        density, colour, edges, weights = ctx.saved_tensors
        rays, samples, channels = colour.shape
        g_rgb, g_opacity, g_depth, g_weights = (grad.contiguous() for grad in grads)
        grad_density = torch.empty_like(density)
        grad_colour = density.new_empty(rays, samples, channels)
        if rays:
            _backward[(rays,)](
                density,
                colour,
                edges,
                weights,
                g_weights,
                g_rgb,
                g_opacity,
                g_depth,
                grad_density,
                grad_colour,
                *colour.stride(),
                samples,
                channels,
                PADDED_CHANNELS=triton.next_power_of_2(channels),
                SUMS=True,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        return grad_density, grad_colour, None


class _DenseWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        density, edges = density.contiguous(), edges.contiguous()
        rays, samples = density.shape
        weights = torch.empty_like(density)
        unused = (weights,) * 3
        if rays:
            _forward[(rays,)](
                density,
                density,
                edges,
                weights,
                *unused,
                *(0, 0, 0),
                samples,
                0,
                PADDED_CHANNELS=1,
                SUMS=False,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        ctx.save_for_backward(density, edges, weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_weights: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        density, edges, weights = ctx.saved_tensors
        rays, samples = density.shape
        grad_density = torch.empty_like(density)
        unused = (weights,) * 3
        if rays:
            _backward[(rays,)](
                density,
                density,
                edges,
                weights,
                grad_weights.contiguous(),
                *unused,
                grad_density,
                grad_density,
                *(0, 0, 0),
                samples,
                0,
                PADDED_CHANNELS=1,
                SUMS=False,
                CHUNK=_CHUNK,
                num_warps=1,
                enable_fp_fusion=True,
            )
        return grad_density, None


@triton.jit
def _forward(
    density,
    colour,
    edges,
    weights,
    rgb,
    opacity,
    depth,
    c_ray,
    c_sample,
    c_channel,
    samples,
    channels,
    PADDED_CHANNELS: tl.constexpr,
    SUMS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    ray = tl.program_id(0).to(tl.int64)
    density += ray * samples
    weights += ray * samples
    edges += ray * (samples + 1)
    channel = tl.arange(0, PADDED_CHANNELS)
    in_colour = channel < channels
    optical_before = 0.0  # -log of the transmittance so far
    rgb_sum = tl.zeros((PADDED_CHANNELS,), tl.float32)
    opacity_sum, depth_sum = 0.0, 0.0
    for first in range(0, samples, CHUNK):
        sample = (first + tl.arange(0, CHUNK)).to(tl.int64)
        valid = sample < samples
        t0 = tl.load(edges + sample, mask=valid, other=0.0)
        t1 = tl.load(edges + sample + 1, mask=valid, other=0.0)
        optical = _optical_depth(tl.load(density + sample, mask=valid, other=0.0), t1 - t0)
        transmittance = tl.exp(-(optical_before + tl.cumsum(optical, 0) - optical))
        weight = _alpha(optical) * transmittance
        tl.store(weights + sample, weight, mask=valid)
        if SUMS:
            seen = tl.load(
                colour + ray * c_ray + sample[:, None] * c_sample + channel[None, :] * c_channel,
                mask=valid[:, None] & in_colour[None, :],
                other=0.0,
            )
            rgb_sum += tl.sum(weight[:, None] * seen, 0)
            opacity_sum += tl.sum(weight, 0)
            depth_sum += tl.sum(weight * 0.5 * (t0 + t1), 0)
        optical_before += tl.sum(optical, 0)
    if SUMS:
        tl.store(rgb + ray * channels + channel, rgb_sum, mask=in_colour)
        tl.store(opacity + ray, opacity_sum)
        tl.store(depth + ray, depth_sum)


@triton.jit
def _backward(
    density,
    colour,
    edges,
    weights,
    grad_weights,
    grad_rgb,
    grad_opacity,
    grad_depth,
    grad_density,
    grad_colour,
    c_ray,
    c_sample,
    c_channel,
    samples,
    channels,
    PADDED_CHANNELS: tl.constexpr,
    SUMS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # With g_i the gradient that reaches w_i: dL/d(density_i) = delta_i * (T_{i+1} g_i - sum over j > i of w_j g_j).
    # The sum over j > i is the ray's whole sum, from a first pass, less the prefix up to and with i.
    ray = tl.program_id(0).to(tl.int64)
    density += ray * samples
    weights += ray * samples
    grad_weights += ray * samples
    grad_density += ray * samples
    edges += ray * (samples + 1)
    channel = tl.arange(0, PADDED_CHANNELS)
    in_colour = channel < channels
    g_rgb = tl.zeros((PADDED_CHANNELS,), tl.float32)
    g_opacity, g_depth = 0.0, 0.0
    if SUMS:
        colour += ray * c_ray
        grad_colour += ray * samples * channels
        g_rgb = tl.load(grad_rgb + ray * channels + channel, mask=in_colour, other=0.0)
        g_opacity, g_depth = tl.load(grad_opacity + ray), tl.load(grad_depth + ray)
    whole = 0.0
    for first in range(0, samples, CHUNK):
        sample = (first + tl.arange(0, CHUNK)).to(tl.int64)
        valid = sample < samples
        g_weight = _weight_gradient(
            sample, valid, channel, in_colour, colour, edges, grad_weights, c_sample, c_channel,
            g_rgb, g_opacity, g_depth, SUMS,
        )  # fmt: skip
        whole += tl.sum(tl.load(weights + sample, mask=valid, other=0.0) * g_weight, 0)
    optical_before, prefix = 0.0, 0.0
    for first in range(0, samples, CHUNK):
        sample = (first + tl.arange(0, CHUNK)).to(tl.int64)
        valid = sample < samples
        weight = tl.load(weights + sample, mask=valid, other=0.0)
        delta = tl.load(edges + sample + 1, mask=valid, other=0.0) - tl.load(edges + sample, mask=valid, other=0.0)
        optical = _optical_depth(tl.load(density + sample, mask=valid, other=0.0), delta)
        behind = optical_before + tl.cumsum(optical, 0)  # -log T_{i+1}
        g_weight = _weight_gradient(
            sample, valid, channel, in_colour, colour, edges, grad_weights, c_sample, c_channel,
            g_rgb, g_opacity, g_depth, SUMS,
        )  # fmt: skip
        contribution = weight * g_weight
        later = whole - prefix - tl.cumsum(contribution, 0)
        tl.store(grad_density + sample, delta * (tl.exp(-behind) * g_weight - later), mask=valid)
        if SUMS:
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
def _alpha(optical):
    """1 - exp(-optical); for a thin sample by its series, as the difference would keep few of its digits."""
    return tl.where(optical < 0.01, optical * (1.0 - optical * (0.5 - optical / 6.0)), 1.0 - tl.exp(-optical))


@triton.jit
def _weight_gradient(
    sample, valid, channel, in_colour, colour, edges, grad_weights, c_sample, c_channel, g_rgb, g_opacity, g_depth,
    SUMS: tl.constexpr,
):  # fmt: skip
    """dL/dw_i of a chunk of samples: what the weight itself and, with ``SUMS``, rgb, opacity and depth pass on."""
    gradient = tl.load(grad_weights + sample, mask=valid, other=0.0)
    if SUMS:
        seen = tl.load(
            colour + sample[:, None] * c_sample + channel[None, :] * c_channel,
            mask=valid[:, None] & in_colour[None, :],
            other=0.0,
        )
        t0 = tl.load(edges + sample, mask=valid, other=0.0)
        t1 = tl.load(edges + sample + 1, mask=valid, other=0.0)
        gradient += tl.sum(seen * g_rgb[None, :], 1) + g_opacity + g_depth * 0.5 * (t0 + t1)
    return gradient
