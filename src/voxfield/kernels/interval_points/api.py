"""The contract of ``interval_points``."""

import torch

from voxfield.checks import check_dtype, check_same_device, check_shape
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def interval_points(
    origins: torch.Tensor,
    directions: torch.Tensor,
    edges: torch.Tensor,
    box: torch.Tensor,
    *,
    contracted: bool,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """Midpoints of the intervals along rays, in the unit cube that a field covers.

    With x = origin + direction * (edges_i + edges_(i+1)) / 2, c the centre of ``box`` and h half its size ::

        u = (x - c) / h
        point = u / 2 + 1/2                                     not contracted: the cube is the box
        point = contract(u) / 4 + 1/2                           contracted: the cube is all of space

    where contract(u) is u within the unit cube and (2 - 1/n) u / n beyond, n = max|u|, and h is then the largest half
    size for all three axes. Source: Barron et al., Mip-NeRF 360, https://arxiv.org/abs/2111.12077, equation 10, in the
    largest coordinate as in nerfstudio's nerfacto.

    Args:
        origins: (R, 3), float32 (float64: reference only), world units.
        directions: (R, 3), same dtype.
        edges: (R, S + 1), S at least 0, distances in multiples of the directions' lengths, same dtype.
        box: (2, 3), minimum and maximum corner, above it on every axis, same dtype.
        contracted: whether space beyond the box is drawn in.
        implementation: ``"reference"``, ``"numba"`` or None to choose: Numba for float32 on a CPU without gradients,
            else the reference, whose few passes are what a GPU wants.

    Returns:
        (R * S, 3), ray after ray, a transposed (3, R * S) tensor; contracted points lie in [0, 1] up to rounding.

    Gradients:
        To ``origins`` and ``directions``, in the reference. None to ``edges`` and ``box``.

    Raises:
        InputError: wrong shape, dtype or device.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_shape("edges", edges, (len(origins), "S + 1"))
    check_shape("box", box, (2, 3))
    for name, tensor in (("directions", directions), ("edges", edges), ("box", box)):
        check_dtype(name, tensor, (origins.dtype,))
    device = check_same_device(origins=origins, directions=directions, edges=edges, box=box)
    differentiated = torch.is_grad_enabled() and (origins.requires_grad or directions.requires_grad)
    if implementation is None and (differentiated or device.type != "cpu"):
        implementation = "reference"
    chosen = resolve(implementation, device, "interval_points", dtype=origins.dtype)
    points: torch.Tensor = load_backend("interval_points", chosen).interval_points(
        origins, directions, edges.detach(), box.detach(), contracted
    )
    return points
