"""The contract of ``total_variation``."""

from dataclasses import dataclass
from typing import Final

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.sh_grid.grid import GridLinks

SMOOTHING: Final = 1e-5
"""Added under the root, so that it has a slope at 0."""
REFERENCE_SIZE: Final = 256.0
"""Differences are per 1/256 of the box's side, whatever the resolution: weights then mean the same at each."""


@dataclass(frozen=True, kw_only=True)
class CellRange:
    """Voxels that follow one another in memory, x fastest: their neighbours are then in cache."""

    start: int
    """Index of the first in the flattened grid, at least 0."""
    count: int
    """How many, at least 1; behind the last voxel of the grid follows the first."""

    def __post_init__(self) -> None:
        check_range("start", self.start, minimum=0)
        check_range("count", self.count, minimum=1)


def total_variation(
    values: torch.Tensor,
    links: GridLinks,
    cells: CellRange,
    *,
    gradient: torch.Tensor | None = None,
    touched: torch.Tensor | None = None,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """How much values change from voxel to voxel: the mean over ``cells`` of the sum over channels of ::

        sqrt(1e-5 + sum over the axes a of ((v[next along a] - v) * size_a / 256)^2)

    with v = 0 where no voxel is stored, and no difference across the grid's border. Source: Fridovich-Keil and Yu et
    al. 2022 (https://arxiv.org/abs/2112.05131), equation 3, in svox2's scaling.

    Args:
        values: (N, ...) by row, float32 (float64: reference only), contiguous.
        links: where the rows stand.
        cells: which voxels are looked at.
        gradient: where the backward adds the gradient instead of returning it to autograd, like ``values``.
        touched: (N,) uint8, given with ``gradient``: set to 1 for rows that something was added to.
        implementation: None chooses by device.

    Returns:
        A scalar, at least 0.

    Gradients:
        To ``values``.

    Raises:
        InputError: wrong shape, dtype, device or range.
        UnavailableError: the implementation asked for cannot run.
    """
    check_dtype("values", values, (torch.float32, torch.float64))
    if values.ndim < 1 or len(values) != links.count or not values.is_contiguous():
        raise InputError(
            f"values: expected a contiguous tensor of {links.count} rows, got {tuple(values.shape)}, "
            f"strides {values.stride()}."
        )
    if (gradient is None) != (touched is None):
        raise InputError("gradient and touched: give both or neither.")
    buffers: dict[str, torch.Tensor] = {}
    if gradient is not None and touched is not None:
        check_shape("gradient", gradient, tuple(values.shape))
        check_dtype("gradient", gradient, (values.dtype,))
        check_shape("touched", touched, (len(values),))
        check_dtype("touched", touched, (torch.uint8,))
        buffers = {"gradient": gradient, "touched": touched}
        if not gradient.is_contiguous():
            raise InputError(f"gradient: expected a contiguous tensor, got strides {gradient.stride()}.")
    total = links.links.numel()
    check_range("cells.start", cells.start, maximum=total - 1)
    check_range("cells.count", cells.count, maximum=total)
    device = check_same_device(values=values, links=links.links, **buffers)
    chosen = resolve(implementation, device, "total_variation", dtype=values.dtype)
    found: torch.Tensor = load_backend("total_variation", chosen).total_variation(
        values, links, cells, gradient, touched
    )
    return found
