"""`row_update` on a GPU: one value a lane; rows without a mark are neither read nor written."""

import torch
import triton
import triton.language as tl

from voxfield.kernels.row_update.api import RowRule

_BLOCK = 1024


def row_update(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    touched: torch.Tensor,
    step: int,
    rule: RowRule,
) -> None:
    """See ``api.row_update``."""
    count = parameter.numel()
    if not count:
        return
    rate, root = rule.factors(step)
    # A moment that the rule does not have is given any tensor: it is never looked at.
    second = moments[-1] if moments else gradient
    first = moments[0] if moments else gradient
    _update[(triton.cdiv(count, _BLOCK),)](
        parameter.detach(),
        gradient,
        first,
        second,
        touched,
        count,
        count // len(parameter),
        rate,
        root,
        rule.beta1,
        rule.beta2,
        rule.epsilon,
        KIND=rule.kind,
        BLOCK=_BLOCK,
        enable_fp_fusion=True,
    )


@triton.jit
def _update(
    parameter,
    gradient,
    first_moment,
    second_moment,
    touched,
    count,
    width,
    rate,
    root,
    beta1,
    beta2,
    epsilon,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    marked = tl.load(touched + at // width, mask=at < count, other=0) != 0
    value = tl.load(parameter + at, mask=marked, other=0.0)
    g = tl.load(gradient + at, mask=marked, other=0.0)
    if KIND == "sgd":
        change = rate * g
    else:
        held = tl.load(second_moment + at, mask=marked, other=0.0)
        second = beta2 * held + (1.0 - beta2) * g * g
        if KIND == "rmsprop":
            second = tl.where(held == 0.0, g * g, second)
        else:
            g = beta1 * tl.load(first_moment + at, mask=marked, other=0.0) + (1.0 - beta1) * g
            tl.store(first_moment + at, g, mask=marked)
        tl.store(second_moment + at, second, mask=marked)
        change = rate * g / (root * tl.sqrt(second) + epsilon)
    tl.store(parameter + at, value - change, mask=marked)
    tl.store(gradient + at, tl.zeros((BLOCK,), tl.float32), mask=marked)
