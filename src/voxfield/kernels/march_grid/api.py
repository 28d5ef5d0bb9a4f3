"""The contract of ``march_grid``."""

import math

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.march_grid.occupancy import OccupancyBits
from voxfield.kernels.march_grid.samples import PackedSamples, StepRule


def march_grid(
    origins: torch.Tensor,
    directions: torch.Tensor,
    occupancy: OccupancyBits,
    box: torch.Tensor,
    *,
    step: StepRule,
    jitter: torch.Tensor | None = None,
    near: float = 0.0,
    far: float = math.inf,
    max_samples: int = 1024,
    implementation: Implementation | None = None,
) -> PackedSamples:
    """Place samples along rays where an occupancy grid says there may be matter.

    A ray is clipped to [t_enter, t_exit): the outermost cascade's box (``ray_box``) cut with [near, far). With s(t) the
    lattice of ``step`` (``samples.py``) and s0 = s(t_enter) + jitter, sample k covers [t(s0 + k), t(s0 + k + 1)) and
    its midpoint is at t_mid = t(s0 + k + 1/2). It is kept if t_mid < t_exit and the cell that holds the midpoint is
    occupied; a ray stops after ``max_samples`` kept samples. Jitter only shifts the lattice forward: up to one step
    behind t_enter is then not covered.

    The cell: cascade c is the smallest whose (closed) box holds the midpoint, but at least the smallest c whose cells
    are no shorter than half the step, ``longest side of box * 2**c / resolution >= dt(t_mid) / 2``, and at most the
    last cascade. Within it the cell is floor of the position in cells, clamped to the grid. Bits of a cascade that lie
    in the region of a finer cascade are read only where the step asks for it: keep them in agreement.

    Implementations differ by rounding: a midpoint within rounding of a cell's face, or of t_exit, may fall either way.

    Args:
        origins: (R, 3), float32 (float64: reference only), world units. Any strides.
        directions: (R, 3) unit vectors, same dtype (unit length is not checked).
        occupancy: the bits, on the same device.
        box: (2, 3) minimum and maximum corner of cascade 0, world units, same dtype; each side positive (not checked).
        step: distance between samples.
        jitter: (R,) in [0, 1), same dtype; None is 0.
        near: least distance of a sample's interval, world units, at least 0.
        far: distance that midpoints stay below, world units.
        max_samples: most samples kept on a ray, at least 1.
        implementation: None chooses by device.

    Returns:
        The samples kept, packed. A ray that misses the box, meets nothing or holds a NaN has none.

    Gradients:
        None: where samples lie is piecewise constant in everything but the ray, and the ray's share is not propagated.

    Raises:
        InputError: wrong shape, dtype, device or range.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("origins", origins, ("R", 3))
    check_dtype("origins", origins, (torch.float32, torch.float64))
    check_shape("directions", directions, (len(origins), 3))
    check_shape("box", box, (2, 3))
    tensors = {"origins": origins, "directions": directions, "box": box}
    if jitter is not None:
        check_shape("jitter", jitter, (len(origins),))
        tensors["jitter"] = jitter
    for name, tensor in tensors.items():
        check_dtype(name, tensor, (origins.dtype,))
    device = check_same_device(**tensors, **{"occupancy.bits": occupancy.bits})
    check_range("near", near, minimum=0.0)
    if not far > near:
        raise InputError(f"far: expected a value above near, {near:g}, got {far}.")
    check_range("max_samples", max_samples, minimum=1)
    chosen = resolve(implementation, device, "march_grid", dtype=origins.dtype)
    backend = load_backend("march_grid", chosen)
    with torch.no_grad():
        samples: PackedSamples = backend.march_grid(
            origins, directions, occupancy, box, step, jitter, float(near), float(far), int(max_samples)
        )
    return samples
