"""Dense compositing on a CPU: one pass along each ray, rays split between threads.

Backward: with v_i = dL/dw_i the gradient of the optical depth is T_(i+1) v_i - sum over j > i of w_j v_j. A pass forth
computes T again, which costs less than keeping it, and a pass back sums what lies behind without cancellation.
"""

import numpy as np
import torch

from voxfield.kernels.jit import njit
from voxfield.kernels.threads import run_split
from voxfield.kernels.workspace import empty_feature_major, feature_major

_GRAIN = 64
_TINY = np.float32(1e-30)
"""Transmittance below it is 0: products of smaller numbers become denormal, which many processors compute slowly."""

_ROUND = np.float32(1.5 * 2**23)
"""Added to a number of magnitude below 2^22 it leaves the nearest integer in the sum's lowest bits."""
_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)

_jit = njit(nogil=True, fastmath={"nsz", "arcp", "contract"}, boundscheck=False, error_model="numpy")
# Sums may be added in another order, several at a time. Not elsewhere: it would undo the rounding in _alpha.
_jit_sum = njit(nogil=True, fastmath={"nsz", "contract", "reassoc"}, boundscheck=False, error_model="numpy")


@_jit
def _alpha(optical):  # type: ignore[no-untyped-def]
    """1 - exp(-optical) for optical >= 0, to a few units in the last place, for thin samples too.

    Written out, as the compiler turns a loop over it into vector instructions, which it cannot do with calls of exp:
    0.7 ms for a million samples on one core of a Zen 5 server, instead of 3.2 ms. exp(-x) = 2^k e^r with k an integer
    and |r| <= ln(2)/2; e^r - 1 by its Taylor series, whose first term left out is below 6e-9.
    """
    one = np.float32(1.0)
    halvings = optical * _LOG2_E
    # A NaN has to stay one, which min() does not promise.
    halvings = np.float32(126.0) if halvings > np.float32(126.0) else halvings  # noqa: FURB136
    rounded = _ROUND - halvings
    r = _LN_2 * ((_ROUND - rounded) - halvings)
    tail = np.float32(1 / 720) + r * np.float32(1 / 5040)
    tail = np.float32(1 / 24) + r * (np.float32(1 / 120) + r * tail)
    growth = r * (one + r * (np.float32(1 / 2) + r * (np.float32(1 / 6) + r * tail)))
    # k + 127, moved to where a float has its exponent.
    scale = np.int32(np.int32(np.float32(rounded).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (one - scale) - scale * growth


@_jit
def _ray_alphas(density, edges, alphas):  # type: ignore[no-untyped-def]
    for i in range(len(density)):
        alphas[i] = _alpha(density[i] * (edges[i + 1] - edges[i]))


@_jit
def _ray_weights(density, edges, weights):  # type: ignore[no-untyped-def]
    _ray_alphas(density, edges, weights)
    transmittance = np.float32(1.0)
    for i in range(len(density)):
        alpha = weights[i]
        weights[i] = transmittance * alpha
        transmittance *= np.float32(1.0) - alpha
        transmittance = np.float32(0.0) if transmittance < _TINY else transmittance


@_jit
def _ray_transmittance(density, edges, behind):  # type: ignore[no-untyped-def]
    """T_(i+1), the light that is left behind each sample."""
    _ray_alphas(density, edges, behind)
    transmittance = np.float32(1.0)
    for i in range(len(density)):
        transmittance *= np.float32(1.0) - behind[i]
        transmittance = np.float32(0.0) if transmittance < _TINY else transmittance
        behind[i] = transmittance


@_jit_sum
def _ray_sums(weights, edges):  # type: ignore[no-untyped-def]
    seen, distance = np.float32(0.0), np.float32(0.0)
    for i in range(len(weights)):
        seen += weights[i]
        distance += weights[i] * np.float32(0.5) * (edges[i] + edges[i + 1])
    return seen, distance


@_jit_sum
def _dot(weights, colours):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for i in range(len(weights)):
        total += weights[i] * colours[i]
    return total


@_jit
def _weights_forward(start, stop, density, edges, weights):  # type: ignore[no-untyped-def]
    for ray in range(start, stop):
        _ray_weights(density[ray], edges[ray], weights[ray])


@_jit
def _weights_backward(start, stop, density, edges, weights, grad_weights, grad_density):  # type: ignore[no-untyped-def]
    samples = density.shape[1]
    for ray in range(start, stop):
        # grad_density holds T_(i+1) until the pass back.
        _ray_transmittance(density[ray], edges[ray], grad_density[ray])
        behind = np.float32(0.0)
        for i in range(samples - 1, -1, -1):
            value = grad_weights[ray, i]
            grad_density[ray, i] = (edges[ray, i + 1] - edges[ray, i]) * (grad_density[ray, i] * value - behind)
            behind += weights[ray, i] * value


@_jit
def _forward(start, stop, density, colour, edges, rgb, opacity, depth, weights):  # type: ignore[no-untyped-def]
    samples, channels = density.shape[1], colour.shape[0]
    for ray in range(start, stop):
        _ray_weights(density[ray], edges[ray], weights[ray])
        opacity[ray], depth[ray] = _ray_sums(weights[ray], edges[ray])
        for channel in range(channels):
            rgb[channel, ray] = _dot(weights[ray], colour[channel, ray * samples : (ray + 1) * samples])


@_jit
def _backward(  # type: ignore[no-untyped-def]
    start,
    stop,
    density,
    colour,
    edges,
    weights,
    grad_rgb,
    grad_opacity,
    grad_depth,
    grad_weights,
    grad_density,
    grad_colour,
):
    samples, channels = density.shape[1], colour.shape[0]
    half = np.float32(0.5)
    left = np.empty(samples, np.float32)
    for ray in range(start, stop):
        _ray_transmittance(density[ray], edges[ray], left)
        # grad_density holds v_i until the pass back. Channel by channel, so that the loops become vector instructions.
        for i in range(samples):
            middle = half * (edges[ray, i] + edges[ray, i + 1])
            grad_density[ray, i] = grad_opacity[ray] + grad_weights[ray, i] + grad_depth[ray] * middle
        for channel in range(channels):
            gradient, first = grad_rgb[channel, ray], ray * samples
            for i in range(samples):
                grad_density[ray, i] += gradient * colour[channel, first + i]
            for i in range(samples):
                grad_colour[channel, first + i] = gradient * weights[ray, i]
        behind = np.float32(0.0)
        for i in range(samples - 1, -1, -1):
            value = grad_density[ray, i]
            grad_density[ray, i] = (edges[ray, i + 1] - edges[ray, i]) * (left[i] * value - behind)
            behind += weights[ray, i] * value


class _DenseWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, edges):  # type: ignore[no-untyped-def]
        weights = torch.empty(density.shape)
        run_split(_weights_forward, len(density), *_arrays(density, edges, weights), grain=_GRAIN)
        ctx.save_for_backward(density, edges, weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_weights):  # type: ignore[no-untyped-def]
        density, edges, weights = ctx.saved_tensors
        grad_density = torch.empty(density.shape)
        arrays = _arrays(density, edges, weights, grad_weights, grad_density)
        run_split(_weights_backward, len(density), *arrays, grain=_GRAIN)
        return grad_density, None


class _DenseComposite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, colour, edges):  # type: ignore[no-untyped-def]
        rays, channels = len(density), colour.shape[2]
        rgb, opacity, depth = torch.empty(channels, rays), torch.empty(rays), torch.empty(rays)
        weights = torch.empty(density.shape)
        run_split(
            _forward,
            rays,
            *_arrays(density),
            feature_major(colour.reshape(density.numel(), channels)),
            *_arrays(edges, rgb, opacity, depth, weights),
            grain=_GRAIN,
        )
        ctx.save_for_backward(density, colour, edges, weights)
        return rgb.T, opacity, depth, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_rgb, grad_opacity, grad_depth, grad_weights):  # type: ignore[no-untyped-def]
        density, colour, edges, weights = ctx.saved_tensors
        samples, channels = density.numel(), colour.shape[2]
        grad_density, grad_colour = torch.empty(density.shape), empty_feature_major(samples, channels)
        run_split(
            _backward,
            len(density),
            *_arrays(density),
            feature_major(colour.reshape(samples, channels)),
            *_arrays(edges, weights),
            feature_major(grad_rgb),
            *_arrays(grad_opacity, grad_depth, grad_weights, grad_density),
            grad_colour.T.numpy(),
            grain=_GRAIN,
        )
        return grad_density, grad_colour.view(colour.shape), None


def _arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def dense_composite(
    density: torch.Tensor, colour: torch.Tensor, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``api.dense_composite``. Returns rgb (R, C), opacity (R,), depth (R,), weights (R, S)."""
    return _DenseComposite.apply(density, colour, edges)  # type: ignore[no-any-return, no-untyped-call]


def dense_weights(density: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """See ``api.dense_weights``. Returns (R, S)."""
    return _DenseWeights.apply(density, edges)  # type: ignore[no-any-return, no-untyped-call]
