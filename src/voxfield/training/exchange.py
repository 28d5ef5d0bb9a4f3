"""What ranks tell each other of gradients: every parameter's sum over all of them, in as few bytes as it takes.

Small parameters and those that every batch touches whole go through one all-reduce, as one flat buffer. Of tables and
voxel grids a batch touches a part: their rows with a gradient are sent as numbers and values where that is smaller.
With N ranks, rows of F floats, and K rows touched on the rank that touches most, a rank receives

    all-reduce   2 (N - 1) / N * rows * 4 F bytes        (ring)
    rows         (N - 1) * K * (4 F + 4) bytes

Tables of ranks on one machine's CPU are added up in memory that all see (`voxfield.distributed.blackboard`): there,
moving all rows takes less time than picking some. On every rank the same sums are made in the same order, so that
parameters stay equal to the last bit.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch

from voxfield.distributed.blackboard import Blackboard
from voxfield.distributed.ranks import Ranks
from voxfield.models.base import ParameterGroup

SPARSE_FROM: Final = 1 << 15
"""Numbers of a parameter from which on looking for rows without a gradient is worth it."""


class _Rows(NamedTuple):
    """A gradient of which a batch reaches some rows."""

    gradient: torch.Tensor
    """(N, F): a view of the parameter's ``.grad``."""
    touched: torch.Tensor | None
    """(N,) uint8: where it is noted which; None: those that are not zero."""

    @property
    def shared(self) -> bool:
        """Whether memory that ranks share suits it: it keeps its size, and rows are not known without a search."""
        return self.touched is None and _on_the_board(self.gradient)


class GradientExchange:
    """Adds up the gradients of all ranks."""

    def __init__(self, ranks: Ranks, groups: Sequence[ParameterGroup]) -> None:
        """Between ``ranks``, which have the same parameters in the same order: now those of ``groups``."""
        self.ranks = ranks
        self._board: Blackboard | None = None
        if ranks.size > 1:
            whole, partial = _sorted(groups)
            fixed = sum(one.gradient.numel() for one in partial if one.shared)
            if fixed and all(_on_the_board(gradient) for gradient in whole):
                self._board = Blackboard.among(ranks, fixed + sum(gradient.numel() for gradient in whole))
        self.received = 0
        """Bytes of gradients that this rank has got from the others so far."""

    @torch.no_grad()
    def add_up(self, groups: Sequence[ParameterGroup]) -> None:
        """Replace the gradients of ``groups``, and which rows they touch, by those of all ranks' batches together."""
        whole, partial = _sorted(groups)
        flat = torch.cat([gradient.reshape(-1) for gradient in whole]) if whole else None
        if self._board is not None:
            shared = [one.gradient for one in partial if one.shared]
            partial = [one for one in partial if not one.shared]
            shared += [] if flat is None else [flat]
            self._board.sum_(shared)
            self.received += (self.ranks.size - 1) * sum(gradient.nbytes for gradient in shared)
        elif flat is not None:
            self._all_reduce(flat)
        if flat is not None:
            for gradient, part in zip(whole, flat.split([one.numel() for one in whole]), strict=True):
                gradient.copy_(part.view_as(gradient))
        if not partial:
            return
        # Groups may share what says which rows were touched: it is looked through once, and changed once at the end.
        rows: dict[int, torch.Tensor] = {}
        for gradient, touched in partial:
            key = id(gradient if touched is None else touched)
            if key not in rows:
                rows[key] = _touched_rows(gradient, touched)
        most = self.ranks.gathered(torch.tensor([len(found) for found in rows.values()])).amax(0).tolist()
        greatest = dict(zip(rows, most, strict=True))
        for gradient, touched in partial:
            key = id(gradient if touched is None else touched)
            self._add_rows(gradient, rows[key], greatest[key])
        marks = {id(touched): touched for _, touched in partial if touched is not None}
        for key, touched in marks.items():
            self._mark(touched, rows[key], greatest[key])

    def _add_rows(self, gradient: torch.Tensor, rows: torch.Tensor, most: int) -> None:
        """Sum (N, F) of all ranks' ``gradient``, of which ``rows`` are not zero here, and at most ``most`` on any."""
        if not self._sparse(gradient, most):
            self._all_reduce(gradient)
            return
        if not most:
            return
        numbers, values = self._gathered(rows, most, -1), self._gathered(gradient[rows], most, 0)
        gradient[rows] = 0
        for theirs, parts in zip(numbers, values, strict=True):
            there = theirs >= 0
            gradient.index_add_(0, theirs[there], parts[there])

    def _mark(self, touched: torch.Tensor, rows: torch.Tensor, most: int) -> None:
        """Mark in ``touched`` (N,) the ``rows`` of all ranks."""
        if 4 * most * self.ranks.size > len(touched):
            self.ranks.greatest_(touched)
            self.received += len(touched)
        elif most:
            numbers = self._gathered(rows, most, -1).view(-1)
            touched[numbers[numbers >= 0]] = 1

    def _sparse(self, gradient: torch.Tensor, most: int) -> bool:
        """Whether ``most`` rows and their numbers are smaller than all of ``gradient``."""
        width, ranks = gradient[0].numel(), self.ranks.size
        return (ranks - 1) * most * (4 * width + 4) < 2 * (ranks - 1) / ranks * 4 * gradient.numel()

    def _all_reduce(self, tensor: torch.Tensor) -> None:
        self.ranks.sum_(tensor)
        self.received += 2 * (self.ranks.size - 1) * tensor.nbytes // self.ranks.size

    def _gathered(self, rows: torch.Tensor, most: int, filling: int) -> torch.Tensor:
        """(size, most, ...): ``rows`` (K, ...) of every rank, filled up."""
        if rows.dtype == torch.int64:
            return self._gathered(rows.int(), most, filling).long()
        padded = rows.new_full((most, *rows.shape[1:]), filling)
        padded[: len(rows)] = rows
        self.received += (self.ranks.size - 1) * padded.nbytes
        return self.ranks.gathered(padded)


def _on_the_board(gradient: torch.Tensor) -> bool:
    return gradient.device.type == "cpu" and gradient.dtype == torch.float32


def _sorted(groups: Sequence[ParameterGroup]) -> tuple[list[torch.Tensor], list[_Rows]]:
    """Gradients that are sent whole, and those of which some rows may do."""
    whole, partial = [], []
    for group in groups:
        for parameter in group.parameters:
            gradient = parameter.grad
            if gradient is None or not gradient.numel():
                continue
            some = group.touched is not None or (group.skip_zero and gradient.numel() >= SPARSE_FROM)
            if some and gradient.is_contiguous():
                partial.append(_Rows(gradient.view(len(gradient), -1), group.touched))
            else:
                whole.append(gradient)
    return whole, partial


def _touched_rows(gradient: torch.Tensor, touched: torch.Tensor | None) -> torch.Tensor:
    """Numbers (K,), rising, of the rows of ``gradient`` (N, F) that a batch reached."""
    if touched is not None:
        return touched.nonzero()[:, 0]
    if gradient.shape[1] == 2 and gradient.dtype == torch.float32:
        return gradient.view(torch.int64).view(-1).nonzero()[:, 0]  # half the passes over memory
    return (gradient != 0).any(1).nonzero()[:, 0]
