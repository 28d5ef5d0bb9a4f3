"""How much memory a network of torch's own operators takes, for a step or to be asked, found out without taking it."""

import copy
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)

_BESIDE_KEPT: Final = 1.8
"""Times what the backward is kept: gradients of what is being looked at, and convolutions laid out anew. Measured."""
_BESIDE_HELD: Final = 1.8
"""Times what is held at once without a backward: convolutions laid out anew. Measured."""


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


def pass_bytes(module: ModuleT, ask: Callable[[ModuleT], torch.Tensor]) -> int:
    """Memory of asking a network without gradients, its weights aside: the most that is held at once.

    Args:
        module: the model; it is left as it is.
        ask: asks the module it is given, all of it on ``meta``, as in `step_bytes`.
    """
    twin = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), _Held(aside=(*twin.parameters(), *twin.buffers())) as held:
        ask(twin)
    return int(_BESIDE_HELD * held.most)


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and still held; views of what is ``aside`` take none."""

    def __init__(self, aside: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {one.untyped_storage()._cdata for one in aside}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
