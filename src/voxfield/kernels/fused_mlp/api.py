"""`fused_mlp`: a small ReLU network without biases, evaluated block by block."""

from collections.abc import Sequence
from typing import Final, Literal

import torch

from voxfield.checks import check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import resolve

_AUTOCAST_ROWS: Final = 1 << 14
"""Rows that go through all layers at once on a CPU, so that their activations stay in its cache."""


def fused_mlp(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    shared: torch.Tensor | None = None,
    shared_index: torch.Tensor | None = None,
    implementation: Literal["reference", "numba"] | None = None,
) -> torch.Tensor:
    """Evaluate ``W_n relu(W_(n-1) ... relu(W_1 x))`` for every row of ``inputs``.

    Args:
        inputs: (N, C). Any strides; the Numba path reads feature-major storage (a transposed (C, N) tensor) fastest.
        weights: one (out, in) matrix a layer, the first with C (+ K) columns; hidden widths of 16 to 128 suit the
        caches.
        shared: (R, K) further inputs that many rows have in common, such as a ray's direction: row n's inputs are
            ``inputs[n]`` followed by ``shared[shared_index[n]]``, which the Numba path never writes out.
        shared_index: (N,) integers in [0, R); required with ``shared``.
        implementation: ``"reference"`` (torch), ``"numba"`` (CPU, float32), or None to choose by device: Numba for
            float32 on a CPU, else torch, whose matrix products are what a GPU wants.

    Inside ``torch.autocast`` and without a request, torch computes the products in autocast's precision; the result
    has the inputs' dtype all the same, so that what follows does not depend on the precision of the networks.

    Returns:
        (N, out), of the inputs' dtype. The Numba path returns a view of feature-major storage.

    Gradients flow to ``inputs``, ``shared`` and every weight. Cost: the Numba path keeps the hidden activations of
    all N rows (4 bytes x hidden units each) for the backward.

    Raises:
        InputError: the shapes do not chain, or dtypes differ.
        UnavailableError: the implementation cannot run on this device or dtype.
    """
    check_shape("inputs", inputs, ("N", "C"))
    if not weights:
        raise InputError("weights: expected at least one layer, got none.")
    width = inputs.shape[1]
    if shared is not None:
        if shared_index is None:
            raise InputError("shared_index: required with shared.")
        check_shape("shared", shared, ("R", "K"))
        check_shape("shared_index", shared_index, (len(inputs),))
        width += shared.shape[1]
    for layer, weight in enumerate(weights):
        check_shape(f"weights[{layer}]", weight, ("out", width))
        if weight.dtype != inputs.dtype:
            raise InputError(f"weights[{layer}]: expected dtype {inputs.dtype} as the inputs, got {weight.dtype}.")
        width = weight.shape[0]
    if implementation is None and torch.is_autocast_enabled(inputs.device.type):
        return _in_autocast(_joined(inputs, shared, shared_index), weights)
    if implementation is None and (inputs.device.type != "cpu" or inputs.dtype != torch.float32):
        chosen = "reference"
    else:
        chosen = resolve(implementation, inputs.device, "fused_mlp", dtype=inputs.dtype)
    if chosen == "numba":
        from voxfield.kernels.fused_mlp import numba_cpu

        return numba_cpu.fused_mlp(inputs, weights, shared, shared_index)
    from voxfield.kernels.fused_mlp import reference

    return reference.fused_mlp(_joined(inputs, shared, shared_index), weights)


def _joined(inputs: torch.Tensor, shared: torch.Tensor | None, index: torch.Tensor | None) -> torch.Tensor:
    if shared is None or index is None:
        return inputs
    return torch.cat([inputs, shared[index.long()]], dim=1)


def _in_autocast(inputs: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    from voxfield.kernels.fused_mlp import reference

    rows = _AUTOCAST_ROWS if inputs.device.type == "cpu" else max(1, len(inputs))
    parts = [reference.fused_mlp(part, weights).to(inputs.dtype) for part in inputs.split(rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
