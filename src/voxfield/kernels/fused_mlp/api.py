"""`fused_mlp`: a small ReLU network without biases, evaluated block by block."""

from collections.abc import Sequence
from typing import Literal

import torch

from voxfield.checks import check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import resolve


def fused_mlp(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    implementation: Literal["reference", "numba"] | None = None,
) -> torch.Tensor:
    """Evaluate ``W_n relu(W_(n-1) ... relu(W_1 x))`` for every row of ``inputs``.

    Args:
        inputs: (N, C). Any strides; the Numba path reads feature-major storage (a transposed (C, N) tensor) fastest.
        weights: one (out, in) matrix a layer, the first with C columns; hidden widths of 16 to 128 suit the caches.
        implementation: ``"reference"`` (torch), ``"numba"`` (CPU, float32), or None to choose by device: Numba for
            float32 on a CPU, else torch, whose matrix products are what a GPU wants.

    Returns:
        (N, out). The Numba path returns a view of feature-major storage.

    Gradients flow to ``inputs`` and to every weight. Cost: the Numba path keeps the hidden activations of all N rows
    (4 bytes x hidden units each) for the backward.

    Raises:
        InputError: the shapes do not chain, or dtypes differ.
        UnavailableError: the implementation cannot run on this device or dtype.
    """
    check_shape("inputs", inputs, ("N", "C"))
    if not weights:
        raise InputError("weights: expected at least one layer, got none.")
    width = inputs.shape[1]
    for layer, weight in enumerate(weights):
        check_shape(f"weights[{layer}]", weight, ("out", width))
        if weight.dtype != inputs.dtype:
            raise InputError(f"weights[{layer}]: expected dtype {inputs.dtype} as the inputs, got {weight.dtype}.")
        width = weight.shape[0]
    if implementation is None and (inputs.device.type != "cpu" or inputs.dtype != torch.float32):
        chosen = "reference"
    else:
        chosen = resolve(implementation, inputs.device, "fused_mlp")
    if chosen == "numba":
        from voxfield.kernels.fused_mlp import numba_cpu

        return numba_cpu.fused_mlp(inputs, weights)
    from voxfield.kernels.fused_mlp import reference

    return reference.fused_mlp(inputs, weights)
