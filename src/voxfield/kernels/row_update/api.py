"""`row_update`: one step of RMSprop, SGD or Adam on the rows that have a gradient, which it clears."""

from dataclasses import dataclass
from typing import Literal

import torch

from voxfield.checks import check_choice, check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


@dataclass(frozen=True, kw_only=True)
class RowRule:
    """Constants of one update. Rows without a gradient are left alone, their moments too."""

    kind: Literal["rmsprop", "sgd", "adam"] = "rmsprop"
    """``rmsprop`` as in svox2: the second moment starts at the first squared gradient, not at a share of it. ``adam``
    corrects the moments' bias by the number of steps taken, not by how often a row was among them."""
    learning_rate: float = 1e-2
    """Step size, at least 0."""
    beta1: float = 0.9
    """Decay of Adam's first moment, 0 to below 1."""
    beta2: float = 0.95
    """Decay of the second moment, 0 to below 1."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, at least 0."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("rmsprop", "sgd", "adam"))
        check_range("learning_rate", self.learning_rate, minimum=0.0)
        check_range("beta1", self.beta1, minimum=0.0, maximum=1.0 - 1e-9)
        check_range("beta2", self.beta2, minimum=0.0, maximum=1.0 - 1e-9)
        check_range("epsilon", self.epsilon, minimum=0.0)

    @property
    def moments(self) -> int:
        """Tensors of state it needs."""
        return {"sgd": 0, "rmsprop": 1, "adam": 2}[self.kind]

    def factors(self, step: int) -> tuple[float, float]:
        """(rate, root) of update ``step`` (from 1): Adam's ``p -= rate m / (root sqrt(v) + epsilon)``."""
        if self.kind != "adam":
            return self.learning_rate, 1.0
        return self.learning_rate / (1 - self.beta1**step), (1 - self.beta2**step) ** -0.5


def row_update(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, ...],
    touched: torch.Tensor,
    *,
    step: int,
    rule: RowRule,
    implementation: Implementation | None = None,
) -> None:
    """Update the rows that ``touched`` marks, with their moments, in place, and set their gradient to zero.

    ``sgd``: ``p -= lr g``. ``rmsprop``: ``v = g^2 where v = 0, else b2 v + (1 - b2) g^2``,
    ``p -= lr g / (sqrt(v) + eps)``. ``adam``: as `adam_step`.

    Args:
        parameter, gradient: (N, ...), contiguous, one dtype and device.
        moments: so many of the same shape as ``rule.moments`` says: none, the second, or the first and the second.
        touched: (N,) uint8, not 0 for rows that have a gradient; left as it is.
        step: number of this update, from 1.
        rule: the constants.
        implementation: None chooses by device.

    Raises:
        InputError: shapes, dtypes or devices differ, a tensor is not contiguous, or moments are missing.
        UnavailableError: the implementation asked for cannot run.
    """
    if len(moments) != rule.moments:
        raise InputError(f"moments: {rule.kind} needs {rule.moments}, got {len(moments)}.")
    tensors = {"parameter": parameter, "gradient": gradient}
    tensors.update({f"moments[{i}]": moment for i, moment in enumerate(moments)})
    for name, tensor in tensors.items():
        check_shape(name, tensor, tuple(parameter.shape))
        check_dtype(name, tensor, (parameter.dtype,))
        if not tensor.is_contiguous():
            raise InputError(f"{name}: expected a contiguous tensor, got strides {tensor.stride()}.")
    check_shape("touched", touched, (len(parameter),))
    check_dtype("touched", touched, (torch.uint8,))
    check_range("step", step, minimum=1)
    device = check_same_device(**tensors, touched=touched)
    chosen = resolve(implementation, device, "row_update", dtype=parameter.dtype)
    with torch.no_grad():
        load_backend("row_update", chosen).row_update(parameter, gradient, moments, touched, step, rule)
