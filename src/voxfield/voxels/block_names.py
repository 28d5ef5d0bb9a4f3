"""Names of blocks (their hashes) as arrays: sorted, counted and looked up without an object for each.

Names are (N, W) uint8, W a multiple of 8, and sort as their bytes do.
"""

from typing import Final

import numpy as np

NAME_BYTES: Final = 32
"""Of a block's hash."""
_MERGED_AT: Final = 1 << 16
"""Names that wait, at least, before they are merged with those before."""


def distinct_names(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different names: where each stands first, in the order of names; and for every name which of them it is.

    Returns:
        ``first`` (U,) and ``rank`` (N,) int64: ``names[first]`` is sorted, ``names[first][rank]`` are all of them.
    """
    order = _order(names)
    ordered = names[order]
    new = np.ones(len(names), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.cumsum(new) - 1
    return order[new], rank


def rows_of(wanted: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(N,) int64: the rows of ``wanted`` (N, W) in sorted ``names`` (U, W), each of which is there."""
    rows = np.searchsorted(_words(names)[:, 0], _words(wanted)[:, 0])
    while len(others := np.flatnonzero((names[rows] != wanted).any(1))):
        rows[others] += 1  # the first eight bytes alone are alike: next to impossible, and still found
    return rows


class CountedNames:
    """How often names have been seen. Memory is that of the different ones, and of some that wait to be merged.

    Args:
        width: bytes of a name.
    """

    def __init__(self, width: int = NAME_BYTES) -> None:
        self._names, self._counts = np.zeros((0, width), np.uint8), np.zeros(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting_rows = 0

    def add(self, names: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Names (N, W), each seen as often as ``counts`` (N,) says, or once."""
        self._waiting.append((names, np.ones(len(names), np.int64) if counts is None else counts.astype(np.int64)))
        self._waiting_rows += len(names)
        if self._waiting_rows >= max(_MERGED_AT, len(self._names)):
            self._merge()

    @property
    def names(self) -> np.ndarray:
        """(U, W): the different ones, sorted."""
        self._merge()
        return self._names

    @property
    def counts(self) -> np.ndarray:
        """(U,) int64: how often each was seen."""
        self._merge()
        return self._counts

    def __len__(self) -> int:
        return len(self.names)

    def total(self) -> int:
        """How many were seen."""
        return int(self.counts.sum())

    def _merge(self) -> None:
        if not self._waiting:
            return
        names = np.concatenate([self._names, *(part for part, _ in self._waiting)])
        counts = np.concatenate([self._counts, *(part for _, part in self._waiting)])
        self._waiting, self._waiting_rows = [], 0
        first, rank = distinct_names(names)
        self._names = names[first]
        self._counts = np.zeros(len(first), np.int64)
        np.add.at(self._counts, rank, counts)


def _words(names: np.ndarray) -> np.ndarray:
    """(N, W / 8) uint64 that compare as the bytes do."""
    return np.ascontiguousarray(names).view(">u8").astype(np.uint64)


def _order(names: np.ndarray) -> np.ndarray:
    """The rows in the order of names; equal ones stay in theirs."""
    words = _words(names)
    order = np.argsort(words[:, 0], kind="stable")
    ordered = words[order]
    # Names are hashes: where their first eight bytes are alike, so are the others.
    alike = ordered[1:, 0] == ordered[:-1, 0]
    if (ordered[1:][alike] != ordered[:-1][alike]).any():
        return np.lexsort(words.T[::-1])
    return order
