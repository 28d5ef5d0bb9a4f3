"""How much memory the training step of a network of torch's own operators takes, found out without taking it."""

import copy
from collections.abc import Callable
from typing import Final, TypeVar

import torch

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)

_BESIDE_KEPT: Final = 1.8
"""Times what the backward is kept: gradients of what is being looked at, and convolutions laid out anew. Measured."""


def step_bytes(module: ModuleT, loss: Callable[[ModuleT], torch.Tensor]) -> int:
    """Memory of a training step, its network's weights and their gradients aside.

    The step is computed on torch's ``meta`` device, whose tensors have shapes and no memory: what the forward pass
    keeps for the backward is added up.

    Args:
        module: the model; it is left as it is.
        loss: computes the loss with the module it is given, all of it on ``meta``.
    """
    twin = copy.deepcopy(module).to("meta")
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    weights = {one.untyped_storage()._cdata for one in (*twin.parameters(), *twin.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(twin)
    return int(_BESIDE_KEPT * sum(storage.nbytes() for key, storage in kept.items() if key not in weights))
