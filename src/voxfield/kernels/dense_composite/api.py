"""The contracts of ``dense_composite`` and ``dense_weights``."""

from dataclasses import dataclass
from types import ModuleType

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve

MAX_CHANNELS = 8
"""Most channels ``colour`` may have: kernels keep a ray's sums in registers."""


@dataclass(frozen=True, kw_only=True)
class DenseComposited:
    """What rays see, without a background."""

    rgb: torch.Tensor
    """(R, C): sum of weight * colour, premultiplied by opacity."""
    opacity: torch.Tensor
    """(R,) in [0, 1]: sum of weights; 1 - opacity is the transmittance behind the last sample."""
    depth: torch.Tensor
    """(R,): sum of weight * interval midpoint, not divided by opacity."""
    weights: torch.Tensor
    """(R, S) in [0, 1]: each sample's share of its ray."""


def dense_composite(
    density: torch.Tensor,
    colour: torch.Tensor,
    edges: torch.Tensor,
    *,
    implementation: Implementation | None = None,
) -> DenseComposited:
    """Absorption and emission along rays of S adjoining intervals each, nearest first.

    With delta_i = edges_(i+1) - edges_i and T_0 = 1 ::

        alpha_i = 1 - exp(-density_i * delta_i)
        T_(i+1) = T_i * (1 - alpha_i)
        w_i     = alpha_i * T_i

    The sibling `voxfield.kernels.composite.composite` is for packed samples and may stop early; here no sample is left
    out, because losses on weights need every gradient. Source: Max, Optical Models for Direct Volume Rendering, 1995,
    in the quadrature of Mildenhall et al., https://arxiv.org/abs/2003.08934, equation 3.

    Args:
        density: (R, S), float32 (float64: reference only), per world unit, at least 0 (not checked). A NaN reaches
            the sums of its ray, and no other's.
        colour: (R, S, C), 1 <= C <= 8, same dtype. Any strides.
        edges: (R, S + 1), distances in world units, never falling along a ray (not checked), same dtype.
        implementation: None chooses by device.

    Returns:
        Sums and weights. Nothing is added for the background: ``rgb + (1 - opacity) * background`` does that.

    Gradients:
        From all four outputs to ``density`` and ``colour``. None to ``edges``: they must not require one. Not
        differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype, device or range, or edges that require a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    backend = _checked_backend(density, edges, implementation, colour=colour)
    check_shape("colour", colour, (*density.shape, "C"))
    check_range("colour's channels", colour.shape[2], minimum=1, maximum=MAX_CHANNELS)
    check_dtype("colour", colour, (density.dtype,))
    rgb, opacity, depth, weights = backend.dense_composite(density, colour, edges)
    return DenseComposited(rgb=rgb, opacity=opacity, depth=depth, weights=weights)


def dense_weights(
    density: torch.Tensor, edges: torch.Tensor, *, implementation: Implementation | None = None
) -> torch.Tensor:
    """The weights of ``dense_composite`` alone, which is all that a proposal network is asked for.

    Args:
        density: (R, S), as in ``dense_composite``.
        edges: (R, S + 1), as there.
        implementation: None chooses by device.

    Returns:
        (R, S) in [0, 1].

    Gradients:
        To ``density``. None to ``edges``: they must not require one. Not differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype or device, or edges that require a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    weights: torch.Tensor = _checked_backend(density, edges, implementation).dense_weights(density, edges)
    return weights


def _checked_backend(
    density: torch.Tensor, edges: torch.Tensor, implementation: Implementation | None, **others: torch.Tensor
) -> ModuleType:
    check_shape("density", density, ("R", "S"))
    check_dtype("density", density, (torch.float32, torch.float64))
    check_shape("edges", edges, (density.shape[0], density.shape[1] + 1))
    check_dtype("edges", edges, (density.dtype,))
    if edges.requires_grad:
        raise InputError("edges: no gradient flows to them; pass edges.detach().")
    device = check_same_device(density=density, edges=edges, **others)
    return load_backend("dense_composite", resolve(implementation, device, "dense_composite", dtype=density.dtype))
