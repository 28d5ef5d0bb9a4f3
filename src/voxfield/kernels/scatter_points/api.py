"""The contract of ``scatter_points``."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

import torch

from voxfield.checks import check_choice, check_dtype, check_range, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve

Method = Literal["occupancy", "density", "gaussian", "trilinear"]
"""What a voxel holds: see ``scatter_points``."""
CellRule = Literal["equal", "compatible"]
"""Which voxel a point lies in: see ``scatter_points``."""
Outside = Literal["drop", "clamp"]
"""What becomes of points outside the volume."""

MAX_SIDE: Final = 1024
"""Most voxels along an axis."""
MAX_SIGMA: Final = 256.0
"""Largest standard deviation, in voxels."""
MAX_POINTS: Final = 2**31 - 1


class ScatteredPoints(NamedTuple):
    """What became of points."""

    grid: torch.Tensor
    """(D, H, W) float32, axes z, y, x."""
    outside: int
    """Points that lie outside the volume, dropped or clamped."""


def scatter_points(
    points: torch.Tensor,
    shape: Sequence[int],
    low: Sequence[float],
    high: Sequence[float],
    *,
    method: Method = "gaussian",
    sigma: Sequence[float] = (1.0, 1.0, 1.0),
    cells: CellRule = "equal",
    outside: Outside = "drop",
    implementation: Implementation | None = None,
) -> ScatteredPoints:
    """Points to a dense grid of the box from ``low`` to ``high``.

    Per axis, with V voxels, the box is closed and

    - ``cells="equal"``: voxel floor((p - low) / (high - low) * V): V equal cells, a point at ``high`` in the last one;
    - ``cells="compatible"``: voxel floor(clip((p - low) / (high - low) * (V - 1), 0, V - 1)), as programs have it that
      give the last voxel only to points exactly at ``high``. Points outside are clamped.

    A voxel holds

    - ``occupancy``: 1 where there is a point, else 0;
    - ``density``: the number of points;
    - ``gaussian``: the number of points, blurred by a sampled Gaussian: weights exp(-k² / 2σ²) for |k| up to
      floor(4σ + 0.5), made to sum to 1; the grid is mirrored about its faces, so that nothing is lost there. Equal in
      every bit to scipy's ``gaussian_filter(counts, sigma)``, which sums in float64 and keeps float32 between axes;
    - ``trilinear``: every point gives its weight 1 to the eight voxels whose centres surround it; beyond the outermost
      centres the border voxel takes the share. ``cells="equal"`` only.

    Sums over the grid equal the number of points that are not dropped, except for ``occupancy``.
    Coordinates are computed in float64, so every implementation puts a point in the same voxel.

    Args:
        points: (N, 3) x, y, z, float32 or float64, finite. Any strides. May be empty.
        shape: voxels along z, y, x, each 1 to 1024.
        low: x, y, z of the box's least corner, in the points' units.
        high: of its greatest corner, above ``low`` on every axis.
        method: see above.
        sigma: standard deviations along x, y, z in voxels, 0 to 256, for ``gaussian``. Below 0.125 nothing is blurred.
        cells: see above.
        outside: whether points outside are dropped or moved onto the border. ``compatible`` cells always clamp.
        implementation: None chooses by device. The reference computes on the CPU wherever the points are.

    Returns:
        The grid, on the points' device, and how many points were outside.

    Gradients:
        None.

    Raises:
        InputError: wrong shape, dtype or range, points that are not finite, or ``trilinear`` with ``compatible``.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("points", points, ("N", 3))
    check_dtype("points", points, (torch.float32, torch.float64))
    check_range("number of points", len(points), maximum=MAX_POINTS)
    _check_volume(shape, low, high)
    _check_choices(method, cells, outside)
    if len(sigma) != 3:
        raise InputError(f"sigma: expected three values, along x, y and z, got {len(sigma)}.")
    for one in sigma:
        check_range("sigma", one, minimum=0, maximum=MAX_SIGMA)
    # float32 here: the fast kernels compute in float64 too, which dispatch keeps from kernels that do not.
    chosen = resolve(implementation, points.device, "scatter_points")
    # The sum tells at a tenth of the cost, unless large coordinates overflow it.
    if not bool(torch.isfinite(points.sum())) and not bool(torch.isfinite(points).all()):
        raise InputError("points: expected finite coordinates, got NaN or infinity. Leave such points out.")
    blurred = tuple(float(one) for one in sigma) if method == "gaussian" else (0.0, 0.0, 0.0)
    with torch.no_grad():
        grid, missed = load_backend("scatter_points", chosen).scatter_points(
            points.detach(),
            tuple(int(side) for side in shape),
            tuple(float(one) for one in low),
            tuple(float(one) for one in high),
            method,
            blurred,
            cells == "compatible",
            outside == "clamp" or cells == "compatible",
        )
    return ScatteredPoints(grid, missed)


def _check_choices(method: Method, cells: CellRule, outside: Outside) -> None:
    check_choice("method", method, get_args(Method))
    check_choice("cells", cells, get_args(CellRule))
    check_choice("outside", outside, get_args(Outside))
    if method == "trilinear" and cells == "compatible":
        raise InputError("method: 'trilinear' needs cells='equal'; the compatible rule has no centres to divide among.")


def _check_volume(shape: Sequence[int], low: Sequence[float], high: Sequence[float]) -> None:
    if len(shape) != 3 or len(low) != 3 or len(high) != 3:
        raise InputError(f"shape, low, high: expected three values each, got {len(shape)}, {len(low)} and {len(high)}.")
    for name, side in zip("zyx", shape, strict=True):
        check_range(f"shape along {name}", side, minimum=1, maximum=MAX_SIDE)
    for name, least, most in zip("xyz", low, high, strict=True):
        check_range(f"high - low along {name}", most - least, above=0, maximum=1e300)
        check_range(f"low along {name}", least, minimum=-1e300, maximum=1e300)
