"""The contract of ``pdf_resample``."""

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def pdf_resample(
    edges: torch.Tensor,
    weights: torch.Tensor,
    num_samples: int,
    *,
    jitter: torch.Tensor | None = None,
    padding: float = 0.01,
    eps: float = 1e-5,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """Edges of ``num_samples`` intervals a ray, dense where the weights are large: inverse transform sampling.

    For one ray with S weights w and M = ``num_samples`` ::

        p_i = w_i + padding, raised evenly until their sum is at least eps
        C_i = (p_0 + ... + p_(i-1)) / sum(p)                  the cumulative distribution at the old edges
        u_k = (k + jitter_k) / (M + 1),  k = 0 ... M
        new edge k = C^-1(u_k), with C linear within an interval and the first value taken where C is level

    The padding keeps a share of the samples in empty space, so that a proposal that missed a surface can recover.
    Sources: Mildenhall et al., https://arxiv.org/abs/2003.08934, section 5.2; the padding is that of Barron et al.,
    Mip-NeRF, https://arxiv.org/abs/2103.13415, with the value of nerfstudio's proposal sampler.

    Args:
        edges: (R, S + 1), S at least 1, float32 (float64: reference only), never falling along a ray (not checked).
            In any coordinate, such as the normalised spacing of `voxfield.render.ray_samplers`.
        weights: (R, S), same dtype, at least 0 (not checked). A NaN makes the new edges of its ray NaN, and no other's.
        num_samples: new intervals a ray, at least 1.
        jitter: (R, 1), one number a ray, or (R, M + 1), one for each new edge; in [0, 1) (not checked), same dtype.
            None is 0.5: the midpoints of M + 1 equal parts, for evaluation.
        padding: added to every weight, at least 0.
        eps: least sum of weights, above 0: a ray that sees nothing is sampled evenly interval by interval.
        implementation: None chooses by device.

    Returns:
        (R, M + 1), never falling along a ray, within its first and last old edge. The old edges are not kept.

    Gradients:
        None: the result is a constant, as in Mip-NeRF 360.

    Raises:
        InputError: wrong shape, dtype, device or range.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("weights", weights, ("R", "S"))
    rays, samples = weights.shape
    check_range("weights' samples a ray", samples, minimum=1)
    check_dtype("weights", weights, (torch.float32, torch.float64))
    check_shape("edges", edges, (rays, samples + 1))
    check_dtype("edges", edges, (weights.dtype,))
    check_range("num_samples", num_samples, minimum=1)
    check_range("padding", padding, minimum=0.0, maximum=1e6)
    check_range("eps", eps, above=0.0, maximum=1.0)
    if jitter is None:
        jitter = weights.new_full((1, 1), 0.5).expand(rays, 1)
    elif tuple(jitter.shape) not in ((rays, 1), (rays, num_samples + 1)):
        raise InputError(
            f"jitter: expected shape ({rays}, 1) or ({rays}, {num_samples + 1}), got {tuple(jitter.shape)}."
        )
    check_dtype("jitter", jitter, (weights.dtype,))
    device = check_same_device(weights=weights, edges=edges, jitter=jitter)
    backend = load_backend("pdf_resample", resolve(implementation, device, "pdf_resample", dtype=weights.dtype))
    with torch.no_grad():
        resampled: torch.Tensor = backend.pdf_resample(edges, weights, num_samples, jitter, padding, eps)
    return resampled
