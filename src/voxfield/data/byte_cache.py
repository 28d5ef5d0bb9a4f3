"""Decoded arrays that are kept in memory, within a budget."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np


class ByteBoundedCache:
    """What was used last, within a number of entries and of bytes."""

    def __init__(self, entries: int, most_bytes: int) -> None:
        self.entries, self.most_bytes, self.bytes = entries, most_bytes, 0
        self._held: OrderedDict[Any, tuple[dict[str, np.ndarray], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What is held under ``key``, else what ``make`` gives, which is then held in place of the least used."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        arrays = make()
        size = sum(array.nbytes for array in arrays.values())
        if size <= self.most_bytes and self.entries:
            self._held[key] = (arrays, size)
            self.bytes += size
        while len(self._held) > self.entries or self.bytes > self.most_bytes:
            self.bytes -= self._held.popitem(last=False)[1][1]
        return arrays

    def emptied(self) -> "ByteBoundedCache":
        """A cache of the same bounds without content."""
        return ByteBoundedCache(self.entries, self.most_bytes)
