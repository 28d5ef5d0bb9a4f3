"""The definition of `row_update` in plain torch."""

import torch

from voxfield.kernels.row_update.api import RowRule


def row_update(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    touched: torch.Tensor,
    step: int,
    rule: RowRule,
) -> None:
    """See ``api.row_update``."""
    rows = touched.nonzero()[:, 0]
    g = gradient[rows]
    rate, root = rule.factors(step)
    if rule.kind == "sgd":
        change = rate * g
    else:
        second = moments[-1][rows]
        fresh = rule.beta2 * second + (1 - rule.beta2) * g * g
        second = torch.where(second == 0, g * g, fresh) if rule.kind == "rmsprop" else fresh
        moments[-1][rows] = second
        if rule.kind == "adam":
            g = rule.beta1 * moments[0][rows] + (1 - rule.beta1) * g
            moments[0][rows] = g
        change = rate * g / (root * second.sqrt() + rule.epsilon)
    parameter[rows] -= change
    gradient[rows] = 0
