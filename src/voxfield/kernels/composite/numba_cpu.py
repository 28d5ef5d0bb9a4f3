"""Compositing on a CPU: one pass along each ray, rays split between threads.

Backward: with v_i = dL/dw_i the gradient of the optical depth is T_(i+1) v_i - sum over j > i of w_j v_j, so one pass
sums w v over the ray and a second subtracts as it goes. Transmittance is computed again, which costs less than
keeping it.
"""

import math

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split
from voxfield.kernels.workspace import empty_feature_major, feature_major

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract", "afn"}, boundscheck=False, error_model="numpy")


@_jit
def _forward(start, stop, density, colour, t_start, t_end, offsets, early_stop, rgb, opacity, depth, weights):  # type: ignore[no-untyped-def]
    channels = colour.shape[0]
    one, half = np.float32(1.0), np.float32(0.5)
    for ray in range(start, stop):
        transmittance, seen, distance = one, np.float32(0.0), np.float32(0.0)
        for channel in range(channels):
            rgb[channel, ray] = np.float32(0.0)
        for i in range(offsets[ray], offsets[ray + 1]):
            if transmittance < early_stop:
                weights[i] = np.float32(0.0)
                continue
            kept = math.exp(-density[i] * (t_end[i] - t_start[i]))
            weight = transmittance * (one - kept)
            transmittance *= kept
            weights[i] = weight
            seen += weight
            distance += weight * half * (t_start[i] + t_end[i])
            for channel in range(channels):
                rgb[channel, ray] += weight * colour[channel, i]
        opacity[ray] = seen
        depth[ray] = distance


@_jit
def _backward(  # type: ignore[no-untyped-def]
    start,
    stop,
    density,
    colour,
    t_start,
    t_end,
    offsets,
    early_stop,
    weights,
    grad_rgb,
    grad_opacity,
    grad_depth,
    grad_weights,
    grad_density,
    grad_colour,
):
    channels = colour.shape[0]
    one, half = np.float32(1.0), np.float32(0.5)
    for ray in range(start, stop):
        behind = np.float32(0.0)
        for i in range(offsets[ray], offsets[ray + 1]):
            # grad_density holds v_i until the second pass.
            value = grad_opacity[ray] + grad_weights[i] + grad_depth[ray] * half * (t_start[i] + t_end[i])
            for channel in range(channels):
                value += grad_rgb[channel, ray] * colour[channel, i]
                grad_colour[channel, i] = grad_rgb[channel, ray] * weights[i]
            grad_density[i] = value
            behind += weights[i] * value
        transmittance = one
        for i in range(offsets[ray], offsets[ray + 1]):
            if transmittance < early_stop:
                grad_density[i] = np.float32(0.0)
                continue
            step = t_end[i] - t_start[i]
            transmittance *= math.exp(-density[i] * step)
            behind -= weights[i] * grad_density[i]
            grad_density[i] = step * (transmittance * grad_density[i] - behind)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, colour, t_start, t_end, ray_offsets, early_stop):  # type: ignore[no-untyped-def]
        rays, samples, channels = len(ray_offsets) - 1, len(density), colour.shape[1]
        rgb = torch.empty(channels, rays)
        opacity, depth, weights = torch.empty(rays), torch.empty(rays), torch.empty(samples)
        inputs = _arrays(density, colour, t_start, t_end, ray_offsets)
        outputs = (rgb.numpy(), opacity.numpy(), depth.numpy(), weights.numpy())
        run_split(_forward, rays, *inputs, np.float32(early_stop), *outputs, grain=64)
        ctx.save_for_backward(density, colour, t_start, t_end, ray_offsets, weights)
        ctx.early_stop = early_stop
        return rgb.T, opacity, depth, weights

    @staticmethod
    def backward(ctx, grad_rgb, grad_opacity, grad_depth, grad_weights):  # type: ignore[no-untyped-def]
        density, colour, t_start, t_end, ray_offsets, weights = ctx.saved_tensors
        samples, channels = colour.shape
        grad_density, grad_colour = torch.empty(samples), empty_feature_major(samples, channels)
        inputs = _arrays(density, colour, t_start, t_end, ray_offsets)
        run_split(
            _backward,
            len(ray_offsets) - 1,
            *inputs,
            np.float32(ctx.early_stop),
            weights.numpy(),
            feature_major(grad_rgb),
            *(grad.contiguous().numpy() for grad in (grad_opacity, grad_depth, grad_weights)),
            grad_density.numpy(),
            grad_colour.T.numpy(),
            grain=64,
        )
        return grad_density, grad_colour, None, None, None, None


def _arrays(density, colour, t_start, t_end, ray_offsets):  # type: ignore[no-untyped-def]
    return (
        density.detach().contiguous().numpy(),
        feature_major(colour),
        t_start.detach().contiguous().numpy(),
        t_end.detach().contiguous().numpy(),
        ray_offsets.contiguous().numpy(),
    )


def composite(
    density: torch.Tensor,
    colour: torch.Tensor,
    t_start: torch.Tensor,
    t_end: torch.Tensor,
    ray_offsets: torch.Tensor,
    early_stop: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `voxfield.kernels.composite.api.composite`. Returns rgb (R, C), opacity (R,), depth (R,), weights (S,)."""
    return _Composite.apply(density, colour, t_start, t_end, ray_offsets, early_stop)  # type: ignore[no-any-return, no-untyped-call]
