"""Optimisers over parameter groups, with one gradient buffer per parameter that the update itself clears.

`Adam` updates whole parameters; `RowOptimiser` the rows that a batch touched, of models that say which. Both follow
models whose parameters change their size (`RowsMoved`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from voxfield.errors import FormatError, InputError
from voxfield.kernels.adam import AdamRule, adam_step
from voxfield.kernels.row_update import RowRule, row_update
from voxfield.kernels.workspace import huge_zeros
from voxfield.models.base import ParameterGroup, RowsMoved


class Optimiser(Protocol):
    """What the trainer asks of an optimiser. It owns the parameters' ``.grad``, which it clears with every step."""

    groups: Sequence[ParameterGroup]
    """What it updates."""

    def unscale(self, scaler: "torch.amp.GradScaler | None") -> bool:
        """Divide gradients by ``scaler``'s factor; False, with gradients cleared, where they overflowed."""

    def clip(self, norm: float) -> None:
        """Shorten all gradients together to ``norm`` where they are longer."""

    def step(self, learning_rate: float, progress: float) -> None:
        """Update the parameters. Groups with a rate of their own take it at ``progress``, the others the given one."""

    def follow(self, moved: RowsMoved | None, groups: Sequence[ParameterGroup]) -> None:
        """Go on with the parameters of ``groups``: those that are new get state, in the rows that were kept the old.

        Args:
            moved: where rows came from; None: state of another size starts afresh (before it is loaded).
            groups: the same groups as before, by name.
        """

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises FormatError where that belongs to other parameters."""


def make_optimiser(
    name: str, groups: Sequence[ParameterGroup], *, beta1: float, beta2: float, epsilon: float
) -> Optimiser:
    """The optimiser of that name that suits the groups.

    Args:
        name: ``adam``, ``radam`` (whole parameters only), ``rmsprop`` or ``sgd`` (touched rows only).
        groups: what is optimised: all with ``touched``, or none.
        beta1, beta2, epsilon: the rule's constants; those it does not know are ignored.

    Raises:
        InputError: the name does not suit the groups.
    """
    if any(group.touched is not None for group in groups):
        if name not in ("rmsprop", "sgd", "adam"):
            raise InputError(f"trainer.optimiser: {name} does not update single rows. Choose rmsprop, sgd or adam.")
        kind: Any = name
        return RowOptimiser(groups, RowRule(kind=kind, beta1=beta1, beta2=beta2, epsilon=epsilon))
    if name not in ("adam", "radam"):
        raise InputError(f"trainer.optimiser: {name} is for voxel grids (plenoxels). Choose adam or radam.")
    return Adam(groups, AdamRule(beta1=beta1, beta2=beta2, epsilon=epsilon, rectified=name == "radam"))


class _OverGroups:
    """Parameter groups with moments: all of an `Optimiser` but its rule."""

    def __init__(self, groups: Sequence[ParameterGroup], moments: int) -> None:
        """Prepare so many ``moments`` and a gradient buffer of every parameter."""
        self.groups: Sequence[ParameterGroup] = list(groups)
        self.steps = 0
        self._moments = _fresh(groups, moments)

    def unscale(self, scaler: "torch.amp.GradScaler | None") -> bool:
        """See `Optimiser.unscale`."""
        return _unscale(self.groups, scaler)

    def clip(self, norm: float) -> None:
        """See `Optimiser.clip`."""
        torch.nn.utils.clip_grad_norm_(_parameters(self.groups), norm)

    def follow(self, moved: RowsMoved | None, groups: Sequence[ParameterGroup]) -> None:
        """See `Optimiser.follow`."""
        self.groups, self._moments = list(groups), _followed(self.groups, self._moments, moved, groups)

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count."""
        return {"steps": self.steps, "moments": [list(held) for held in self._moments]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            FormatError: the state belongs to other parameters.
        """
        _load_moments(self._moments, state["moments"])
        self.steps = int(state["steps"])


class Adam(_OverGroups):
    """Adam (Kingma and Ba 2015), rectified or not, through `voxfield.kernels.adam.adam_step`."""

    def __init__(self, groups: Sequence[ParameterGroup], rule: AdamRule) -> None:
        """Prepare moments and gradient buffers of every parameter, which is then updated in place by `step`."""
        super().__init__(groups, 2)
        self.rule = rule

    def step(self, learning_rate: float, progress: float = 0.0) -> None:
        """Update every parameter from its ``.grad`` and clear that."""
        self.steps += 1
        moments = iter(self._moments)
        for group in self.groups:
            rule = replace(self.rule, learning_rate=_rate(group, learning_rate, progress), skip_zero=group.skip_zero)
            for parameter in group.parameters:
                first, second = next(moments)
                if parameter.grad is None:
                    continue
                if group.weight_decay:
                    parameter.data.mul_(1.0 - rule.learning_rate * group.weight_decay)
                gradient = parameter.grad if parameter.grad.is_contiguous() else parameter.grad.contiguous()
                adam_step(parameter.data, gradient, first, second, step=self.steps, rule=rule)
                parameter.grad = gradient


class RowOptimiser(_OverGroups):
    """RMSprop, SGD or Adam on the rows of parameters that a batch touched, by `row_update`."""

    def __init__(self, groups: Sequence[ParameterGroup], rule: RowRule) -> None:
        """Prepare moments and gradient buffers of every parameter; every group has ``touched``."""
        super().__init__(groups, rule.moments)
        self.rule = rule

    def step(self, learning_rate: float, progress: float = 0.0) -> None:
        """Update the touched rows of every parameter from its ``.grad``, clear that and then what says they are."""
        self.steps += 1
        moments = iter(self._moments)
        for group in self.groups:
            rule = replace(self.rule, learning_rate=_rate(group, learning_rate, progress))
            for parameter in group.parameters:
                held = next(moments)
                if parameter.grad is not None and group.touched is not None:
                    row_update(parameter.data, parameter.grad, held, group.touched, step=self.steps, rule=rule)
        for group in self.groups:
            if group.touched is not None:
                group.touched.zero_()


_Moments = list[tuple[torch.Tensor, ...]]
"""The moments of every parameter, in the groups' order."""


def _parameters(groups: Sequence[ParameterGroup]) -> list[torch.nn.Parameter]:
    return [parameter for group in groups for parameter in group.parameters]


def _rate(group: ParameterGroup, learning_rate: float, progress: float) -> float:
    return (learning_rate if group.rate is None else group.rate(progress)) * group.learning_rate_factor


def _fresh(groups: Sequence[ParameterGroup], count: int) -> _Moments:
    """``count`` moments for every parameter, all zero, and a gradient buffer in its ``.grad``."""
    moments = []
    for parameter in _parameters(groups):
        moments.append(tuple(_zeros(parameter) for _ in range(count)))
        parameter.grad = _zeros(parameter)
    return moments


def _followed(
    before: Sequence[ParameterGroup], moments: _Moments, moved: RowsMoved | None, groups: Sequence[ParameterGroup]
) -> _Moments:
    """The moments of ``groups``' parameters from those of the same groups ``before``."""
    followed: _Moments = []
    names = [group.name for group in before for _ in group.parameters]
    for name, old, held, parameter in zip(names, _parameters(before), moments, _parameters(groups), strict=True):
        if parameter is old and all(moment.shape == parameter.shape for moment in held):
            followed.append(held)
            continue
        fresh = tuple(_zeros(parameter) for _ in held)
        if moved is not None and name in moved.groups:
            kept = moved.source >= 0
            for target, source in zip(fresh, held, strict=True):
                target[kept] = source[moved.source[kept]]
        followed.append(fresh)
        parameter.grad = _zeros(parameter)
    return followed


def _load_moments(moments: _Moments, saved: Sequence[Sequence[torch.Tensor]]) -> None:
    """Copy ``saved`` moments into ours.

    Raises:
        FormatError: they belong to other parameters.
    """
    shapes = [[moment.shape for moment in held] for held in moments]
    if [[moment.shape for moment in held] for held in saved] != shapes:
        raise FormatError("The checkpoint's optimiser state belongs to a model of another size.")
    for own, other in zip(moments, saved, strict=True):
        for target, source in zip(own, other, strict=True):
            target.copy_(source)


def _unscale(groups: Sequence[ParameterGroup], scaler: "torch.amp.GradScaler | None") -> bool:
    """Torch's scaler expects one of torch's own optimisers; this does the same for ours."""
    if scaler is None:
        return True
    gradients = [parameter.grad for parameter in _parameters(groups) if parameter.grad is not None]
    inverse = 1.0 / scaler.get_scale()
    finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    for gradient in gradients:
        gradient.mul_(inverse) if finite else gradient.zero_()
    scaler.update(scaler.get_scale() * (1.0005 if finite else 0.5))
    return finite


def _zeros(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Zeros like ``parameter``, in memory that suits being streamed every step."""
    if parameter.device.type == "cpu" and parameter.dtype == torch.float32:
        return huge_zeros(parameter.shape)
    return torch.zeros_like(parameter.data)
