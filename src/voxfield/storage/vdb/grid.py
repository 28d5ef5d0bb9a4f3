"""A grid: a sparse volume with a name, a place in the world, and metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxfield.storage.vdb.layout import GridClass
from voxfield.voxels.sparse import SparseVolume


def _identity() -> np.ndarray:
    return np.eye(4)


@dataclass(frozen=True, kw_only=True, eq=False)
class VdbGrid:
    """One grid of a file. Grids that share one volume object are written once (the others as its instances)."""

    name: str
    volume: SparseVolume
    index_to_world: np.ndarray = field(default_factory=_identity)
    """(4, 4) float64: takes whole index coordinates to where their values stand in the world."""
    grid_class: GridClass = "unknown"
    """What the values mean: ``level set`` distances, the density of a ``fog volume``, ``staggered`` velocities."""
    half: bool = False
    """Whether floating-point values are stored in 16 bits."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further values by name. Name, class, precision and what OpenVDB counts of a grid have no place here."""
