"""The contract of ``distortion_loss``."""

import torch

from voxfield.checks import check_dtype, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def distortion_loss(
    edges: torch.Tensor, weights: torch.Tensor, *, implementation: Implementation | None = None
) -> torch.Tensor:
    """How far apart the weights of a ray lie: small when one short stretch has them all, which removes floaters.

    With midpoints m_i = (edges_i + edges_(i+1)) / 2 and lengths d_i = edges_(i+1) - edges_i ::

        loss = sum over i, j of w_i w_j |m_i - m_j|  +  1/3 sum over i of w_i^2 d_i

    which is the mean distance of two points drawn from the weights' histogram (times the square of their sum). Takes
    time proportional to S, not to its square. Source: Barron et al., Mip-NeRF 360, https://arxiv.org/abs/2111.12077,
    equation 15.

    Args:
        edges: (R, S + 1), float32 (float64: reference only), never falling along a ray (not checked), in normalised
            spacing rather than in world units, so that far intervals do not dominate.
        weights: (R, S), same dtype.
        implementation: None chooses by device.

    Returns:
        (R,), each ray's own; 0 for S = 0. Training adds its mean over the rays.

    Gradients:
        To ``weights``. None to ``edges``: they must not require one. Not differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype or device, or edges that require a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("weights", weights, ("R", "S"))
    check_dtype("weights", weights, (torch.float32, torch.float64))
    check_shape("edges", edges, (weights.shape[0], weights.shape[1] + 1))
    check_dtype("edges", edges, (weights.dtype,))
    if edges.requires_grad:
        raise InputError("edges: no gradient flows to them; pass edges.detach().")
    device = check_same_device(weights=weights, edges=edges)
    backend = load_backend("distortion", resolve(implementation, device, "distortion", dtype=weights.dtype))
    loss: torch.Tensor = backend.distortion_loss(edges, weights)
    return loss
