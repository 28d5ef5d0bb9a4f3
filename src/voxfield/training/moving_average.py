"""The moving average of a module's parameters, which is smoother than where training stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class MovingAverage:
    """An exponential moving average of a module's parameters, updated every few steps to spare memory traffic."""

    EVERY = 8

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        """Start from the parameters as they are; ``decay`` is that of one step."""
        self._parameters = list(module.parameters())
        self._values = [parameter.detach().clone() for parameter in self._parameters]
        self._decay = decay

    def update(self, step: int) -> None:
        """Called after step ``step`` (from 0)."""
        if (step + 1) % self.EVERY:
            return
        # Early on the average follows closely: what it started from is worth nothing.
        decay = min(self._decay, step / (step + 50.0)) ** self.EVERY
        with torch.no_grad():
            for value, parameter in zip(self._values, self._parameters, strict=True):
                value.lerp_(parameter, 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Exchange average and parameters inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """The averages, in the order of the module's parameters."""
        return {"values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for own, saved in zip(self._values, state["values"], strict=True):
            own.copy_(saved)

    def _swap(self) -> None:
        with torch.no_grad():
            for value, parameter in zip(self._values, self._parameters, strict=True):
                held = parameter.detach().clone()
                parameter.copy_(value)
                value.copy_(held)
