"""What structure from motion leaves besides poses: points in space, and where each picture saw them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from voxfield.checks import check_range, check_shape
from voxfield.errors import InputError
from voxfield.geometry.bounds import Bounds
from voxfield.geometry.pose import SceneTransform


@dataclass(frozen=True, kw_only=True, eq=False)
class SparsePoints:
    """P triangulated points in capture coordinates."""

    positions: Tensor
    """(P, 3) float64, finite."""
    errors: Tensor
    """(P,) float32: mean reprojection errors in pixels; NaN where the file states none."""
    track_lengths: Tensor
    """(P,) int64: how many pictures saw each, at least 1."""

    def __post_init__(self) -> None:
        check_shape("positions", self.positions, ("P", 3))
        check_shape("errors", self.errors, (self.positions.shape[0],))
        check_shape("track_lengths", self.track_lengths, (self.positions.shape[0],))

    def __len__(self) -> int:
        return self.positions.shape[0]

    def bounds(self, transform: SceneTransform, *, share: float = 0.98) -> Bounds:
        """The box that holds the middle ``share`` of the points along every axis of the world.

        Points that three pictures or more saw decide where there are any: those of two are often mismatches.

        Args:
            transform: capture to world.
            share: in (0, 1].

        Raises:
            InputError: no points, or points that span no volume.
        """
        check_range("share", share, above=0.0, maximum=1.0)
        sure = self.track_lengths >= 3
        world = transform.apply_points(self.positions[sure] if bool(sure.any()) else self.positions)
        if not len(world):
            raise InputError("SparsePoints: no points to take bounds from. Give scene_bounds.")
        ordered = world.sort(dim=0).values
        # Indices rather than torch.quantile, which refuses more than 16 million numbers.
        outside = int((1 - share) / 2 * (len(world) - 1))
        return Bounds.from_points(torch.stack([ordered[outside], ordered[-1 - outside]]))


@dataclass(frozen=True, kw_only=True, eq=False)
class ObservedPoints:
    """K sparse points as one picture saw them: what depth supervision compares with."""

    pixels: Tensor
    """(K, 2) float32: where they were found, (x, y) in pixels: of the full resolution in a ``Capture``, of the working
    resolution in ``PosedImages``."""
    depth: Tensor
    """(K,) float32, above 0: distances along the optical axis, in capture units and in world units respectively."""
    errors: Tensor
    """(K,) float32: the points' mean reprojection errors in pixels; NaN where the file states none."""

    def __post_init__(self) -> None:
        check_shape("pixels", self.pixels, ("K", 2))
        check_shape("depth", self.depth, (self.pixels.shape[0],))
        check_shape("errors", self.errors, (self.pixels.shape[0],))

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def rescaled(self, across: float, down: float, unit: float) -> "ObservedPoints":
        """The same observations in a picture ``across`` x ``down`` times as large, in a world of ``unit`` times the
        size.
        """
        factors = torch.tensor([across, down], dtype=torch.float32)
        return ObservedPoints(pixels=self.pixels * factors, depth=self.depth * unit, errors=self.errors)
