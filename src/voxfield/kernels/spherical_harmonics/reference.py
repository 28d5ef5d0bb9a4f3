"""Spherical harmonics in plain torch: the specification of ``api.spherical_harmonics``, in the tensor's precision."""

import torch

from voxfield.kernels.spherical_harmonics.basis import Y


def spherical_harmonics(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """See ``api.spherical_harmonics``."""
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z
    bands = [
        [1 + 0 * x],  # connected to the input, so that its gradient is zero rather than missing
        [y, z, x],
        [x * y, y * z, 2 * zz - xx - yy, x * z, xx - yy],
        [
            y * (3 * xx - yy),
            x * y * z,
            y * (4 * zz - xx - yy),
            z * (2 * zz - 3 * xx - 3 * yy),
            x * (4 * zz - xx - yy),
            z * (xx - yy),
            x * (xx - 3 * yy),
        ],
        [
            x * y * (xx - yy),
            y * z * (3 * xx - yy),
            x * y * (7 * zz - 1),
            y * z * (7 * zz - 3),
            zz * (35 * zz - 30) + 3,
            x * z * (7 * zz - 3),
            (xx - yy) * (7 * zz - 1),
            x * z * (xx - 3 * yy),
            xx * (xx - 3 * yy) - yy * (3 * xx - yy),
        ],
    ]
    columns = [
        factor * polynomial
        for factors, band in zip(Y[: degree + 1], bands, strict=False)
        for factor, polynomial in zip(factors, band, strict=True)
    ]
    return torch.stack(columns, dim=1)
