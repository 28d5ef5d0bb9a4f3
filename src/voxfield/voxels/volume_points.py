"""Point clouds out of volumes: voxelising turned around."""

import numpy as np

from voxfield.errors import InputError


def points_of(
    volume: np.ndarray, count: int, *, threshold: float = 0.5, weighted: bool = True, seed: int = 0
) -> np.ndarray:
    """A point cloud that voxelises to about ``volume``: points evenly spread in voxels that are drawn at random.

    Args:
        volume: (D, H, W) finite numbers, at least 0, axes z, y, x.
        count: how many points, at least 1.
        threshold: voxels below it get none.
        weighted: voxels get points by their values, otherwise all alike.
        seed: of the choice.

    Returns:
        (count, 3) float32 x, y, z in voxels: voxel i covers [i, i + 1). (0, 3) where no voxel reaches the threshold.

    Raises:
        InputError: another shape, negative values or some that are not finite, or no points asked for.
    """
    if volume.ndim != 3 or not np.isfinite(volume).all() or (volume < 0).any():
        raise InputError(f"volume: expected finite numbers (D, H, W), at least 0, got {volume.shape} {volume.dtype}.")
    if count < 1:
        raise InputError(f"count: expected at least 1 point, got {count}.")
    cells = np.argwhere((volume >= threshold) & (volume > 0))
    if not len(cells):
        return np.zeros((0, 3), np.float32)
    rng = np.random.default_rng(seed)
    weights = volume[tuple(cells.T)].astype(np.float64) if weighted else np.ones(len(cells))
    ends = np.cumsum(weights)
    chosen = np.minimum(np.searchsorted(ends, rng.random(count) * ends[-1], side="right"), len(cells) - 1)
    return (cells[chosen][:, ::-1] + rng.random((count, 3))).astype(np.float32)
