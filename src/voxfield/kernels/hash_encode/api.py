"""The contract of ``hash_encode``."""

import torch

from voxfield.checks import check_dtype, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve
from voxfield.kernels.hash_encode.grid import HashGrid


def hash_encode(
    positions: torch.Tensor,
    table: torch.Tensor,
    grid: HashGrid,
    *,
    table_grad: torch.Tensor | None = None,
    implementation: Implementation | None = None,
) -> torch.Tensor:
    """Interpolate the features of every level of a hash grid at points of the unit cube.

    With x clamped to [0, 1], p = x * resolution, c = min(floor(p), resolution - 1) and w = p - c (per axis; with
    ``grid.smoothstep`` w becomes w*w*(3 - 2w)), level ``l`` returns the sum over the 8 vertices c + b, b in {0, 1}^3,
    of ``table[offsets[l] + index(c + b)]`` times the product over the axes of (w if b else 1 - w), where ::

        index(x, y, z) = x + y*(resolution + 1) + z*(resolution + 1)**2             dense level
                       = (x ^ y*2654435761 ^ z*805459861) & (table_size - 1)        hashed level, in uint32

    Source: Müller et al., https://arxiv.org/abs/2201.05989, section 3.

    Args:
        positions: (N, 3), float32 (float64: reference only). Any strides. Coordinates outside [0, 1] are clamped.
            NaN gives unspecified features, but never reads outside the table.
        table: (grid.num_entries, grid.features), same dtype and device.
        grid: the topology.
        table_grad: where the backward adds the table's gradient instead of returning it to autograd: same shape, dtype
            and device as ``table``, contiguous. For optimisers that keep and clear one gradient buffer (`adam_step`):
            a fresh full-size gradient each step costs as much memory traffic as the encoding itself. Nothing is added
            unless ``table`` requires a gradient; its own ``.grad`` then stays as it was.
        implementation: None chooses by device.

    Returns:
        (N, num_levels * features), level-major: feature f of level l is column l * features + f. It may be a transposed
        view of feature-major storage: do not assume it is contiguous.

    Gradients:
        To ``table``, exact; entries met by no point get zero, and the gradient is a dense tensor of the table's shape.
        To ``positions``, of the piecewise interpolant; on a cell's face that of the cell c above is taken. Where a
        coordinate lies outside [0, 1] its gradient is zero. Neither is differentiable twice except in the reference.

    Raises:
        InputError: wrong shape, dtype or device.
        UnavailableError: the implementation asked for cannot run.
    """
    check_shape("positions", positions, ("N", 3))
    check_dtype("positions", positions, (torch.float32, torch.float64))
    check_shape("table", table, (grid.num_entries, grid.features))
    if table.dtype != positions.dtype:
        raise InputError(f"table: expected the dtype of positions, {positions.dtype}, got {table.dtype}.")
    device = check_same_device(positions=positions, table=table)
    chosen = resolve(implementation, device, "hash_encode", dtype=positions.dtype)
    if table_grad is not None:
        check_shape("table_grad", table_grad, tuple(table.shape))
        check_same_device(table=table, table_grad=table_grad)
        if table_grad.dtype != table.dtype or not table_grad.is_contiguous():
            raise InputError("table_grad: expected a contiguous tensor of the table's dtype.")
    result: torch.Tensor = load_backend("hash_encode", chosen).hash_encode(positions, table, grid, table_grad)
    return result
