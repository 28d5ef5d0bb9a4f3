"""Blocks of voxels as lists of the occupied ones, and as graphs of those that touch."""

from typing import Literal, get_args

import torch
from torch import Tensor

from voxfield.checks import check_choice, check_shape

Connectivity = Literal[6, 18, 26]
"""Which voxels are neighbours: those that share a face (6), or also an edge (18), or also a corner (26)."""


def occupied_voxels(voxels: Tensor) -> Tensor:
    """Places (M, 3) int64 x, y, z of the voxels (1, D, H, W) that are above one half, in the order of z, y, x."""
    check_shape("voxels", voxels, (1, "D", "H", "W"))
    return (voxels[0] > 0.5).nonzero().flip(1).contiguous()


def neighbour_edges(places: Tensor, connectivity: Connectivity = 6) -> Tensor:
    """Pairs (2, E) int64 of rows of ``places`` (M, 3) that are neighbours, each in both directions, sorted.

    Raises:
        InputError: a connectivity that there is not.
    """
    check_choice("connectivity", connectivity, get_args(Connectivity))
    check_shape("places", places, ("M", 3))
    if not len(places):
        return torch.zeros(2, 0, dtype=torch.int64)
    steps = torch.cartesian_prod(*(torch.arange(-1, 2),) * 3)
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = steps[(steps.abs().sum(1) > 0) & (steps.abs().sum(1) <= reach)]
    # A margin of one voxel: no neighbour's number is that of another row.
    side = int(places.max()) + 3
    weights = torch.tensor([1, side, side * side])
    numbers = (places.long() + 1) @ weights
    ordered, rows = numbers.sort()
    wanted = numbers[:, None] + steps @ weights
    at = torch.searchsorted(ordered, wanted).clamp(max=len(ordered) - 1)
    source, step = (ordered[at] == wanted).nonzero().unbind(1)
    return torch.stack([source, rows[at[source, step]]])
