"""Adam over parameter groups, with one gradient buffer per parameter that the update itself clears."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from voxfield.errors import FormatError
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.kernels.workspace import huge_zeros
from voxfield.models.base import ParameterGroup


class Adam:
    """Adam (Kingma and Ba 2015), rectified or not, through `voxfield.kernels.adam.adam_step`."""

    def __init__(self, groups: Sequence[ParameterGroup], rule: AdamRule) -> None:
        """Prepare moments and gradient buffers of every parameter, which is then updated in place by `step`."""
        self.groups, self.rule, self.steps = list(groups), rule, 0
        self._moments: list[tuple[torch.Tensor, torch.Tensor]] = []
        for parameter in self._parameters():
            self._moments.append((_zeros(parameter), _zeros(parameter)))
            parameter.grad = _zeros(parameter)

    def unscale(self, scaler: "torch.amp.GradScaler | None") -> bool:
        """Divide gradients by ``scaler``'s factor; False, with gradients cleared, where they overflowed.

        Torch's scaler expects one of torch's own optimisers; this does the same for ours.
        """
        if scaler is None:
            return True
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        inverse = 1.0 / scaler.get_scale()
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        for gradient in gradients:
            gradient.mul_(inverse) if finite else gradient.zero_()
        scaler.update(scaler.get_scale() * (1.0005 if finite else 0.5))
        return finite

    def step(self, learning_rate: float) -> None:
        """Update every parameter from its ``.grad`` and clear that."""
        self.steps += 1
        moments = iter(self._moments)
        for group in self.groups:
            rule = replace(
                self.rule, learning_rate=learning_rate * group.learning_rate_factor, skip_zero=group.skip_zero
            )
            for parameter in group.parameters:
                first, second = next(moments)
                if parameter.grad is None:
                    continue
                gradient = parameter.grad if parameter.grad.is_contiguous() else parameter.grad.contiguous()
                adam_step(parameter.data, gradient, first, second, step=self.steps, rule=rule)
                parameter.grad = gradient

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count."""
        return {"steps": self.steps, "moments": [list(pair) for pair in self._moments]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            FormatError: the state belongs to other parameters.
        """
        saved = state["moments"]
        shapes = [pair[0].shape for pair in self._moments]
        if [pair[0].shape for pair in saved] != shapes:
            raise FormatError("The checkpoint's optimiser state belongs to a model of another size.")
        self.steps = int(state["steps"])
        for own, other in zip(self._moments, saved, strict=True):
            for target, source in zip(own, other, strict=True):
                target.copy_(source)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.groups for parameter in group.parameters]


def _zeros(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Zeros like ``parameter``, in memory that suits being streamed every step."""
    if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
        return huge_zeros(parameter.shape)
    return torch.zeros_like(parameter.data)
