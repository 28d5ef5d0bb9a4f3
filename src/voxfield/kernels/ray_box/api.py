"""The contract of ``ray_box``."""

import torch

from voxfield.checks import check_dtype, check_same_device, check_shape
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


def ray_box(
    origins: torch.Tensor,
    directions: torch.Tensor,
    box: torch.Tensor,
    *,
    implementation: Implementation | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances at which rays enter and leave an axis-aligned box: the slab test.

    The box is closed: a ray that only touches it has t_near == t_far. A ray parallel to an axis hits if its origin lies
    between (or on) that axis's two faces. An origin inside the box gives t_near = 0.
    Source: Kay and Kajiya, Ray Tracing Complex Scenes, 1986, section 3.

    Args:
        origins: (R, 3), float32 (float64: reference only), world units. Any strides.
        directions: (R, 3), same dtype, not all zero. Distances come in multiples of their length.
        box: (2, 3), minimum and maximum corner, same dtype.
        implementation: None chooses by device.

    Returns:
        t_near (R,), at least 0, and t_far (R,). A miss, a box behind the origin and a ray with NaN give
        t_near = +inf, t_far = -inf; so ``t_near <= t_far`` says whether the ray hits.

    Gradients:
        None.

    Raises:
        InputError: wrong shape, dtype or device.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_shape("box", box, (2, 3))
    for name, tensor in (("directions", directions), ("box", box)):
        check_dtype(name, tensor, (origins.dtype,))
    device = check_same_device(origins=origins, directions=directions, box=box)
    chosen = resolve(implementation, device, "ray_box", dtype=origins.dtype)
    with torch.no_grad():
        t_near, t_far = load_backend("ray_box", chosen).ray_box(origins, directions, box)
    return t_near, t_far
