"""The contract of ``composite``."""

from dataclasses import dataclass

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve

MAX_CHANNELS = 8
"""Most channels ``colour`` may have: kernels keep a ray's sums in registers."""


@dataclass(frozen=True, kw_only=True)
class Composited:
    """What rays see, without a background."""

    rgb: torch.Tensor
    """(R, C): sum of weight * colour, premultiplied by opacity."""
    opacity: torch.Tensor
    """(R,) in [0, 1]: sum of weights."""
    depth: torch.Tensor
    """(R,): sum of weight * interval midpoint, not divided by opacity."""
    weights: torch.Tensor
    """(S,) in [0, 1]: each sample's share of its ray."""


def composite(
    density: torch.Tensor,
    colour: torch.Tensor,
    t_start: torch.Tensor,
    t_end: torch.Tensor,
    ray_offsets: torch.Tensor,
    *,
    early_stop: float = 1e-4,
    implementation: Implementation | None = None,
) -> Composited:
    """Absorption and emission along rays whose samples are packed ray after ray, nearest first.

    For the samples i of one ray, with T_0 = 1 ::

        alpha_i = 1 - exp(-density_i * (t_end_i - t_start_i))
        T_{i+1} = T_i * (1 - alpha_i)
        w_i     = alpha_i * T_i    if T_i >= early_stop else 0

    Samples behind the point where T falls below ``early_stop`` get weight 0 and receive no gradient: at the default a
    pixel loses at most 1e-4 of its light. Source: Max, Optical Models for Direct Volume Rendering, 1995, in the
    quadrature of Mildenhall et al., https://arxiv.org/abs/2003.08934, equation 3.

    Args:
        density: (S,), float32 (float64: reference only), per world unit, at least 0 (not checked). A NaN
            reaches the sums of its ray, and no other's.
        colour: (S, C), 1 <= C <= 8, same dtype. Any strides.
        t_start: (S,) start of each sample's interval, world units, same dtype.
        t_end: (S,) end of each sample's interval, at least t_start (not checked).
        ray_offsets: (R + 1,) int64: samples of ray r are ray_offsets[r] to ray_offsets[r + 1]. First 0, last S, never
            falling (not checked). A ray may have no samples.
        early_stop: transmittance below which a ray ends, 0 to 1; 0 never stops.
        implementation: None chooses by device.

    Returns:
        Sums and weights; a ray without samples has rgb, opacity and depth 0. Nothing is added for the background:
        ``rgb + (1 - opacity) * background`` does that.

    Gradients:
        From all four outputs to ``density`` and ``colour``. None to the interval ends: they must not require one.
        Not differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype, device or range, or interval ends that require a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("density", density, ("S",))
    samples = len(density)
    check_dtype("density", density, (torch.float32, torch.float64))
    check_shape("colour", colour, (samples, "C"))
    check_range("colour's channels", colour.shape[1], minimum=1, maximum=MAX_CHANNELS)
    for name, tensor in (("t_start", t_start), ("t_end", t_end)):
        check_shape(name, tensor, (samples,))
        if tensor.requires_grad:
            raise InputError(f"{name}: no gradient flows to interval ends; pass {name}.detach().")
    for name, tensor in (("colour", colour), ("t_start", t_start), ("t_end", t_end)):
        check_dtype(name, tensor, (density.dtype,))
    check_shape("ray_offsets", ray_offsets, ("R + 1",))
    check_range("ray_offsets' length", len(ray_offsets), minimum=1)
    check_dtype("ray_offsets", ray_offsets, (torch.int64,))
    check_range("early_stop", early_stop, minimum=0.0, maximum=1.0)
    device = check_same_device(density=density, colour=colour, t_start=t_start, t_end=t_end, ray_offsets=ray_offsets)
    chosen = resolve(implementation, device, "composite", dtype=density.dtype)
    backend = load_backend("composite", chosen)
    rgb, opacity, depth, weights = backend.composite(density, colour, t_start, t_end, ray_offsets, early_stop)
    return Composited(rgb=rgb, opacity=opacity, depth=depth, weights=weights)
