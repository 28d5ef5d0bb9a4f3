"""The contract of ``spherical_harmonics``."""

import torch

from voxfield.checks import check_choice, check_dtype, check_shape
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.spherical_harmonics.basis import MAX_DEGREE


def spherical_harmonics(
    directions: torch.Tensor,
    degree: int,
    *,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """Evaluate the real spherical harmonics of all bands up to ``degree`` at unit directions.

    Column l*l + l + m holds band l, order m. With the orthonormal factors of ``basis.py``, as polynomials of the unit
    direction (x, y, z)::

        band 0:  1
        band 1:  y, z, x
        band 2:  xy, yz, 2zz-xx-yy, xz, xx-yy
        band 3:  y(3xx-yy), xyz, y(4zz-xx-yy), z(2zz-3xx-3yy), x(4zz-xx-yy), z(xx-yy), x(xx-3yy)
        band 4:  xy(xx-yy), yz(3xx-yy), xy(7zz-1), yz(7zz-3), zz(35zz-30)+3,
                 xz(7zz-3), (xx-yy)(7zz-1), xz(xx-3yy), xx(xx-3yy)-yy(3xx-yy)

    Signs follow Plenoxels (svox2) and instant-ngp: band 1 is -0.4886 y, 0.4886 z, -0.4886 x.
    Source: Sloan, Stupid Spherical Harmonics Tricks, 2008, appendix A2; Yu et al., https://arxiv.org/abs/2112.05131.

    ``degree`` counts bands from 0, so degree 3 has 16 columns. instant-ngp and nerfstudio call those 16 "degree 4".

    Args:
        directions: (N, 3), float32 (float64: reference only). Any strides. Unit length is not checked.
        degree: highest band, 0 to 4.
        implementation: None chooses by device.

    Returns:
        (N, (degree + 1)**2), same dtype.

    Gradients:
        To ``directions``: the derivative of the polynomials as written, not projected onto the sphere's tangent (what a
        normalisation before this adds). Not differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype or degree.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("directions", directions, ("N", 3))
    check_dtype("directions", directions, (torch.float32, torch.float64))
    check_choice("degree", degree, range(MAX_DEGREE + 1))
    chosen = resolve(implementation, directions.device, "spherical_harmonics", dtype=directions.dtype)
    values: torch.Tensor = load_backend("spherical_harmonics", chosen).spherical_harmonics(directions, degree)
    return values
