"""The definition of `adam_step` in plain torch."""

import torch

from voxfield.kernels.adam.api import AdamRule


def adam_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    step: int,
    rule: AdamRule,
) -> None:
    """See `voxfield.kernels.adam.api.adam_step`."""
    first = rule.beta1 * first_moment + (1 - rule.beta1) * gradient
    second = rule.beta2 * second_moment + (1 - rule.beta2) * gradient**2
    rate, root, floor = rule.factors(step)
    change = rate * first / (root * second.sqrt() + floor)
    if rule.skip_zero:
        touched = gradient != 0
        first = torch.where(touched, first, first_moment)
        second = torch.where(touched, second, second_moment)
        change = torch.where(touched, change, 0)
    parameter -= change
    first_moment.copy_(first)
    second_moment.copy_(second)
    gradient.zero_()
