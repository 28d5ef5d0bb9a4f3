"""The contract of ``interlevel_loss``."""

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def interlevel_loss(
    edges: torch.Tensor,
    weights: torch.Tensor,
    proposal_edges: torch.Tensor,
    proposal_weights: torch.Tensor,
    *,
    eps: float = 1e-7,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """How much of a fine histogram a proposal fails to cover: it must be large wherever the final weights are.

    For each of the S fine intervals i of a ray ::

        bound_i = sum of proposal_weights_j over the proposal intervals j that i overlaps
        loss    = mean over i of max(0, w_i - bound_i)^2 / (w_i + eps)

    i overlaps j when proposal_edges_(j+1) > edges_i and proposal_edges_j <= edges_(i+1); the first and the last
    proposal interval count as reaching to infinity. A proposal that is too large costs nothing: its weights add up to
    at most 1, so excess in one place is lack in another. Source: Barron et al., Mip-NeRF 360,
    https://arxiv.org/abs/2111.12077, equations 12 and 13 (which prints the sum over i; its code takes the mean).

    Args:
        edges: (R, S + 1), S at least 1, float32 (float64: reference only), never falling along a ray (not checked).
            The same coordinate as ``proposal_edges``.
        weights: (R, S), same dtype, at least 0 (not checked). The final weights: a constant here.
        proposal_edges: (R, P + 1), P at least 1, same dtype, never falling along a ray (not checked).
        proposal_weights: (R, P), same dtype.
        eps: keeps the quotient finite, above 0.
        implementation: None chooses by device.

    Returns:
        (R,), each ray's own. Training adds its mean over the rays, for every proposal level.

    Gradients:
        To ``proposal_weights`` alone; the other three must not require one: detach them. Not differentiable twice
        except in the reference.

    Raises:
        InputError: wrong shape, dtype, device or range, or a constant that requires a gradient.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("weights", weights, ("R", "S"))
    check_dtype("weights", weights, (torch.float32, torch.float64))
    rays, samples = weights.shape
    check_range("weights' samples a ray", samples, minimum=1)
    check_shape("edges", edges, (rays, samples + 1))
    check_shape("proposal_weights", proposal_weights, (rays, "P"))
    check_range("proposal_weights' samples a ray", proposal_weights.shape[1], minimum=1)
    check_shape("proposal_edges", proposal_edges, (rays, proposal_weights.shape[1] + 1))
    check_range("eps", eps, above=0.0, maximum=1.0)
    constants = {"edges": edges, "weights": weights, "proposal_edges": proposal_edges}
    for name, tensor in {**constants, "proposal_weights": proposal_weights}.items():
        check_dtype(name, tensor, (weights.dtype,))
    for name, tensor in constants.items():
        if tensor.requires_grad:
            raise InputError(f"{name}: a gradient flows to proposal_weights only; pass {name}.detach().")
    device = check_same_device(**constants, proposal_weights=proposal_weights)
    backend = load_backend("interlevel", resolve(implementation, device, "interlevel", dtype=weights.dtype))
    loss: torch.Tensor = backend.interlevel_loss(edges, weights, proposal_edges, proposal_weights, eps)
    return loss
