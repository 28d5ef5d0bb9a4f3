"""The surface in a volume as triangles, by surface nets (Gibson 1998, "Constrained elastic surface nets").

Between eight voxel centres of which some are inside and some not lies one vertex: the mean of where the surface crosses
the edges between them. Four vertices around a crossed edge make a quadrilateral. The surface is closed: what is beyond
the volume counts as empty.
"""

import numpy as np

from voxfield.errors import InputError


def surface_of(volume: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The surface where ``volume`` passes ``threshold``.

    Args:
        volume: (D, H, W) numbers, axes z, y, x, cell-centred: voxel i covers [i, i + 1).
        threshold: above 0; greater values are inside.

    Returns:
        Vertices (V, 3) float32 x, y, z in voxels, and faces (F, 3) int64, counter-clockwise seen from outside; none
        where nothing is inside.

    Raises:
        InputError: another shape, values that are not finite, or a threshold that empty space would be inside of.
    """
    if volume.ndim != 3 or min(volume.shape) < 1 or not np.isfinite(volume).all():
        raise InputError(f"volume: expected finite numbers (D, H, W), got {volume.shape} {volume.dtype}.")
    if not threshold > 0:
        raise InputError(f"threshold: expected a value above 0, got {threshold}.")
    values = np.pad(volume.astype(np.float32), 1)
    inside = values >= threshold
    cells = tuple(size - 1 for size in values.shape)
    sums, counts = np.zeros((*cells, 3), np.float32), np.zeros(cells, np.int32)
    quads = []
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        crossed = inside[tuple(low)] != inside[tuple(high)]
        places = np.argwhere(crossed)
        first, second = values[tuple(low)][crossed], values[tuple(high)][crossed]
        points = places.astype(np.float32)
        points[:, axis] += (threshold - first) / (second - first)
        others = ((axis + 1) % 3, (axis + 2) % 3)
        around = []
        for shift in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = places.copy()
            for other, back in zip(others, shift, strict=True):
                cell[:, other] -= back
            np.add.at(sums, tuple(cell.T), points)
            np.add.at(counts, tuple(cell.T), 1)
            around.append(np.ravel_multi_index(tuple(cell.T), cells))
        quad = np.stack(around, 1)
        # Seen from outside: the other way round where the surface is left towards lower coordinates.
        outwards = inside[tuple(low)][crossed]
        quad[outwards] = quad[outwards][:, ::-1]
        quads.append(quad)
    used = counts.ravel() > 0
    numbers = np.cumsum(used) - 1
    # Voxel i of the padded array is voxel i - 1, whose centre lies at i - 1/2.
    vertices = (sums[counts > 0] / counts[counts > 0][:, None])[:, ::-1] - 0.5
    faces = numbers[np.concatenate(quads)]
    halves = [faces[:, list(corners)] for corners in ((0, 1, 2), (0, 2, 3))]
    return np.ascontiguousarray(vertices), np.concatenate(halves).astype(np.int64)


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
