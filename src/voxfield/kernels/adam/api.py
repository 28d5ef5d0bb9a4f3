"""`adam_step`: update parameters, moments and gradient in one pass, leaving untouched entries alone."""

from dataclasses import dataclass

import torch

from voxfield.checks import check_dtype, check_range, check_same_device, check_shape
from voxfield.errors import InputError, UnavailableError
from voxfield.kernels.dispatch import Implementation, load_backend, resolve


@dataclass(frozen=True, kw_only=True)
class AdamRule:
    """Constants of one Adam update (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1), or of a
    rectified one (Liu et al. 2020, https://arxiv.org/abs/1908.03265, algorithm 2).
    """

    learning_rate: float = 1e-2
    """Step size, at least 0."""
    beta1: float = 0.9
    """Decay of the first moment, 0 to below 1."""
    beta2: float = 0.99
    """Decay of the second moment, 0 to below 1."""
    epsilon: float = 1e-15
    """Added to the root of the second moment; tiny, so that entries with small gradients move as fast as others."""
    skip_zero: bool = False
    """Leave parameter and moments alone where the gradient is exactly zero: right for a table of which a batch touches
    a part (as in instant-ngp), where plain Adam would keep moving entries on stale moments."""
    rectified: bool = False
    """Weigh early steps by how little is known of the second moment (RAdam): the first ones follow the first moment
    alone."""

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, minimum=0.0)
        check_range("beta1", self.beta1, minimum=0.0, maximum=1.0 - 1e-9)
        check_range("beta2", self.beta2, minimum=0.0, maximum=1.0 - 1e-9)
        check_range("epsilon", self.epsilon, minimum=0.0)

    def factors(self, step: int) -> tuple[float, float, float]:
        """(rate, root, floor) of update ``step`` (from 1): ``p -= rate m / (root sqrt(v) + floor)``.

        With b2 = ``beta2``, RAdam's n = 2 / (1 - b2) - 1 and k = n - 2 step b2^step / (1 - b2^step), a rectified rate
        is multiplied by sqrt((k - 4)(k - 2) n / ((n - 4)(n - 2) k)) where k > 5, and the second moment is left out
        elsewhere. Its epsilon is added before the moment's bias is removed, as in torch.
        """
        rate = self.learning_rate / (1 - self.beta1**step)
        unbiased = (1 - self.beta2**step) ** 0.5
        if not self.rectified:
            return rate, 1 / unbiased, self.epsilon
        longest = 2 / (1 - self.beta2) - 1
        length = longest - 2 * step * self.beta2**step / (1 - self.beta2**step)
        if length <= 5:
            return rate, 0.0, 1.0
        share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        return rate * share**0.5, 1 / unbiased, self.epsilon / unbiased


def adam_step(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    *,
    step: int,
    rule: AdamRule,
    implementation: Implementation | None = None,
) -> None:
    """Update ``parameter`` and both moments in place and set ``gradient`` to zero.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``,
    ``p -= lr (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps)``; ``AdamRule.factors`` says what a rectified rule
    does instead.
    Clearing the gradient in the same pass saves a pass over memory, which is what the update costs.

    Args:
        parameter, gradient, first_moment, second_moment: equal shapes, contiguous, one dtype and device.
        step: number of this update, from 1.
        rule: the constants.
        implementation: ``"reference"`` or ``"numba"`` (CPU, float32); None chooses by device.

    Raises:
        InputError: shapes, dtypes or devices differ, or a tensor is not contiguous.
        UnavailableError: the implementation asked for cannot run.
    """
    tensors = {
        "parameter": parameter,
        "gradient": gradient,
        "first_moment": first_moment,
        "second_moment": second_moment,
    }
    for name, tensor in tensors.items():
        check_shape(name, tensor, parameter.shape)
        check_dtype(name, tensor, (parameter.dtype,))
        if not tensor.is_contiguous():
            raise InputError(f"{name}: expected a contiguous tensor, got strides {tensor.stride()}.")
    check_range("step", step, minimum=1)
    device = check_same_device(**tensors)
    chosen = resolve(implementation, device, "adam", dtype=parameter.dtype)
    if chosen == "triton":
        if implementation == "triton":
            raise UnavailableError("adam: there is no Triton kernel. Use implementation=None or 'reference'.")
        # Elementwise and memory-bound: torch's own fused kernels are as fast on a GPU.
        chosen = "reference"
    with torch.no_grad():
        load_backend("adam", chosen).adam_step(parameter, gradient, first_moment, second_moment, step, rule)
